"""Code that the single and the batched dream share: loading, starts, infos and snapshots."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.camera import quantise_depth
from worldsim.diffusion.dynamics import MAX_STEPS
from worldsim.errors import InvalidInputError, NotFoundError, OutOfMemoryError
from worldsim.memory.handle import MemoryHandle
from worldsim.protocols import Painter, Scene, fit_scene
from worldsim.runtime.files import inside
from worldsim.runtime.options import check_options
from worldsim.runtime.registries import SCENES
from worldsim.runtime.threads import use_threads
from worldsim.runtime.types import Env, JsonMapping
from worldsim.state import SceneStart, WorldState, flatten
from worldsim.world import World
from worldsim.world.engine import EngineConfig, free_memory
from worldsim.world.paint_ahead import PaintAheadConfig
from worldsim.world.snapshots import Snapshot, check_generators
from worldsim.world.twin import frames_of
from worldsim.world.world import BUCKETS, bucket

DEFAULT_SCENES = "worldsim.scenes.recorded:RecordedScenes"
"""The scenes of the world's own folder."""
FRAME_KEYS = ("rgb", "act", "depth", "pose", "intrinsics")
SEED_LIMIT = 2**63 - 1
AHEAD = "ahead"
"""Value of ``paint`` for dreams that are painted ahead with default settings."""


class Randomness(StrEnum):
    """How the futures of a fork differ."""

    COMMON = "common"
    """The same actions give the same futures, bit by bit: what differs comes from the actions
    alone."""
    INDEPENDENT = "independent"
    """Every fork dreams with a fresh seed."""


@runtime_checkable
class NamedScenes(Protocol):
    """Scenes that can also be had by name."""

    def names(self) -> list[str]:
        """Return the names of all scenes."""
        ...

    def load(self, name: str) -> SceneStart:
        """Load the scene of that name."""
        ...


class Starts:
    """Where resets begin.

    scenes: a folder of scenes; ``NAME:FOLDER`` with a name of
    :data:`worldsim.runtime.registries.SCENES`, such as ``captures:FOLDER``; ``module:Class`` of a
    class that takes the world's ``scenes`` folder; ``module:Class:FOLDER`` for another folder; an
    object with the method ``start``; or None: then every reset needs frames.
    """

    def __init__(self, world: World, scenes: str | Path | Scene | None) -> None:
        self.world, self.given = world, scenes
        resolved = self._resolve(scenes)
        self.scenes = None if resolved is None else fit_scene(resolved, world)

    def choose(
        self, rng: np.random.Generator, options: JsonMapping | None
    ) -> tuple[SceneStart, int]:
        """Return the scene that ``options`` request, or a random one, and a random seed."""
        options = check_options(options)
        unknown = sorted(set(map(str, options)) - {"scene", "frames"})
        if unknown:
            raise InvalidInputError(
                f"unknown reset options {', '.join(map(repr, unknown))}: options are 'scene' and "
                f"'frames'"
            )
        if len(options) == 2:
            raise InvalidInputError(
                "reset options 'scene' and 'frames' exclude one another: give one of them"
            )
        if "frames" in options:
            scene = as_scene(options["frames"])
        elif "scene" in options:
            scene = self._load_named(options["scene"])
        else:
            scene = self._any().start(rng)
        self.world.check_start(scene)
        return scene, int(rng.integers(SEED_LIMIT))

    def _load_named(self, name: object) -> SceneStart:
        if not isinstance(name, str):
            raise InvalidInputError(f"reset option 'scene' must be a name, got {name!r}")
        scenes = self._any()
        if not isinstance(scenes, NamedScenes):
            raise InvalidInputError(
                f"{type(scenes).__name__} has no scenes by name: leave out the reset option 'scene'"
            )
        return scenes.load(name)

    def _any(self) -> Scene:
        if self.scenes is None:
            raise NotFoundError(
                "this world was not loaded from a folder and so has no start scenes: pass "
                "scenes=FOLDER, or frames in the options"
            )
        return self.scenes

    def _resolve(self, scenes: str | Path | Scene | None) -> Scene | None:
        if scenes is None:
            return None
        folder = None if self.world.folder is None else inside(self.world.folder, "scenes")
        if isinstance(scenes, Path) or (isinstance(scenes, str) and ":" not in scenes):
            folder, scenes = Path(scenes), DEFAULT_SCENES
        if not isinstance(scenes, str):
            if not isinstance(scenes, Scene):
                raise InvalidInputError(
                    f"scenes must be a folder, 'NAME:FOLDER', 'module:Class' or an object with "
                    f"start(rng), not {scenes!r}"
                )
            return scenes
        name, _, rest = scenes.partition(":")
        if name not in SCENES:
            cls, _, rest = rest.partition(":")
            name = f"{name}:{cls}"
        folder = Path(rest) if rest else folder
        try:
            creator = SCENES.of_user(name)
        except NotFoundError as error:
            forms = (
                f"a folder of scenes, 'NAME:FOLDER' with a NAME of {', '.join(SCENES)}, "
                f"'module:Class' or 'module:Class:FOLDER'"
            )
            raise NotFoundError(f"no scenes {scenes!r} ({error}): give {forms}") from None
        return None if folder is None else creator(folder)


def check_memory(world: World, state: WorldState, memory: Any) -> Any:
    """Return the data of ``memory``, a handle or data.

    Raises InvalidInputError unless it fits ``state``.
    """
    data = memory.data if isinstance(memory, MemoryHandle) else memory
    mine = {name: (value.dtype, value.shape[1:]) for name, value in flatten(state.memory).items()}
    try:
        other = {name: (value.dtype, value.shape[1:]) for name, value in flatten(data).items()}
    except (TypeError, AttributeError, InvalidInputError):
        other = {}
    if type(data) is not type(state.memory) or mine != other:
        raise InvalidInputError(
            f"{type(memory).__name__} is no memory of this world: edit takes what env.memory gives"
        )
    return data


def as_scene(frames: SceneStart | Env | Mapping[str, ArrayLike | None]) -> SceneStart:
    """Convert ``options["frames"]`` to a start scene.

    frames: a :class:`SceneStart`, a real environment, or a dict of arrays. A real environment
        starts the dream where it stands: see :func:`worldsim.world.twin.frames_of`. The arrays are
        ``rgb`` (t, h, w, 3) uint8; ``act`` (t,) or (t, n), what led to each frame (zeros by
        default); ``depth`` (t, h, w) metres; ``pose`` (t, 4, 4); ``intrinsics`` (4,) pixels (the
        world's by default).
    """
    if isinstance(frames, SceneStart):
        return dataclasses.replace(frames, name="")
    if isinstance(frames, gym.Env):
        return frames_of(frames)
    if not isinstance(frames, Mapping):
        raise InvalidInputError(
            f"frames must be a SceneStart, a real environment or a dict of arrays, got "
            f"{type(frames).__name__}"
        )
    unknown = sorted(set(map(str, frames)) - set(FRAME_KEYS))
    if unknown or frames.get("rgb") is None:
        keys = ", ".join(map(repr, frames)) or "nothing"
        raise InvalidInputError(
            f"frames hold {keys}: 'rgb' is needed, and no others than {', '.join(FRAME_KEYS)} are "
            f"known"
        )
    arrays = {name: _tensor(name, value) for name, value in frames.items() if value is not None}
    rgb = arrays["rgb"]
    if rgb.dim() != 4 or rgb.shape[-1] != 3 or rgb.dtype != torch.uint8:
        raise InvalidInputError(
            f"frames: rgb must be uint8 of shape (t, h, w, 3), got {rgb.dtype} {tuple(rgb.shape)}"
        )
    depth, pose, intrinsics = (arrays.get(name) for name in ("depth", "pose", "intrinsics"))
    for name, value in (("pose", pose), ("intrinsics", intrinsics), ("act", arrays.get("act"))):
        if value is not None and not bool(value.isfinite().all()):
            raise InvalidInputError(f"frames: {name} holds numbers that are NaN or infinite")
    if intrinsics is not None and not bool((intrinsics.flatten()[:2] > 0).all()):
        raise InvalidInputError(
            f"frames: intrinsics are {intrinsics.tolist()}, fx and fy must be positive pixels"
        )
    if depth is not None and not (depth.is_floating_point() and bool((depth > 0).all())):
        least = f" from {depth.min()}" if depth.is_floating_point() and depth.numel() else ""
        raise InvalidInputError(
            f"frames: depth must be positive float metres, inf for sky, got {depth.dtype}{least}"
        )
    return SceneStart(
        rgb=rgb.permute(0, 3, 1, 2).contiguous(),
        act=arrays.get("act", torch.zeros(len(rgb), dtype=torch.int64)),
        inverse_depth=None if depth is None else quantise_depth(depth),
        pose=None if pose is None else pose.float(),
        intrinsics=None if intrinsics is None else intrinsics.float(),
    )


def _tensor(name: str, value: ArrayLike) -> Tensor:
    try:
        return torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidInputError(
            f"frames: {name} of type {type(value).__name__} is no array ({error})"
        ) from None


def load_world(
    world: str | Path | World | None,
    device: torch.device | str | None,
    num_inference_steps: int | None,
    engine: str | EngineConfig | None = None,
    temperature: float | None = None,
    uncertainty: bool = False,
    threads: int | None = None,
    paint: str | PaintAheadConfig | None = None,
    painter: str | Path | Painter | None = None,
) -> World:
    """Return the world to dream in.

    A :class:`World` is used as it is, or on ``device`` and with ``engine`` if they are given.

    threads: CPU threads of the whole process; None leaves PyTorch's choice.
    paint, painter: see :class:`worldsim.envs.world_env.WorldEnv`.
    """
    use_threads(threads)
    if isinstance(world, World):
        loaded = world if device is None else world.to(device)
    elif isinstance(world, (str, Path)):
        loaded = World.from_pretrained(world, device)
    else:
        raise InvalidInputError(
            f"world must be a name (see `worldsim worlds`), a folder or a World, got {world!r}"
        )
    if num_inference_steps is not None and (
        isinstance(num_inference_steps, bool)
        or not isinstance(num_inference_steps, int)
        or not 1 <= num_inference_steps <= MAX_STEPS
    ):
        raise InvalidInputError(
            f"sampling steps must be a whole number from 1 to {MAX_STEPS}, got "
            f"{num_inference_steps!r}"
        )
    loaded = loaded.with_dynamics(num_inference_steps=num_inference_steps, temperature=temperature)
    if uncertainty:
        loaded = loaded.with_uncertainty()
    if paint is not None or painter is not None:
        loaded = loaded.with_painting(*painting_of(paint, painter, loaded))
    # Last: each change makes a world of its own, whose engine is prepared anew.
    return loaded if engine is None else loaded.with_engine(engine)


def painting_of(
    paint: str | PaintAheadConfig | None, painter: str | Path | Painter | None, world: World
) -> tuple[Painter, PaintAheadConfig]:
    """Return the painter and its settings, see :class:`worldsim.envs.world_env.WorldEnv`."""
    if isinstance(paint, str) and paint == AHEAD:
        paint = PaintAheadConfig()
    if not isinstance(paint, PaintAheadConfig):
        raise InvalidInputError(
            f"paint must be None, {AHEAD!r} or a PaintAheadConfig, got {paint!r}"
            + (" with a painter" if paint is None else "")
        )
    if isinstance(painter, Painter):
        return painter, paint
    from worldsim.painting.painter import DEFAULT_PAINTER, open_painter

    return open_painter(painter or DEFAULT_PAINTER, device=world.device), paint


def check_uncertainty_limit(limit: float | None) -> None:
    """Raise InvalidInputError unless the limit is None or a number above 0."""
    if limit is not None and not (
        isinstance(limit, (int, float, np.integer, np.floating)) and limit > 0
    ):
        raise InvalidInputError(
            f"uncertainty_limit must be more than 0 (colours differ by at most 1), or None, got "
            f"{limit!r}"
        )


def report(world: World, state: WorldState, n: int) -> dict[str, Tensor]:
    """Return the ``info`` of the first ``n`` worlds.

    Values are copies with a leading axis of environments.
    """
    frame = state.frame
    info: dict[str, Tensor] = {}
    if frame.depth is not None and frame.pose is not None:
        info = {
            "pose": frame.pose[:n].clone(),
            "depth": frame.depth[:n],
            "intrinsics": state.intrinsics[:n].clone(),
        }
    info["memory_coverage"] = world.coverage(state)[:n].clone()
    info["generated"] = torch.ones(n, dtype=torch.bool, device=frame.rgb.device)
    return info


def fork_state(
    world: World, state: WorldState, index: int, n: int, randomness: str, rng: np.random.Generator
) -> WorldState:
    """Return ``n`` copies of one world.

    Raises OutOfMemoryError, before anything is copied, if they would not fit.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise InvalidInputError(f"fork needs a whole number of at least 1 environments, got {n!r}")
    try:
        kind = Randomness(randomness)
    except ValueError:
        raise InvalidInputError(
            f"randomness must be 'common' or 'independent', got {randomness!r}"
        ) from None
    require_memory(int(n), world)
    copies = state.select(torch.full((int(n),), index, dtype=torch.int64))
    if kind is Randomness.COMMON:
        return copies
    seeds = torch.from_numpy(rng.integers(SEED_LIMIT, size=int(n)))
    return dataclasses.replace(copies, seed=seeds.to(copies.seed.device))


def check_snapshot(snapshot: Snapshot, world: World, environments: int) -> None:
    """Raise InvalidInputError unless ``snapshot`` has that many environments of such a world."""
    if not isinstance(snapshot, Snapshot):
        raise InvalidInputError(f"restore takes what snapshot gave, got {type(snapshot).__name__}")
    if snapshot.weights and snapshot.weights != world.weights_id:
        raise InvalidInputError(
            "this snapshot is of another world, with other weights: restore it where it was taken"
        )
    # Number formats of the context may differ: another engine's snapshot goes on, up to rounding.
    mine, other = (
        {k: (v.dtype.is_floating_point or v.dtype, v.shape[1:]) for k, v in flatten(s).items()}
        for s in (world.blank(1), snapshot.state)
    )
    counts = {len(snapshot.elapsed), len(snapshot.resetting), len(snapshot.generators)}
    if counts != {environments} or len(snapshot.state) != bucket(environments) or mine != other:
        raise InvalidInputError(
            f"this snapshot is of {len(snapshot.elapsed)} environments of another kind or number "
            f"than these {environments}: "
            "restore it where it was taken, or in an environment made with the same arguments"
        )
    check_generators(snapshot.generators)


def require_memory(environments: int, world: World) -> None:
    """Raise OutOfMemoryError unless that many environments fit in the free memory.

    The error says how many would fit.
    """
    free = free_memory(world.device)
    if bucket(environments) * world.step_bytes() <= free:
        return
    raise OutOfMemoryError(_too_many(environments, world, free))


@contextmanager
def enough_memory(environments: int, world: World) -> Iterator[None]:
    """Turn a failed allocation into an error that says how many environments would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError):
            raise
        raise OutOfMemoryError(_too_many(environments, world, free_memory(world.device))) from error


def _too_many(environments: int, world: World, memory: int) -> str:
    # Batches are computed in buckets: the estimate is rounded down to one, and below one that
    # failed.
    fit = max(
        (
            size
            for size in BUCKETS
            if size * world.step_bytes() <= memory and size < bucket(environments)
        ),
        default=0,
    )
    if fit == BUCKETS[-1]:
        fit = max(fit, min(memory // world.step_bytes(), bucket(environments) - fit) // fit * fit)
    advice = (
        f"about {fit} would fit, so make {fit} or fewer"
        if fit
        else "fewer are not sure to fit either: free memory"
    )
    return (
        f"{environments} environments (computed as {bucket(environments)}) do not fit in the "
        f"memory of {world.device}: at "
        f"{world.step_bytes() / 2**20:.0f} MiB each in a step and {memory / 2**30:.1f} GiB, "
        f"{advice}"
    )
