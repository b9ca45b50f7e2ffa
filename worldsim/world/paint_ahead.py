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
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.gaps import close_gaps, close_mask
from worldsim.memory.painted import integrate_painted
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import Points
from worldsim.memory.strays import hang_alone
from worldsim.protocols import GraphPainter, Painter, PaintInputs, identity_of
from worldsim.runtime.json_config import check_ranges, to_json
from worldsim.runtime.ranges import Count, NotNegative, Share
from worldsim.state import Frame, MemoryView, WorldState, map_tensors
from worldsim.world.survey import GraphedSurveyor, Surveyor

NEVER = -(10**6)
"""Value of :attr:`worldsim.state.WorldState.looked` before the first look ahead."""
NEVER_AGAIN = 2**62
"""Its value in environments that are not painted ahead: the padding of a batch."""
SURFACE = 0.15
"""Largest relative difference of the inverse depths of one surface."""


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
    """A place ahead is painted if the memory covers less than this share of one of its views."""
    gaps: Share = 1.0
    """How much a pixel in a gap between the splats of a surface counts as covered. 1: as a known
    pixel. 0: as a hole, so that walls near the camera, of which splats show only a part, are
    painted again from near."""
    takes: Takes = Takes.NOTHING
    """What the memory takes from dreamed frames: ``all``, ``known`` or ``nothing``. Blur of dreamed
    frames then never comes back through the memory: FD 164 with ``nothing``, 221 with ``known``
    (docs/experiments/painted_memory.md)."""
    views: Count = 1
    """Views at the camera ahead: straight on, then to both sides in turn. More make dreams a little
    more like true frames, and cost as many times as much (docs/experiments/painted_memory.md)."""
    turn: Annotated[float, Ge(1), Le(180)] = 50.0
    """Degrees from one of these views to the next."""
    whole: bool = True
    """Whether all views of a place are painted if one of them is covered too little. Otherwise
    those views alone are painted, which takes less time."""

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


@dataclass(frozen=True)
class Look:
    """What a look ahead changes in the states of a batch.

    index: (m,) int64, the environments that looked.
    looked: (m,) int64, the step at which they did.
    painted: (k,) int64, those whose places were painted, or None for none.
    memory: the memories of these.
    """

    index: Tensor
    looked: Tensor
    painted: Tensor | None = None
    memory: Points | None = None

    def apply(self, state: WorldState, in_place: bool = False) -> WorldState:
        """Return the states after the look.

        in_place: whether the tensors of ``state`` are changed, instead of new ones made.
        """

        def put(index: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            def one(mine: Tensor, new: Tensor) -> Tensor:
                copy = mine.index_copy_ if in_place else mine.index_copy
                return copy(0, index, new.to(mine.dtype))

            return one

        assert state.looked is not None
        looked, memory = put(self.index)(state.looked, self.looked), state.memory
        if self.painted is not None:
            memory = map_tensors(put(self.painted), memory, self.memory)
        return dataclasses.replace(state, looked=looked, memory=memory)


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
        self._running = painter
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
        c = self.config
        self.survey = Surveyor(
            memory, painter.spec, c.distance, c.coverage, c.gaps, c.views, c.turn
        )
        self._graphed: GraphedSurveyor | None = None

    def use_graphs(self, graphs: bool) -> None:
        """Set whether looks, and a :class:`worldsim.protocols.GraphPainter`, run as CUDA graphs.

        graphs: has no effect for a world on a CPU.
        """
        self._graphed = GraphedSurveyor(self.survey) if graphs else None
        can = graphs and isinstance(self.painter, GraphPainter)
        self._running = self.painter.with_graphs() if can else self.painter  # type: ignore[attr-defined]

    @property
    def identity(self) -> str:
        """SHA-256 of all settings and of the painter's identity."""
        told = to_json([self.config, self.painter.spec, identity_of(self.painter)])
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def begin(self, state: WorldState) -> WorldState:
        """Return the states as states of painted dreams, which have not looked ahead yet."""
        return dataclasses.replace(state, looked=torch.full_like(state.step, NEVER))

    @torch.no_grad()
    def look(self, state: WorldState) -> Look | None:
        """Look ahead where it is due, and paint what the memory does not cover.

        All places that need it are painted in one call of the painter. An environment's result does
        not depend on the others. Returns None if no look is due.
        """
        if state.looked is None:
            return None
        due = state.step - state.looked >= self.config.every
        index = due.nonzero()[:, 0]
        if not len(index):
            return None
        # Of the whole state, looks need little, and what a batch does as one is not copied.
        every = len(index) == len(state)
        at = state if every else _few(state, index)
        # Parts of a batch have many sizes, each of which would need a graph.
        graphed = self._graphed if every and index.is_cuda else None
        found = (graphed or self.survey)(at.memory, at.frame)
        # One copy to the host decides everything that follows.
        needed = found.needed.cpu()
        rows = needed.any(1).nonzero()[:, 0]
        if not len(rows):
            return Look(index, at.step)
        if self.config.whole:
            needed = torch.ones_like(needed)
        needy = rows.to(index.device)
        few = at if len(rows) == len(at) else _few(at, needy)
        view = map_tensors(lambda x: x[needy], found.view)
        memory = self._paint_needed(few, view, found.pose[needy], needed[rows])
        return Look(index, at.step, index[needy], memory)

    def _paint_needed(
        self, state: WorldState, view: MemoryView, pose: Tensor, needed: Tensor
    ) -> Points:
        """Return the memories with the views painted that are needed.

        view, pose: (b, n, ...), at the cameras ahead.
        needed: (b, n) bool on the CPU, at least one for each place.
        """
        counts, device = needed.sum(1), pose.device
        parts, order = [], []
        # Places with as many needed views are painted in one call.
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero()[:, 0]
            which = needed[rows].nonzero()[:, 1].view(-1, count).to(device)
            order.append(rows.to(device))
            some = state if len(rows) == len(state) else _few(state, order[-1])
            at = (order[-1][:, None], which)
            shown = map_tensors(lambda x, at=at: x[at].flatten(0, 1), view)
            inputs = PaintInputs(shown, pose[at], some.seed, some.step)
            parts.append(self._paint(some.memory, inputs))
        if len(parts) == 1:
            return parts[0]
        back = torch.cat(order).argsort()
        return map_tensors(lambda *x: torch.cat(x)[back], parts[0], *parts[1:])

    def _paint(self, data: Points, inputs: PaintInputs) -> Points:
        """Return the memories of a batch with their places painted."""
        frames = map_tensors(lambda x: x.to(inputs.seed.device), self._running.paint(inputs))
        n = inputs.pose.shape[1]
        for i in range(n):
            frame = map_tensors(lambda x, i=i: x[i::n].contiguous(), frames)
            at = self.survey.camera(inputs.pose[:, i])
            # Views overlap: what one view has painted is known to the next.
            kept = contradicts(self.memory.render(data, at), frame)
            data = integrate_painted(self.memory, data, frame, at, inputs.step, kept)
        return data


def _few(state: WorldState, index: Tensor) -> WorldState:
    """Return the environments at ``index``, of which looks see memory, frame, seed and step."""
    kept = ("memory", "frame", "seed", "step", "looked")
    few = {name: map_tensors(lambda x: x[index], getattr(state, name)) for name in kept}
    return dataclasses.replace(state, **few)
