"""Start from a single image: a photograph or a render, with a depth map where the world has a scene memory."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from worldsim.camera import check_poses, default_intrinsics, quantise_depth, snap_pose
from worldsim.errors import InvalidInputError
from worldsim.pictures import read_picture
from worldsim.state import SceneStart

Array = NDArray[Any]

LARGEST = 16_384
"""Most rows or columns that an image is resized to."""


class ImageScene:
    """One frame to start from.

    image: a PNG, WebP, JPEG, TIFF or BMP file, or (h, w, 3) uint8. size: (height, width) to resize to, or None to keep the size.
    depth: (h, w) float metres along the optical axis at the image's size, ``inf`` for sky, or None.
    pose: (4, 4) camera-to-world in OpenCV axes, metres; the identity by default. It decides where up is: a world that was
    trained with z up wants a pose with z up.
    intrinsics: ``fx fy cx cy`` in pixels of the image as given; by default a horizontal view of 90 degrees.
    act: the action that led to the frame; 0 (the no-op) by default.
    """

    def __init__(
        self,
        image: str | os.PathLike[str] | Array,
        size: tuple[int, int] | None = None,
        depth: Array | None = None,
        pose: Array | None = None,
        intrinsics: Array | tuple[float, float, float, float] | None = None,
        act: int | Array = 0,
        name: str = "",
    ) -> None:
        rgb = image if isinstance(image, np.ndarray) else read_picture(image, mode="RGB")
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
            raise InvalidInputError(f"image must be (h, w, 3) uint8, got {rgb.shape} {rgb.dtype}")
        height, width = rgb.shape[:2]
        if depth is not None and (depth.shape != (height, width) or not (depth > 0).all()):
            raise InvalidInputError(f"depth must be ({height}, {width}) positive metres like the image, got {depth.shape}")
        size = size or (height, width)
        if len(size) != 2 or not all(isinstance(n, int) and 1 <= n <= LARGEST for n in size):
            raise InvalidInputError(f"size must be (height, width) of 1 to {LARGEST} pixels, got {size!r}")
        if pose is not None:
            check_poses(np.asarray(pose)[None])
        given = np.asarray(intrinsics if intrinsics is not None else default_intrinsics(height, width), np.float32)
        if given.shape != (4,) or not np.isfinite(given).all() or min(given[:2]) <= 0:
            raise InvalidInputError(f"intrinsics must be fx fy cx cy, got {given.tolist()}")
        self.scene = SceneStart(
            rgb=torch.from_numpy(_resized(rgb, size)).permute(2, 0, 1)[None].contiguous(),
            act=torch.as_tensor(np.asarray(act))[None],
            inverse_depth=None if depth is None else quantise_depth(torch.from_numpy(_nearest(depth, size)))[None],
            pose=None if depth is None else snap_pose(torch.as_tensor(np.eye(4) if pose is None else pose)[None]),
            intrinsics=torch.from_numpy(given * np.array([size[1] / width, size[0] / height] * 2, np.float32)),
            name=name,
        )

    def start(self, rng: np.random.Generator) -> SceneStart:
        """The one scene; nothing is drawn."""
        return self.scene


def _resized(rgb: Array, size: tuple[int, int]) -> Array:
    if rgb.shape[:2] == size:
        return rgb.copy()
    return np.array(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BOX))


def _nearest(depth: Array, size: tuple[int, int]) -> Array:
    """Depth is picked, not averaged: a mean across an edge is a surface that does not exist."""
    rows = ((np.arange(size[0]) + 0.5) * depth.shape[0] / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * depth.shape[1] / size[1]).astype(np.int64)
    return np.ascontiguousarray(depth[rows][:, columns], dtype=np.float32)
