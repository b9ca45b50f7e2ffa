"""Z-buffered one-pixel splats of points and directions, for all environments in one call.

Visibility is an integer minimum over packed (depth bits, point id) without float atomics, so the
result is the same on every run and never depends on a row's neighbours. Rotations are written out
for the same reason: a matrix product may round differently for other batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth, quantise_depth, unproject
from worldsim.errors import MissingGeometryError
from worldsim.state import Frame, MemoryView

EMPTY, POINT, DIRECTION = 0, 1, 2
"""Kinds of a slot: unused, a point in metres, a direction to something infinitely far."""
NEAR_PLANE = 0.05
"""Points nearer than this along the optical axis (m) are not drawn."""
GAP = 2
"""Pixels: between points of a surface that lie up to so far apart on both sides, nothing behind it
is shown."""
MAP_CELLS, MAP_CELL = 48, 0.08
"""Cells a side, and metres a cell, of the maps of surroundings: 1.92 m to each side, more than a
step reaches."""
_HOLE = 2**63 - 1


@dataclass(frozen=True)
class Splat:
    """Where each slot falls in an image. All (b, n).

    visible: bool. pixel: int64, row * width + column where visible, elsewhere some pixel in range
    (so that it can always be used as an index). u, v: float32 pixel coordinates. z: float32 metres,
    ``inf`` for directions.
    """

    visible: Tensor
    pixel: Tensor
    u: Tensor
    v: Tensor
    z: Tensor


def to_camera_axes(position: Tensor, kind: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert world coordinates (b, 3, n) to x, y, z in the camera's axes, each (b, n) float32.

    Directions are only rotated.

    kind: (b, n) uint8.
    pose: (b, 4, 4) camera-to-world.
    """
    pose = pose.float()
    shift = (kind.float() == POINT).float()
    x, y, z = (position[:, i] - shift * pose[:, i, 3, None] for i in range(3))

    def along(axis: int) -> Tensor:
        total = x * pose[:, 0, axis, None]
        total += y * pose[:, 1, axis, None]
        total += z * pose[:, 2, axis, None]
        return total

    return along(0), along(1), along(2)


def splat(position: Tensor, kind: Tensor, camera: Camera) -> Splat:
    """Project slots into a camera.

    position: (b, 3, n) float32.
    kind: (b, n) uint8 of EMPTY, POINT, DIRECTION.
    """
    x, y, z = to_camera_axes(position, kind, camera.pose)
    fx, fy, cx, cy = camera.intrinsics.float()[:, :, None].unbind(1)
    inverse = 1.0 / z
    u = x.mul_(inverse).mul_(fx).add_(cx)
    v = y.mul_(inverse).mul_(fy).add_(cy)
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    visible = inside & (z > NEAR_PLANE) & (kind != EMPTY)
    slot = torch.arange(kind.shape[1], device=kind.device)
    # Hidden slots are spread over the image: on a GPU, millions of atomics on one cell would queue
    # up.
    elsewhere = slot % (camera.height * camera.width)
    pixel = torch.where(
        visible, v.floor().mul_(camera.width).add_(u.floor()).to(torch.int64), elsewhere
    )
    return Splat(visible, pixel, u, v, torch.where(kind == DIRECTION, torch.inf, z))


def in_sight(
    position: Tensor, kind: Tensor, pose: Tensor, intrinsics: Tensor, height: int, width: int
) -> Tensor:
    """``visible`` of :func:`splat` alone, (b, n) uint8. pose: (b, 4, 4). intrinsics: (b, 4)."""
    x, y, z = to_camera_axes(position, kind, pose)
    fx, fy, cx, cy = intrinsics.float()[:, :, None].unbind(1)
    inverse = 1.0 / z
    u, v = x * inverse * fx + cx, y * inverse * fy + cy
    return _flags(
        (u >= 0)
        & (u < width)
        & (v >= 0)
        & (v < height)
        & (z > NEAR_PLANE)
        & (kind.float() != EMPTY)
    )


def _flags(mask: Tensor) -> Tensor:
    """Convert a mask to 0 or 1, uint8, through float32.

    Inductor writes and reads masks one by one, ten times as slow.
    """
    return mask.float().to(torch.uint8)


def nearest(points: Splat, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the slot that each pixel shows.

    The nearest wins, at equal depth the lower slot. Directions lie behind all points.

    Returns mask (b, pixels) bool, slot (b, pixels) int64 (0 in holes), z (b, pixels) float32.
    """
    b, n = points.z.shape
    # Bits of positive floats are ordered as the floats are, infinity last.
    packed = (points.z.view(torch.int32).to(torch.int64) << 32) | torch.arange(
        n, device=points.z.device
    )
    packed = packed.masked_fill_(~points.visible, _HOLE)
    buffer = torch.full((b, pixels), _HOLE, dtype=torch.int64, device=packed.device)
    buffer = buffer.scatter_reduce_(1, points.pixel, packed, "amin")
    mask = buffer != _HOLE
    slot = (buffer & 0xFFFFFFFF).masked_fill_(~mask, 0)
    return mask, slot, (buffer >> 32).to(torch.int32).view(torch.float32)


def hole_view(camera: Camera) -> MemoryView:
    """A view of nothing: every pixel a hole."""
    b, h, w, device = len(camera.pose), camera.height, camera.width, camera.pose.device
    return MemoryView(
        rgb=torch.zeros(b, 3, h, w, dtype=torch.uint8, device=device),
        inverse_depth=torch.zeros(b, h, w, dtype=torch.int32, device=device),
        mask=torch.zeros(b, h, w, dtype=torch.bool, device=device),
        offset=torch.zeros(b, 2, h, w, dtype=torch.uint8, device=device),
        source=torch.zeros(b, h, w, dtype=torch.uint8, device=device),
    )


def between_nearer(z: Tensor) -> Tensor:
    """Return the pixels that lie between two much nearer ones: (b, h, w) bool.

    One pixel per point leaves gaps in surfaces that are now closer than when they were seen, and
    what lies behind would show through. Much nearer is by 0.3 m and by 20%, at most two pixels away
    on both sides, along a row, a column or a diagonal.

    z: (b, h, w) metres, ``inf`` where nothing is.
    """
    h, w = z.shape[-2:]
    padded = F.pad(z, (GAP, GAP, GAP, GAP), value=torch.inf)

    def beside(dy: int, dx: int) -> Tensor:
        near, far = (
            padded[:, GAP + i * dy : GAP + i * dy + h, GAP + i * dx : GAP + i * dx + w]
            for i in (1, GAP)
        )
        return torch.minimum(near, far)

    across = [
        torch.maximum(beside(dy, dx), beside(-dy, -dx))
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))
    ]
    nearer = torch.minimum(torch.minimum(across[0], across[1]), torch.minimum(across[2], across[3]))
    return nearer < torch.minimum(z - 0.3, z * 0.8)


@dataclass(frozen=True)
class Shown:
    """The slot that each pixel of a camera shows, without what shows through gaps.

    points: as splatted.
    mask: (b, h * w) bool.
    slot: (b, h * w) int64 (0 in holes).
    z: (b, h * w) float32 metres, as :func:`nearest` returns them.
    """

    points: Splat
    mask: Tensor
    slot: Tensor
    z: Tensor


def shown_slots(position: Tensor, kind: Tensor, camera: Camera) -> Shown:
    """What a camera shows of slots. position: (b, 3, n) float32. kind: (b, n) uint8."""
    points = splat(position, kind, camera)
    mask, slot, z = nearest(points, camera.height * camera.width)
    hidden = between_nearer(
        z.masked_fill(~mask, torch.inf).unflatten(1, (camera.height, camera.width))
    )
    return Shown(points, mask & ~hidden.flatten(1), slot, z)


def view_of(
    position: Tensor, colour: Tensor, kind: Tensor, source: Tensor, camera: Camera
) -> MemoryView:
    """What slots show at a camera: one pixel a slot, the nearest wins, holes stay holes.

    What shows through the gaps of a nearer surface (:func:`between_nearer`) is a hole, too.

    position: (b, 3, n) float32. colour: (b, 3, n) uint8. kind, source: (b, n) uint8, see
    :class:`worldsim.memory.points.Points`.
    """
    return view_of_shown(shown_slots(position, kind, camera), colour, source, camera)


def view_of_shown(shown: Shown, colour: Tensor, source: Tensor, camera: Camera) -> MemoryView:
    """:func:`view_of` for slots that are already chosen."""
    b, h, w = len(source), camera.height, camera.width
    mask, slot = shown.mask, shown.slot
    fraction = torch.stack(
        [shown.points.u.gather(1, slot), shown.points.v.gather(1, slot)], 1
    ).frac_()
    offset = (fraction * 16.0).to(torch.uint8)
    rgb = colour.gather(2, slot[:, None].expand(b, 3, h * w))
    return MemoryView(
        rgb=(rgb * mask[:, None]).view(b, 3, h, w),
        inverse_depth=(quantise_depth(shown.z) * mask).view(b, h, w),
        mask=mask.view(b, h, w),
        offset=(offset * mask[:, None]).view(b, 2, h, w),
        source=(source.gather(1, slot) * mask).view(b, h, w),
    )


def on_map(position: Tensor, kind: Tensor, pose: Tensor) -> Tensor:
    """Return which points lie within the map around ``pose`` or a cell beyond: (b, n) uint8.

    position: (b, 3, n).
    """
    reach = MAP_CELL * (MAP_CELLS / 2 + 1)
    x, y = (position[:, i] - pose[:, i, 3, None].float() for i in range(2))
    return _flags((kind.float() == POINT) & (x.abs() <= reach) & (y.abs() <= reach))


def map_around(position: Tensor, kind: Tensor, pose: Tensor, body: float = 0.5) -> Tensor:
    """Return the map of :meth:`worldsim.protocols.SceneMemory.surroundings` from points.

    position: (b, 3, n).
    kind: (b, n).
    """
    x, y, z = (position[:, i] - pose[:, i, 3, None].float() for i in range(3))
    # Times 12.5, which is exact: CPUs and GPUs divide by a constant in different ways.
    column = torch.floor(x * (1.0 / MAP_CELL) + MAP_CELLS / 2)
    row = torch.floor(MAP_CELLS / 2 - y * (1.0 / MAP_CELL))
    near = (kind == POINT) & (column >= 0) & (column < MAP_CELLS) & (row >= 0) & (row < MAP_CELLS)
    elsewhere = torch.arange(kind.shape[1], device=kind.device) % MAP_CELLS**2
    cell = torch.where(near, row * MAP_CELLS + column, elsewhere).to(torch.int64)
    level = torch.where(near & (z.abs() <= body), 255, 0)
    # Centimetres below the band, counted down from 255, so that the highest point wins.
    depth = ((-z - body) * 100.0).clamp(0.0, 254.0)
    floor = torch.where(near & (z < -body) & (z > -body - 2.5), 255 - depth.to(torch.int32), 0)
    values = torch.stack([level.to(torch.int32), floor.to(torch.int32)], 1)
    drawn = torch.zeros(len(pose), 2, MAP_CELLS**2, dtype=torch.int32, device=kind.device)
    drawn = drawn.scatter_reduce_(2, cell[:, None].expand_as(values), values, "amax")
    return drawn.to(torch.uint8).view(-1, 2, MAP_CELLS, MAP_CELLS)


def frame_points(inverse_depth: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Return a frame's pixels as slots: position (b, 3, h * w) float32 and kind (b, h * w) uint8.

    inverse_depth: (b, h, w) codes.
    """
    position = unproject(dequantise_depth(inverse_depth), camera).flatten(1, 2).transpose(1, 2)
    return position, torch.where(inverse_depth == 0, DIRECTION, POINT).to(torch.uint8).flatten(1)


def frame_surroundings(frame: Frame, camera: Camera) -> Tensor:
    """The map of surroundings that one frame alone gives, for worlds without a memory."""
    if frame.inverse_depth is None or frame.pose is None:
        raise MissingGeometryError(
            "a map of surroundings needs depth and pose, this frame has none"
        )
    position, kind = frame_points(frame.inverse_depth, camera)
    return map_around(position, kind, frame.pose)
