"""Whole generated environments on disk: one safetensors file each, written atomically, restored bit by bit.

A file holds every tensor of a :class:`Snapshot` and, in its header, the format, its version, the name and a fingerprint of the
world that it belongs to, what its scene memory is, the random generators and a checksum. Weights are not in it: the same world must
be there to load it. :func:`open_snapshot` needs no weights: it reads the memory and the walk alone.

Version 2 added the journey, the world's name and the memory's rules. Files of version 1 load; they have no journey.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.journey import Journey
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.kinds import describe_memory, described_memory
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import Frame, WorldState, checksum, flatten, unflatten
from worldsim.world import Termination, World, bucket
from worldsim.world_files import WORLDS_FOLDER

FORMAT, VERSION = "worldsim-snapshot", 2
LATER = {"pooling": "mean"}
"""Settings of modules that came later, at the values that say what was so before: fingerprints leave them out."""
STATE, ELAPSED, RESETTING, JOURNEY = "state", "elapsed", "resetting", "journey"

Array = NDArray[Any]


@dataclass(frozen=True)
class Snapshot:
    """A whole environment: restoring it brings back every future, resets included, bit by bit.

    state: the worlds, one row an environment (and rows of padding). elapsed: (n,) int64 steps since each reset.
    resetting: (n,) bool, whose next step is a reset. generators: the states of the environments' random generators.
    frames: those of the walk so far, each a batch of one, of a single environment that keeps them; they decide nothing.
    """

    state: WorldState
    elapsed: Array
    resetting: Array
    generators: tuple[Any, ...]
    frames: tuple[Frame, ...] = ()

    @property
    def journey(self) -> Journey | None:
        """The walk so far, None if it was not kept."""
        return Journey.of(self.frames, self.state.intrinsics[0]) if self.frames else None


@dataclass(frozen=True)
class OpenedSnapshot:
    """What a snapshot's file tells without its world's weights.

    memory: the scene memory of one environment. journey: its walk, None if it was not kept. world: a shipped world's name or
    the folder of the world; empty if it was in no folder, or in files of version 1. env_id: the real twin. environments: how
    many the file holds.
    """

    memory: MemoryHandle
    journey: Journey | None
    world: str
    env_id: str
    environments: int


def save_snapshot(snapshot: Snapshot, world: World, path: str | os.PathLike[str]) -> Path:
    """Write ``snapshot``, taken in ``world``, to the file ``path``.

    The file is written beside its place, flushed to disk and renamed: whatever happens, ``path`` holds the previous snapshot or
    this one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in flatten(snapshot.state, STATE).items()}
    tensors[ELAPSED] = torch.from_numpy(np.asarray(snapshot.elapsed, np.int64))
    tensors[RESETTING] = torch.from_numpy(np.asarray(snapshot.resetting, bool))
    journey = snapshot.journey
    if journey is not None:
        tensors.update(flatten(journey, JOURNEY))
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "world": fingerprint(world),
        "name": world_name(world),
        "env_id": world.config.env_id,
        "memory": json.dumps(describe_memory(world.memory)),
        "generators": json.dumps(snapshot.generators),
        "sha256": checksum(tensors),
    }
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, 0o644)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return path


def load_snapshot(path: str | os.PathLike[str], world: World) -> Snapshot:
    """The snapshot in ``path``, on ``world``'s device.

    Raises NotFoundError, DamagedFileError (not a snapshot, of a newer version, cut short, changed) or InvalidInputError (of
    another world), each naming the file; then nothing has been loaded.
    """
    path = Path(path)
    metadata, tensors = _read(path, world)
    try:
        elapsed, resetting = tensors[ELAPSED].numpy(), tensors[RESETTING].numpy()
        state = _state(tensors, world, bucket(len(elapsed)))
        generators = tuple(json.loads(metadata["generators"]))
        journey = _journey(tensors)
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{path} lacks a part of a snapshot ({error}): it was not written by save") from error
    return Snapshot(state.to(world.device), elapsed, resetting, generators, journey.frames if journey else ())


def open_snapshot(path: str | os.PathLike[str], index: int = 0) -> OpenedSnapshot:
    """The memory and the walk of environment ``index`` in the file ``path``, on the CPU, without the world's weights.

    Raises NotFoundError, DamagedFileError, InvalidInputError (no such environment) or MissingGeometryError (no scene memory).
    """
    path = Path(path)
    metadata, tensors = _read(path)
    environments = len(tensors.get(ELAPSED, ()))
    if not 0 <= index < environments:
        raise InvalidInputError(f"{path} holds {environments} environments, counted from 0: there is no {index!r}")
    found = {name: value for name, value in tensors.items() if name.startswith(f"{STATE}.memory.")}
    if not found:
        raise MissingGeometryError(f"{path} is of a world without scene memory: there is nothing to look at")
    try:
        kind = _memory_kind(metadata, found)
        one = {name: value[index : index + 1].clone() for name, value in found.items()}
        height, width = tensors[f"{STATE}.frame.rgb"].shape[-2:]
        handle = MemoryHandle(
            kind=kind,
            data=unflatten(kind.empty(1, "cpu"), one, f"{STATE}.memory"),
            intrinsics=tensors[f"{STATE}.intrinsics"][index],
            size=(height, width),
            pose=tensors[f"{STATE}.frame.pose"][index],
            step=int(tensors[f"{STATE}.step"][index]),
        )
        journey = _journey(tensors)
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{path} lacks a part of a snapshot ({error}): it was not written by save") from error
    return OpenedSnapshot(handle, journey, metadata.get("name", ""), metadata.get("env_id", ""), environments)


def _memory_kind(metadata: Mapping[str, str], found: Mapping[str, Tensor]) -> Any:
    """The rules of the memory in a file."""
    described = json.loads(metadata.get("memory", "null"))
    if described is not None:
        return described_memory(described)
    if f"{STATE}.memory.kind" not in found:
        raise ValueError("its memory is of a kind without a name")
    # Version 1 knew points alone, and to look at them only the capacity is needed.
    return PointMemory(PointMemoryConfig(capacity=found[f"{STATE}.memory.kind"].shape[1]))


def world_name(world: World) -> str:
    """What ``World.from_pretrained`` takes to load this world here again; empty for one that is in no folder."""
    if world.folder is None:
        return ""
    folder = world.folder.resolve()
    return folder.name if folder.parent == WORLDS_FOLDER.resolve() else str(folder)


def fingerprint(world: World) -> str:
    """SHA-256 of what decides a world's futures: its configuration and all weights."""
    total = hashlib.sha256(repr(world.config).encode())
    memory, temperature = world.config.memory, world.config.dynamics.temperature
    # Settings that came later count where they are set: older snapshots still load.
    if memory is not None and memory.colour_tolerance is not None:
        total.update(f"colour_tolerance {memory.colour_tolerance}".encode())
    if temperature != 1.0:
        total.update(f"temperature {temperature}".encode())
    if world.config.termination != Termination.THRESHOLD:
        total.update(f"termination {world.config.termination}".encode())
    if world.config.dynamics.first_features:
        total.update(b"first_features")
    modules: dict[str, Any] = world.modules()
    for part, module in sorted(modules.items()):
        settings = {name: value for name, value in module.settings.items() if name not in LATER or LATER[name] != value}
        total.update(repr(sorted(settings.items())).encode())
        total.update(f"{part} {checksum(module.state_dict())}".encode())
    return total.hexdigest()


def _read(path: Path, world: World | None = None) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A file's header and tensors, checked; with ``world``, that it belongs to it."""
    if not path.is_file():
        raise NotFoundError(f"no snapshot {str(path)!r}: give a file that save wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            _check_header(path, metadata, world)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read as a snapshot ({error}): it is cut short or something else") from error
    if metadata.get("sha256") != checksum(tensors):
        raise DamagedFileError(f"{path} is damaged: its content does not fit its checksum. Restore it from a copy")
    return metadata, tensors


def _journey(tensors: Mapping[str, Tensor]) -> Journey | None:
    parts = {name.removeprefix(f"{JOURNEY}."): value for name, value in tensors.items() if name.startswith(f"{JOURNEY}.")}
    if not parts:
        return None
    return Journey(*(parts[name] for name in ("rgb", "inverse_depth", "pose", "intrinsics")))


def _state(tensors: Mapping[str, Tensor], world: World, rows: int) -> WorldState:
    template = world.blank(1)
    expected = flatten(template, STATE)
    found = {name: value for name, value in tensors.items() if name.startswith(f"{STATE}.")}
    for name, value in expected.items():
        if found[name].dtype != value.dtype or found[name].shape != (rows, *value.shape[1:]):
            raise ValueError(f"{name} is {found[name].dtype} {tuple(found[name].shape)}")
    return unflatten(template, found, STATE)


def _check_header(path: Path, metadata: Mapping[str, str], world: World | None) -> None:
    if metadata.get("format") != FORMAT:
        raise DamagedFileError(f"{path} is no snapshot: its format is {metadata.get('format')!r}, not {FORMAT!r}")
    version = metadata.get("version", "")
    if not version.isdigit() or int(version) > VERSION:
        raise DamagedFileError(f"{path} has version {version!r}; this worldsim reads up to {VERSION}: upgrade worldsim")
    if world is not None and metadata.get("world") != fingerprint(world):
        raise InvalidInputError(
            f"{path} was saved in another world than this one (real twin {metadata.get('env_id')!r}, weights or settings differ): "
            "load that world first"
        )


def _flush(path: str | Path) -> None:
    """Have the operating system write a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
