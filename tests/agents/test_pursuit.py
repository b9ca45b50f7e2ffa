"""Following ways: turns, straight lines, and what is bumped into."""

from __future__ import annotations

import math

import numpy as np

from worldsim.agents.pursuit import (
    BACKWARD,
    FORWARD,
    LEFT,
    RIGHT,
    Pursuit,
    PursuitConfig,
    wrap_angle,
)
from worldsim.planning.ground import Ground, GroundConfig

HERE = np.zeros(2)


def pursuit() -> Pursuit:
    return Pursuit(PursuitConfig(), np.random.default_rng(0))


def open_ground(n: int = 64) -> Ground:
    """16 m of level ground around (0, 0)."""
    flat, known, free = np.zeros((n, n), np.float32), np.ones((n, n), bool), np.zeros((n, n), bool)
    return Ground(flat, known, free, np.full(2, -8.0), GroundConfig(cell=0.25, reach=8.0))


def test_it_turns_until_the_next_step_of_a_turn_would_overshoot() -> None:
    walker, heading, acts = pursuit(), 0.0, []
    for turned in (7.0, 12.3, 14.1, 14.1, 14.1, 14.1, 14.1):
        acts.append(walker.act(HERE, heading, math.pi / 2))
        heading += math.radians(turned)
    # 90 degrees: 7 + 12.3 + 5 x 14.1 = 89.8.
    assert acts == [LEFT] * 7
    assert walker.act(HERE, heading, math.pi / 2) == FORWARD
    assert (
        walker.act(HERE, 0.0, math.radians(10)) == FORWARD
        and walker.act(HERE, 0.0, math.radians(-20)) == RIGHT
    )
    # What it overshot by is less than a turn back would be.
    assert walker.act(HERE, math.radians(-27), math.radians(-20)) == FORWARD


def test_steps_of_turns() -> None:
    off = np.radians([0.0, 6.0, -21.0, 90.0])
    # 90 degrees: 7 and then 83 / 14.1, rounded up.
    assert pursuit().steps(off).tolist() == [0.0, 1.0, 2.0, 7.0]
    assert np.allclose(wrap_angle(np.array([1.5 * np.pi, -0.5])), [-0.5 * np.pi, -0.5])


def test_two_steps_forward_that_lead_nowhere_are_a_bump_and_bumps_grow() -> None:
    walker = pursuit()
    felt = []
    for _ in range(6):
        felt.append(walker.feel(HERE, 0.0)[0])
        walker.act(HERE, 0.0, 0.0)
    assert felt == [False, False, True, False, True, False]
    # Three places across the way, then seven.
    assert np.allclose(walker.bumps[:3], [(0.65, -0.25), (0.65, 0.0), (0.65, 0.25)])
    assert len(walker.bumps) == 10 and np.allclose(walker.bumps[3], (0.65, -0.75))


def test_who_is_stuck_backs_off() -> None:
    walker, acts = pursuit(), []
    stuck = []
    for _ in range(12):
        stuck.append(walker.feel(HERE, 0.0)[1])
        acts.append(walker.act(HERE, 0.0, 0.0))
    assert stuck.index(True) == 8
    assert acts[:8] == [FORWARD] * 8 and acts[8:11] == [BACKWARD] * 3 and acts[11] in (LEFT, RIGHT)


def test_it_moves_on_freely_where_nothing_stops_it() -> None:
    walker, place = pursuit(), np.zeros(2)
    for _ in range(20):
        assert walker.feel(place, 0.0) == (False, False)
        assert walker.act(place, 0.0, 0.0) == FORWARD
        place = place + np.array([0.9, 0.0])
    assert not walker.bumps


def test_it_heads_for_the_furthest_place_in_a_straight_line() -> None:
    ground = open_ground()
    way = ground.field(ground.cells((4.0, 4.0))[None])
    assert abs(pursuit().towards(ground, way, np.array([0.1, 0.1])) - math.pi / 4) < 0.1
    # A wall at x = 1 up to y = 3: it heads past its end, not through it.
    ground.obstacle[36, :44] = True
    way = ground.field(ground.cells((3.0, 0.0))[None])
    assert pursuit().towards(ground, way, np.array([0.1, 0.1])) > math.radians(60)
