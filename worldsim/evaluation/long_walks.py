"""Statistics of long walks: does a dream of 1,000 steps stay within what real walks show?

From one start in the real twin, two walks of the same policy with other seeds go on, and a dream
goes on with the second one's actions at its own poses. Statistics of frames are averaged over
stretches of 50 steps. The band of a statistic holds 90% of the first walks' stretches. A second set
of real walks lies within it about 90% of the time, by chance more or less: that is what a dream is
compared with.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, code_to_channel, quantise_depth
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.evaluation.benchmark_set import (
    ATTEMPTS,
    POLICY,
    TEST_SPLIT,
    RecordedWalks,
    StoredArrays,
    join_arrays,
    one_thread,
    require_geometry,
)
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.measure import start_walks
from worldsim.evaluation.metrics import sharpness
from worldsim.evaluation.return_trips import NOVELTY_STEPS, changed_share
from worldsim.evaluation.statistics import interval_text, report
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.runtime.types import Array, Info, JsonMapping, JsonObject, NamedArrays
from worldsim.runtime.workers import Watched
from worldsim.shipped.policies import make_policy
from worldsim.state import Frame
from worldsim.world import World
from worldsim.world.image_env import make_env

PROTOCOL = "long-walks/1"
BAND = (5.0, 95.0)
"""Percentiles of the first real walks' stretches between which the band lies."""
USUAL = 0.9
"""A statistic is within the band if this share of the stretches is."""
WALK_SEEDS = (10_000_019, 20_000_003)
"""Offsets of the policy's seeds in both walks that go on."""
NAMES = (
    "sharpness",
    *(f"{colour} {kind}" for colour in ("red", "green", "blue") for kind in ("mean", "deviation")),
    "saturation",
    "changed in 12 steps",
    "nearness",
    "metres from start",
    "memory coverage",
    "memory used",
)
"""The statistics, in the order of the arrays."""
Tick = Callable[[], object]


@dataclass(frozen=True)
class LongWalkConfig:
    """The settings that determine every number in a set of long walks."""

    env_id: str
    """Gymnasium id of the real twin."""
    env_kwargs: JsonObject
    """Arguments of ``gymnasium.make``."""
    seed: int = 0
    """Walk ``i`` has seed ``seed * 1000003 + i``."""
    history: int = 64
    """True frames before the walks part."""
    steps: int = 1000
    """Steps after them."""
    stretch: int = 50
    """Steps that a statistic is averaged over."""
    memory: PointMemoryConfig = field(default_factory=PointMemoryConfig)
    """Memory that tells of coverage and use: the world's own."""

    def __post_init__(self) -> None:
        if self.stretch < 1 or self.steps < self.stretch:
            raise InvalidInputError(
                f"LongWalkConfig.steps = {self.steps}: at least a stretch of {self.stretch} steps"
            )

    def recorder(self) -> LongWalkRecorder:
        """Return the recorder of the walks."""
        return LongWalkRecorder(self)

    @staticmethod
    def episode(arrays: dict[str, Array], name: str) -> LongWalk:
        """Return a walk from its stored arrays and its map's name."""
        return LongWalk(**arrays, map=name)


@dataclass(frozen=True)
class LongWalk(StoredArrays):
    """A start of t frames and two walks from it, as NumPy arrays.

    ``act[i]`` leads from frame i to frame i + 1.

    rgb: (t, 3, h, w) uint8.
    inverse_depth: (t, h, w) uint16 codes.
    pose: (t, 4, 4) float32 camera-to-world.
    intrinsics: (4,) float32 pixels.
    act: (t - 1, ...).
    further_act: (steps, ...), the second walk's.
    first, second: (stretches, 13) float64, :data:`NAMES` of both walks; NaN where unknown.
    """

    rgb: Array
    inverse_depth: Array
    pose: Array
    intrinsics: Array
    act: Array
    further_act: Array
    first: Array
    second: Array
    map: str = ""


class Watch:
    """Collects the statistics of a batch of walks, frame by frame."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._last: deque[Tensor] = deque(maxlen=NOVELTY_STEPS + 1)
        self._start: Tensor | None = None

    def see(self, frame: Frame, coverage: Tensor, used: Tensor) -> None:
        """Add a frame (b, ...).

        coverage: (b,) share of its pixels that the memory knew.
        used: (b,) share of the memory's slots in use.
        """
        assert frame.pose is not None and frame.inverse_depth is not None
        position = frame.pose[:, :3, 3]
        self._start = position if self._start is None else self._start
        self._last.append(frame.rgb)
        rgb = frame.rgb.float() / 255.0
        high, low = rgb.amax(1), rgb.amin(1)
        values = [sharpness(frame.rgb)]
        for i in range(3):
            values += [rgb[:, i].mean((1, 2)), rgb[:, i].std((1, 2))]
        values.append(((high - low) / high.clamp(min=1.0 / 255.0)).mean((1, 2)))
        full = len(self._last) > NOVELTY_STEPS
        unknown = torch.full_like(values[0], torch.nan)
        values.append(changed_share(torch.stack(list(self._last), 1))[:, -1] if full else unknown)
        values.append(code_to_channel(frame.inverse_depth).mean((1, 2)))
        values += [(position - self._start).norm(dim=1), coverage, used]
        self._rows.append(torch.stack([v.float().cpu() for v in values], 1))

    def stretches(self, length: int) -> Array:
        """Return means over whole stretches, (b, stretches, 13) float64."""
        values = torch.stack(self._rows, 1)
        whole = values.shape[1] // length * length
        means = values[:, :whole].double().unflatten(1, (-1, length)).nanmean(2)
        return np.asarray(means.numpy(), np.float64)


class LongWalkRecorder:
    """Records starts, and two walks from each, in the real twin."""

    def __init__(self, config: LongWalkConfig) -> None:
        self.config = config
        limit = config.history + config.steps + 1
        self.env = Watched(
            make_env(config.env_id, {**config.env_kwargs, "max_episode_steps": limit})
        )
        self.policy = make_policy(POLICY, self.env.action_space)
        self.memory = PointMemory(config.memory)

    def record(self, index: int) -> LongWalk:
        """Return walk ``index``, the same whenever and wherever it is recorded."""
        for attempt in range(ATTEMPTS):
            # Far from the seeds of other walks.
            seed = self.config.seed * 1_000_003 + index + attempt * 100_000_007
            with one_thread():
                first = self._walk(seed, WALK_SEEDS[0])
                second = None if first is None else self._walk(seed, WALK_SEEDS[1])
            if first is not None and second is not None:
                return dataclasses.replace(second, first=first.second)
        raise InvalidInputError(
            f"{self.config.env_id} ended {ATTEMPTS} walks of {self.config.steps} steps: choose "
            f"shorter ones"
        )

    def _walk(self, seed: int, offset: int) -> LongWalk | None:
        """Return a start and the walk from it as ``second``; None if the environment ended it."""
        c = self.config
        obs, info = self.env.reset(seed=seed, options=dict(TEST_SPLIT))
        require_geometry(info, c.env_id)
        name = str(info.get("map", ""))
        self.policy.reset(seed)
        frames, acts, watch = [], [], Watch()
        data = self.memory.empty(1)
        for step in range(c.history + c.steps):
            frame, camera = _true_frame(obs, info)
            if step < c.history:
                frames.append((frame, camera))
            else:
                coverage = self.memory.coverage(data, camera)
                watch.see(frame, coverage, self.memory.statistics(data)["used"])
            data = self.memory.integrate(data, frame, camera, torch.tensor([step]))
            if step == c.history + c.steps - 1:
                break
            if step == c.history - 1:
                self.policy.reset(seed + offset)
            act = self.policy.act(obs)
            obs, _, term, trunc, info = self.env.step(act)
            if term or trunc:
                return None
            acts.append(act)
        discrete = isinstance(self.env.action_space, gym.spaces.Discrete)
        act = np.asarray(acts, np.int64 if discrete else np.float32)
        stretches = watch.stretches(c.stretch)[0]
        return LongWalk(
            rgb=torch.cat([f.rgb for f, _ in frames]).numpy(),
            inverse_depth=torch.cat([_code(f) for f, _ in frames]).numpy().astype(np.uint16),
            pose=torch.cat([k.pose for _, k in frames]).numpy(),
            intrinsics=frames[0][1].intrinsics[0].numpy(),
            act=act[: c.history - 1],
            further_act=act[c.history - 1 :],
            first=np.zeros(0),
            second=stretches,
            map=name,
        )

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def _code(frame: Frame) -> Tensor:
    assert frame.inverse_depth is not None
    return frame.inverse_depth


def _true_frame(obs: Array, info: Info) -> tuple[Frame, Camera]:
    rgb = torch.from_numpy(np.ascontiguousarray(obs.transpose(2, 0, 1)))[None]
    depth = torch.from_numpy(np.asarray(info["depth"], np.float32))[None]
    pose = torch.from_numpy(np.asarray(info["pose"], np.float32))[None]
    intrinsics = torch.from_numpy(np.asarray(info["intrinsics"], np.float32))[None]
    frame = Frame(rgb, quantise_depth(depth), pose)
    return frame, Camera(pose, intrinsics, *rgb.shape[-2:])


@torch.no_grad()
def dream(
    world: World, walks: list[LongWalk], config: LongWalkConfig, first: int, tick: Tick
) -> Array:
    """Dream on from the starts with the second walks' actions; returns (b, stretches, 13) float64.

    first: number of the first of these walks, for the dreams' seeds.

    Raises MissingGeometryError for a world without a point memory.
    """
    if not isinstance(world.memory, PointMemory):
        raise MissingGeometryError(
            f"long walks are measured in worlds with a point memory, and this one has "
            f"{type(world.memory).__name__}"
        )
    names = ("rgb", "inverse_depth", "pose", "intrinsics", "act", "further_act")
    arrays: NamedArrays = {
        name: join_arrays([getattr(w, name) for w in walks], world.device) for name in names
    }
    further = arrays.pop("further_act")
    seed = torch.arange(first, first + len(walks), device=world.device) + config.seed * 1_000_003
    starts = RecordedWalks(**arrays, seed=seed)
    state = start_walks(world, starts)
    for t in range(1, config.history):
        state = world.observe(state, starts.act[:, t - 1], starts.frame(t))
        tick()
    if world.painting is not None:
        state = world.painting.begin(state)
    watch = Watch()
    for t in range(config.steps):
        used = world.memory.statistics(state.memory)["used"]
        state, transition = world.step(state, further[:, t])
        watch.see(transition.frame, transition.coverage, used)
        tick()
    return watch.stretches(config.stretch)


def compute(
    dreamed: Array, walks: list[LongWalk], config: LongWalkConfig, draws: int, seed: int
) -> JsonObject:
    """Return how much of the dreams and of the second walks lies within the band of the first.

    dreamed: (e, stretches, 13).
    """
    first, second = (np.stack([getattr(w, name) for w in walks]) for name in ("first", "second"))
    low, high = np.nanpercentile(first, BAND, axis=(0, 1))
    figures = Figures(len(walks), draws, seed)
    bands: JsonObject = {}
    for i, name in enumerate(NAMES):
        bands[name] = [round(float(low[i]), 5), round(float(high[i]), 5)]
        for key, values in (("inside", dreamed), ("inside_real", second)):
            known = np.isfinite(values[..., i])
            within = (values[..., i] >= low[i]) & (values[..., i] <= high[i])
            figures.mean(f"{key}.{name}", within.astype(np.float64), known)
        for key, values in (("mean", dreamed), ("mean_real", second)):
            figures.mean(f"{key}.{name}", values[..., i], np.isfinite(values[..., i]))
    found = figures.values

    def usual(key: str) -> int:
        return sum(1 for share in found[key].values() if share is not None and share >= USUAL)

    # Late stretches alone: where dreams drift, they do so with time.
    part = max(1, dreamed.shape[1] // 5)
    late = dreamed[:, -part:]
    inside = (late >= low) & (late <= high)
    known = np.isfinite(late)
    return {
        "statistics": len(NAMES),
        "within": usual("inside"),
        "within_real": usual("inside_real"),
        **found,
        "inside_last_fifth": {
            name: round(float(inside[..., i][known[..., i]].mean()), 4)
            for i, name in enumerate(NAMES)
        },
        "band": bands,
        "steps": config.steps,
        "stretch": config.stretch,
        "history": config.history,
        "ci95": figures.ci95,
    }


def table(results: JsonMapping) -> str:
    """Return the results as a table."""
    lines = [
        f"{'share of stretches within':<24}{'dreams':>22}{'real walks':>22}{'last fifth':>12}"
        f"   band of other real walks; mean of dreams"
    ]
    for name in NAMES:
        cells = []
        for key in ("inside", "inside_real"):
            value = results[key][name]
            between = interval_text(results["ci95"].get(f"{key}.{name}"))
            cells.append(f"{value:.2f} {between}".rstrip())
        low, high = results["band"][name]
        lines.append(
            f"{name:<24}{cells[0]:>22}{cells[1]:>22}{results['inside_last_fifth'][name]:>12.2f}"
            f"   {low:.3f} to {high:.3f}; {results['mean'][name]:.3f}"
        )
    lines.append(
        f"{results['within']} of {results['statistics']} statistics are within the band "
        f"{USUAL:.0%} of the time; of real walks {results['within_real']}"
    )
    lines.append(
        f"{results['episodes']} walks of {results['steps']} steps; {results['seconds']:.0f} s"
    )
    return report(lines, results["episodes"])
