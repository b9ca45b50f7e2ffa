"""Maps of a point memory, for planners and people: a picture from above, and a voxel grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.camera import Camera, unproject
from worldsim.errors import InvalidInputError
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.memory.surfels import covered_pixels, patch_metres, squared_offset
from worldsim.runtime.arguments import number, whole
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.types import Array

LARGEST_GAP = 100.0
"""Metres: of a map's gaps."""
LARGEST_STEP = 1e3
"""Metres: of a pixel or voxel."""
LARGEST_PATCH = 0.5
"""Metres: what was seen from very far is drawn no larger from above, its place is not that
certain."""
MOST_PIXELS = 2**26
MOST_VOXELS = 2**28
MOST_COVERED = 2**30
"""Pixels that the points of a map cover, one after the other: ten to twenty seconds' work."""
CARVED_FRAMES = 200
"""Of a longer walk, so many frames, evenly spread, tell what is free."""


@dataclass(frozen=True)
class TopDown:
    """A memory from above, north (world y) up. Holes have mask False, black colour, height ``nan``.

    rgb: (h, w, 3) uint8.
    height: (h, w) float32, world z in metres.
    mask: (h, w) bool.
    west, north: world x and y in metres of the picture's upper left corner.
    resolution: metres per pixel.
    """

    rgb: Array
    height: Array
    mask: Array
    west: float
    north: float
    resolution: float

    def pixels(self, xy: ArrayLike) -> Array:
        """Convert world x, y (..., 2) in metres to column, row (..., 2).

        The centre of pixel (i, j) is at i + 0.5, j + 0.5.
        """
        xy = np.asarray(xy, np.float64)
        return np.stack(
            [
                (xy[..., 0] - self.west) / self.resolution,
                (self.north - xy[..., 1]) / self.resolution,
            ],
            -1,
        )

    def metres(self, pixels: ArrayLike) -> Array:
        """The way back: column, row (..., 2) to world x, y (..., 2) in metres."""
        pixels = np.asarray(pixels, np.float64)
        return np.stack(
            [
                self.west + pixels[..., 0] * self.resolution,
                self.north - pixels[..., 1] * self.resolution,
            ],
            -1,
        )


@dataclass(frozen=True)
class Occupancy:
    """A voxel grid in world axes. Voxels are ``occupied``, ``free``, or neither: unknown.

    occupied: (nx, ny, nz) bool, a point lies in the voxel.
    free: (nx, ny, nz) bool, a line of sight passes through it.
    origin: (3,) float64, the lower corner of voxel (0, 0, 0) in metres.
    voxel: side length in metres.
    """

    occupied: Array
    free: Array
    origin: Array
    voxel: float

    @property
    def unknown(self) -> Array:
        """(nx, ny, nz) bool: neither occupied nor free."""
        return ~(self.occupied | self.free)

    def index(self, position: ArrayLike) -> Array:
        """Return the voxels (..., 3) int64 of world positions (..., 3) in metres.

        They may lie outside the grid.
        """
        return np.floor((np.asarray(position, np.float64) - self.origin) / self.voxel).astype(
            np.int64
        )


@dataclass(frozen=True)
class Band:
    """The points that a map from above shows: metres over, under and to each side of a place.

    ``reach`` None means all sides.
    """

    above: float
    below: float
    reach: float | None


def top_down(
    points: Points, focal: float, centre: Tensor, resolution: float, band: Band, gap: float
) -> TopDown:
    """Return a map from above; see :meth:`worldsim.memory.handle.MemoryHandle.top_down`.

    points: one memory.
    centre: (3,) world metres.
    """
    resolution = _positive("resolution", resolution, LARGEST_STEP)
    gap = number("gap", gap, 0.0, LARGEST_GAP, "metres, 0 for none")
    for name in ("above", "below"):
        number(name, getattr(band, name), -math.inf, math.inf, "metres")
    position, chosen = _near(points, centre, band.reach)
    z = position[2] - centre[2]
    chosen = chosen & (z <= band.above) & (z >= -band.below)
    if not bool(chosen.any()):
        raise InvalidInputError(
            f"no point is within {band.reach} m, from {band.below} m below to {band.above} m "
            f"above the camera: widen that"
        )
    patch = patch_metres(points, focal)[0].clamp(max=LARGEST_PATCH)
    low, high = (_extent(position[:2], chosen, sign, resolution) for sign in (-1, 1))
    width, height = _cells(high - low, resolution)
    _check_size(
        "picture",
        width * height,
        MOST_PIXELS,
        f"{height} x {width} pixels of {resolution} m",
        "resolution",
    )
    # Several numbers of 64 bits a pixel.
    require_memory_for(
        128 * height * width + 2**27, f"a map of {height} x {width} pixels of {resolution} m"
    )
    middle = torch.stack(
        [(position[0] - float(low[0])) / resolution, (float(high[1]) - position[1]) / resolution]
    )
    half = (0.5 * patch / resolution).clamp(min=0.5).expand(2, -1)
    reach = min(round(0.5 * gap / resolution), max(height, width))
    # Each point is drawn pixel by pixel, and once more over the gap around it.
    work = float(
        (2.0 * half + 1.0 + 2.0 * reach).double().prod(0).clamp(max=height * width)[chosen].sum()
    )
    if work > MOST_COVERED:
        raise InvalidInputError(
            f"gap = {gap} m at resolution = {resolution} m: {int(chosen.sum()):,} points would "
            f"cover {work:.0e} pixels one after "
            f"the other, at most {MOST_COVERED:.0e} are drawn: give a smaller gap, or a larger "
            f"resolution"
        )
    best = torch.full((height * width,), -1, dtype=torch.int64, device=z.device)
    # Bits of positive floats are ordered as the floats are, so the highest point wins; at equal
    # height, the higher slot.
    rank = (z - z[chosen].min()).clamp(min=0.0).view(torch.int32).to(torch.int64)
    for slot, pixel in covered_pixels(middle, half, chosen, height, width):
        best.scatter_reduce_(0, pixel, rank[slot] << 32 | slot, "amax")
    mask = (best >= 0).view(height, width)
    if reach:
        nearest = _nearest(middle, half + reach, chosen, height, width)
        closed = _close(mask, reach)
        best = torch.where(mask.flatten(), best, torch.where(closed.flatten(), nearest, -1))
        mask = (best >= 0).view(height, width)
    slot = torch.where(mask, (best & 0xFFFFFFFF).view(height, width), 0)
    return TopDown(
        rgb=(points.colour[0][:, slot] * mask).permute(1, 2, 0).cpu().numpy().copy(),
        height=torch.where(mask, position[2, slot], torch.nan).cpu().numpy(),
        mask=mask.cpu().numpy(),
        west=float(low[0]),
        north=float(high[1]),
        resolution=resolution,
    )


def _nearest(middle: Tensor, half: Tensor, chosen: Tensor, height: int, width: int) -> Tensor:
    """Return, per pixel, the covering rectangle with the nearest centre.

    (h * w,) int64, -1 for none.
    """
    found = torch.full((height * width,), 2**63 - 1, dtype=torch.int64, device=middle.device)
    for slot, pixel in covered_pixels(middle, half, chosen, height, width):
        found.scatter_reduce_(
            0, pixel, squared_offset(pixel, slot, middle, width) << 32 | slot, "amin"
        )
    return torch.where(found < 2**63 - 1, found & 0xFFFFFFFF, -1)


def _close(mask: Tensor, reach: int) -> Tensor:
    """Close gaps of up to twice ``reach`` pixels in ``mask`` (h, w), without growing it."""
    side = 2 * reach + 1

    def largest(values: Tensor, padding: int) -> Tensor:
        """Take the maximum along one side, then along the other.

        This equals a square of pixels and reads two lines.
        """
        down = F.max_pool2d(values, (side, 1), stride=1, padding=(padding, 0))
        return F.max_pool2d(down, (1, side), stride=1, padding=(0, padding))

    wide = largest(F.pad(mask.float()[None, None], (reach,) * 4), reach)
    return (-largest(-wide, 0))[0, 0] > 0


def occupancy(
    points: Points,
    centre: Tensor,
    voxel: float,
    reach: float | None,
    confidence: int,
    depth: Tensor,
    cameras: Camera,
) -> Occupancy:
    """See :meth:`worldsim.memory.handle.MemoryHandle.occupancy`. points: one memory.

    depth: (t, h, w) metres that ``cameras`` (a batch of t) saw, ``inf`` for sky and ``nan`` where
    nothing is known.
    """
    voxel = _positive("voxel", voxel, LARGEST_STEP)
    confidence = whole("confidence", confidence, 0, 255)
    position, chosen = _near(points, centre, reach)
    chosen = chosen & (points.confidence[0] >= confidence)
    if not bool(chosen.any()):
        raise InvalidInputError(
            f"no point with a confidence of {confidence} is within {reach} m: widen that"
        )
    low, high = (_extent(position, chosen, sign, voxel) for sign in (-1, 1))
    shape = _cells(high - low, voxel)
    _check_size("grid", math.prod(shape), MOST_VOXELS, f"{shape} voxels of {voxel} m", "voxel")
    require_memory_for(4 * math.prod(shape), f"a grid of {shape} voxels of {voxel} m")
    occupied = torch.zeros(shape, dtype=torch.bool, device=position.device)
    free = torch.zeros_like(occupied)
    occupied[_voxels(position[:, chosen].double(), low, voxel, shape)] = True
    picked = range(0, len(depth), max(1, -(-len(depth) // CARVED_FRAMES)))
    for t in picked:
        camera = Camera(
            cameras.pose[t : t + 1], cameras.intrinsics[t : t + 1], cameras.height, cameras.width
        )
        for places in _line_of_sight(depth[t : t + 1], camera, voxel, low, high):
            free[_voxels(places, low, voxel, shape)] = True
    return Occupancy(
        occupied=occupied.cpu().numpy(),
        free=(free & ~occupied).cpu().numpy(),
        origin=low.cpu().numpy(),
        voxel=voxel,
    )


def _line_of_sight(
    depth: Tensor, camera: Camera, voxel: float, low: Tensor, high: Tensor
) -> Iterator[Tensor]:
    """Yield places (3, n) on the way from a camera to what it sees, within a box.

    They are half a voxel apart and end a voxel short of the surface.
    """
    eye = camera.pose[0, :3, 3].double()
    ray = unproject(torch.ones_like(depth), camera)[0].flatten(0, 1).T.double() - eye[:, None]
    length = ray.norm(dim=0)
    end = depth.flatten().double() * length - voxel
    ray = ray / length
    corners = torch.stack([low, high])
    farthest = float((corners - eye).abs().amax(0).norm())
    end = torch.nan_to_num(end, nan=0.0, posinf=farthest).clamp(max=farthest)
    for distance in np.arange(0.0, float(end.max()), voxel / 2):
        places = eye[:, None] + ray[:, end > distance] * float(distance)
        inside = (places >= low[:, None]).all(0) & (places < high[:, None]).all(0)
        yield places[:, inside]


def _voxels(
    position: Tensor, low: Tensor, voxel: float, shape: tuple[int, ...]
) -> tuple[Tensor, ...]:
    index = torch.floor((position - low[:, None]) / voxel).to(torch.int64)
    return tuple(row.clamp(0, n - 1) for row, n in zip(index, shape, strict=True))


def _near(points: Points, centre: Tensor, reach: float | None) -> tuple[Tensor, Tensor]:
    """Return positions (3, c) of one memory, and which are points near ``centre``.

    Near is within ``reach`` metres to the side.
    """
    position = points.position[0]
    chosen = points.kind[0] == POINT
    if reach is not None:
        reach = _positive("reach", reach)
        chosen = chosen & ((position[:2] - centre[:2, None]).abs() <= reach).all(0)
    return position, chosen


def _extent(position: Tensor, chosen: Tensor, sign: int, step: float) -> Tensor:
    """The lower (sign -1) or upper (1) corner around the chosen points, in whole steps, float64."""
    found = position[:, chosen].double()
    # Up to the next step beyond, so that a point on a border has a cell above it.
    return (
        torch.floor(found.amin(1) / step) * step
        if sign < 0
        else (torch.floor(found.amax(1) / step) + 1.0) * step
    )


def _positive(name: str, value: float, most: float = 1e9) -> float:
    """A number of metres that floats still tell apart in places of buildings and landscapes."""
    try:
        return number(name, value, 1e-6, most)
    except InvalidInputError:
        raise InvalidInputError(
            f"{name} must be a positive number of metres, 1e-6 to {most:g}, got {value!r}"
        ) from None


def _cells(size: Tensor, step: float) -> tuple[int, ...]:
    """How many steps long each side is."""
    found = (size / step).round()
    if not bool(torch.isfinite(found).all()):
        raise InvalidInputError(
            "this memory holds points that are not finite: it was damaged, or read from a damaged "
            "file"
        )
    return tuple(int(n) for n in found)


def _check_size(what: str, count: int, most: int, found: str, name: str) -> None:
    if count > most:
        raise InvalidInputError(
            f"this {what} would have {found}: give a larger {name}, or a smaller reach"
        )
