"""Meshes of scenes: from trajectories (``fuse``), from points (``wrap``), and their GLB files.

Meshes are :class:`trimesh.Trimesh` objects in world axes (z up), metres, with vertex colours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldsim.io.fusion import FusionConfig, fuse
from worldsim.io.poisson import PoissonConfig, wrap
from worldsim.runtime.files import as_path, replacing
from worldsim.runtime.types import JsonObject

if TYPE_CHECKING:
    from trimesh import Trimesh

__all__ = ["GLTF_FROM_WORLD", "FusionConfig", "PoissonConfig", "fuse", "save_glb", "wrap"]

GLTF_FROM_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""(4, 4) from world axes (z up) to those of glTF (y up): x stays, z becomes y, y becomes -z. Its
transpose is the way back."""


def save_glb(
    mesh: Trimesh, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a mesh in world axes as a GLB file, atomically.

    GLB's axes are y up (``GLTF_FROM_WORLD``), in metres.

    metadata: texts by name, written as ``asset.extras``.
    """
    turned = mesh.copy()
    turned.apply_transform(GLTF_FROM_WORLD)

    def describe(tree: JsonObject) -> None:
        if metadata:
            tree["asset"]["extras"] = dict(metadata)

    with replacing(path) as place:
        turned.export(str(place), file_type="glb", tree_postprocessor=describe)
    return as_path(path)
