"""What meshes built by Open3D share: the library itself, and their conversion to trimesh."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.extras import missing
from worldsim.runtime.ply import import_trimesh

if TYPE_CHECKING:
    from open3d.pybind.geometry import TriangleMesh
    from trimesh import Trimesh

LEAST_CELL, MOST_CELL = 0.001, 100.0
"""Smallest and largest edge of a cell in metres."""


def finish(mesh: TriangleMesh, scale: float, smallest: int, source: str) -> Trimesh:
    """Convert an Open3D mesh to trimesh, with 8-bit vertex colours and without its small pieces.

    scale: factor from its colours to 255.
    smallest: minimum number of triangles of a piece.
    source: what the mesh was made from, for errors.

    Raises InvalidInputError if nothing is left.
    """
    trimesh = import_trimesh()
    piece, size, _ = mesh.cluster_connected_triangles()
    mesh.remove_triangles_by_mask(
        np.asarray(size)[np.asarray(piece)] < smallest if len(size) else []
    )
    mesh.remove_unreferenced_vertices()
    if not len(mesh.triangles):
        raise InvalidInputError(
            f"no surface was found in {source}: only pieces of fewer than {smallest} triangles"
        )
    colours = (np.asarray(mesh.vertex_colors) * scale).round().clip(0, 255).astype(np.uint8)
    return trimesh.Trimesh(
        np.asarray(mesh.vertices), np.asarray(mesh.triangles), vertex_colors=colours, process=False
    )


def open3d() -> ModuleType:
    """Import and return Open3D, which is large and slow to import.

    Raises MissingDependencyError.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:  # a system library that it needs may be missing
        raise missing("meshes are made by Open3D", "open3d", error) from error
    return open3d
