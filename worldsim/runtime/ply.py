"""Point clouds as PLY files, written by trimesh."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import numpy as np

from worldsim.errors import InvalidInputError, MissingDependencyError
from worldsim.runtime.files import as_path, replacing
from worldsim.runtime.types import Array


def save_ply(position: Array, colour: Array, path: str | os.PathLike[str]) -> Path:
    """Write points as a PLY file, atomically.

    position: (n, 3) world axes, metres.
    colour: (n, 3) uint8.
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
    with replacing(path) as place:
        cloud.export(str(place), file_type="ply")
    return as_path(path)


def import_trimesh() -> ModuleType:
    """Import and return trimesh. Raises MissingDependencyError."""
    try:
        import trimesh
    except ImportError as error:
        raise MissingDependencyError(
            "meshes and points are written by trimesh: pip install trimesh"
        ) from error
    return trimesh
