"""What a memory handle returns: pictures and points as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.runtime.types import Array


@dataclass(frozen=True)
class MemoryPicture:
    """A rendered memory. Holes have mask False, black colour, infinite depth and no normal.

    rgb: (h, w, 3) uint8.
    depth: (h, w) float32 metres along the optical axis, ``inf`` at sky.
    mask: (h, w) bool.
    normals: (h, w, 3) float32, world axes, unit length, towards the camera; zeros at sky and where
        neighbours do not define one.
    pose: (4, 4) float32 camera-to-world.
    intrinsics: (4,) float32 pixels.
    """

    rgb: Array
    depth: Array
    mask: Array
    normals: Array
    pose: Array
    intrinsics: Array


@dataclass(frozen=True)
class PointArrays:
    """The points of a memory, without sky, as NumPy arrays.

    position: (n, 3) float32 world metres. colour: (n, 3) uint8. size: (n,) float32, metres a side
    of the patch of surface that each stands for. confidence: (n,) uint8, how many frames agreed
    with it. seen: (n,) int32, the step that last did.
    """

    position: Array
    colour: Array
    size: Array
    confidence: Array
    seen: Array

    def __len__(self) -> int:
        return len(self.position)


def camera_places(depth: Tensor, camera: Camera) -> Tensor:
    """Depth (h, w) to places (3, h, w) in camera axes."""
    fx, fy, cx, cy = camera.intrinsics[0].float()
    u = torch.arange(camera.width, device=depth.device) + 0.5
    v = torch.arange(camera.height, device=depth.device)[:, None] + 0.5
    return torch.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth])
