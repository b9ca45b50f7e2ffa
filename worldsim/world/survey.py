"""What the memory shows at the cameras ahead of a walker, and which of these views it lacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldsim.camera import Camera, move
from worldsim.memory.gaps import close_mask
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import Points
from worldsim.protocols import PainterSpec
from worldsim.runtime.cuda_graphs import capture_graph, copy_in
from worldsim.state import Frame, MemoryView, map_tensors

CLEARANCE = 0.6
"""The camera ahead moves at most this share of the known depth in the middle of the view."""


@dataclass(frozen=True)
class Survey:
    """The views ahead of ``b`` walkers.

    pose: (b, n, 4, 4) float32 camera-to-world.
    view: (b, n, ...) what the memories show there.
    needed: (b, n) bool, views that are covered too little.
    """

    pose: Tensor
    view: MemoryView
    needed: Tensor


@dataclass(frozen=True)
class Surveyor:
    """Looks ahead of walkers.

    memory: the memory that is looked at.
    spec: of the painter, whose cameras look.
    distance, coverage, gaps, views, turn: see :class:`worldsim.world.paint_ahead.PaintAheadConfig`.
    lens: by device, (4,) the cameras' intrinsics. Filled at the first look, because each copy from
        the host waits for a GPU, and cannot be part of a CUDA graph.
    """

    memory: PointMemory
    spec: PainterSpec
    distance: float
    coverage: float
    gaps: float
    views: int
    turn: float
    lens: dict[torch.device, Tensor] = field(default_factory=dict)

    def __call__(self, data: Points, frame: Frame) -> Survey:
        """Look ahead of the cameras of ``frame`` (b, ...) in the memories ``data``."""
        poses = self.cameras(frame)
        views = [self.memory.render(data, self.camera(poses[:, i])) for i in range(self.views)]
        covered = torch.stack([self.covered(view) for view in views], 1)
        view = map_tensors(lambda *parts: torch.stack(parts, 1), views[0], *views[1:])
        return Survey(poses, view, covered < self.coverage)

    def camera(self, pose: Tensor) -> Camera:
        """Return the painter's cameras at ``pose`` (b, 4, 4)."""
        lens = self.lens.get(pose.device)
        if lens is None:
            lens = torch.tensor(self.spec.intrinsics, device=pose.device)
            self.lens[pose.device] = lens
        return Camera(
            pose.contiguous(), lens.expand(len(pose), 4), self.spec.height, self.spec.width
        )

    def covered(self, view: MemoryView) -> Tensor:
        """Return the share of each view that counts as covered, (b,) float32."""
        closed = close_mask(view.mask).float()
        if self.gaps < 1.0:
            closed = torch.lerp(view.mask.float(), closed, self.gaps)
        return closed.mean((1, 2))

    def cameras(self, frame: Frame) -> Tensor:
        """Return the cameras ahead of each walker, (b, n, 4, 4) camera-to-world."""
        pose, depth = frame.pose, frame.depth
        assert pose is not None
        assert depth is not None
        h, w = depth.shape[-2:]
        # Rows around the horizon, so that floors do not count as obstacles.
        middle = depth[:, 3 * h // 8 : h // 2 + 1, 3 * w // 8 : 5 * w // 8 + 1]
        free = CLEARANCE * middle.flatten(1).median(1).values.double().clamp(max=1e3)
        motion = pose.new_zeros(len(pose), self.views, 6)
        motion[:, :, 2] = free.clamp(max=self.distance).to(motion.dtype)[:, None]
        for i in range(self.views):
            side = (i + 1) // 2 * (1 if i % 2 else -1)
            motion[:, i, 4] = math.radians(side * self.turn)
        return move(pose[:, None].expand(-1, self.views, 4, 4), motion)


class GraphedSurveyor:
    """A surveyor as CUDA graphs, one for each number of walkers.

    Memories and frames are copied into a graph's buffers. A survey is valid until the next one.
    """

    def __init__(self, surveyor: Surveyor) -> None:
        self.surveyor = surveyor
        self._captured: dict[tuple[int, int], _Captured] = {}

    def __getstate__(self) -> dict[str, object]:
        # Graphs belong to a process; they are captured again.
        return {"surveyor": self.surveyor, "_captured": {}}

    def __call__(self, data: Points, frame: Frame) -> Survey:
        """See :class:`Surveyor`."""
        key = (len(data), data.capacity)
        if key not in self._captured:
            self._captured[key] = _Captured(self.surveyor, data, frame)
        return self._captured[key](data, frame)


class _Captured:
    def __init__(self, survey: Callable[[Points, Frame], Survey], data: Points, frame: Frame):
        self.survey = survey
        self.data, self.frame = map_tensors(torch.clone, (data, frame))
        self.found: Survey
        self.replay = capture_graph(self._run, data.kind.device)

    def _run(self) -> None:
        self.found = self.survey(self.data, self.frame)

    def __call__(self, data: Points, frame: Frame) -> Survey:
        map_tensors(copy_in, self.data, data)
        map_tensors(copy_in, self.frame, frame)
        self.replay()
        return self.found
