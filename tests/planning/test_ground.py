"""The remembered ground: heights, obstacles, ways and borders of small hand-made places."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.errors import InvalidInputError
from worldsim.planning.ground import Ground, GroundConfig

CONFIG = GroundConfig(cell=0.125, reach=4.0)
EYE = np.array([0.0, 0.0, 1.28])


def plate(x0: float, x1: float, y0: float, y1: float, z: float) -> np.ndarray:
    """A level plate of points, 6 cm apart: (3, n)."""
    x, y = np.meshgrid(np.arange(x0, x1, 0.06), np.arange(y0, y1, 0.06))
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, z)])


def wall(x: float, y0: float, y1: float, z0: float = 0.0, z1: float = 2.5) -> np.ndarray:
    """An upright wall along y: (3, n)."""
    y, z = np.meshgrid(np.arange(y0, y1, 0.06), np.arange(z0, z1, 0.06))
    return np.stack([np.full(y.size, x), y.ravel(), z.ravel()])


def test_a_floor_is_known_and_free_and_what_lies_beyond_is_taken_as_level() -> None:
    ground = Ground.of(plate(-2, 2, -2, 2, 0.0), EYE, CONFIG)
    assert ground.height.shape == (64, 64) and not ground.obstacle.any()
    inside = tuple(ground.cells((1.0, -1.0)))
    outside = tuple(ground.cells((3.0, 0.0)))
    assert ground.known[inside] and not ground.known[outside]
    assert abs(ground.height[inside]) < 0.13 and abs(ground.height[outside]) < 0.13
    way = ground.field(ground.cells((1.0, 0.0))[None])
    # A metre on the same row, to the cell.
    assert abs(way[tuple(ground.cells((0.0, 0.0)))] - 1.0) < 0.13
    # Beyond what is known, a metre counts one and a half.
    assert abs(way[tuple(ground.cells((3.5, 0.0)))] - (1.0 + 1.5 * 1.5)) < 0.3


def test_a_way_leads_around_a_wall_with_room_for_the_body() -> None:
    # A wall from y = -4 to 1 at x = 1: the goal is behind it.
    points = np.concatenate([plate(-4, 4, -4, 4, 0.0), wall(1.0, -4.0, 1.0)], 1)
    ground = Ground.of(points, EYE, CONFIG)
    assert ground.obstacle[tuple(ground.cells((1.0, 0.0)))]
    way = ground.field(ground.cells((2.0, 0.0))[None])
    path = ground.places(ground.descent(way, (0.0, 0.0), 20.0))
    assert np.linalg.norm(path[-1] - (2.0, 0.0)) < 0.2
    crossing = path[np.abs(path[:, 0] - 1.0) < 0.1]
    assert crossing[:, 1].min() > 1.0 + 0.3
    assert way[tuple(ground.cells((0.0, 0.0)))] > 2 * np.hypot(1.0, 1.3)


def test_what_no_way_leads_to_is_infinite_but_for_ways_through_anyhow() -> None:
    points = np.concatenate([plate(-4, 4, -4, 4, 0.0), wall(1.0, -4.0, 4.0)], 1)
    ground = Ground.of(points, EYE, CONFIG)
    goal = ground.cells((2.0, 0.0))[None]
    here = tuple(ground.cells((0.0, 0.0)))
    assert np.isinf(ground.field(goal)[here])
    assert np.isfinite(ground.field(goal, anyhow=True)[here])


def test_steps_are_climbed_ledges_only_fallen_down() -> None:
    low, high = plate(-4, 1, -4, 4, 0.0), plate(1, 4, -4, 4, 0.6)
    ground = Ground.of(np.concatenate([low, high], 1), EYE, CONFIG)
    assert abs(ground.height[tuple(ground.cells((2.0, 0.0)))] - 0.6) < 0.13
    assert np.isfinite(
        ground.field(ground.cells((2.0, 0.0))[None])[tuple(ground.cells((0.0, 0.0)))]
    )
    pit = Ground.of(np.concatenate([low, plate(1, 4, -4, 4, -1.5)], 1), EYE, CONFIG)
    down, up = (pit.cells((x, 0.0)) for x in (2.0, 0.0))
    assert abs(pit.height[tuple(down)] + 1.5) < 0.13
    assert np.isfinite(pit.field(down[None])[tuple(up)]) and np.isinf(
        pit.field(up[None])[tuple(down)]
    )
    # Outward, it is the way from the sources: down from above, not up from below.
    assert np.isfinite(pit.field(up[None], outward=True)[tuple(down)]) and np.isinf(
        pit.field(down[None], outward=True)[tuple(up)]
    )


def test_a_low_beam_stops_and_a_high_one_does_not() -> None:
    floor = plate(-4, 4, -4, 4, 0.0)
    for height, stops in ((1.2, True), (2.2, False)):
        ground = Ground.of(np.concatenate([floor, plate(1.0, 1.3, -4, 4, height)], 1), EYE, CONFIG)
        assert bool(ground.obstacle[tuple(ground.cells((1.1, 0.0)))]) is stops


def test_bumps_are_obstacles_and_sources_may_begin_with_costs() -> None:
    ground = Ground.of(
        plate(-4, 4, -4, 4, 0.0), EYE, CONFIG, bumps=np.array([[1.0, 0.0], [99.0, 0.0]])
    )
    assert ground.obstacle.sum() == 1 and ground.blocked()[tuple(ground.cells((1.3, 0.3)))]
    way = ground.field(ground.cells(((-1.0, 0.0), (0.0, -2.0))), np.array([0.0, 5.0]))
    assert way[tuple(ground.cells((0.0, -2.0)))] == pytest.approx(np.hypot(2, 1), abs=0.7)


def test_the_border_of_what_is_known_is_found_without_gaps_between_points() -> None:
    x, y = np.meshgrid(np.arange(-2, 2, 0.3), np.arange(-2, 2, 0.3))
    sparse = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    # A wall to the east: that side is no border.
    ground = Ground.of(np.concatenate([sparse, wall(2.0, -4.0, 4.0)], 1), EYE, CONFIG)
    cells, size = ground.frontier()
    places = ground.places(cells)
    assert len(cells) > 20 and (size >= 4).all()
    # A metre and a quarter beyond the floor's edge at 2 m, to the cell.
    assert ((np.abs(places).max(1) > 3.0) & (np.abs(places).max(1) < 3.5)).all()
    assert not ((places[:, 0] > 1.4) & (np.abs(places[:, 1]) < 1.8)).any()


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(InvalidInputError, match="cell = 0"):
        GroundConfig(cell=0.0)
