"""Painted views in the memory of training walks, so that the network learns to trust them.

In use, a painter completes the memory ahead of the walker (:mod:`worldsim.world.paint_ahead`). In
training, a share of the walks has such views too. From a random frame on, the memory of such a walk
takes from its frames only what a painted dream's memory takes (:class:`Takes`), so what lies ahead
is known from paintings alone. In most of these walks a true frame that lies ahead is noised and
redrawn by the painter, so the painted view has the painter's look and the true layout. In the
others the painter invents the view. The loss is masked where a painting contradicts the truth
(:attr:`worldsim.training.buffer.Windows.invented`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.gaps import close_mask
from worldsim.memory.painted import integrate_painted, is_painted
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import Points
from worldsim.protocols import Painter, PainterSpec, PaintInputs, RedrawsViews
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, Share
from worldsim.state import Frame, concatenate, map_tensors
from worldsim.world.paint_ahead import Takes, contradicts

RecordT = TypeVar("RecordT")

PIXEL = 0.01
"""Largest difference, in pixels, between the focal lengths and centres of one camera."""


@dataclass(frozen=True)
class PaintedConfig:
    """Painted views in the memory of training walks."""

    share: Share = 0.0
    """Share of the walks whose memory holds painted views; 0.4 is a good value for worlds whose
    dreams are painted ahead. 0 needs no painter."""
    painter: str = "freedoom-painter"
    """Name of a shipped painter, or a folder. It must have the recording's camera."""
    invented: Share = 1 / 3
    """Share of these walks whose painted views are invented. In the others, true frames that lie
    ahead are redrawn."""
    level: tuple[float, float] = (0.3, 0.6)
    """Range of the noise levels from which true frames are redrawn, uniform."""
    since: tuple[int, int] = (0, 48)
    """Range of the frame, uniform, after which a walk's memory knows new places from paintings
    alone. Before it, true frames enter the memory, as before a dream begins."""
    takes: Takes = Takes.NOTHING
    """What the memory takes from later frames, true and dreamed ones: ``all``, ``known`` or
    ``nothing``. It should be that of the dreams (:class:`worldsim.world.PaintAheadConfig`)."""
    every: Count = 2
    """Frames from one look ahead to the next."""
    ahead: tuple[int, int] = (2, 12)
    """Range of the number of frames that a painted view lies ahead, uniform."""
    coverage: Share = 0.8
    """A view is painted if the memory covers less than this share of it. Gaps between the splats of
    a surface count as covered."""
    num_inference_steps: Count = 8
    """Network evaluations of the painter per view."""
    places: Count = 32
    """Views painted at once."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 0.0 < self.level[0] <= self.level[1] <= 1.0:
            raise InvalidInputError(
                f"PaintedConfig.level = {self.level!r}: two noise levels in (0, 1], lower one first"
            )
        if not 1 <= self.ahead[0] <= self.ahead[1]:
            raise InvalidInputError(
                f"PaintedConfig.ahead = {self.ahead!r}: two numbers of frames of at least 1, "
                f"smaller one first"
            )
        if not 0 <= self.since[0] <= self.since[1]:
            raise InvalidInputError(
                f"PaintedConfig.since = {self.since!r}: two numbers of frames of at least 0, "
                f"smaller one first"
            )


@dataclass(frozen=True)
class PaintedWalks:
    """Which rows of a batch of walks are painted ahead.

    painted: (m,) int64, their indices.
    since: (m,) int64, the frames after which they are, see :attr:`PaintedConfig.since`.
    invented: (m,) bool, whether their views are invented; the others are redrawn.
    seed: (m,) int64, keys of the painter's random numbers.
    """

    painted: Tensor
    since: Tensor
    invented: Tensor
    seed: Tensor

    def __len__(self) -> int:
        return len(self.painted)

    def closed(self, rows: int, step: int) -> Tensor:
        """Return which of ``rows`` memories take only some pixels of frame ``step``, bool."""
        closed = torch.zeros(rows, dtype=torch.bool, device=self.since.device)
        return closed.index_copy_(0, self.painted, self.since < step)


class PaintedViews:
    """Paints ahead of training walks.

    painter: has the recording's camera, and redraws views unless all are invented.
    memory: the memory through which the walks pass. It must not integrate in place.
    config: where and how often.

    Raises MissingGeometryError for another memory than points, and InvalidInputError for a painter
    that cannot redraw.
    """

    def __init__(self, painter: Painter, memory: object, config: PaintedConfig) -> None:
        if not isinstance(memory, PointMemory):
            raise MissingGeometryError(
                f"painted views enter a point memory, and these walks have "
                f"{type(memory).__name__}: set --painted.share 0"
            )
        if config.invented < 1 and not isinstance(painter, RedrawsViews):
            raise InvalidInputError(
                f"{type(painter).__name__} cannot redraw true frames "
                f"(worldsim.protocols.RedrawsViews): set --painted.invented 1"
            )
        self.painter, self.memory, self.config = painter, memory, config
        self.count = 0
        """Views painted so far."""
        self._shown: list[Tensor] = []

    def shown_share(self) -> float:
        """Return the share of the pixels of painted walks that show painted points, so far.

        Frames count from the first look on.
        """
        return float(torch.stack(self._shown).mean()) if self._shown else 0.0

    def walks(self, rows: int, generator: torch.Generator) -> PaintedWalks:
        """Draw which of ``rows`` walks are painted ahead, and how."""
        device = generator.device
        chosen, kind = torch.rand(2, rows, generator=generator, device=device)
        seed = torch.randint(2**62, (rows,), generator=generator, device=device)
        low, high = self.config.since
        since = torch.randint(low, high + 1, (rows,), generator=generator, device=device)
        painted = (chosen < self.config.share).nonzero()[:, 0]
        invented = kind[painted] < self.config.invented
        return PaintedWalks(painted, since[painted], invented, seed[painted])

    @torch.no_grad()
    def paint(
        self,
        data: Points,
        walks: PaintedWalks,
        step: int,
        remaining: Tensor,
        frame_at: Callable[[Tensor, Tensor], Frame],
        generator: torch.Generator,
    ) -> Points:
        """Return the memories after frame ``step``, with painted views ahead where they are due.

        data: (b, ...) the memories of all walks.
        remaining: (b,) int64, frames of the walks after this one.
        frame_at: (rows, frames ahead), both (k,) int64, to the true frames, with depth and pose.
        generator: draws how far ahead the views lie, and the levels of redrawn ones.
        """
        c, rows = self.config, walks.painted
        if not len(rows) or step % c.every:
            return data
        low, high = c.ahead
        device = generator.device
        ahead = torch.randint(low, high + 1, rows.shape, generator=generator, device=device)
        level = torch.rand(rows.shape, generator=generator, device=device)
        level = c.level[0] + (c.level[1] - c.level[0]) * level
        due = ((ahead <= remaining[rows]) & (walks.since <= step)).nonzero()[:, 0]
        if not len(due):
            return data
        truth = frame_at(rows[due], ahead[due])
        assert truth.pose is not None
        camera = self.painter.spec.cameras(truth.pose)
        mine = take_rows(data, rows[due])
        covered = close_mask(self.memory.render(mine, camera).mask).float().mean((1, 2))
        open_ = (covered < c.coverage).nonzero()[:, 0]
        if not len(open_):
            return data
        due, truth, mine = due[open_], take_rows(truth, open_), take_rows(mine, open_)
        assert truth.pose is not None
        camera = self.painter.spec.cameras(truth.pose)
        view = self.memory.render(mine, camera)
        inputs = PaintInputs(view, truth.pose[:, None], walks.seed[due], torch.full_like(due, step))
        painted = self._painted(inputs, truth, walks.invented[due], level[due])
        self.count += len(due)
        painted = map_tensors(lambda x: x.to(device), painted)
        kept = contradicts(view, painted)
        after = integrate_painted(self.memory, mine, painted, camera, inputs.step, kept)
        return map_tensors(lambda old, new: old.index_copy(0, rows[due], new), data, after)

    def _painted(self, inputs: PaintInputs, truth: Frame, invented: Tensor, level: Tensor) -> Frame:
        """Return the painted views, invented or redrawn, in order."""
        parts, places = [], []
        for kind in (True, False):
            some = (invented == kind).nonzero()[:, 0]
            if not len(some):
                continue
            mine = take_rows(inputs, some)
            if kind:
                frame = self.painter.paint(mine)
            else:
                assert isinstance(self.painter, RedrawsViews)
                frame = self.painter.redraw(mine, take_rows(truth, some), level[some])
            parts.append(frame)
            places.append(some)
        back = torch.cat(places).argsort()
        return map_tensors(lambda x: x[back.to(x.device)], concatenate(parts))

    @torch.no_grad()
    def shown_pixels(self, data: Points, walks: PaintedWalks, camera: Camera) -> Tensor:
        """Return which pixels of painted walks show painted points, (m, h, w) bool.

        data, camera: (b, ...) memories and cameras of all walks.
        """
        rows = walks.painted
        at = Camera(camera.pose[rows], camera.intrinsics[rows], camera.height, camera.width)
        shown = painted_pixels(self.memory, take_rows(data, rows), at)
        self._shown.append(shown.float().mean())
        return shown


def take_rows(record: RecordT, rows: Tensor) -> RecordT:
    """Return the rows (k,) int64 of a record."""
    return map_tensors(lambda x: x.index_select(0, rows), record)


def painted_pixels(memory: PointMemory, data: Points, camera: Camera) -> Tensor:
    """Return which pixels at ``camera`` show painted points, (b, h, w) bool."""
    marks = is_painted(data).to(torch.uint8)[:, None].expand_as(data.colour)
    return memory.render(dataclasses.replace(data, colour=marks.contiguous()), camera).rgb[:, 0] > 0


def check_camera(spec: PainterSpec, intrinsics: Tensor | None, height: int, width: int) -> None:
    """Raise InvalidInputError unless a painter has the camera of a recording.

    intrinsics: (4,) ``fx fy cx cy`` pixels of frames of ``height`` by ``width``.
    """
    known = None if intrinsics is None else intrinsics.tolist()
    same = known is not None and all(
        abs(a - b) <= PIXEL for a, b in zip(known, spec.intrinsics, strict=True)
    )
    if not same or (spec.height, spec.width) != (height, width):
        raise InvalidInputError(
            f"the painter paints {spec.height}x{spec.width} pixels with intrinsics "
            f"{spec.intrinsics}, and the recording has {height}x{width} with {known}: painted "
            f"views need the recording's camera. Use another --painted.painter, or "
            f"--painted.share 0"
        )
