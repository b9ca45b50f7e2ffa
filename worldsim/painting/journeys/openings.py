"""Openings: borders of the known ground that lead a journey on.

A frontier (Yamauchi 1997) is a border between ground that has been seen and ground that has not. A
journey goes to one that its ways lead to, so that every place begins where the last one ends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.memory.gaps import close_mask
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.painting.places.place import EYE_HEIGHT, level_pose
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.protocols import SceneMemory
from worldsim.runtime.types import Array
from worldsim.state import MemoryView

CELL = 0.25
"""Side of a cell of the ground in metres."""
BEYOND = 8.0
"""Metres of ground that are mapped beyond the furthest next place."""
LEAST_BORDER = 1.5
"""Smallest length of a border in metres; shorter ones are pockets."""
FEET = 3.0
"""Metres around a place within which unseen ground is no opening: a level camera does not see the
ground at its own feet."""
STANDOFF = 1.25
"""Metres before a border at which the camera stands. Frontiers lie as far outside the known
ground."""
LEAST_HOLE = 0.1
"""Share of the view that the memory must not know, for a border to be an opening."""
NEAR_METRES = 0.6
"""A camera with a known surface nearer than this ahead stands in known geometry."""
BLIND = 2.0
"""Metres of unseen ground that a camera may stand beyond a border."""
NEAREST_SHARE = 0.75
"""Smallest distance from earlier places, as a share of that to the next place: ways wind."""
LOOK_BACK = 8
"""Cells of the way whose direction the camera looks in."""
MOST_WAY = 1e3
"""Metres of the longest path."""
AROUND, LEAST_POINTS = 1.0, 5
"""Radius in metres and number of the points from which the floor's height is read."""
SPOTS = 12
"""Borders whose views are rendered, the longest ones."""


@dataclass(frozen=True)
class Opening:
    """A way on.

    pose: (4, 4) float32 camera-to-world, level, at the border, looking out.
    metres: length of the border.
    way: metres of the path that leads there.
    hole: share of the view that the memory does not know.
    apart: metres from the nearest earlier place.
    """

    pose: Tensor
    metres: float
    way: float
    hole: float
    apart: float

    @property
    def score(self) -> float:
        """Larger is better: wide, unknown, and far from what was painted."""
        return self.hole + min(self.apart, 8.0) / 8.0 + 0.5 * min(self.metres, 4.0) / 4.0


def find_openings(
    memory: SceneMemory,
    data: Points,
    camera: Camera,
    before: Tensor,
    nearest: float,
    furthest: float,
) -> list[Opening]:
    """Return the ways on from a place, best first; [] for a closed place.

    memory, data: the memory, a batch of one.
    camera: the walker's camera, a batch of one.
    before: (k, 4, 4) poses of earlier places.
    nearest, furthest: metres of way to the next place. It is also at least ``nearest`` away from
        all earlier places.
    """
    pose = camera.pose[0]
    points = data.position[0][:, data.kind[0] == POINT].double().cpu().numpy()
    ground = _ground(points, pose, furthest + BEYOND)
    start = ground.cells(pose[:2, 3].double().numpy())
    # The body may touch something where it stands.
    way = ground.field(start[None], outward=True)
    there = torch.cat([pose[None], before])[:, :2, 3].double().numpy()

    def view_at(pose: Tensor) -> MemoryView:
        return memory.render(data, dataclasses.replace(camera, pose=pose[None]))

    found = []
    for border in _borders(ground, way, there):
        one = _opening(view_at, points, ground, way, border, there, nearest, furthest)
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda one: -one.score)


def _ground(points: Array, pose: Tensor, reach: float) -> Ground:
    eye = pose[:3, 3].double().cpu().numpy()
    near = (np.abs(points[:2] - eye[:2, None]) <= reach + 1.0).all(0)
    return Ground.of(points[:, near], eye, GroundConfig(cell=CELL, reach=reach))


def _borders(ground: Ground, way: Array, there: Array) -> Iterator[Array]:
    """Yield the borders that ways lead to, the longest ones first, as cells (k, 2).

    there: (m, 2) places, whose own feet are left out.
    """
    cells, _ = ground.frontier(smallest=round(LEAST_BORDER / CELL))
    apart = np.linalg.norm(ground.places(cells)[:, None] - there[None], axis=-1)
    cells = cells[np.isfinite(way[cells[:, 0], cells[:, 1]]) & (apart.min(1) >= FEET)]
    picture = np.zeros(ground.known.shape, np.uint8)
    picture[cells[:, 0], cells[:, 1]] = 1
    count, label = cv2.connectedComponents(picture, connectivity=8)
    borders = [np.argwhere(label == i) for i in range(1, count)]
    borders = [one for one in borders if len(one) * CELL >= LEAST_BORDER]
    yield from sorted(borders, key=lambda one: -len(one))[:SPOTS]


def _opening(
    view_at: Callable[[Tensor], MemoryView],
    points: Array,
    ground: Ground,
    way: Array,
    border: Array,
    there: Array,
    nearest: float,
    furthest: float,
) -> Opening | None:
    """Return the camera at a border, None if nothing new is seen from it.

    view_at: renders the memory at a pose (4, 4).
    points: (3, n) positions of the memory's points in metres.
    """
    # The cell of the border that is nearest to its middle.
    goal = border[int(np.linalg.norm(border - border.mean(0), axis=1).argmin())]
    path = ground.descent(way, ground.places(goal), MOST_WAY)[::-1]
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1) * CELL
    length = np.concatenate([[0.0], steps.cumsum()])
    # The cells of the path lie up to one cell beside it.
    wanted = min(furthest - CELL, max(nearest, float(length[-1]) - STANDOFF))
    stop = int(np.searchsorted(length, wanted, "right")) - 1
    xy = ground.places(path[stop])
    ahead = ground.places(goal) - ground.places(path[max(0, min(stop, len(path) - 1) - LOOK_BACK)])
    further = wanted - float(length[-1])
    if further > 0.0:
        # A border nearby: into what is not known, but not far.
        xy = xy + min(further, BLIND) * ahead / max(float(np.linalg.norm(ahead)), 1e-6)
    cell = tuple(ground.cells(xy))
    apart = float(np.linalg.norm(there - xy, axis=1).min())
    if apart < NEAREST_SHARE * nearest or ground.blocked()[cell] or np.isnan(ground.height[cell]):
        return None
    x, y = xy.tolist()
    z = _floor(points, xy, float(ground.height[cell])) + EYE_HEIGHT
    pose = level_pose(x, y, z, math.atan2(ahead[1], ahead[0]))
    view = view_at(pose)
    shown = view.depth[view.mask]
    if len(shown) and float(shown.quantile(0.02)) < NEAR_METRES:
        return None
    hole = 1.0 - float(close_mask(view.mask).float().mean())
    if hole < LEAST_HOLE:
        return None
    return Opening(pose, len(border) * CELL, wanted, round(hole, 6), round(apart, 6))


def _floor(points: Array, xy: Array, about: float) -> float:
    """Return the height of the floor at ``xy`` in metres, finer than that of its cell.

    points: (3, n) positions in metres.
    about: height of the cell.
    """
    near = np.linalg.norm(points[:2] - xy[:, None], axis=0) <= AROUND
    height = points[2, near]
    height = height[np.abs(height - about) <= CELL]
    return float(np.median(height)) if len(height) >= LEAST_POINTS else about
