# mypy: disable-error-code="no-untyped-def, misc"
"""The Triton kernels of :mod:`worldsim.memory.splat_triton`.

A program handles a block of slots (axis 0) of an environment (axis 1). Kinds of a slot are 0
unused, 1 point, 2 direction, as in :mod:`worldsim.memory.splat`. Unused slots are masked out of all
further reads. Vectors of slots share an environment's row, (3, capacity) positions and colours,
(capacity,) all else.
"""

import triton
import triton.language as tl


@triton.jit
def _axis(x, y, z, camera, axis: tl.constexpr):
    total = x * tl.load(camera + axis)
    total = total + y * tl.load(camera + 4 + axis)
    return total + z * tl.load(camera + 8 + axis)


@triton.jit
def _project(
    position,
    kind,
    pose,
    intrinsics,
    row,
    slot,
    capacity,
    width: tl.constexpr,
    height: tl.constexpr,
    near: tl.constexpr,
):
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
def nearest(
    position,
    kinds,
    pose,
    intrinsics,
    buffer,
    capacity,
    pixels,
    width: tl.constexpr,
    height: tl.constexpr,
    near: tl.constexpr,
    block: tl.constexpr,
):
    """Write the nearest slot of each pixel, by an integer minimum."""
    row = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * block + tl.arange(0, block)
    kind = tl.load(kinds + row * capacity + slot, mask=slot < capacity, other=0)
    if tl.max(kind.to(tl.int32), 0) > 0:
        visible, pixel, z = _project(
            position, kind, pose, intrinsics, row, slot, capacity, width, height, near
        )
        packed = (z.to(tl.int32, bitcast=True).to(tl.int64) << 32) | slot.to(tl.int64)
        tl.atomic_min(buffer + row * pixels + pixel, packed, mask=visible, sem="relaxed")


@triton.jit
def judge(
    position,
    kinds,
    source,
    seen,
    confidence,
    pose,
    intrinsics,
    steps,
    bounds,
    known,
    explained,
    counts,
    capacity,
    pixels,
    blocks,
    limit: tl.constexpr,
    width: tl.constexpr,
    height: tl.constexpr,
    near: tl.constexpr,
    carve: tl.constexpr,
    has_known: tl.constexpr,
    block: tl.constexpr,
):
    """Apply worldsim.memory.operations.judge in place.

    Writes marks, drops, explained pixels, and the number of unused slots per block.
    """
    row = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * block + tl.arange(0, block)
    inside = slot < capacity
    own = row * capacity + slot
    kind = tl.load(kinds + own, mask=inside, other=0)
    unused = inside & (kind == 0)
    count = tl.sum(unused.to(tl.int32), 0)
    if tl.max(kind.to(tl.int32), 0) > 0:
        visible, pixel, z = _project(
            position, kind, pose, intrinsics, row, slot, capacity, width, height, near
        )
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
        tl.store(
            explained + row * pixels + pixel,
            tl.full(pixel.shape, 1, tl.int32),
            mask=agrees & (coarse == 0),
        )
        tl.store(kinds + own, tl.zeros(pixel.shape, tl.uint8), mask=drop)
        step = tl.load(steps + row).to(tl.int32)
        tl.store(seen + own, tl.zeros(pixel.shape, tl.int32) + step, mask=agrees)
        sure = tl.load(confidence + own, mask=agrees, other=255).to(tl.int32)
        # Painted points, of confidence 0, are not confirmed.
        more = agrees & (sure > 0) & (sure < 255)
        tl.store(confidence + own, (sure + 1).to(tl.uint8), mask=more)
        count += tl.sum(drop.to(tl.int32), 0)
    tl.store(counts + row * blocks + tl.program_id(0), count)


@triton.jit
def unused(kinds, before, need, keys, capacity, blocks, wide, block: tl.constexpr):
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
def _age(seen, steps, own, row, mask, oldest):
    age = tl.load(steps + row).to(tl.int32) - tl.load(seen + own, mask=mask, other=0)
    return tl.minimum(tl.maximum(age, 0), oldest)


@triton.jit
def ages(kinds, seen, steps, evict, histogram, capacity, oldest, block: tl.constexpr):
    """How many used slots there are of each age, in the rows that must forget some."""
    row = tl.program_id(1).to(tl.int64)
    if tl.load(evict + row) > 0:
        slot = tl.program_id(0) * block + tl.arange(0, block)
        own = row * capacity + slot
        used = tl.load(kinds + own, mask=slot < capacity, other=0) != 0
        age = _age(seen, steps, own, row, used, oldest)
        tl.atomic_add(histogram + row * (oldest + 1) + age, 1, mask=used, sem="relaxed")


@triton.jit
def ties(kinds, seen, steps, evict, threshold, older, ties, capacity, blocks, oldest,
                 block: tl.constexpr):  # fmt: skip
    """How many slots of a block are older than the threshold, and how many as old as it."""
    row = tl.program_id(1).to(tl.int64)
    if tl.load(evict + row) > 0:
        slot = tl.program_id(0) * block + tl.arange(0, block)
        own = row * capacity + slot
        used = tl.load(kinds + own, mask=slot < capacity, other=0) != 0
        age = _age(seen, steps, own, row, used, oldest)
        at = tl.load(threshold + row)
        tl.store(
            older + row * blocks + tl.program_id(0), tl.sum((used & (age > at)).to(tl.int32), 0)
        )
        tl.store(
            ties + row * blocks + tl.program_id(0), tl.sum((used & (age == at)).to(tl.int32), 0)
        )


@triton.jit
def evict(
    kinds,
    seen,
    steps,
    evict,
    threshold,
    above,
    unused,
    older,
    ties,
    keys,
    capacity,
    blocks,
    oldest,
    wide,
    bits: tl.constexpr,
    block: tl.constexpr,
):
    """Write the keys of the slots to replace.

    These are all that are older than the threshold, and the first ones as old as it.
    """
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
        place = (
            tl.load(older + row * blocks + tl.program_id(0)) + tl.cumsum(old.to(tl.int32), 0) - 1
        )
        tl.store(keys + row * wide + first + place, key, mask=old)
        tie = used & (age == at)
        rank = tl.load(ties + row * blocks + tl.program_id(0)) + tl.cumsum(tie.to(tl.int32), 0) - 1
        tl.store(
            keys + row * wide + first + all_older + rank,
            key,
            mask=tie & (all_older + rank < wanted),
        )


@triton.jit
def write(
    fresh,
    rank,
    slots,
    world,
    rgb,
    kind,
    source,
    steps,
    out_position,
    out_colour,
    out_kind,
    out_source,
    out_seen,
    out_confidence,
    capacity,
    pixels,
    wide,
    block: tl.constexpr,
):
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
        tl.store(
            out_position + place, tl.load(world + own * 3 + axis, mask=new, other=0.0), mask=new
        )
        tl.store(
            out_colour + place,
            tl.load(rgb + row * 3 * pixels + axis * pixels + pixel, mask=new, other=0),
            mask=new,
        )
    tl.store(out_kind + target, tl.load(kind + own, mask=new, other=0), mask=new)
    tl.store(out_source + target, tl.load(source + own, mask=new, other=0), mask=new)
    tl.store(
        out_seen + target,
        tl.zeros(pixel.shape, tl.int32) + tl.load(steps + row).to(tl.int32),
        mask=new,
    )
    tl.store(out_confidence + target, tl.full(pixel.shape, 1, tl.uint8), mask=new)


@triton.jit
def map(
    position,
    kinds,
    pose,
    drawn,
    capacity,
    body,
    cells: tl.constexpr,
    inverse_cell: tl.constexpr,
    block: tl.constexpr,
):
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
        tl.atomic_max(
            base, tl.full(cell.shape, 255, tl.int32), mask=near & (tl.abs(z) <= body), sem="relaxed"
        )
        below = tl.minimum(tl.maximum((-z - body) * 100.0, 0.0), 254.0)
        floor = near & (z < -body) & (z > -body - 2.5)
        tl.atomic_max(base + cells * cells, 255 - below.to(tl.int32), mask=floor, sem="relaxed")
