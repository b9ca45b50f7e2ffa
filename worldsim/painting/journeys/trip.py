"""The record of a journey: its places, their views, the memory, and every attempt to paint them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldsim.memory.slots import Points
from worldsim.painting.validation.validator import Verdict
from worldsim.state import Frame


@dataclass(frozen=True)
class Attempt:
    """One attempt to paint views.

    camera: which of the place's cameras it was at.
    views: the headings that were painted.
    step: the key of its random numbers.
    scale: factors of the inverse depth that fitted them to the memory.
    verdicts: those of each view; for a whole place, one list.
    kept: the headings that were accepted.
    """

    camera: int
    views: list[int]
    step: int
    scale: list[float]
    verdicts: list[list[Verdict]]
    kept: list[int]


@dataclass(frozen=True)
class Stop:
    """One place of a journey.

    words: its description.
    told: its attributes by name, those that were told to the painter.
    pose: (16,) camera-to-world of its first view, row by row.
    coverage: share of its surroundings that the memory knew before.
    painted: whether anything was painted.
    log: all attempts, in order.
    """

    words: str
    told: dict[str, float]
    pose: list[float]
    coverage: float
    painted: bool
    log: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True)
class Trip:
    """A journey so far.

    stops: its places.
    frames: the views of each place, (headings, ...) each, first the way ahead, then turning right.
    memory: what they show, a batch of one.
    """

    stops: tuple[Stop, ...]
    frames: tuple[Frame, ...]
    memory: Points

    def __len__(self) -> int:
        return len(self.stops)

    @property
    def pose(self) -> Tensor:
        """(k, 4, 4) the places' first cameras."""
        poses = [torch.tensor(stop.pose, dtype=torch.float32).view(4, 4) for stop in self.stops]
        return torch.stack(poses) if poses else torch.zeros(0, 4, 4)
