"""The point memory's three passes over all slots as Triton kernels: what a camera shows, what a frame says, what is near.

The torch functions in :mod:`worldsim.memory.splat` and :mod:`worldsim.memory.points` are the reference; these give the same
bits. Unused slots cost one byte to read, and everything that belongs to a slot is read once. Visibility is an integer
minimum, as there; fused multiply-adds are off, since they would round differently. Needs Triton, which comes with torch for
CUDA; :func:`usable` says so once where it is missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import DEPTH_CHANNEL_SCALE, Camera, code_to_channel, dequantise_depth, unproject
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
from worldsim.state import Frame, MemoryView

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs comes without it
    triton = None

if TYPE_CHECKING:
    from worldsim.memory.points import PointMemoryConfig, Points

BLOCK = 1024
"""Slots a program."""
LARGEST_HISTOGRAM = 2**14
"""Ages up to which the least recently seen slots are found by counting; smaller memories tell more ages apart and sort."""
_enabled, _told = True, False


def usable(tensor: Tensor) -> bool:
    """Whether the kernels are to be used on this tensor: it is on a GPU and Triton is there. Says once if it is not."""
    global _told
    if not (_enabled and tensor.is_cuda):
        return False
    if triton is None and not _told:
        _told = True
        warnings.warn("Triton is not installed: the point memory runs on plain torch, several times slower", stacklevel=3)
    return triton is not None


@contextmanager
def torch_only() -> Iterator[None]:
    """The plain torch path within the block, for comparisons."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


if triton is not None:

    @triton.jit
    def _axis(x, y, z, camera, axis: tl.constexpr):  # type: ignore[no-untyped-def]
        total = x * tl.load(camera + axis)
        total = total + y * tl.load(camera + 4 + axis)
        return total + z * tl.load(camera + 8 + axis)

    @triton.jit
    def _project(position, kind, pose, intrinsics, row, slot, capacity, width: tl.constexpr, height: tl.constexpr,
                 near: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        """As splat: whether a slot is visible, its pixel (0 where it is not) and its depth."""
        used = kind != 0
        place = position + row * 3 * capacity + slot
        camera = pose + row * 16
        shift = tl.where(kind == 1, 1.0, 0.0)
        x = tl.load(place, mask=used, other=0.0) - shift * tl.load(camera + 3)
        y = tl.load(place + capacity, mask=used, other=0.0) - shift * tl.load(camera + 7)
        z = tl.load(place + 2 * capacity, mask=used, other=0.0) - shift * tl.load(camera + 11)
        across = _axis(x, y, z, camera, 0)
        down = _axis(x, y, z, camera, 1)
        ahead = _axis(x, y, z, camera, 2)
        # Slots behind the camera have no pixel, whatever the division says: a quiet 1 keeps it defined.
        before = used & (ahead > near)
        inverse = tl.math.div_rn(tl.full(ahead.shape, 1.0, tl.float32), tl.where(before, ahead, 1.0))
        lens = intrinsics + row * 4
        u = across * inverse * tl.load(lens) + tl.load(lens + 2)
        v = down * inverse * tl.load(lens + 1) + tl.load(lens + 3)
        visible = before & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        pixel = tl.where(visible, tl.floor(v) * width + tl.floor(u), 0.0).to(tl.int32)
        return visible, pixel, tl.where(kind == 2, float("inf"), ahead)

    @triton.jit
    def _nearest_kernel(position, kinds, pose, intrinsics, buffer, capacity, pixels, width: tl.constexpr, height: tl.constexpr,
                        near: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        row = tl.program_id(1).to(tl.int64)
        slot = tl.program_id(0) * block + tl.arange(0, block)
        kind = tl.load(kinds + row * capacity + slot, mask=slot < capacity, other=0)
        if tl.max(kind.to(tl.int32), 0) > 0:
            visible, pixel, z = _project(position, kind, pose, intrinsics, row, slot, capacity, width, height, near)
            packed = (z.to(tl.int32, bitcast=True).to(tl.int64) << 32) | slot.to(tl.int64)
            tl.atomic_min(buffer + row * pixels + pixel, packed, mask=visible, sem="relaxed")

    @triton.jit
    def _judge_kernel(position, kinds, source, seen, confidence, pose, intrinsics, steps, bounds, known, explained, counts,
                      capacity, pixels, blocks, limit: tl.constexpr, width: tl.constexpr, height: tl.constexpr,
                      near: tl.constexpr, carve: tl.constexpr, has_known: tl.constexpr,
                      block: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        """As PointMemory._judge, in place: marks, drops, which pixels are explained, and unused slots a block."""
        row = tl.program_id(1).to(tl.int64)
        slot = tl.program_id(0) * block + tl.arange(0, block)
        inside = slot < capacity
        own = row * capacity + slot
        kind = tl.load(kinds + own, mask=inside, other=0)
        unused = inside & (kind == 0)
        count = tl.sum(unused.to(tl.int32), 0)
        if tl.max(kind.to(tl.int32), 0) > 0:
            visible, pixel, z = _project(position, kind, pose, intrinsics, row, slot, capacity, width, height, near)
            at = bounds + row * 4 * pixels + pixel
            agrees = visible & (z >= tl.load(at, mask=visible, other=0.0))
            agrees = agrees & (z <= tl.load(at + pixels, mask=visible, other=0.0))
            scale = tl.load(at + 2 * pixels, mask=visible, other=0.0)
            coarse = tl.load(source + own, mask=visible, other=0).to(tl.float32) * scale < limit
            drop = agrees & coarse
            if carve:
                drop = drop | (visible & (z < tl.load(at + 3 * pixels, mask=visible, other=0.0)))
            if has_known:
                speaks = tl.load(known + row * pixels + pixel, mask=visible, other=0) != 0
                agrees = agrees & speaks
                drop = drop & speaks
            tl.store(explained + row * pixels + pixel, tl.full(pixel.shape, 1, tl.int32), mask=agrees & (coarse == 0))
            tl.store(kinds + own, tl.zeros(pixel.shape, tl.uint8), mask=drop)
            step = tl.load(steps + row).to(tl.int32)
            tl.store(seen + own, tl.zeros(pixel.shape, tl.int32) + step, mask=agrees)
            sure = tl.load(confidence + own, mask=agrees, other=255).to(tl.int32)
            tl.store(confidence + own, (sure + 1).to(tl.uint8), mask=agrees & (sure < 255))
            count += tl.sum(drop.to(tl.int32), 0)
        tl.store(counts + row * blocks + tl.program_id(0), count)

    @triton.jit
    def _unused_kernel(kinds, before, need, keys, capacity, blocks, wide, block: tl.constexpr):  # type: ignore[no-untyped-def]
        """The first unused slots, ascending, up to ``need`` of them."""
        row = tl.program_id(1).to(tl.int64)
        base = tl.load(before + row * blocks + tl.program_id(0))
        wanted = tl.load(need + row)
        if base < wanted:
            slot = tl.program_id(0) * block + tl.arange(0, block)
            kind = tl.load(kinds + row * capacity + slot, mask=slot < capacity, other=1)
            unused = kind == 0
            rank = base + tl.cumsum(unused.to(tl.int32), 0) - 1
            tl.store(keys + row * wide + rank, slot, mask=unused & (rank < wanted))

    @triton.jit
    def _age(seen, steps, own, row, mask, oldest):  # type: ignore[no-untyped-def]
        age = tl.load(steps + row).to(tl.int32) - tl.load(seen + own, mask=mask, other=0)
        return tl.minimum(tl.maximum(age, 0), oldest)

    @triton.jit
    def _ages_kernel(kinds, seen, steps, evict, histogram, capacity, oldest, block: tl.constexpr):  # type: ignore[no-untyped-def]
        """How many used slots there are of each age, in the rows that must forget some."""
        row = tl.program_id(1).to(tl.int64)
        if tl.load(evict + row) > 0:
            slot = tl.program_id(0) * block + tl.arange(0, block)
            own = row * capacity + slot
            used = tl.load(kinds + own, mask=slot < capacity, other=0) != 0
            age = _age(seen, steps, own, row, used, oldest)
            tl.atomic_add(histogram + row * (oldest + 1) + age, 1, mask=used, sem="relaxed")

    @triton.jit
    def _ties_kernel(kinds, seen, steps, evict, threshold, older, ties, capacity, blocks, oldest,
                     block: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        """How many slots of a block are older than the threshold, and how many as old as it."""
        row = tl.program_id(1).to(tl.int64)
        if tl.load(evict + row) > 0:
            slot = tl.program_id(0) * block + tl.arange(0, block)
            own = row * capacity + slot
            used = tl.load(kinds + own, mask=slot < capacity, other=0) != 0
            age = _age(seen, steps, own, row, used, oldest)
            at = tl.load(threshold + row)
            tl.store(older + row * blocks + tl.program_id(0), tl.sum((used & (age > at)).to(tl.int32), 0))
            tl.store(ties + row * blocks + tl.program_id(0), tl.sum((used & (age == at)).to(tl.int32), 0))

    @triton.jit
    def _evict_kernel(kinds, seen, steps, evict, threshold, above, unused, older, ties, keys, capacity, blocks, oldest, wide,
                      bits: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        """The keys of the slots that give way: all that are older than the threshold, and the first ones as old as it."""
        row = tl.program_id(1).to(tl.int64)
        wanted = tl.load(evict + row)
        if wanted > 0:
            slot = tl.program_id(0) * block + tl.arange(0, block)
            own = row * capacity + slot
            used = tl.load(kinds + own, mask=slot < capacity, other=0) != 0
            age = _age(seen, steps, own, row, used, oldest)
            at = tl.load(threshold + row)
            first = tl.load(unused + row)
            all_older = tl.load(above + row)
            key = ((oldest + 1 - age) << bits) | slot
            old = used & (age > at)
            place = tl.load(older + row * blocks + tl.program_id(0)) + tl.cumsum(old.to(tl.int32), 0) - 1
            tl.store(keys + row * wide + first + place, key, mask=old)
            tie = used & (age == at)
            rank = tl.load(ties + row * blocks + tl.program_id(0)) + tl.cumsum(tie.to(tl.int32), 0) - 1
            tl.store(keys + row * wide + first + all_older + rank, key, mask=tie & (all_older + rank < wanted))

    @triton.jit
    def _write_kernel(fresh, rank, slots, world, rgb, kind, source, steps, out_position, out_colour, out_kind, out_source,
                      out_seen, out_confidence, capacity, pixels, wide, block: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        """New points: pixel by pixel into the slots of their rank."""
        row = tl.program_id(1).to(tl.int64)
        pixel = tl.program_id(0) * block + tl.arange(0, block)
        own = row * pixels + pixel
        new = tl.load(fresh + own, mask=pixel < pixels, other=0) != 0
        order = tl.load(rank + own, mask=new, other=0)
        new = new & (order < wide)
        slot = tl.load(slots + row * wide + order, mask=new, other=0)
        target = row * capacity + slot
        for axis in tl.static_range(3):
            place = row * 3 * capacity + axis * capacity + slot
            tl.store(out_position + place, tl.load(world + own * 3 + axis, mask=new, other=0.0), mask=new)
            tl.store(out_colour + place, tl.load(rgb + row * 3 * pixels + axis * pixels + pixel, mask=new, other=0), mask=new)
        tl.store(out_kind + target, tl.load(kind + own, mask=new, other=0), mask=new)
        tl.store(out_source + target, tl.load(source + own, mask=new, other=0), mask=new)
        tl.store(out_seen + target, tl.zeros(pixel.shape, tl.int32) + tl.load(steps + row).to(tl.int32), mask=new)
        tl.store(out_confidence + target, tl.full(pixel.shape, 1, tl.uint8), mask=new)

    @triton.jit
    def _map_kernel(position, kinds, pose, drawn, capacity, body, cells: tl.constexpr, inverse_cell: tl.constexpr,
                    block: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        """As map_around: the largest value in each cell of both channels."""
        row = tl.program_id(1).to(tl.int64)
        slot = tl.program_id(0) * block + tl.arange(0, block)
        kind = tl.load(kinds + row * capacity + slot, mask=slot < capacity, other=0)
        point = kind == 1
        if tl.max(point.to(tl.int32), 0) > 0:
            place = position + row * 3 * capacity + slot
            x = tl.load(place, mask=point, other=0.0) - tl.load(pose + row * 16 + 3)
            y = tl.load(place + capacity, mask=point, other=0.0) - tl.load(pose + row * 16 + 7)
            column = tl.floor(x * inverse_cell + cells // 2)
            line = tl.floor(cells // 2 - y * inverse_cell)
            near = point & (column >= 0) & (column < cells) & (line >= 0) & (line < cells)
            z = tl.load(place + 2 * capacity, mask=near, other=0.0) - tl.load(pose + row * 16 + 11)
            cell = tl.where(near, line * cells + column, 0.0).to(tl.int32)
            base = drawn + row * 2 * cells * cells + cell
            tl.atomic_max(base, tl.full(cell.shape, 255, tl.int32), mask=near & (tl.abs(z) <= body), sem="relaxed")
            below = tl.minimum(tl.maximum((-z - body) * 100.0, 0.0), 254.0)
            floor = near & (z < -body) & (z > -body - 2.5)
            tl.atomic_max(base + cells * cells, 255 - below.to(tl.int32), mask=floor, sem="relaxed")


def _grid(memory_slots: int, rows: int) -> tuple[int, int]:
    return -(-memory_slots // BLOCK), rows


def _pose(camera_pose: Tensor) -> Tensor:
    return camera_pose.float().contiguous()


def nearest_slots(position: Tensor, kind: Tensor, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`worldsim.memory.splat.nearest` of :func:`~worldsim.memory.splat.splat`, in one pass."""
    b, capacity = kind.shape
    pixels = camera.height * camera.width
    buffer = torch.full((b, pixels), _HOLE, dtype=torch.int64, device=kind.device)
    _nearest_kernel[_grid(capacity, b)](
        position, kind, _pose(camera.pose), camera.intrinsics.float().contiguous(), buffer, capacity, pixels,
        camera.width, camera.height, NEAR_PLANE, BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    mask = buffer != _HOLE
    slot = (buffer & 0xFFFFFFFF).masked_fill_(~mask, 0)
    return mask, slot, (buffer >> 32).to(torch.int32).view(torch.float32)


def shown_slots(position: Tensor, kind: Tensor, camera: Camera) -> tuple[Shown, Tensor]:
    """As :func:`worldsim.memory.splat.shown_slots`, with the slots named ``0 .. h * w`` after the pixels that show them.

    Second, the real slot of each pixel, (b, h * w) int64.
    """
    mask, slot, z = nearest_slots(position, kind, camera)
    hidden = between_nearer(z.masked_fill(~mask, torch.inf).unflatten(1, (camera.height, camera.width)))
    points: Splat = splat(position.gather(2, slot[:, None].expand(-1, 3, -1)), kind.gather(1, slot), camera)
    own = torch.arange(slot.shape[1], device=slot.device).expand_as(slot)
    return Shown(points, mask & ~hidden.flatten(1), own, z), slot


def view_of(position: Tensor, colour: Tensor, kind: Tensor, source: Tensor, camera: Camera) -> MemoryView:
    """As :func:`worldsim.memory.splat.view_of`."""
    shown, slot = shown_slots(position, kind, camera)
    return view_of_shown(shown, colour.gather(2, slot[:, None].expand(-1, 3, -1)), source.gather(1, slot), camera)


def map_around(position: Tensor, kind: Tensor, pose: Tensor, body: float) -> Tensor:
    """As :func:`worldsim.memory.splat.map_around`."""
    b, capacity = kind.shape
    drawn = torch.zeros(b, 2, MAP_CELLS, MAP_CELLS, dtype=torch.int32, device=kind.device)
    _map_kernel[_grid(capacity, b)](position, kind, _pose(pose), drawn, capacity, body, MAP_CELLS, 12.5, BLOCK,
                                    enable_fp_fusion=False)  # fmt: skip
    return drawn.to(torch.uint8)


def integrate_(config: PointMemoryConfig, memory: Points, frame: Frame, camera: Camera, step: Tensor,
               known: Tensor | None = None) -> Points:  # fmt: skip
    """As :meth:`worldsim.memory.points.PointMemory.integrate`, in place: ``memory`` is changed and returned."""
    assert frame.inverse_depth is not None
    code = frame.inverse_depth
    b, capacity = memory.kind.shape
    pixels, device = camera.height * camera.width, code.device
    step = step.contiguous()
    explained = torch.zeros(b, pixels, dtype=torch.int32, device=device)
    blocks = _grid(capacity, b)[0]
    counts = torch.empty(b, blocks, dtype=torch.int32, device=device)
    speaks = explained if known is None else known.flatten(1).to(torch.uint8).contiguous()
    _judge_kernel[_grid(capacity, b)](
        memory.position, memory.kind, memory.source, memory.seen, memory.confidence, _pose(camera.pose),
        camera.intrinsics.float().contiguous(), step, _bounds(config, code), speaks, explained, counts, capacity, pixels, blocks,
        255.0 * DEPTH_CHANNEL_SCALE, camera.width, camera.height, NEAR_PLANE, config.carve, known is not None, BLOCK,
        enable_fp_fusion=False,
    )  # fmt: skip
    fresh = explained == 0 if known is None else (explained == 0) & known.flatten(1)
    total = fresh.cumsum(1, dtype=torch.int32)
    slots = _slots(memory, counts, total[:, -1].clamp(max=capacity), step, min(pixels, capacity))
    _write_kernel[_grid(pixels, b)](
        fresh.to(torch.uint8), total - 1, slots, unproject(frame.depth, camera).contiguous(),  # type: ignore[arg-type]
        frame.rgb.contiguous(), torch.where(code == 0, DIRECTION, POINT).to(torch.uint8).contiguous(),
        (code_to_channel(code) * 255.0).round().to(torch.uint8).contiguous(), step, memory.position, memory.colour, memory.kind,
        memory.source, memory.seen, memory.confidence, capacity, pixels, slots.shape[1], BLOCK,
    )  # fmt: skip
    return memory


def _bounds(config: PointMemoryConfig, code: Tensor) -> Tensor:
    """What PointMemory._judge compares a slot with, a pixel: (b, 4, h * w) lower and upper depth, scale of source, free depth."""

    def lower(depth: Tensor) -> Tensor:
        return torch.minimum(depth - config.tolerance_m, depth * (1.0 - config.tolerance_share))

    depth = dequantise_depth(code)
    upper = torch.maximum(depth + config.tolerance_m, depth * (1.0 + config.tolerance_share))
    nearest_code = F.max_pool2d(code.to(torch.float32)[:, None], 3, stride=1, padding=1)[:, 0]
    scale = DEPTH_CHANNEL_SCALE + config.replace_ratio * depth
    return torch.stack([lower(depth), upper, scale, lower(dequantise_depth(nearest_code))], 1).flatten(2).contiguous()


def _slots(memory: Points, counts: Tensor, need: Tensor, step: Tensor, wide: int) -> Tensor:
    """The slots to write next, (b, wide) int32, of which the first ``need`` (b,) int32 count: see PointMemory._slots.

    counts: (b, blocks) int32 unused slots a block.
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
    _unused_kernel[grid](memory.kind, total - counts, need, keys, capacity, blocks, wide, BLOCK)
    histogram = torch.zeros(b, oldest + 1, dtype=torch.int32, device=device)
    _ages_kernel[grid](memory.kind, memory.seen, step, evict, histogram, capacity, oldest, BLOCK)
    from_oldest = histogram.flip(1).cumsum(1, dtype=torch.int32)
    behind = (from_oldest < evict[:, None]).sum(1)
    threshold = (oldest - behind).to(torch.int32)
    above = torch.where(behind > 0, from_oldest.gather(1, (behind - 1).clamp(0)[:, None])[:, 0], 0)
    older, ties = (torch.zeros(b, blocks, dtype=torch.int32, device=device) for _ in range(2))
    _ties_kernel[grid](memory.kind, memory.seen, step, evict, threshold, older, ties, capacity, blocks, oldest, BLOCK)
    older, ties = (x.cumsum(1, dtype=torch.int32) - x for x in (older, ties))
    _evict_kernel[grid](memory.kind, memory.seen, step, evict, threshold, above, unused_total, older, ties, keys, capacity, blocks,
                        oldest, wide, bits, BLOCK)  # fmt: skip
    # Unused slots come first and in order already; what gives way goes by age, so that a row's slots do not depend on blocks.
    return keys.sort(1).values & (2**bits - 1)
