"""Painting ahead: where the memory knows too little ahead of the camera, a painter completes it.

A world's step network draws well wherever the memory shows something. So, before it walks into the
unknown, a :class:`worldsim.protocols.Painter` paints a few wide views at a camera ahead, and the
memory integrates what was invented. Painted points are marked as such, and frames that observe them
replace them (:mod:`worldsim.memory.painted`). Dreamed frames change the memory less than they do
without painting (:class:`Takes`): what a step network invents in a hole is fog, and must not count
as known before the painter has looked there.

Whether a dream is painted is part of its state, and all random numbers are keyed by the dream's
seed and step. So seeds, snapshots and forks hold, and environments of a batch are independent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.camera import move
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.gaps import close_gaps, close_mask
from worldsim.memory.painted import integrate_painted
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import Points
from worldsim.memory.strays import hang_alone
from worldsim.protocols import Painter, PaintInputs, identity_of
from worldsim.runtime.json_config import check_ranges, to_json
from worldsim.runtime.ranges import Count, NotNegative, Share
from worldsim.state import Frame, MemoryView, WorldState, map_tensors

NEVER = -(10**6)
"""Value of :attr:`worldsim.state.WorldState.looked` before the first look ahead."""
NEVER_AGAIN = 2**62
"""Its value in environments that are not painted ahead: the padding of a batch."""
SURFACE = 0.15
"""Largest relative difference of the inverse depths of one surface."""
CLEARANCE = 0.6
"""The camera ahead moves at most this share of the known depth in the middle of the view."""


class Takes(StrEnum):
    """What the memory of a painted dream takes from dreamed frames."""

    ALL = "all"
    """All pixels, as without painting."""
    KNOWN = "known"
    """Pixels that the memory already shows, and gaps between the splats of a surface."""
    NOTHING = "nothing"
    """No pixels. The memory holds what was observed and what was painted."""


@dataclass(frozen=True)
class PaintAheadConfig:
    """Where and how often a dream is painted ahead."""

    every: Count = 2
    """Steps from one look ahead to the next."""
    distance: NotNegative = 3.0
    """Metres from the camera to the camera ahead. One step in Freedoom is about one metre."""
    coverage: Share = 0.8
    """A place ahead is painted if the memory covers less than this share of one of its views. Gaps
    between the splats of a surface count as covered."""
    takes: Takes = Takes.NOTHING
    """What the memory takes from dreamed frames: ``all``, ``known`` or ``nothing``. Blur of dreamed
    frames then never comes back through the memory: FD 164 with ``nothing``, 221 with ``known``
    (docs/experiments/painted_memory.md)."""
    views: Count = 3
    """Views at the camera ahead: straight on, and to both sides in turn."""
    turn: Annotated[float, Ge(1), Le(180)] = 50.0
    """Degrees from one of these views to the next."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.takes not in set(Takes):
            raise InvalidInputError(
                f"PaintAheadConfig.takes = {self.takes!r}: give one of {', '.join(Takes)}."
            )


def taken_pixels(takes: Takes, view: MemoryView) -> Tensor:
    """Return the pixels of dreamed frames that memories of painted dreams take, (b, h, w) bool.

    view: (b, ...) what the memories show at the frames' cameras.
    """
    if takes == Takes.ALL:
        return torch.ones_like(view.mask)
    return close_mask(view.mask) if takes == Takes.KNOWN else torch.zeros_like(view.mask)


def contradicts(view: MemoryView, painted: Frame) -> Tensor:
    """Return the pixels of a painted frame that the memory must not take, (b, h, w) bool.

    These are the known pixels, pixels in the gaps of a known surface whose painted depth is not
    that of the surface, and pixels that belong to no surface.
    """
    assert painted.inverse_depth is not None
    closed = close_gaps(view)
    code = closed.inverse_depth.float()
    near = (painted.inverse_depth - code).abs() <= SURFACE * code + 1.0
    return view.mask | (closed.mask & ~near) | hang_alone(painted)


class PaintAhead:
    """Paints ahead of the cameras of a batch of dreams.

    painter: completes views. It is called for all places at once.
    memory: the world's point memory.
    config: where and how often.

    Raises MissingGeometryError for another memory, and InvalidInputError for a painter of fewer
    views than ``config.views``.
    """

    def __init__(
        self, painter: Painter, memory: object, config: PaintAheadConfig | None = None
    ) -> None:
        self.painter, self.config = painter, config or PaintAheadConfig()
        if not isinstance(memory, PointMemory):
            raise MissingGeometryError(
                f"a dream is painted ahead into its point memory, and this world has "
                f"{type(memory).__name__}: use a world with a point memory."
            )
        if painter.spec.views < self.config.views:
            raise InvalidInputError(
                f"PaintAheadConfig.views = {self.config.views} is more than the painter's "
                f"{painter.spec.views}: give fewer views."
            )
        self.memory = memory

    @property
    def identity(self) -> str:
        """SHA-256 of all settings and of the painter's identity."""
        told = to_json([self.config, self.painter.spec, identity_of(self.painter)])
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def begin(self, state: WorldState) -> WorldState:
        """Return the states as states of painted dreams, which have not looked ahead yet."""
        return dataclasses.replace(state, looked=torch.full_like(state.step, NEVER))

    @torch.no_grad()
    def look(self, state: WorldState) -> tuple[Tensor, WorldState] | None:
        """Look ahead where it is due, and paint what the memory does not cover.

        All places that need it are painted in one call of the painter. An environment's result does
        not depend on the others.

        Returns the indices (m,) int64 of the environments that looked, and their new states; None
        if none did.
        """
        if state.looked is None:
            return None
        due = state.step - state.looked >= self.config.every
        index = due.nonzero()[:, 0]
        if not len(index):
            return None
        looking = state.select(index)
        looking = dataclasses.replace(looking, looked=looking.step.clone())
        poses = self.cameras(looking)
        views = [self._render(looking.memory, poses[:, i]) for i in range(self.config.views)]
        covered = torch.stack([close_mask(view.mask).float().mean((1, 2)) for view in views])
        needy = (covered.amin(0) < self.config.coverage).nonzero()[:, 0]
        if not len(needy):
            return index, looking
        few = looking if len(needy) == len(index) else looking.select(needy)
        view = _by_place([map_tensors(lambda x: x[needy], view) for view in views])
        inputs = PaintInputs(view, poses[needy], few.seed, few.step)
        painted = dataclasses.replace(few, memory=self._paint(few.memory, inputs))
        return index, painted if few is looking else looking.put(needy, painted)

    def _render(self, memory: Points, pose: Tensor) -> MemoryView:
        return self.memory.render(memory, self.painter.spec.cameras(pose.contiguous()))

    def _paint(self, data: Points, inputs: PaintInputs) -> Points:
        """Return the memories of a batch with their places painted."""
        frames = map_tensors(lambda x: x.to(inputs.seed.device), self.painter.paint(inputs))
        n = inputs.pose.shape[1]
        for i in range(n):
            frame = map_tensors(lambda x, i=i: x[i::n].contiguous(), frames)
            at = self.painter.spec.cameras(inputs.pose[:, i].contiguous())
            # Views overlap: what one view has painted is known to the next.
            kept = contradicts(self.memory.render(data, at), frame)
            data = integrate_painted(self.memory, data, frame, at, inputs.step, kept)
        return data

    def cameras(self, state: WorldState) -> Tensor:
        """Return the cameras ahead of each environment, (b, views, 4, 4) camera-to-world."""
        pose, config = state.frame.pose, self.config
        depth = state.frame.depth
        assert pose is not None
        assert depth is not None
        h, w = depth.shape[-2:]
        # Rows around the horizon, so that floors do not count as obstacles.
        middle = depth[:, 3 * h // 8 : h // 2 + 1, 3 * w // 8 : 5 * w // 8 + 1]
        free = CLEARANCE * middle.flatten(1).median(1).values.double().clamp(max=1e3)
        motion = pose.new_zeros(len(pose), config.views, 6)
        motion[:, :, 2] = free.clamp(max=config.distance).to(motion.dtype)[:, None]
        for i in range(config.views):
            side = (i + 1) // 2 * (1 if i % 2 else -1)
            motion[:, i, 4] = math.radians(side * config.turn)
        return move(pose[:, None].expand(-1, config.views, 4, 4), motion)


def _by_place(views: Sequence[MemoryView]) -> MemoryView:
    """Return n views (b, ...) as one (b * n, ...), place by place."""
    return map_tensors(lambda *parts: torch.stack(parts, 1).flatten(0, 1), views[0], *views[1:])
