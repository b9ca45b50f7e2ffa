"""The frozen test set: walks of policy ``persistent-v1`` in the real twin on the test maps.

At some frames, the real twin also plays every other action.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth, quantise_depth
from worldsim.data.play import package_versions
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.evaluation.metrics import seen_mask
from worldsim.runtime.cluster import pool_of
from worldsim.runtime.files import replacing, require_regular
from worldsim.runtime.types import Array, Info, JsonObject, NamedArrays
from worldsim.runtime.workers import ENGINE_TIMEOUT_S, Engine, Watched
from worldsim.shipped.policies import make_policy
from worldsim.state import Frame
from worldsim.world.image_env import make_env

E = TypeVar("E", bound="Recorded")
E_co = TypeVar("E_co", bound="Recorded", covariant=True)

PROTOCOL = "persistent-v1/1"
"""Name and version of the test set's rules; any change of them changes it."""
POLICY = "worldsim.agents.persistent:PersistentPolicy"
TEST_SPLIT = {"split": "test"}
ATTEMPTS = 50
"""Walks that end before they are long enough are drawn anew, at most this often."""
OTHER_DRAWS = 6
"""In a space of continuous actions, so many others are drawn to stand beside the action taken."""


@dataclass(frozen=True)
class TestSetConfig:
    """The settings that determine every number in the test set."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    env_id: str
    """Gymnasium id of the real twin."""
    env_kwargs: JsonObject
    """Arguments of ``gymnasium.make``."""
    seed: int = 0
    """Episode ``i`` has seed ``seed * 1000003 + i``."""
    history: int = 64
    """True frames that a dream receives."""
    horizon: int = 48
    """Frames after them."""

    @property
    def frames(self) -> int:
        """Number of frames of an episode."""
        return self.history + self.horizon

    def recorder(self) -> Recorder:
        """Return the recorder of the test set."""
        return Recorder(self)

    @staticmethod
    def episode(arrays: dict[str, Array], name: str) -> TestEpisode:
        """Return an episode from its stored arrays and its map's name."""
        return TestEpisode(**arrays, map=name)

    @property
    def fork_frames(self) -> tuple[int, int]:
        """Return the frames at which the real twin plays every action.

        They are the middle and the end of the history.
        """
        return self.history // 2 - 1, self.history - 1


class StoredArrays:
    """A dataclass of arrays and the name of a map, as they are stored."""

    def arrays(self) -> dict[str, Array]:
        """Return the arrays by name, in a fixed order."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "map"]  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TestEpisode(StoredArrays):
    """One walk of t frames, as NumPy arrays; ``act[i]`` leads from frame i to frame i + 1.

    rgb: (t, 3, h, w) uint8.
    inverse_depth: (t, h, w) uint16 codes.
    pose: (t, 4, 4) float32 camera-to-world.
    intrinsics: (4,) float32 pixels.
    act: (t - 1, ...).
    other_act: (horizon, ...), for each frame after the history, an action other than the one taken.
    fork_act: (s, k, ...), all actions tried at the s fork frames.
    fork_rgb: (s, k, 3, h, w), the frame that each of them led to.
    fork_own: (s,) int64, which of them was taken.
    covered: (horizon,) float32, share of each later frame's pixels that the history has seen, by
        true geometry.
    """

    __test__ = False

    rgb: Array
    inverse_depth: Array
    pose: Array
    intrinsics: Array
    act: Array
    other_act: Array
    fork_act: Array
    fork_rgb: Array
    fork_own: Array
    covered: Array
    map: str = ""


@dataclass(frozen=True, kw_only=True)
class RecordedWalks:
    """Several walks of t frames as tensors on a device, axes (e, t, ...).

    ``act[:, i]`` leads from frame i to frame i + 1.

    rgb: (e, t, 3, h, w) uint8.
    inverse_depth: (e, t, h, w) int32 codes.
    pose: (e, t, 4, 4) float32 camera-to-world.
    intrinsics: (e, 4) float32 pixels.
    act: (e, t - 1, ...).
    seed: (e,) int64, seeds of the dreams.
    maps: names of the maps.
    """

    rgb: Tensor
    inverse_depth: Tensor
    pose: Tensor
    intrinsics: Tensor
    act: Tensor
    seed: Tensor
    maps: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rgb)

    def frame(self, t: int) -> Frame:
        """Return true frame ``t`` of all walks."""
        return Frame(self.rgb[:, t], self.inverse_depth[:, t], self.pose[:, t])

    def camera(self, pose: Tensor) -> Camera:
        """Return the cameras of all walks at ``pose`` (e, 4, 4)."""
        return Camera(pose, self.intrinsics, *self.rgb.shape[-2:])


@dataclass(frozen=True, kw_only=True)
class TestSet(RecordedWalks):
    """The walks of the test set: see :class:`TestEpisode`."""

    __test__ = False

    config: TestSetConfig
    other_act: Tensor
    fork_act: Tensor
    fork_rgb: Tensor
    fork_own: Tensor
    covered: Tensor

    def part(self, start: int, stop: int, device: torch.device | str) -> TestSet:
        """Return the walks ``start`` to ``stop`` on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved: NamedArrays = {
            name: value[start:stop].to(device)
            for name, value in tensors.items()
            if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **moved, maps=self.maps[start:stop])


def stack(episodes: Sequence[TestEpisode], config: TestSetConfig) -> TestSet:
    """Stack walks into one test set, on the CPU."""
    arrays: NamedArrays = {
        name: join_arrays([getattr(e, name) for e in episodes]) for name in episodes[0].arrays()
    }
    seed = torch.arange(len(episodes)) + config.seed * 1_000_003
    return TestSet(config=config, **arrays, seed=seed, maps=tuple(e.map for e in episodes))


def join_arrays(values: Sequence[Array], device: torch.device | str = "cpu") -> Tensor:
    """Stack arrays of several walks into one tensor; uint16 depth codes become int32."""
    together = np.stack(values)
    # PyTorch computes little with uint16.
    wide = together.astype(np.int32) if together.dtype == np.uint16 else together
    return torch.from_numpy(wide).to(device)


def rgb_of(frames: Sequence[tuple[Array, Info]]) -> Array:
    """Return the pictures (t, 3, h, w) uint8 of observations (h, w, 3) with their ``info``."""
    return np.ascontiguousarray(np.stack([obs for obs, _ in frames]).transpose(0, 3, 1, 2))


def codes_of(frames: Sequence[tuple[Array, Info]]) -> Array:
    """Return the inverse-depth codes (t, h, w) uint16 of the true depth in each ``info``."""
    depth = torch.from_numpy(np.stack([info["depth"] for _, info in frames]))
    return quantise_depth(depth).numpy().astype(np.uint16)


def poses_of(frames: Sequence[tuple[Array, Info]]) -> Array:
    """Return the camera-to-world poses (t, 4, 4) float32 in each ``info``."""
    return np.stack([info["pose"] for _, info in frames]).astype(np.float32)


def digest(episodes: Sequence[Recorded]) -> str:
    """Return the SHA-256 of the arrays of all walks, including names, types and shapes."""
    total = hashlib.sha256()
    for episode in episodes:
        for name, array in episode.arrays().items():
            total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


class Recorded(Protocol):
    """A record of a test set: arrays by name, and their map."""

    @property
    def map(self) -> str:
        """Name of the map."""
        ...

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, in a fixed order."""
        ...


class Records(Protocol[E_co]):
    """Records episodes by number."""

    def record(self, index: int) -> E_co:
        """Return episode ``index``, the same whenever and wherever it is recorded."""
        ...

    def close(self) -> None:
        """Close the environment."""
        ...


class Settings(Protocol[E_co]):
    """A dataclass of everything that determines a test set."""

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        ...

    def recorder(self) -> Records[E_co]:
        """Return the recorder."""
        ...

    def episode(self, arrays: dict[str, Array], name: str) -> E_co:
        """Return an episode from its stored arrays and its map's name."""
        ...


class Recorder:
    """Records walks of the policy in the real twin by number."""

    def __init__(self, config: TestSetConfig) -> None:
        self.config = config
        self.env = Watched(make_env(config.env_id, config.env_kwargs))
        self.policy = make_policy(POLICY, self.env.action_space)

    def record(self, index: int) -> TestEpisode:
        """Return walk ``index``, the same whenever and wherever it is recorded."""
        first = self.config.seed * 1_000_003 + index
        for attempt in range(ATTEMPTS):
            # Far from the seeds of other walks.
            seed = first + attempt * 100_000_007
            walk = self._walk(seed)
            if walk is not None:
                return self._with_forks(walk, seed)
        raise InvalidInputError(
            f"{self.config.env_id} ended {ATTEMPTS} walks before {self.config.frames} frames: "
            f"choose a shorter history or horizon"
        )

    def _walk(self, seed: int) -> TestEpisode | None:
        """Return a walk without its forks, or None if the environment ended it too early."""
        obs, info = self.env.reset(seed=seed, options=dict(TEST_SPLIT))
        require_geometry(info, self.config.env_id)
        self.policy.reset(seed)
        frames, acts = [(obs, info)], []
        while len(frames) < self.config.frames:
            act = self.policy.act(obs)
            obs, _, term, trunc, step_info = self.env.step(act)
            if (term or trunc) and len(frames) < self.config.frames - 1:
                return None
            acts.append(act)
            frames.append((obs, step_info))
        act = np.asarray(
            acts, np.int64 if isinstance(self.env.action_space, gym.spaces.Discrete) else np.float32
        )
        empty = np.zeros(0)
        return TestEpisode(
            rgb=rgb_of(frames),
            inverse_depth=codes_of(frames),
            pose=poses_of(frames),
            intrinsics=np.asarray(info["intrinsics"], np.float32),
            act=act,
            other_act=self._others(act[self.config.history - 1 :], seed),
            fork_act=empty,
            fork_rgb=empty,
            fork_own=empty,
            covered=empty,
            map=str(info.get("map", "")),
        )

    def _others(self, act: Array, seed: int) -> Array:
        """Return for each action another one, drawn uniformly."""
        rng = np.random.default_rng([seed, 1])
        space = self.env.action_space
        if isinstance(space, gym.spaces.Discrete):
            return (act + rng.integers(1, int(space.n), act.shape)) % int(space.n)
        assert isinstance(space, gym.spaces.Box)
        return rng.uniform(space.low, space.high, act.shape).astype(np.float32)

    def _coverage(self, walk: TestEpisode) -> Array:
        depth = dequantise_depth(torch.from_numpy(walk.inverse_depth.astype(np.int32)))
        pose, intrinsics = (
            torch.from_numpy(walk.pose),
            torch.from_numpy(walk.intrinsics).expand(len(depth), 4),
        )
        n, size = self.config.history, walk.rgb.shape[-2:]
        with one_thread():
            mask = seen_mask(
                depth[n:],
                Camera(pose[n:], intrinsics[n:], *size),
                depth[:n],
                Camera(pose[:n], intrinsics[:n], *size),
            )
        return mask.float().mean((1, 2)).numpy()

    def _with_forks(self, walk: TestEpisode, seed: int) -> TestEpisode:
        """Return the walk with the frame that each action leads to at the fork frames.

        The real twin replays the walk up to each of them.
        """
        acts, pictures, own = [], [], []
        for frame in self.config.fork_frames:
            tried, mine = self._candidates(walk.act[frame], seed + frame)
            acts.append(tried)
            own.append(mine)
            # The action taken needs no replay: what it led to is recorded.
            led_to = [
                walk.rgb[frame + 1] if i == mine else self._fork(walk, seed, frame, act)
                for i, act in enumerate(tried)
            ]
            pictures.append(np.stack(led_to))
        return dataclasses.replace(
            walk,
            fork_act=np.stack(acts),
            fork_rgb=np.stack(pictures),
            fork_own=np.array(own, np.int64),
            covered=self._coverage(walk),
        )

    def _candidates(self, act: Array, seed: int) -> tuple[Array, int]:
        space = self.env.action_space
        if isinstance(space, gym.spaces.Discrete):
            return np.arange(int(space.n)), int(act)
        assert isinstance(space, gym.spaces.Box)
        drawn = np.random.default_rng([seed, 2]).uniform(
            space.low, space.high, (OTHER_DRAWS, *act.shape)
        )
        return np.concatenate([act[None], drawn]).astype(np.float32), 0

    def _fork(self, walk: TestEpisode, seed: int, frame: int, act: Array) -> Array:
        """Return the frame (3, h, w) that ``act`` leads to at ``frame`` of the walk."""
        discrete = isinstance(self.env.action_space, gym.spaces.Discrete)
        obs, _ = self.env.reset(seed=seed, options=dict(TEST_SPLIT))
        for taken in walk.act[:frame]:
            obs, *_ = self.env.step(int(taken) if discrete else taken)
        if not np.array_equal(obs.transpose(2, 0, 1), walk.rgb[frame]):
            raise InvalidInputError(
                f"{self.config.env_id} shows another frame {frame} when the same seed ({seed}) "
                f"and actions are played again: "
                "agreement can only be measured in a real twin that is a function of seed and "
                "actions"
            )
        obs, *_ = self.env.step(int(act) if discrete else act)
        return np.ascontiguousarray(obs.transpose(2, 0, 1))

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def require_geometry(info: Info, env_id: str) -> None:
    """Raise MissingGeometryError unless ``info`` holds true geometry."""
    missing = [key for key in ("pose", "depth", "intrinsics") if key not in info]
    if missing:
        names = ", ".join(missing)
        raise MissingGeometryError(
            f"{env_id} gives no {names} in info: the protocol needs true geometry"
        )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context in which torch uses one thread.

    Small tensor operations take longer with several threads, which wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def record_test_set(
    config: Settings[E],
    indices: Sequence[int],
    workers: int = 1,
    cache: Path | None = None,
    tick: Callable[[], object] = lambda: None,
    timeout_s: float = ENGINE_TIMEOUT_S,
    cluster: str | None = None,
) -> list[E]:
    """Return the walks ``indices`` in order, from the cache where they exist.

    tick: called after each one.
    timeout_s: time limit of one call of the environment, see
        :class:`worldsim.runtime.workers.WorkerPool`.
    cluster: address of a Ray cluster whose machines record, instead of ``workers`` here.
    """
    folder = cache / _cache_name(config) if cache is not None else None
    episodes: dict[int, E] = {}
    for index in indices:
        kept = (
            _load(config, folder / f"episode-{index:05d}.safetensors")
            if folder is not None
            else None
        )
        if kept is not None:
            episodes[index] = kept
            tick()
    missing = [i for i in indices if i not in episodes]
    # One process gains nothing over this one.
    count = min(workers, len(missing)) if workers > 1 and len(missing) > 1 else 0
    with pool_of(cluster, count, config.recorder, timeout_s) as pool:
        for number, episode in pool.run(_record, [(index,) for index in missing]):
            episodes[missing[number]] = episode
            if folder is not None:
                _save(episode, folder / f"episode-{missing[number]:05d}.safetensors")
            tick()
    return [episodes[i] for i in indices]


def _record(engine: Engine[Records[E]], index: int) -> E:
    return engine.play(lambda recorder: recorder.record(index))


def _cache_name(config: Settings[E]) -> str:
    """Return a folder name from everything that the test set depends on.

    This includes engine versions.
    """
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    key = json.dumps([PROTOCOL, dataclasses.asdict(config), package_versions()], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _save(episode: Recorded, path: Path) -> None:
    with replacing(path) as temporary:
        save_file(episode.arrays(), temporary, metadata={"map": episode.map})


def _load(config: Settings[E], path: Path) -> E | None:
    """Return a cached walk; None if there is none, or if it is damaged."""
    try:
        require_regular(path)
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            return config.episode(arrays, (file.metadata() or {}).get("map", ""))
    except (NotFoundError, DamagedFileError, SafetensorError, TypeError, ValueError, KeyError):
        return None
