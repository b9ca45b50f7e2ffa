"""Whole generated environments on disk: one safetensors file each, written atomically, restored bit by bit.

A file holds every tensor of a :class:`Snapshot` and, in its header, the format, its version, a fingerprint of the world that it
belongs to, the random generators and a checksum. Weights are not in it: the same world must be there to load it.
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

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.state import WorldState, checksum, flatten, unflatten
from worldsim.world import World, bucket

FORMAT, VERSION = "worldsim-snapshot", 1
STATE, ELAPSED, RESETTING = "state", "elapsed", "resetting"

Array = NDArray[Any]


@dataclass(frozen=True)
class Snapshot:
    """A whole environment: restoring it brings back every future, resets included, bit by bit.

    state: the worlds, one row an environment (and rows of padding). elapsed: (n,) int64 steps since each reset.
    resetting: (n,) bool, whose next step is a reset. generators: the states of the environments' random generators.
    """

    state: WorldState
    elapsed: Array
    resetting: Array
    generators: tuple[Any, ...]


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
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "world": fingerprint(world),
        "env_id": world.config.env_id,
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
    try:
        elapsed, resetting = tensors[ELAPSED].numpy(), tensors[RESETTING].numpy()
        state = _state(tensors, world, bucket(len(elapsed)))
        generators = tuple(json.loads(metadata["generators"]))
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{path} lacks a part of a snapshot ({error}): it was not written by save") from error
    return Snapshot(state.to(world.device), elapsed, resetting, generators)


def fingerprint(world: World) -> str:
    """SHA-256 of what decides a world's futures: its configuration and all weights."""
    total = hashlib.sha256(repr(world.config).encode())
    modules: dict[str, Any] = world.modules()
    for part, module in sorted(modules.items()):
        total.update(repr(sorted((k, v) for k, v in dict(module.config).items() if not k.startswith("_"))).encode())
        total.update(f"{part} {checksum(module.state_dict())}".encode())
    return total.hexdigest()


def _state(tensors: Mapping[str, Tensor], world: World, rows: int) -> WorldState:
    template = world.blank(1)
    expected = flatten(template, STATE)
    found = {name: value for name, value in tensors.items() if name.startswith(f"{STATE}.")}
    for name, value in expected.items():
        if found[name].dtype != value.dtype or found[name].shape != (rows, *value.shape[1:]):
            raise ValueError(f"{name} is {found[name].dtype} {tuple(found[name].shape)}")
    return unflatten(template, found, STATE)


def _check_header(path: Path, metadata: Mapping[str, str], world: World) -> None:
    if metadata.get("format") != FORMAT:
        raise DamagedFileError(f"{path} is no snapshot: its format is {metadata.get('format')!r}, not {FORMAT!r}")
    version = metadata.get("version", "")
    if not version.isdigit() or int(version) > VERSION:
        raise DamagedFileError(f"{path} has version {version!r}; this worldsim reads up to {VERSION}: upgrade worldsim")
    if metadata.get("world") != fingerprint(world):
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
