"""How ``experiments/painter/journeys.py`` counts: refusals, walls, areas and ratios, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.painter.journeys import cells_near, mean, ratio, refusals, walls_of
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import Points
from worldsim.painting.journeys.trip import Attempt, Stop, Trip
from worldsim.painting.places.place import level_pose
from worldsim.painting.validation.validator import Verdict

pytestmark = pytest.mark.fast
EYE = 1.28125


def attempt(camera: int, views: list[int], kept: list[int], step: int = 0) -> Attempt:
    verdicts = [[Verdict("blur", 0.1, 0.2, i in kept)] for i in views]
    return Attempt(camera, views, step, [1.0] * len(views), verdicts, kept)


def points_of(places: list[np.ndarray]) -> Points:
    position = torch.from_numpy(np.concatenate(places)).float()[None]
    return PointMemory().from_points(position, torch.zeros_like(position, dtype=torch.uint8))


def test_refusals_are_counted_from_the_log() -> None:
    log = [
        attempt(0, [0, 1, 7], [0, 1]),
        attempt(0, [7], []),
        # The camera was given up; another one is tried.
        attempt(1, [0, 1, 7], [0, 1, 7]),
        attempt(1, [2, 3], [2]),
        attempt(1, [3], [3]),
        attempt(1, list(range(8)), list(range(8)), step=-1),
    ]
    stops = [Stop("a hall", {}, [0.0] * 16, 0.0, True, log), Stop("", {}, [0.0] * 16, 1.0, False)]
    found = refusals(Trip(tuple(stops), (), PointMemory().empty(1)))
    assert found == {
        "painted_places": 1,
        "cameras": 2,
        "cameras_refused": 1,
        "groups": 3,
        "groups_passed_at_once": 1,
        "attempts": 5,
        "views": 10,
        "views_refused": 3,
        "checks": {"blur": 3},
    }


def test_walls_of_a_room() -> None:
    """A room of 4 m by 6 m has 20 m of wall."""
    x, y = (a.ravel() for a in np.meshgrid(np.arange(-2, 2, 0.125), np.arange(-3, 3, 0.125)))
    floor = np.stack([x + 0.06, y + 0.06, np.zeros_like(x)], 1)
    height = np.arange(0.06, 2.5, 0.125)
    sides = []
    for axis, half, length in ((0, 2.0, 3.0), (1, 3.0, 2.0)):
        along, up = (a.ravel() for a in np.meshgrid(np.arange(-length, length, 0.125), height))
        for sign in (-1.0, 1.0):
            wall = np.empty((len(along), 3))
            wall[:, axis] = sign * (half + 0.1)
            wall[:, 1 - axis], wall[:, 2] = along + 0.06, up
            sides.append(wall)
    found = walls_of(points_of([floor, *sides]), level_pose(z=EYE))
    assert found["floor_m2"] == pytest.approx(24.0, rel=0.1)
    assert found["wall_m"] == pytest.approx(20.0, rel=0.1)


def test_cells_beside_points_count() -> None:
    near = cells_near(points_of([np.array([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]])]))
    assert len(near) == 27


def test_ratios_and_means() -> None:
    mine = np.array([2.0, 4.0]), np.array([1.0, 1.0])
    real = np.array([3.0, 3.0]), np.array([2.0, 2.0])
    assert ratio(mine, real) == {"value": 2.0, "ci95": None}
    assert ratio(mine, (np.array([]), np.array([]))) == {}
    five = ratio((np.full(5, 3.0), np.ones(5)), (np.full(6, 2.0), np.ones(6)))
    assert five == {"value": 1.5, "ci95": [1.5, 1.5]}
    assert mean([[1.0, 3.0], [], [5.0]]) == {"value": 3.0, "ci95": None}
