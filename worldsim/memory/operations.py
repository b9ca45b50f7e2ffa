"""The point memory's passes over its slots: functions of tensors, so that engines can compile them.

On a CPU, relevant slots are selected first (a camera sees few of all). This changes no result:
other slots are not visible and not updated, and the order stays.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import DEPTH_CHANNEL_SCALE, Camera, code_to_channel, dequantise_depth
from worldsim.memory.slots import (
    PointMemoryConfig,
    Points,
    first_true,
    next_slots,
    take_slots,
)
from worldsim.memory.splat import (
    EMPTY,
    Splat,
    frame_points,
    in_sight,
    map_around,
    on_map,
    splat,
    view_of,
)
from worldsim.state import Frame, MemoryView


@dataclass(frozen=True)
class Verdict:
    """The updates of the compared slots by a frame, and its pixels as points.

    kind, seen, confidence: (b, m), the slots' new values.
    fresh: (b, h * w) bool, pixels that no slot explains.
    new_position: (b, 3, h * w) float32.
    new_kind, new_source: (b, h * w) uint8.
    """

    kind: Tensor
    seen: Tensor
    confidence: Tensor
    fresh: Tensor
    new_position: Tensor
    new_kind: Tensor
    new_source: Tensor


def view(memory: Points, slot: Tensor | None, camera: Camera) -> MemoryView:
    """What the slots (b, m) int64 show, all if None: see :func:`worldsim.memory.splat.view_of`."""
    part = memory if slot is None else take_slots(memory, slot)
    return view_of(part.position, part.colour, part.kind, part.source, camera)


def surroundings(
    position: Tensor, kind: Tensor, slot: Tensor | None, pose: Tensor, body: float
) -> Tensor:
    """Return the map of the slots (b, m) int64, all if None.

    See :func:`worldsim.memory.splat.map_around`.
    """
    if slot is not None:
        position, kind = position.gather(2, slot[:, None].expand(-1, 3, -1)), kind.gather(1, slot)
    return map_around(position, kind, pose, body)


def verdict(
    config: PointMemoryConfig,
    memory: Points,
    slot: Tensor | None,
    frame: Frame,
    camera: Camera,
    step: Tensor,
    known: Tensor | None,
) -> Verdict:
    """Return the updates of the slots (b, m) int64, all if None, by ``frame``.

    known: (b, h, w) bool; pixels where it is False have no effect.
    """
    assert frame.inverse_depth is not None
    part = memory if slot is None else take_slots(memory, slot)
    points = splat(part.position, part.kind, camera)
    agrees, fine, drop = judge(config, part, points, frame)
    if known is not None:
        speaks = known.flatten(1).gather(1, points.pixel)
        agrees, drop = agrees & speaks, drop & speaks
    pixels = camera.height * camera.width
    explained = torch.zeros(len(part.kind), pixels, dtype=torch.int32, device=part.kind.device)
    explained = explained.scatter_reduce(1, points.pixel, (agrees & fine).to(torch.int32), "amax")
    fresh = explained == 0
    position, kind = frame_points(frame.inverse_depth, camera)
    return Verdict(
        kind=part.kind.masked_fill(drop, EMPTY),
        seen=torch.where(agrees, step[:, None].to(torch.int32), part.seen),
        # Painted points, of confidence 0, are not confirmed: see worldsim.memory.painted.
        confidence=part.confidence + (agrees & (part.confidence < 255) & (part.confidence > 0)),
        fresh=fresh if known is None else fresh & known.flatten(1),
        new_position=position,
        new_kind=kind,
        new_source=(code_to_channel(frame.inverse_depth.flatten(1)) * 255.0)
        .round()
        .to(torch.uint8),
    )


def judge(
    config: PointMemoryConfig, memory: Points, points: Splat, frame: Frame
) -> tuple[Tensor, Tensor, Tensor]:
    """Return whether the frame agrees with each slot, refines it, or removes it.

    Three (b, c) bool: it agrees, the slot is fine enough, the slot must go.

    points: the slots, splatted.
    """
    assert frame.inverse_depth is not None
    code = frame.inverse_depth

    def at_points(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, points.pixel)

    depth = at_points(dequantise_depth(code))
    lower, upper = agreeing(config, depth)
    # At infinity all bounds are infinite: directions agree with sky alone, and no point ever does.
    agrees = points.visible & (points.z >= lower) & (points.z <= upper)
    # source / 255 = s / (s + captured depth), solved for captured depth <= ratio * depth; NaN (sky)
    # counts as fine.
    coarse = (
        memory.source * (DEPTH_CHANNEL_SCALE + config.replace_ratio * depth)
        < 255.0 * DEPTH_CHANNEL_SCALE
    )
    drop = agrees & coarse
    if config.carve:
        drop = drop | (points.visible & (points.z < at_points(free_depth(config, code))))
    if config.colour_tolerance is not None:
        other = agrees & other_colours(memory.colour, points, frame.rgb, config.colour_tolerance)
        agrees, drop = agrees & ~other, drop | other
    return agrees, ~coarse, drop


def agreeing(config: PointMemoryConfig, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest depth (metres) that agree with a depth that a frame shows."""
    lower = torch.minimum(depth - config.tolerance_m, depth * (1.0 - config.tolerance_share))
    return lower, torch.maximum(depth + config.tolerance_m, depth * (1.0 + config.tolerance_share))


def free_depth(config: PointMemoryConfig, code: Tensor) -> Tensor:
    """Return the depth (b, h, w) in metres up to which a frame of codes (b, h, w) sees through.

    It is short of the nearest of 3x3 pixels.
    """
    nearest_code = F.max_pool2d(code.to(torch.float32)[:, None], 3, stride=1, padding=1)[:, 0]
    return agreeing(config, dequantise_depth(nearest_code))[0]


def other_colours(colour: Tensor, points: Splat, rgb: Tensor, tolerance: int) -> Tensor:
    """Return which points, (b, c) bool, differ in colour from the 3x3 pixels around them.

    A point differs if it is more than ``tolerance`` (of 255) outside the range of red, green or
    blue there; the sky never does. The result is meaningless for invisible points.

    colour: (b, 3, c) uint8 of the points, splatted to ``points``.
    rgb: (b, 3, h, w) uint8, the frame.
    """
    around = rgb.to(torch.float32)
    high = F.max_pool2d(around, 3, stride=1, padding=1) + tolerance
    low = -F.max_pool2d(-around, 3, stride=1, padding=1) - tolerance
    # All six limits of a pixel in one number: looking them up is what takes time.
    limits = torch.cat([low, high], 1).clamp_(0, 255).to(torch.int64).flatten(2)
    shift = torch.arange(0, 48, 8, device=limits.device)
    found = (limits << shift[:, None]).sum(1).gather(1, points.pixel)
    other = torch.zeros_like(points.visible)
    for channel in range(3):
        least, most = (found >> (8 * channel)) & 255, (found >> (8 * channel + 24)) & 255
        other |= (colour[:, channel] < least) | (colour[:, channel] > most)
    return other & torch.isfinite(points.z)


def write_fresh(memory: Points, found: Verdict, frame: Frame, step: Tensor, own: bool) -> Points:
    """Write the fresh pixels as new points.

    own: kind, seen and confidence may be changed in place.
    """
    b, pixels = found.fresh.shape
    count = found.fresh.sum(1)
    k = min(pixels, memory.capacity)
    if found.fresh.device.type == "cpu":
        # Reading a number is free here, and mostly little is new; a GPU would have to stop for
        # it.
        k = min(k, int(count.max()))
        if k == 0:
            return memory
    pixel = first_true(found.fresh, k)
    slot = next_slots(memory, step, k)
    new = torch.arange(k, device=pixel.device) < count[:, None]

    def put(old: Tensor, values: Tensor, into: bool = False) -> Tensor:
        index, where = (
            (slot, new) if old.ndim == 2 else (slot[:, None].expand(b, 3, k), new[:, None])
        )
        # Slots beyond the count get their own value back: every write has its place, whatever
        # the batch needs.
        values = torch.where(where, values, old.gather(old.ndim - 1, index))
        return (
            old.scatter_(old.ndim - 1, index, values)
            if into
            else old.scatter(old.ndim - 1, index, values)
        )

    def taken(values: Tensor) -> Tensor:
        return (
            values.gather(2, pixel[:, None].expand(b, 3, k))
            if values.ndim == 3
            else values.gather(1, pixel)
        )

    return Points(
        position=put(memory.position, taken(found.new_position)),
        colour=put(memory.colour, taken(frame.rgb.flatten(2))),
        kind=put(memory.kind, taken(found.new_kind), own),
        source=put(memory.source, taken(found.new_source)),
        seen=put(memory.seen, step[:, None].to(torch.int32).expand(b, k), own),
        confidence=put(memory.confidence, torch.ones_like(pixel, dtype=torch.uint8), own),
    )


@dataclass(frozen=True)
class Passes:
    """Which slots a camera or a map may show, and what is made of these."""

    in_sight: Callable[..., Tensor] = in_sight
    on_map: Callable[..., Tensor] = on_map
    view: Callable[..., MemoryView] = view
    surroundings: Callable[..., Tensor] = surroundings
    verdict: Callable[..., Verdict] = verdict


class Sight:
    """The slots of a memory in sight of a camera; valid while both are unchanged tensors."""

    def __init__(self, memory: Points, camera: Camera, slot: Tensor) -> None:
        self.slot = slot
        self._of = [(weakref.ref(x), x._version) for x in self._told(memory, camera)]
        self._size = camera.height, camera.width

    @staticmethod
    def _told(memory: Points, camera: Camera) -> tuple[Tensor, ...]:
        return memory.position, memory.kind, camera.pose, camera.intrinsics

    def is_of(self, memory: Points, camera: Camera) -> bool:
        """Whether nothing has changed."""
        now = self._told(memory, camera)
        same = all(
            ref() is x and x._version == version
            for (ref, version), x in zip(self._of, now, strict=True)
        )
        return same and self._size == (camera.height, camera.width)
