"""Snapshots: whole generated environments on disk, one safetensors file each.

Files are written atomically and restored bit for bit. A file holds every tensor of a
:class:`Snapshot`. Its header holds the format, the version, the name and fingerprint of its world,
a description of the scene memory, the random generators and a checksum of all of that. Weights are
not included: loading needs the same world. :func:`open_snapshot` needs no weights: it reads only
the memory and the trajectory.

Version 2 added the trajectory, the world's name and the memory's description. Files of version 1
load without a trajectory. Version 3 added the header to the checksum, and names a world by its
folder's name instead of its path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldsim.camera import DEPTH_CODES, check_poses
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    WorldsimError,
)
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.registry import describe_memory, memory_from_description, meta_empty
from worldsim.memory.splat import DIRECTION
from worldsim.protocols import ContextOfViews, SceneMemory
from worldsim.runtime.files import as_path, is_file, require_finite, require_regular, save_tensors
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.types import Array, JsonMapping, JsonObject
from worldsim.state import Frame, Trajectory, WorldState, checksum, flatten, unflatten
from worldsim.world.adapters import describe
from worldsim.world.config import Termination
from worldsim.world.world import World, bucket

FORMAT, VERSION = "worldsim-snapshot", 3
CHECKSUM = "sha256"
LATER = {"pooling": "mean"}
"""Settings of modules that were added later, at the values that reproduce the old behaviour.
Fingerprints exclude them at these values."""
FORMER = {"num_inference_steps=": "steps=", "context_sigma=": "context_level="}
"""Renamed fields of configurations; fingerprints use the old names."""
STATE, ELAPSED, RESETTING, TRAJECTORY = "state", "elapsed", "resetting", "journey"
SETTINGS = "settings"
"""Key of the header with :func:`settings_of` the world."""
COVERAGE = f"{STATE}.coverage"
"""Names of tensors in the file. The trajectory keeps its name of version 2."""


@dataclass(frozen=True)
class Snapshot:
    """A whole environment. Restoring it restores all later results, resets included, bit for bit.

    state: the worlds, one row per environment (and rows of padding).
    elapsed: (n,) int64, steps since each reset.
    resetting: (n,) bool, environments whose next step is a reset.
    generators: the states of the environments' random generators.
    frames: the frames of the episode so far, each a batch of one, for a single environment that
    keeps them. They do not affect later steps.
    weights: :attr:`worldsim.world.World.weights_id` of the snapshot's world, empty if unknown.
    adapters: scales of that world's adapters, by name.
    """

    state: WorldState
    elapsed: Array
    resetting: Array
    generators: tuple[JsonMapping, ...]
    frames: tuple[Frame, ...] = ()
    weights: str = ""
    adapters: Mapping[str, float] = field(default_factory=dict)

    @property
    def trajectory(self) -> Trajectory | None:
        """The episode so far, None if it was not kept."""
        return Trajectory.of(self.frames, self.state.intrinsics[0]) if self.frames else None


@dataclass(frozen=True)
class OpenedSnapshot:
    """The contents of a snapshot that can be read without its world's weights.

    memory: the scene memory of one environment.
    trajectory: its trajectory, None if it was not kept.
    world: the name of a shipped world or of the world's folder. Empty for a world without a folder
    and in files of version 1. It is untrusted text from the file: escape it before display.
    env_id: id of the real twin, untrusted text as well.
    environments: number of environments in the file.
    """

    memory: MemoryHandle
    trajectory: Trajectory | None
    world: str
    env_id: str
    environments: int


def save_snapshot(snapshot: Snapshot, world: World, path: str | os.PathLike[str]) -> Path:
    """Write ``snapshot``, taken in ``world``, to the file ``path`` atomically.

    The file is written to a temporary place, flushed to disk and renamed, so ``path`` always holds
    the previous snapshot or this one. Raises StorageError.
    """
    path = as_path(path)
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in flatten(snapshot.state, STATE).items()
    }
    tensors[ELAPSED] = torch.from_numpy(np.asarray(snapshot.elapsed, np.int64))
    tensors[RESETTING] = torch.from_numpy(np.asarray(snapshot.resetting, bool))
    trajectory = snapshot.trajectory
    if trajectory is not None:
        tensors.update(flatten(trajectory, TRAJECTORY))
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "world": fingerprint(world),
        "name": world_name(world),
        "env_id": world.config.env_id,
        SETTINGS: json.dumps(settings_of(world)),
        "memory": json.dumps(describe_memory(world.memory)),
        "generators": json.dumps(snapshot.generators),
    }
    save_tensors(tensors, path, {**metadata, CHECKSUM: _checksum(tensors, metadata)})
    return path


def load_snapshot(path: str | os.PathLike[str], world: World) -> Snapshot:
    """Load the snapshot in ``path`` to ``world``'s device.

    Raises NotFoundError, DamagedFileError (not a snapshot, of a newer version, truncated, changed)
    or InvalidInputError (of another world). Each names the file.
    """
    path = as_path(path)
    metadata, tensors = _read(path, world)
    try:
        elapsed, resetting = _counts(tensors)
        state = _state(tensors, world, bucket(len(elapsed)))
        generators = tuple(json.loads(metadata["generators"]))
        check_generators(generators)
        _check_state(state, world)
        trajectory = _trajectory(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} lacks a part of a snapshot ({error}): it was not written by save"
        ) from error
    require_finite(
        {name: value for name, value in tensors.items() if name.startswith((STATE, TRAJECTORY))},
        path,
    )
    frames = trajectory.frames if trajectory else ()
    return Snapshot(
        state.to(world.device),
        elapsed,
        resetting,
        generators,
        frames,
        world.weights_id,
        world.adapters,
    )


def check_generators(states: Iterable[JsonMapping]) -> None:
    """Raise InvalidInputError unless ``states`` are states of PCG64 generators.

    They have the format of NumPy's ``bit_generator.state``.
    """
    for state in states:
        try:
            generator: np.random.BitGenerator = np.random.PCG64(0)
            generator.state = state
            if not state["state"]["inc"] % 2:
                raise ValueError("its increment is even")
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise InvalidInputError(
                f"this is not a state of a PCG64 generator ({error}): {str(state)[:80]}"
            ) from None


def open_snapshot(path: str | os.PathLike[str], index: int = 0) -> OpenedSnapshot:
    """Read the memory and trajectory of environment ``index`` on the CPU, without weights.

    path: a file of :func:`save_snapshot`.

    Needs no weights. Raises NotFoundError, DamagedFileError, InvalidInputError (no such
    environment) or MissingGeometryError (no scene memory).
    """
    path = as_path(path)
    metadata, tensors = _read(path)
    try:
        environments = len(_counts(tensors)[0])
    except (KeyError, ValueError) as error:
        raise DamagedFileError(
            f"{path} lacks a part of a snapshot ({error}): it was not written by save"
        ) from error
    if (
        isinstance(index, bool)
        or not isinstance(index, (int, np.integer))
        or not 0 <= index < environments
    ):
        raise InvalidInputError(
            f"{path} holds {environments} environments, counted from 0: there is no {index!r}"
        )
    found = {name: value for name, value in tensors.items() if name.startswith(f"{STATE}.memory.")}
    if not found:
        raise MissingGeometryError(
            f"{path} is from a world without scene memory, so it has no memory to read"
        )
    require_finite(
        {**found, **{k: v for k, v in tensors.items() if k.startswith(TRAJECTORY)}}, path
    )
    try:
        kind = _memory_kind(metadata, found)
        one = {name: value[index : index + 1].clone() for name, value in found.items()}
        height, width = tensors[f"{STATE}.frame.rgb"].shape[-2:]
        if not height or not width:
            raise ValueError(f"its frames have {height}x{width} pixels")
        handle = MemoryHandle(
            kind=kind,
            data=unflatten(meta_empty(kind), one, f"{STATE}.memory"),
            intrinsics=tensors[f"{STATE}.intrinsics"][index],
            size=(height, width),
            pose=tensors[f"{STATE}.frame.pose"][index],
            step=int(tensors[f"{STATE}.step"][index]),
        )
        trajectory = _trajectory(tensors)
    except (
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        IndexError,
        RecursionError,
    ) as error:
        raise DamagedFileError(
            f"{path} lacks a part of a snapshot ({error}): it was not written by save"
        ) from error
    return OpenedSnapshot(
        handle, trajectory, metadata.get("name", ""), metadata.get("env_id", ""), environments
    )


def _memory_kind(metadata: Mapping[str, str], found: Mapping[str, Tensor]) -> SceneMemory:
    """Return the memory that a file describes, an object without data."""
    described = json.loads(metadata.get("memory", "null"))
    if described is not None:
        kind = memory_from_description(described)
        # The described capacity is untrusted: compare it with the stored tensors.
        template = {
            name: value.shape[1:]
            for name, value in flatten(meta_empty(kind), f"{STATE}.memory").items()
        }
        stored = {name: value.shape[1:] for name, value in found.items()}
        if template != stored:
            differ = sorted(
                name
                for name in template.keys() | stored.keys()
                if template.get(name) != stored.get(name)
            )
            raise ValueError(f"{differ[0]} does not match the described memory")
        return kind
    if f"{STATE}.memory.kind" not in found:
        raise ValueError("its memory has no description")
    # Version 1 had point memories only, and reading them needs only the capacity.
    return PointMemory(PointMemoryConfig(capacity=found[f"{STATE}.memory.kind"].shape[1]))


def world_name(world: World) -> str:
    """Return the name of a world in snapshots: its folder's name, empty without a folder."""
    return "" if world.folder is None else world.folder.resolve().name


def settings_of(world: World) -> JsonObject:
    """Return the settings of a world that may change between two steps of a dream."""
    dynamics = world.config.dynamics
    settings: JsonObject = {
        "num_inference_steps": dynamics.num_inference_steps,
        "temperature": dynamics.temperature,
        "painted_ahead": world.painting is not None,
    }
    used = {name: scale for name, scale in world.adapters.items() if scale}
    return settings | ({"adapters": used} if used else {})


def read_settings(path: str | os.PathLike[str]) -> JsonObject | None:
    """Return the settings that a snapshot's world had, None in files that do not tell.

    They come from the file as they are: check them. Raises NotFoundError or DamagedFileError.
    """
    path = as_path(path)
    if not is_file(path):
        raise NotFoundError(f"no snapshot {str(path)!r}: give a file written by save")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        _check_header(path, metadata, None)
        found = json.loads(metadata.get(SETTINGS, "null"))
    except (SafetensorError, OSError, ValueError, RuntimeError, RecursionError) as error:
        if isinstance(error, WorldsimError):
            raise
        raise DamagedFileError(
            f"{path} cannot be read as a snapshot ({error}): it is cut short or something else"
        ) from error
    return found if isinstance(found, dict) else None


def fingerprint(world: World) -> str:
    """Return the SHA-256 of a world's configuration and weights.

    Two worlds of one fingerprint give the same results.
    """
    config = repr(world.config)
    for name, former in FORMER.items():
        config = config.replace(name, former)
    total = hashlib.sha256(config.encode())
    memory, temperature = world.config.memory, world.config.dynamics.temperature
    # Newer settings count only if they are set, so that older snapshots still load.
    if memory is not None and memory.colour_tolerance is not None:
        total.update(f"colour_tolerance {memory.colour_tolerance}".encode())
    if temperature != 1.0:
        total.update(f"temperature {temperature}".encode())
    if world.config.termination != Termination.THRESHOLD:
        total.update(f"termination {world.config.termination}".encode())
    if world.config.dynamics.first_features:
        total.update(b"first_features")
    if world.config.dynamics.keep_still:
        total.update(f"keep_still {world.config.dynamics.keep_still}".encode())
    if world.painting is not None:
        total.update(f"painted ahead {world.painting.identity}".encode())
    for mark in world.adapter_marks():
        total.update(mark.encode())
    modules: dict[str, Any] = world.modules()
    for part, module in sorted(modules.items()):
        settings = {
            name: _as_in_a_file(value)
            for name, value in module.settings.items()
            if name not in LATER or LATER[name] != value
        }
        total.update(repr(sorted(settings.items())).encode())
        total.update(f"{part} {checksum(module.state_dict())}".encode())
    return total.hexdigest()


def _as_in_a_file(value: Any) -> Any:
    """Return a setting as a loaded world has it: JSON knows lists, not tuples."""
    return [_as_in_a_file(item) for item in value] if isinstance(value, tuple | list) else value


def _read(path: Path, world: World | None = None) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read and verify a file's header and tensors.

    world: if given, the world that the file must belong to.
    """
    if not is_file(path):
        raise NotFoundError(f"no snapshot {str(path)!r}: give a file written by save")
    size = require_regular(path).stat().st_size
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            _check_header(path, metadata, world)
            # The tensors and the copy for the checksum take twice the file's size.
            require_memory_for(2 * size, f"the snapshot {path}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, WorldsimError):
            raise
        raise DamagedFileError(
            f"{path} cannot be read as a snapshot ({error}): it is cut short or something else"
        ) from error
    told = metadata.get(CHECKSUM)
    plain = {name: value for name, value in metadata.items() if name != CHECKSUM}
    if told != (_checksum(tensors, plain) if int(metadata["version"]) >= 3 else checksum(tensors)):
        raise DamagedFileError(
            f"{path} is damaged: its content does not fit its checksum. Restore it from a copy"
        )
    return metadata, tensors


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of a snapshot's file without the checksum itself."""
    return hashlib.sha256(
        f"{checksum(tensors)} {json.dumps(dict(metadata), sort_keys=True)}".encode()
    ).hexdigest()


def _counts(tensors: Mapping[str, Tensor]) -> tuple[Array, Array]:
    """Return ``elapsed`` and ``resetting`` of a file. Raises KeyError or ValueError."""
    elapsed, resetting = tensors[ELAPSED], tensors[RESETTING]
    if (
        elapsed.dim() != 1
        or elapsed.dtype != torch.int64
        or not len(elapsed)
        or bool((elapsed < 0).any())
    ):
        raise ValueError(
            f"{ELAPSED} is {elapsed.dtype} {tuple(elapsed.shape)}, steps of at least 0 are needed"
        )
    if resetting.shape != elapsed.shape or resetting.dtype != torch.bool:
        raise ValueError(f"{RESETTING} is {resetting.dtype} {tuple(resetting.shape)}")
    return elapsed.numpy(), resetting.numpy()


def _trajectory(tensors: Mapping[str, Tensor]) -> Trajectory | None:
    parts = {
        name.removeprefix(f"{TRAJECTORY}."): value
        for name, value in tensors.items()
        if name.startswith(f"{TRAJECTORY}.")
    }
    if not parts:
        return None
    trajectory = Trajectory(
        *(parts[name] for name in ("rgb", "inverse_depth", "pose", "intrinsics"))
    )
    if (
        not len(trajectory)
        or 0 in trajectory.rgb.shape
        or not bool((trajectory.intrinsics[:2] > 0).all())
    ):
        raise ValueError(
            f"its trajectory has frames {tuple(trajectory.rgb.shape)} and a camera "
            f"{trajectory.intrinsics.tolist()}"
        )
    check_poses(trajectory.pose, f"{TRAJECTORY}.pose")
    return trajectory


def _state(tensors: Mapping[str, Tensor], world: World, rows: int) -> WorldState:
    template = world.blank(1)
    expected = flatten(template, STATE)
    found = {name: value for name, value in tensors.items() if name.startswith(f"{STATE}.")}
    if template.coverage is not None:
        # Files of before it was a part of the state.
        found.setdefault(COVERAGE, torch.zeros(rows))
    for name, value in expected.items():
        if found[name].dtype != value.dtype or found[name].shape != (rows, *value.shape[1:]):
            raise ValueError(f"{name} is {found[name].dtype} {tuple(found[name].shape)}")
    return unflatten(template, found, STATE)


def _check_state(state: WorldState, world: World) -> None:
    """Raise ValueError for values that no world emits.

    These are invalid poses, cameras and depth codes, and actions outside their space.
    """
    frame = state.frame
    if frame.pose is not None:
        check_poses(frame.pose, f"{STATE}.frame.pose")
    if world.has_geometry and not bool((state.intrinsics[:, :2] > 0).all()):
        raise ValueError(f"{STATE}.intrinsics has fx or fy that are not positive")
    depth = frame.inverse_depth
    if depth is not None and not bool(((depth >= 0) & (depth <= DEPTH_CODES)).all()):
        raise ValueError(f"{STATE}.frame.inverse_depth has codes outside of 0 to {DEPTH_CODES}")
    covered = state.coverage
    if covered is not None and not bool(((covered >= 0) & (covered <= 1)).all()):
        raise ValueError(f"{COVERAGE} is outside [0, 1]")
    kind = getattr(state.memory, "kind", None)
    if isinstance(kind, Tensor) and bool((kind > DIRECTION).any()):
        raise ValueError(f"{STATE}.memory.kind has kinds above {DIRECTION}")
    actions, found = world.spec.actions, {"act": state.act}
    if isinstance(world.dynamics, ContextOfViews):
        found["context"] = world.dynamics.acts(state.context)
    for name, acts in found.items():
        if actions and not bool(((acts >= 0) & (acts < actions)).all()):
            raise ValueError(f"{STATE}.{name} has actions outside of 0 to {actions - 1}")


def _check_header(path: Path, metadata: Mapping[str, str], world: World | None) -> None:
    if metadata.get("format") != FORMAT:
        raise DamagedFileError(
            f"{path} is not a snapshot: its format is {metadata.get('format')!r}, not {FORMAT!r}"
        )
    version = metadata.get("version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 9 and int(version) > 0):
        raise DamagedFileError(
            f"{path} has version {version!r}: versions are whole numbers from 1. Restore it from "
            f"a copy"
        )
    if int(version) > VERSION:
        raise DamagedFileError(
            f"{path} has version {version!r}; this worldsim reads up to {VERSION}: upgrade worldsim"
        )
    if world is not None and metadata.get("world") != fingerprint(world):
        check_adapters(str(path), _adapters_of(metadata), world.adapters)
        raise InvalidInputError(
            f"{path} was saved in another world than this one (real twin "
            f"{metadata.get('env_id')!r}, settings {metadata.get(SETTINGS, 'unknown')[:200]}; here "
            f"{json.dumps(settings_of(world))}; weights or settings differ): load that world first"
        )


def _adapters_of(metadata: Mapping[str, str]) -> dict[str, float]:
    """Return the adapters that a header names; none if it names none that can be read."""
    try:
        found = json.loads(metadata.get(SETTINGS, "null"))["adapters"]
        return {str(name): float(scale) for name, scale in found.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def check_adapters(what: str, then: Mapping[str, float], now: Mapping[str, float]) -> None:
    """Raise InvalidInputError if a snapshot was taken with other adapters than the world has.

    what: the snapshot, for the error.
    """
    told, here = describe(then), describe(now)
    if told != here:
        raise InvalidInputError(
            f"{what} was taken with {told}, and this world has {here}: load the same ones first "
            f"(world.load_adapter, world.set_adapters)"
        )
