"""Point clouds as PLY files, written by trimesh."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from worldsim.errors import InvalidInputError, MissingDependencyError
from worldsim.runtime.files import as_path, replacing
from worldsim.runtime.types import Array


def save_ply(
    position: Array,
    colour: Array,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write points as a PLY file, atomically.

    position: (n, 3) world axes, metres.
    colour: (n, 3) uint8.
    metadata: texts by name, written as comments of the header.
    """
    position, colour = np.asarray(position), np.asarray(colour)
    if (
        position.ndim != 2
        or position.shape[1] != 3
        or position.shape != colour.shape
        or position.dtype.kind not in "uif"
    ):
        found = f"{position.dtype} {position.shape} and {colour.dtype} {colour.shape}"
        raise InvalidInputError(
            f"points are positions (n, 3) in metres and colours (n, 3) uint8, not {found}"
        )
    if colour.dtype != np.uint8 or not bool(np.isfinite(position).all()):
        raise InvalidInputError(f"positions must be finite and colours uint8, got {colour.dtype}")
    cloud = import_trimesh().PointCloud(position, colors=colour)
    content: bytes = cloud.export(file_type="ply")
    for name, text in reversed(list((metadata or {}).items())):
        content = _commented(content, f"{name}: {text}")
    with replacing(path) as place:
        place.write_bytes(content)
    return as_path(path)


def _commented(content: bytes, comment: str) -> bytes:
    """Return a PLY file with a comment after its first two lines, which every PLY file has."""
    magic, form, rest = content.split(b"\n", 2)
    line = " ".join(comment.split()).encode("ascii", "replace")
    return b"\n".join([magic, form, b"comment " + line, rest])


def import_trimesh() -> ModuleType:
    """Import and return trimesh. Raises MissingDependencyError."""
    try:
        import trimesh
    except ImportError as error:
        raise MissingDependencyError(
            "meshes and points are written by trimesh: pip install trimesh"
        ) from error
    return trimesh
