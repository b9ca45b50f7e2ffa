"""The point memory's three passes over all slots as Triton kernels: render, judge, surroundings.

The torch functions in :mod:`worldsim.memory.splat` and :mod:`worldsim.memory.points` are the
reference; these give the same bits. Unused slots cost one byte to read, and everything that belongs
to a slot is read once. Visibility is an integer minimum, as there; fused multiply-adds are off,
since they would round differently. Needs Triton, which comes with torch for CUDA: see
:func:`worldsim.runtime.triton.usable`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from worldsim.camera import (
    DEPTH_CHANNEL_SCALE,
    Camera,
    code_to_channel,
    dequantise_depth,
    unproject,
)
from worldsim.memory.operations import agreeing, free_depth
from worldsim.memory.slots import PointMemoryConfig, Points
from worldsim.memory.splat import (
    _HOLE,
    DIRECTION,
    EMPTY,
    MAP_CELLS,
    NEAR_PLANE,
    POINT,
    Shown,
    Splat,
    between_nearer,
    splat,
    view_of_shown,
)
from worldsim.runtime.triton import kernels
from worldsim.state import Frame, MemoryView

BLOCK = 1024
"""Slots a program."""
LARGEST_HISTOGRAM = 2**14
"""Ages up to which the least recently seen slots are found by counting; smaller memories tell more
ages apart and sort."""


def _kernels() -> ModuleType:
    return kernels("worldsim.memory.splat_kernels")


def _grid(memory_slots: int, rows: int) -> tuple[int, int]:
    return -(-memory_slots // BLOCK), rows


def _pose(camera_pose: Tensor) -> Tensor:
    return camera_pose.float().contiguous()


def nearest_slots(position: Tensor, kind: Tensor, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`worldsim.memory.splat.nearest` of splatted slots in one pass."""
    return _unpack(_z_buffer(position, kind, camera))


def _z_buffer(position: Tensor, kind: Tensor, camera: Camera) -> Tensor:
    """Depth and slot of what each pixel shows, packed: (b, h * w) int64."""
    b, capacity = kind.shape
    pixels = camera.height * camera.width
    buffer = torch.full((b, pixels), _HOLE, dtype=torch.int64, device=kind.device)
    _kernels().nearest[_grid(capacity, b)](
        position,
        kind,
        _pose(camera.pose),
        camera.intrinsics.float().contiguous(),
        buffer,
        capacity,
        pixels,
        camera.width,
        camera.height,
        NEAR_PLANE,
        BLOCK,
        enable_fp_fusion=False,
    )
    return buffer


def _unpack(buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mask = buffer != _HOLE
    slot = (buffer & 0xFFFFFFFF).masked_fill_(~mask, 0)
    return mask, slot, (buffer >> 32).to(torch.int32).view(torch.float32)


def _shown_slots(
    buffer: Tensor, position: Tensor, kind: Tensor, camera: Camera
) -> tuple[Shown, Tensor]:
    """Compute :func:`worldsim.memory.splat.shown_slots`, with slots numbered by their pixels.

    Also returns the real slot of each pixel, (b, h * w) int64.
    """
    mask, slot, z = _unpack(buffer)
    hidden = between_nearer(
        z.masked_fill(~mask, torch.inf).unflatten(1, (camera.height, camera.width))
    )
    points: Splat = splat(
        position.gather(2, slot[:, None].expand(-1, 3, -1)), kind.gather(1, slot), camera
    )
    own = torch.arange(slot.shape[1], device=slot.device).expand_as(slot)
    return Shown(points, mask & ~hidden.flatten(1), own, z), slot


def _view(
    buffer: Tensor, position: Tensor, colour: Tensor, kind: Tensor, source: Tensor, camera: Camera
) -> MemoryView:
    shown, slot = _shown_slots(buffer, position, kind, camera)
    return view_of_shown(
        shown, colour.gather(2, slot[:, None].expand(-1, 3, -1)), source.gather(1, slot), camera
    )


def _bounds(config: PointMemoryConfig, code: Tensor) -> Tensor:
    """Return per pixel what ``judge`` compares a slot with, (b, 4, h * w).

    These are lower and upper depth, scale of source, and free depth.
    """
    depth = dequantise_depth(code)
    scale = DEPTH_CHANNEL_SCALE + config.replace_ratio * depth
    return (
        torch.stack([*agreeing(config, depth), scale, free_depth(config, code)], 1)
        .flatten(2)
        .contiguous()
    )


def _points(
    code: Tensor, camera: Camera, explained: Tensor, known: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return which pixels become points, (b, h * w) uint8, and every pixel as a point.

    The latter is its place (b, h, w, 3), kind and source.
    """
    fresh = explained == 0 if known is None else (explained == 0) & known.flatten(1)
    place = unproject(dequantise_depth(code), camera).contiguous()
    kind = torch.where(code == 0, DIRECTION, POINT).to(torch.uint8).contiguous()
    return (
        fresh.to(torch.uint8),
        place,
        kind,
        (code_to_channel(code) * 255.0).round().to(torch.uint8).contiguous(),
    )


@dataclass(frozen=True)
class Between:
    """The computations between the kernels: functions that engines can compile."""

    view: Callable[..., MemoryView] = _view
    bounds: Callable[..., Tensor] = _bounds
    points: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _points


PLAIN = Between()


def view_of(memory: Points, camera: Camera, between: Between = PLAIN) -> MemoryView:
    """As :func:`worldsim.memory.splat.view_of`."""
    buffer = _z_buffer(memory.position, memory.kind, camera)
    return between.view(buffer, memory.position, memory.colour, memory.kind, memory.source, camera)


def map_around(position: Tensor, kind: Tensor, pose: Tensor, body: float) -> Tensor:
    """As :func:`worldsim.memory.splat.map_around`."""
    b, capacity = kind.shape
    drawn = torch.zeros(b, 2, MAP_CELLS, MAP_CELLS, dtype=torch.int32, device=kind.device)
    _kernels().map[_grid(capacity, b)](
        position,
        kind,
        _pose(pose),
        drawn,
        capacity,
        body,
        MAP_CELLS,
        12.5,
        BLOCK,
        enable_fp_fusion=False,
    )
    return drawn.to(torch.uint8)


def integrate_(
    config: PointMemoryConfig,
    memory: Points,
    frame: Frame,
    camera: Camera,
    step: Tensor,
    known: Tensor | None = None,
    between: Between = PLAIN,
) -> Points:
    """Integrate as :meth:`worldsim.memory.points.PointMemory.integrate`, in place.

    Returns ``memory``.
    """
    assert frame.inverse_depth is not None
    code = frame.inverse_depth
    b, capacity = memory.kind.shape
    pixels, device = camera.height * camera.width, code.device
    step = step.contiguous()
    explained = torch.zeros(b, pixels, dtype=torch.int32, device=device)
    blocks = _grid(capacity, b)[0]
    counts = torch.empty(b, blocks, dtype=torch.int32, device=device)
    speaks = explained if known is None else known.flatten(1).to(torch.uint8).contiguous()
    _kernels().judge[_grid(capacity, b)](
        memory.position,
        memory.kind,
        memory.source,
        memory.seen,
        memory.confidence,
        _pose(camera.pose),
        camera.intrinsics.float().contiguous(),
        step,
        between.bounds(config, code),
        speaks,
        explained,
        counts,
        capacity,
        pixels,
        blocks,
        255.0 * DEPTH_CHANNEL_SCALE,
        camera.width,
        camera.height,
        NEAR_PLANE,
        config.carve,
        known is not None,
        BLOCK,
        enable_fp_fusion=False,
    )
    fresh, place, kind, source = between.points(code, camera, explained, known)
    total = fresh.cumsum(1, dtype=torch.int32)
    slots = _slots(memory, counts, total[:, -1].clamp(max=capacity), step, min(pixels, capacity))
    _kernels().write[_grid(pixels, b)](
        fresh,
        total - 1,
        slots,
        place,
        frame.rgb.contiguous(),
        kind,
        source,
        step,
        memory.position,
        memory.colour,
        memory.kind,
        memory.source,
        memory.seen,
        memory.confidence,
        capacity,
        pixels,
        slots.shape[1],
        BLOCK,
    )
    return memory


def _slots(memory: Points, counts: Tensor, need: Tensor, step: Tensor, wide: int) -> Tensor:
    """Return the slots to write next, (b, wide) int32; the first ``need`` (b,) int32 count.

    See PointMemory._slots.

    counts: (b, blocks) int32 unused slots per block.
    """
    b, capacity = memory.kind.shape
    blocks, device = counts.shape[1], counts.device
    bits = max(1, (capacity - 1).bit_length())
    oldest = 2 ** (31 - bits) - 2
    if oldest >= LARGEST_HISTOGRAM:
        unused = memory.kind == EMPTY
        age = (step[:, None].to(torch.int32) - memory.seen).clamp_(0, oldest)
        rank = torch.where(unused, 0, oldest + 1 - age)
        key = (rank << bits) | torch.arange(capacity, device=device, dtype=torch.int32)
        return torch.topk(key, wide, dim=1, largest=False, sorted=True).values & (2**bits - 1)
    grid = _grid(capacity, b)
    total = counts.cumsum(1, dtype=torch.int32)
    unused_total = total[:, -1].contiguous()
    evict = (need - unused_total).clamp(min=0)
    keys = torch.full((b, wide), 2**31 - 1, dtype=torch.int32, device=device)
    _kernels().unused[grid](memory.kind, total - counts, need, keys, capacity, blocks, wide, BLOCK)
    histogram = torch.zeros(b, oldest + 1, dtype=torch.int32, device=device)
    _kernels().ages[grid](memory.kind, memory.seen, step, evict, histogram, capacity, oldest, BLOCK)
    from_oldest = histogram.flip(1).cumsum(1, dtype=torch.int32)
    behind = (from_oldest < evict[:, None]).sum(1)
    threshold = (oldest - behind).to(torch.int32)
    above = torch.where(behind > 0, from_oldest.gather(1, (behind - 1).clamp(0)[:, None])[:, 0], 0)
    older, ties = (torch.zeros(b, blocks, dtype=torch.int32, device=device) for _ in range(2))
    _kernels().ties[grid](
        memory.kind,
        memory.seen,
        step,
        evict,
        threshold,
        older,
        ties,
        capacity,
        blocks,
        oldest,
        BLOCK,
    )
    older, ties = (x.cumsum(1, dtype=torch.int32) - x for x in (older, ties))
    _kernels().evict[grid](
        memory.kind,
        memory.seen,
        step,
        evict,
        threshold,
        above,
        unused_total,
        older,
        ties,
        keys,
        capacity,
        blocks,
        oldest,
        wide,
        bits,
        BLOCK,
    )
    # Unused slots come first and in order already; what gives way goes by age, so that a row's
    # slots do not depend on blocks.
    return keys.sort(1).values & (2**bits - 1)
