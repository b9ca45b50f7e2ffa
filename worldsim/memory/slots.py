"""Point clouds of fixed capacity, and choosing among their slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol, TypeVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from worldsim.memory.splat import EMPTY
from worldsim.protocols import HasPoints, MemoryT, SceneMemory
from worldsim.runtime.json_config import check_ranges
from worldsim.state import map_tensors

BLOCK = 1024
"""Slots that are looked at together."""


class HasSlots(Protocol):
    """A record of tensors whose last axis is that of the slots."""

    @property
    def kind(self) -> Tensor:
        """(b, c) uint8, 0 where a slot is unused."""
        ...


Slots = TypeVar("Slots", bound=HasSlots)


@dataclass(frozen=True)
class Points:
    """A batch of point clouds of fixed capacity ``c``.

    Unused slots have kind 0 and arbitrary values.

    position: (b, 3, c) float32, world metres; for a direction, a vector towards it in world axes.
    colour: (b, 3, c) uint8 rgb.
    kind: (b, c) uint8, 0 unused, 1 point, 2 direction (infinitely far).
    source: (b, c) uint8, 255 * depth channel (``worldsim.camera.code_to_channel``) at capture; 0
        for directions.
    seen: (b, c) int32, the step at which a frame last agreed with the point.
    confidence: (b, c) uint8, number of frames that agreed with it, at most 255. Painted points have
        0 until a true frame replaces them (:mod:`worldsim.memory.painted`).
    """

    position: Tensor
    colour: Tensor
    kind: Tensor
    source: Tensor
    seen: Tensor
    confidence: Tensor

    @property
    def capacity(self) -> int:
        """Slots an environment."""
        return self.kind.shape[1]

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True)
class PointMemoryConfig:
    """How a :class:`worldsim.memory.points.PointMemory` keeps and forgets."""

    capacity: Annotated[int, Ge(1), Le(2**24)] = 32768
    """Slots an environment, about 23 bytes each. A 64x64 frame of a new place takes up to 4,096; a
    walk through a few rooms takes 10,000 to 30,000."""
    tolerance_m: Annotated[float, Ge(0), Le(1000)] = 0.15
    """A point agrees with a frame if their depths differ by at most this, in metres ..."""
    tolerance_share: Annotated[float, Ge(0), Le(10)] = 0.07
    """... or by this share of the frame's depth, whichever is more."""
    replace_ratio: Annotated[float, Gt(0), Le(1000)] = 1.6
    """A point captured from more than this many times the present distance gives way to the finer
    new sight."""
    carve: bool = True
    """Drop points that hang in space which a frame sees through: what has moved. Off: the scene is
    taken as still."""
    colour_tolerance: Annotated[int, Ge(0), Le(255)] | None = field(default=None, repr=False)
    """Drop points that agree in depth but are more than this (of 255) outside of the colours in the
    3x3 pixels around theirs: what stood so near to a surface that it passes for it has gone. None:
    colours are not compared. 48 is good for true frames, and what captures take. The colours of
    dreams wander: with it, a way back came out 0.1 dB worse (docs/experiments/point_memory.md)."""
    body_m: Annotated[float, Ge(0), Le(1000)] = 0.5
    """In maps of surroundings, what is within this height above and below the camera (m) stands in
    the way."""

    def __post_init__(self) -> None:
        check_ranges(self)


def points_of(memory: SceneMemory[MemoryT], data: MemoryT) -> Points | None:
    """The points that a memory's data holds, None for a memory without points."""
    if not isinstance(memory, HasPoints):
        return None
    points: Points = memory.to_points(data)
    return points


def beginning(memory: Slots, more: int = 0) -> Slots:
    """Return the slots up to the last used one and ``more``; all slots on a GPU.

    Slots are filled from the first on, and counting would make a GPU wait.
    """
    if memory.kind.device.type != "cpu":
        return memory
    capacity = memory.kind.shape[1]
    # Whole blocks first: that reads the slots once, at the speed of memory.
    blocks = capacity // BLOCK
    full = (
        memory.kind[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK)).amax((0, 2)).nonzero()
        if blocks
        else memory.kind[:0]
    )
    tail = blocks if memory.kind[:, blocks * BLOCK :].any() or not len(full) else int(full[-1])
    used = (memory.kind[:, tail * BLOCK : (tail + 1) * BLOCK] != EMPTY).any(0).nonzero()
    size = min(capacity, more + (tail * BLOCK + int(used[-1]) + 1 if len(used) else 0))
    return memory if size == capacity else map_tensors(lambda x: x[..., :size], memory)


def places(mask: Tensor) -> Tensor:
    """Return the places where mask (b, n) is True, ascending, (b, m) int64.

    m is the count of the fullest row, at least one; rows with fewer are padded with 0. Waits for a
    GPU.
    """
    b = len(mask)
    if b == 1:
        found = mask[0].nonzero().T
        return found if found.shape[1] else found.new_zeros(1, 1)
    row, place = mask.nonzero().unbind(1)
    count = torch.bincount(row, minlength=b)
    rank = torch.arange(len(row), device=mask.device) - (count.cumsum(0) - count)[row]
    return torch.zeros(
        b, max(1, int(count.max())), dtype=torch.int64, device=mask.device
    ).index_put_((row, rank), place)


def take_slots(memory: Slots, slot: Tensor) -> Slots:
    """The slots (b, m) int64 alone."""
    return map_tensors(
        lambda x: x.gather(
            x.ndim - 1, slot if x.ndim == 2 else slot[:, None].expand(-1, x.shape[1], -1)
        ),
        memory,
    )


def first_true(mask: Tensor, k: int) -> Tensor:
    """Return the first ``k`` places where mask (b, n) is True, ascending: (b, k) int64.

    Padded with 0.
    """
    b, n = mask.shape
    rank = mask.cumsum(1)
    target = torch.where(mask & (rank <= k), rank - 1, k)
    place = torch.arange(n, device=mask.device).expand(b, n)
    return torch.zeros(b, k + 1, dtype=torch.int64, device=mask.device).scatter_(1, target, place)[
        :, :k
    ]


def next_slots(memory: Points, step: Tensor, k: int) -> Tensor:
    """Return the ``k`` slots to write next, (b, k) int64.

    Unused ones come first, then the least recently seen, lower ones first. Points not seen for very
    long (65,534 steps at the default capacity) count as equally old.
    """
    if memory.kind.device.type == "cpu":
        unused = beginning(memory, k).kind == EMPTY
        if int(unused.sum(1).min()) >= k:
            return first_true(unused, k)
    return oldest_slots(memory, step, k)


def oldest_slots(memory: Points, step: Tensor, k: int) -> Tensor:
    """What :func:`next_slots` gives in general, without a look at the counts."""
    unused = memory.kind == EMPTY
    bits = max(1, (memory.capacity - 1).bit_length())
    oldest = 2 ** (31 - bits) - 2
    age = (step[:, None].to(torch.int32) - memory.seen).clamp_(0, oldest)
    rank = torch.where(unused, 0, oldest + 1 - age)
    # Unique keys, so that the selection is the same on every device: it equals a stable sort's
    # first k.
    key = (rank << bits) | torch.arange(memory.capacity, device=rank.device, dtype=torch.int32)
    return (torch.topk(key, k, dim=1, largest=False, sorted=True).values & (2**bits - 1)).to(
        torch.int64
    )
