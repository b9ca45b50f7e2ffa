"""Energy distances by hand, and futures of a room."""

from __future__ import annotations

import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.errors import InvalidInputError
from worldsim.evaluation.twin import outcomes
from worldsim.world.image_env import make_env


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_energy_distance_by_hand() -> None:
    # 2 * 3 - 0 - 0.
    assert outcomes.energy_distance(column(0, 0), column(3, 3)) == 6.0
    # 2 * (1 + 3 + 1 + 1) / 4 - 2 - 2: below 0, by chance.
    assert outcomes.energy_distance(column(0, 2), column(1, 3)) == -1.0
    # Equal means, other spread: 2 * 1 - 2 - 0, with pairs of different draws (-1, 1).
    assert outcomes.energy_distance(column(-1, 1), column(0, 0)) == 0.0
    # 8 of 12 ordered pairs of different draws are 4 apart: 2 * 2 - 8 / 3 - 0.
    wide = column(-2, -2, 2, 2)
    assert outcomes.energy_distance(wide, column(0, 0)) == pytest.approx(4 - 8 / 3)


def test_a_shift_is_found_and_an_equal_distribution_is_not() -> None:
    draws = np.random.default_rng(0).normal(size=(3, 16, 1, 4))
    same = outcomes.compare(outcomes.Futures(draws[0], draws[1]), 99, 0)
    assert list(same["outcome_distance"]) == ["10"] and same["outcome_p"]["10"] > 0.05
    other = outcomes.compare(outcomes.Futures(draws[0], draws[1] + 3.0), 99, 0)
    assert other["outcome_p"]["10"] == 0.01
    # Two draws of N(0, I) in four dimensions are 2 E|Z| sqrt(1/2) = 2.66 apart; rewards are scaled.
    assert 2.0 < other["outcome_spread"]["10"] < 3.3
    assert other["outcome_distance"]["10"] > 5 * abs(other["outcome_distance_of_twins"]["10"])
    # Always the same future, where the twin's differ.
    narrow = outcomes.compare(outcomes.Futures(draws[0], 0 * draws[1]), 99, 0)
    assert narrow["outcome_p"]["10"] < 0.05


def test_the_twin_plays_the_same_actions_in_all_episodes() -> None:
    env = make_env("worldsim/TinyRoom-v0", {"size": 16, "max_episode_steps": 25})
    acts = outcomes.actions(env.action_space, 40)
    assert len(acts) == 40 and outcomes.actions(env.action_space, 40) == acts
    start, futures = outcomes.play_twin(env, 3, acts)
    # After 10 and 20 steps; the time limit cuts off the rest.
    assert start.rgb.shape[-2:] == (16, 16) and futures.shape == (2, 3 * 64 + 2)
    np.testing.assert_array_equal(outcomes.play_twin(env, 3, acts)[1], futures)
    short = make_env("worldsim/TinyRoom-v0", {"size": 16, "max_episode_steps": 5})
    with pytest.raises(InvalidInputError, match="before step 10"):
        outcomes.play_twin(short, 3, acts)
