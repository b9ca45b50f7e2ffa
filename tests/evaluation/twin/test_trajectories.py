"""Scripted walks in TinyRoom: they come back, the same every time."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.errors import InvalidInputError
from worldsim.evaluation.twin.trajectories import (
    TRAJECTORIES,
    UNDONE,
    TrajectoryConfig,
    moves_of,
    stack,
)

CONFIG = TrajectoryConfig("worldsim/TinyRoom-v0", {"size": 16}, history=4)
YAW = list(TRAJECTORIES).index("yaw")


def test_every_move_is_undone() -> None:
    assert all(UNDONE[UNDONE[move]] == move for move in UNDONE)
    assert all(set(moves) <= set(UNDONE) for moves in TRAJECTORIES.values())
    assert [CONFIG.name(i) for i in (0, YAW, 6 + YAW)] == ["forward-back", "yaw", "yaw"]


def test_a_turn_comes_back_the_same_way() -> None:
    recorder = CONFIG.recorder()
    one, again = recorder.record(YAW), CONFIG.recorder().record(YAW)
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
    # 4 frames of the policy, 13 steps out and 13 back.
    walks = stack([one], [0], CONFIG, "yaw")
    assert one.rgb.shape == (30, 3, 16, 16) and (walks.out, walks.turn) == (13, 16)
    for m in range(1, 14):
        np.testing.assert_allclose(one.pose[16 + m], one.pose[16 - m], atol=1e-4)
        np.testing.assert_array_equal(one.rgb[16 + m], one.rgb[16 - m])
    assert not np.allclose(one.pose[16], one.pose[3], atol=0.1)
    # The second walk of a trajectory is another one.
    assert not np.array_equal(recorder.record(6 + YAW).rgb, one.rgb)


def test_actions_without_the_moves_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="no actions named forward, backward"):
        moves_of(gym.spaces.Discrete(4), "Cart-v0")
    with pytest.raises(InvalidInputError, match="at least two frames"):
        TrajectoryConfig("Cart-v0", {}, history=1)
