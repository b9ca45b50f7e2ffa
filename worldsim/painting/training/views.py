"""Sets of views of one place, the painter's training data: in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth, pixel_rays, project
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.files import load_tensors, save_tensors
from worldsim.runtime.types import Array

FORMAT = "worldsim-view-sets/1"
FREE_SPACE_SHARE, FREE_SPACE_METRES = 0.8, 0.5
"""A point contradicts a camera if its distance is less than this share of the depth that the camera
sees there, minus these metres."""
CHECK_STRIDE = 4
"""Stride in pixels, on both axes, of the points that are compared."""


@dataclass(frozen=True)
class ViewSets:
    """``s`` sets of ``k`` views each. The views of a set show one place.

    rgb: (s, k, h, w, 3) uint8.
    inverse_depth: (s, k, h, w) uint16 codes, 0 = sky (:func:`worldsim.camera.quantise_depth`).
    pose: (s, k, 4, 4) float32 camera-to-world, metres.
    intrinsics: (4,) float32 pixels.
    attributes: (s, k, a) float32 in [0, 1], named by ``names``.
    maps: the map of each set.
    """

    rgb: Array
    inverse_depth: Array
    pose: Array
    intrinsics: Array
    attributes: Array
    names: tuple[str, ...]
    maps: tuple[str, ...]

    def __post_init__(self) -> None:
        s, k, h, w = self.rgb.shape[:4] if self.rgb.ndim == 5 else (-1,) * 4
        wanted = {
            "rgb": (s, k, h, w, 3),
            "inverse_depth": (s, k, h, w),
            "pose": (s, k, 4, 4),
            "intrinsics": (4,),
            "attributes": (s, k, len(self.names)),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise InvalidInputError(
                    f"ViewSets.{name} has shape {getattr(self, name).shape}; {shape} is needed "
                    f"beside rgb of shape {self.rgb.shape} and {len(self.names)} attribute names."
                )
        if len(self.maps) != s:
            raise InvalidInputError(
                f"ViewSets.maps has {len(self.maps)} names for {s} sets: give one name per set."
            )

    def __len__(self) -> int:
        return len(self.rgb)


def join(parts: Sequence[ViewSets]) -> ViewSets:
    """Concatenate all sets of ``parts``.

    Raises InvalidInputError if there are no parts or their names differ.
    """
    if not parts or any(part.names != parts[0].names for part in parts):
        raise InvalidInputError(
            f"{len(parts)} parts cannot be joined: give one or more with the same names."
        )

    def all_of(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    joined = {name: all_of(name) for name in ("rgb", "inverse_depth", "pose", "attributes")}
    maps = tuple(name for part in parts for name in part.maps)
    return ViewSets(intrinsics=parts[0].intrinsics, names=parts[0].names, maps=maps, **joined)


def save_view_sets(sets: ViewSets, path: Path) -> None:
    """Write one safetensors file atomically.

    Raises StorageError.
    """
    arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(sets, name))) for name in _ARRAYS}
    told = {"format": FORMAT, "names": sets.names, "maps": sets.maps}
    # One entry, because the order of several entries differs between files.
    save_tensors(arrays, path, {"view_sets": json.dumps(told)})


def load_view_sets(path: Path) -> ViewSets:
    """Read a file written by :func:`save_view_sets`.

    Raises NotFoundError or DamagedFileError.
    """
    from safetensors import safe_open

    tensors = load_tensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    try:
        told = json.loads(metadata.get("view_sets", "{}"))
    except ValueError:
        told = {}
    if told.get("format") != FORMAT or set(tensors) != set(_ARRAYS):
        raise DamagedFileError(f"{path} holds no view sets of format {FORMAT}: record them again.")
    try:
        names, maps = (tuple(told[key]) for key in ("names", "maps"))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return ViewSets(names=names, maps=maps, **arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}): record it again.") from error


_ARRAYS = ("rgb", "inverse_depth", "pose", "intrinsics", "attributes")


def disagreement(inverse_depth: Tensor, pose: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the share of points that lie where another view of their set sees free space.

    The points of every view are projected into all other views of the set. In a static world with
    exact poses a point may be occluded, but no camera sees past it. Moving doors and teleporters
    violate this.

    inverse_depth: (s, k, h, w) int32 codes.
    pose: (s, k, 4, 4) camera-to-world.
    intrinsics: (4,) pixels.

    Returns (s,) float32 in [0, 1], 0 if no point is visible in another view.
    """
    s, k, h, w = inverse_depth.shape
    depth = dequantise_depth(inverse_depth)
    camera = Camera(pose.flatten(0, 1), intrinsics.expand(s * k, 4), h, w)
    rays = pixel_rays(camera.intrinsics[:1], h, w)[0, :, ::CHECK_STRIDE, ::CHECK_STRIDE].flatten(1)
    near = depth[..., ::CHECK_STRIDE, ::CHECK_STRIDE].flatten(2)
    known = near.isfinite()
    local = rays * near.nan_to_num(posinf=1.0)[:, :, None]
    world = pose[..., :3, :3] @ local + pose[..., :3, 3:]
    points = world.transpose(1, 2).flatten(2).transpose(1, 2).repeat_interleave(k, 0)
    u, v, z = project(points, torch.zeros(points.shape[:2], dtype=torch.bool), camera)
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h) & (z > 0.3)
    inside &= known.flatten(1).repeat_interleave(k, 0)
    # The smallest depth of the 3x3 neighbourhood, because edges may be off by one pixel.
    around = -F.max_pool2d(-depth.clamp(max=1e4).flatten(0, 1), 3, 1, 1)
    pixel = (v.clamp(0, h - 1).long() * w + u.clamp(0, w - 1).long()).clamp(0, h * w - 1)
    seen = around.flatten(1).gather(1, pixel)
    wrong = inside & (z < FREE_SPACE_SHARE * seen - FREE_SPACE_METRES)
    count = inside.view(s, -1).sum(1)
    return wrong.view(s, -1).sum(1) / count.clamp(min=1)
