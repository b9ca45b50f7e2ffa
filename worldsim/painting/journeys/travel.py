"""Where a journey goes next: cameras ahead of a walker, and depth that agrees with the memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import DEPTH_CODES, Camera, code_to_channel
from worldsim.memory.slots import Points
from worldsim.painting.holes import nearest_known
from worldsim.painting.places.place import level_pose
from worldsim.painting.validation.checks import ground_at
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.protocols import SceneMemory
from worldsim.runtime.types import Array
from worldsim.state import Frame, MemoryView

DIRECTIONS = 24
"""Directions in which a next camera is looked for."""
SHORTER = (1.0, 0.7, 0.45)
"""Factors of the distances that are tried in turn, until some camera is found."""
LEAST_OVERLAP = 24
"""Pixels of a view that must overlap before its depth is scaled."""
MOST_SCALE = 2.0
"""Largest factor by which depth is scaled, and the inverse of the smallest."""
LEAST_LOG_SCALE = 0.03
"""Smaller corrections, as the logarithm of the factor, are left out."""
FEET_METRES = 2.5
"""Ground that is nearer than this to a level camera may be out of its sight."""
NEAR_METRES = 0.6
"""A camera with a known surface nearer than this ahead stands in known geometry."""


@dataclass(frozen=True)
class NextCamera:
    """A camera that a journey can go to.

    pose: (4, 4) float32 camera-to-world, level, looking the way that leads there.
    free: metres of free ground in that direction.
    hole: share of the view that the memory does not know.
    score: larger is better.
    """

    pose: Tensor
    free: float
    hole: float
    score: float


def next_cameras(
    memory: SceneMemory,
    data: Points,
    camera: Camera,
    before: Tensor,
    nearest: float,
    furthest: float,
    most: int,
) -> list[NextCamera]:
    """Return cameras ahead of a walker, best first; [] if no way leads anywhere.

    A camera lies on free ground at the end of a straight free way. Long ways into what the memory
    does not know come first, and places near earlier ones last.

    memory, data: the memory, a batch of one.
    camera: the walker's camera, a batch of one.
    before: (k, 4, 4) poses of earlier places.
    nearest, furthest: distance in metres.
    most: number of cameras.
    """
    pose = camera.pose[0]
    ground = ground_at(data, pose, furthest + 2.0)
    ways = [(heading, *_free_way(ground, pose, heading, furthest)) for heading in _headings(pose)]
    for factor in SHORTER:
        found = [
            _candidate(memory, data, camera, before, pose, heading, free, heights, furthest)
            for heading, free, heights in ways
            if free >= nearest * factor
        ]
        good = [one for one in found if one is not None]
        if good:
            return _spread(sorted(good, key=lambda one: -one.score), most)
    return []


def _headings(pose: Tensor) -> list[float]:
    """Return headings in radians all around, the walker's own first."""
    own = math.atan2(float(pose[1, 2]), float(pose[0, 2]))
    return [own + 2.0 * math.pi * i / DIRECTIONS for i in range(DIRECTIONS)]


def _free_way(ground: Ground, pose: Tensor, heading: float, most: float) -> tuple[float, Array]:
    """Return how far a straight way leads, in metres, and the ground's heights along it."""
    cell = ground.config.cell
    steps = np.arange(0.0, most + 1.0 + cell, cell)
    way = np.array([math.cos(heading), math.sin(heading)])
    cells = ground.cells(pose[:2, 3].double().numpy() + steps[:, None] * way)
    height = ground.height[cells[:, 0], cells[:, 1]]
    stopped = ground.blocked()[cells[:, 0], cells[:, 1]] | ~np.isfinite(height)
    # Where the walker stands may touch something.
    stopped[steps < 2 * ground.config.radius] = False
    climb = np.abs(np.diff(np.nan_to_num(height), prepend=height[0])) > ground.config.climb
    # A level camera does not see the ground at its own feet.
    unseen = ~ground.known[cells[:, 0], cells[:, 1]] & (steps > FEET_METRES)
    # Ground that nobody has seen is trusted for two metres.
    blind = np.convolve(unseen, np.ones(round(2.0 / cell)), "full")[: len(unseen)]
    ends = np.flatnonzero(stopped | climb | (blind >= round(2.0 / cell)))
    length = len(steps) if not len(ends) else int(ends[0])
    # A metre short of what ends the way.
    return max(0.0, (length - 1) * cell - 1.0), height


def _candidate(
    memory: SceneMemory,
    data: Points,
    camera: Camera,
    before: Tensor,
    pose: Tensor,
    heading: float,
    free: float,
    heights: Array,
    furthest: float,
) -> NextCamera | None:
    distance = min(free, furthest)
    ground = float(heights[min(len(heights) - 1, round(distance / GroundConfig().cell))])
    here = pose[:3, 3].double().numpy()
    place = here + distance * np.array([math.cos(heading), math.sin(heading), 0.0])
    if math.isfinite(ground):
        place[2] = ground + float(here[2] - heights[0])
    x, y, z = place.tolist()
    there = level_pose(x, y, z, heading)
    view = memory.render(data, dataclasses.replace(camera, pose=there[None]))
    shown = view.depth[view.mask]
    if len(shown) and float(shown.quantile(0.02)) < NEAR_METRES:
        return None
    hole = 1.0 - float(view.coverage[0])
    apart = float((before[:, :2, 3] - there[:2, 3]).norm(dim=1).min()) if len(before) else 10.0
    turn = abs(math.remainder(heading - _headings(pose)[0], 2.0 * math.pi))
    score = min(free, furthest) / furthest + hole + 0.5 * min(apart, 6.0) / 6.0 - 0.15 * turn
    return NextCamera(there, free, hole, round(score, 6))


def _spread(sorted_cameras: list[NextCamera], most: int) -> list[NextCamera]:
    """Return the best cameras that are at least 2 m apart."""
    chosen: list[NextCamera] = []
    for one in sorted_cameras:
        if all(float((one.pose - other.pose)[:3, 3].norm()) >= 2.0 for other in chosen):
            chosen.append(one)
        if len(chosen) == most:
            break
    return chosen


Alignment: TypeAlias = Literal["group", "view", "none"]
"""Whether views that are painted at once have one factor, one each, or none."""


def align_depth(
    frame: Frame, known: MemoryView, alignment: Alignment = "view"
) -> tuple[Frame, Tensor]:
    """Scale painted depths to those of the memory; returns the frame and the factors (n,).

    A factor is the median ratio of inverse depths on the overlap, the pixels that both know. Pixels
    that the painter copied stay.

    alignment: ``view`` gives each view a factor of the pixels that it did not copy; one with little
        overlap takes the median of the others. ``group`` gives all views one factor, for which
        copied pixels count, too. ``none`` changes nothing. No way was found better than the others
        (docs/experiments/journeys.md).
    """
    painted, there = frame.inverse_depth, known.inverse_depth
    assert painted is not None
    copied = known.mask & (painted == there)
    overlap = known.mask & (painted > 0) & (there > 0)
    log = (there.float() / painted.float().clamp(min=1.0)).log()
    own = _factors(log, overlap, copied, alignment)
    own = own.clamp(-math.log(MOST_SCALE), math.log(MOST_SCALE))
    own = torch.where(own.abs() < LEAST_LOG_SCALE, 0.0, own)
    scaled = (painted * own.exp()[:, None, None]).round().clamp(0, DEPTH_CODES).int()
    # Nothing turns into sky.
    scaled = torch.where(painted > 0, scaled.clamp(min=1), 0)
    code = torch.where(copied, painted, scaled)
    return dataclasses.replace(frame, inverse_depth=code), own.exp()


def _factors(log: Tensor, overlap: Tensor, copied: Tensor, alignment: Alignment) -> Tensor:
    """Return logarithms of factors (n,) from those of the ratios (n, h, w) on the overlap."""
    none = torch.zeros(len(log))
    if alignment == "none":
        return none
    if alignment == "group":
        return none + log[overlap].median() if int(overlap.sum()) >= LEAST_OVERLAP else none
    overlap = overlap & ~copied
    found = [
        log[i][overlap[i]].median() if int(overlap[i].sum()) >= LEAST_OVERLAP else None
        for i in range(len(log))
    ]
    some = [x for x in found if x is not None]
    if not some:
        return none
    rest = torch.stack(some).median()
    return torch.stack([rest if x is None else x for x in found])


def fill_holes(known: MemoryView, poses: Tensor) -> Frame:
    """Return the memory's views (n, ...) as frames; holes take the nearest known pixel.

    poses: (n, 4, 4) the cameras.
    """
    rgb, code = known.rgb.clone(), known.inverse_depth.clone()
    for i, mask in enumerate(known.mask.numpy()):
        if mask.any() and not mask.all():
            index = torch.from_numpy(nearest_known(mask)[1])
            rgb[i] = rgb[i].flatten(1)[:, index]
            code[i] = code[i].flatten()[index]
    return Frame(rgb, code, poses)


def whole_view(frame: Frame) -> MemoryView:
    """Return a frame as a view of which everything is known."""
    code = frame.inverse_depth
    assert code is not None
    middle = torch.full((len(code), 2, *code.shape[1:]), 8, dtype=torch.uint8)
    source = (code_to_channel(code) * 255.0).round().to(torch.uint8)
    return MemoryView(frame.rgb, code, torch.ones_like(code, dtype=torch.bool), middle, source)
