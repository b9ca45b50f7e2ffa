"""A place of a journey that is being painted: its cameras, what its painter receives, its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.painting.journeys.travel import whole_view
from worldsim.painting.journeys.trip import Trip
from worldsim.painting.places.place import frames_at
from worldsim.protocols import Painter, PaintInputs
from worldsim.runtime.types import Array
from worldsim.state import Frame, MemoryView, concatenate

MOST_TRIES = 64
"""Largest number of attempts per group of views, and of groups per place."""
MOST_CAMERAS = 16
"""Largest number of cameras per place."""
MOST_REPAINTS = 8
"""Largest number of further paintings of a place without a way out."""
MOST_DRAWS = MOST_REPAINTS + 1
WAY_OUT = "way_out"
"""Name of the verdict on the metres of open borders around a place."""
OPEN_ATTRIBUTES = {"openness": 0.6, "sky": 0.3}
"""Least values of attributes of an open place."""


@dataclass(frozen=True)
class Site:
    """A place that is being painted.

    trip: the trip so far.
    painter: paints the place.
    poses: (headings, 4, 4) its cameras.
    number: which of the place's first cameras this one is.
    attributes: (a,) float32 in [0, 1], None for none.
    told: (a,) bool, which attributes are told; None stands for all.
    draw: how many times the place was painted here before.
    """

    trip: Trip
    painter: Painter
    poses: Tensor
    number: int
    attributes: Array | None
    told: Array | None
    draw: int = 0

    def key(self, group: int, attempt: int) -> int:
        """Return the step of the random numbers of an attempt at a group of views."""
        # At most so many cameras of a place are tried.
        camera = len(self.trip) * 2 * MOST_CAMERAS + self.number
        place = camera * MOST_DRAWS + self.draw
        return (place * MOST_TRIES + group) * MOST_TRIES + attempt

    def inputs(
        self,
        index: Sequence[int],
        known: MemoryView,
        given: Sequence[Frame],
        seed: int,
        step: int,
    ) -> PaintInputs:
        """Return the painter's inputs: views to paint, then whole ones.

        index: headings of all these views.
        known: what the memory shows of the views to paint.
        given: the whole views.
        """
        fresh = len(index) - len(given)
        return PaintInputs(
            view=concatenate([known, *(whole_view(frame) for frame in given)]),
            pose=self.poses[list(index)][None],
            seed=torch.tensor([seed]),
            step=torch.tensor([step]),
            attributes=_row(self.attributes, torch.float32),
            told=_row(self.told, torch.bool),
            given=torch.tensor([[False] * fresh + [True] * len(given)]),
        )

    def others(self, done: Mapping[int, Frame]) -> tuple[Frame, Camera] | tuple[()]:
        """Return the accepted views of this place and of the last one, with their cameras."""
        frames = [*self.trip.frames[-1:], *done.values()]
        if not frames:
            return ()
        joined: Frame = concatenate(frames)
        assert joined.pose is not None
        return joined, self.painter.spec.cameras(joined.pose)

    def told_open(self) -> Site:
        """Return the same place with attributes that ask for an open place."""
        names = self.painter.spec.attributes
        if self.attributes is None or not set(OPEN_ATTRIBUTES) & set(names):
            return self
        values = np.array(self.attributes, np.float32)
        told = np.ones(len(names), bool) if self.told is None else np.array(self.told, bool)
        for name, least in OPEN_ATTRIBUTES.items():
            if name in names:
                values[names.index(name)] = max(values[names.index(name)], least)
                told[names.index(name)] = True
        return replace(self, attributes=values, told=told)


def groups_of(headings: int, views: int) -> list[list[int]]:
    """Return the order in which the views of a place are painted.

    First the views ahead, then the others, from the sides to the back, at most ``views`` at once.
    """
    by_turn = sorted(range(headings), key=lambda i: (min(i, headings - i), i))
    ahead = min(3, views)
    groups = [by_turn[:ahead]]
    size = max(1, views - ahead)
    return groups + [by_turn[i : i + size] for i in range(ahead, headings, size)]


def painted_views(trip: Trip) -> list[Frame]:
    """Return the views of the places that were painted."""
    pairs = zip(trip.stops, trip.frames, strict=True)
    return [frames for stop, frames in pairs if stop.painted]


def _row(values: Array | None, dtype: torch.dtype) -> Tensor | None:
    return None if values is None else torch.from_numpy(np.asarray(values))[None].to(dtype)


def split(frames: Frame) -> list[Frame]:
    """Return the single frames, each a batch of one."""
    return [frames_at(frames, [i]) for i in range(len(frames.rgb))]


def nearest_headings(
    todo: Sequence[int], whole: Mapping[int, Frame], headings: int, most: int
) -> list[int]:
    """Return the whole views that are nearest to those to paint, as many as fit beside them."""

    def turn(i: int) -> int:
        return min(min((i - j) % headings, (j - i) % headings) for j in todo)

    return sorted(whole, key=lambda i: (turn(i), i))[: max(0, most - len(todo))]
