"""Editing a point memory: choosing points, and bringing points from meshes and point clouds.

The edits themselves are methods of :class:`worldsim.memory.points.PointMemory` (``remove``,
``recolour``, ``paste``); a dream takes an edited memory through :meth:`worldsim.world.World.edit`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, MissingDependencyError, NotFoundError
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.runtime.files import as_path, is_file, read_bytes
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.picture_formats import usual_pictures
from worldsim.runtime.types import Array

if TYPE_CHECKING:
    from trimesh.parent import Geometry

SHAPE_SUFFIXES = (".glb", ".ply", ".obj", ".stl")
LARGEST_SHAPE = 2**30
"""Bytes of a file to paste."""
Shape: TypeAlias = "Geometry | str | os.PathLike[str]"
"""A trimesh mesh, scene or point cloud, or the path of a file."""
GREY = 128
"""Each of the three colours of what has none."""


def in_box(
    memory: Points, low: Sequence[float], high: Sequence[float], pose: Tensor | None = None
) -> Tensor:
    """Which points lie in a box: (b, c) bool.

    low, high: its corners (x, y, z) in metres, in the axes of ``pose`` (4, 4) box-to-world, or of
    the world.
    """
    corners = torch.tensor(
        [list(low), list(high)], dtype=torch.float32, device=memory.position.device
    )
    if corners.shape != (2, 3) or bool((corners[0] > corners[1]).any()):
        raise InvalidInputError(
            f"a box from {tuple(low)} to {tuple(high)}: give two corners (x, y, z), the lower one "
            f"first"
        )
    position = memory.position
    if pose is not None:
        pose = pose.to(position)
        shifted = position - pose[:3, 3, None]
        # Written out, as in the splat: a matrix product may round differently for other batch
        # sizes.
        position = torch.stack([(shifted * pose[:3, axis, None]).sum(1) for axis in range(3)], 1)
    inside = (position >= corners[0][:, None]) & (position <= corners[1][:, None])
    return inside.all(1) & (memory.kind == POINT)


def surface_points(shape: Shape, spacing: float = 0.02, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points on the surface of a mesh, or those of a point cloud.

    shape: a trimesh mesh, scene or point cloud, or the path of a GLB, PLY, OBJ or STL file; metres.
    spacing: metres between neighbours on a mesh.

    Returns (n, 3) float32 metres and (n, 3) uint8. Raises NotFoundError, InvalidInputError (no
    surface) or MissingDependencyError.
    """
    try:
        import trimesh
    except ImportError as error:
        raise MissingDependencyError(
            "meshes and point clouds are read by trimesh: pip install trimesh"
        ) from error
    if isinstance(shape, (str, os.PathLike)):
        shape = _load(as_path(shape))
    parts = list(shape.dump()) if isinstance(shape, trimesh.Scene) else [shape]
    found = [_points_of(part, spacing, seed) for part in parts]
    position = np.concatenate([p for p, _ in found]) if found else np.zeros((0, 3))
    if not len(position):
        raise InvalidInputError(
            f"{type(shape).__name__} has no surface and no points: give a mesh or a point cloud"
        )
    colour = np.concatenate([c for _, c in found])
    return torch.from_numpy(position.astype(np.float32)), torch.from_numpy(colour.astype(np.uint8))


def _load(path: Path) -> Geometry:
    """Load the shape in a file.

    Other files that it names are not read; its pictures must have one of the usual formats.
    """
    if path.suffix.lower() not in SHAPE_SUFFIXES:
        raise InvalidInputError(f"{path} cannot be pasted: give a GLB, PLY, OBJ or STL file")
    if not is_file(path):
        raise NotFoundError(f"no file {str(path)!r} to paste: give a GLB, PLY, OBJ or STL file")
    import trimesh

    content = read_bytes(path, LARGEST_SHAPE)
    require_memory_for(10 * len(content), f"the shape in {path}")
    try:
        with usual_pictures():
            return trimesh.load(io.BytesIO(content), file_type=path.suffix[1:].lower())
    except Exception as error:  # trimesh raises whatever its readers raise
        raise InvalidInputError(
            f"trimesh cannot read {path} ({error}): give a GLB, PLY, OBJ or STL file"
        ) from error


def _points_of(part: object, spacing: float, seed: int) -> tuple[Array, Array]:
    import trimesh

    if isinstance(part, trimesh.PointCloud):
        colours = np.asarray(part.colors)
        return np.asarray(part.vertices), colours[:, :3] if colours.size else np.full(
            (len(part.vertices), 3), GREY
        )
    if not isinstance(part, trimesh.Trimesh) or part.is_empty:
        return np.zeros((0, 3)), np.zeros((0, 3))
    # At random, so about twice as many as a grid of that spacing has: then few gaps are left.
    count = int(np.ceil(2.0 * part.area / spacing**2))
    visual: Any = part.visual
    textured = visual.kind == "texture"
    place, face, *colour = trimesh.sample.sample_surface(
        part, count, sample_color=textured, seed=seed
    )
    return np.asarray(place), np.asarray(colour[0] if textured else visual.face_colors[face])[:, :3]
