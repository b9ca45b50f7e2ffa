"""Areas, successes and ranks of policies by hand."""

from __future__ import annotations

import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.evaluation.policy_batch import PolicySpec
from worldsim.evaluation.twin import ranks
from worldsim.world.image_env import make_env


def test_area_and_success_by_hand() -> None:
    walked = ranks.Walked(np.array([[0.5, 0.5, 0.4], [1.5, 0.5, 0.4], [1.6, 0.4, 0.4]]))
    assert walked.area == 2.0 and not walked.success
    assert ranks.Walked(np.array([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])).success


def test_ranks_of_equal_and_opposite_worlds() -> None:
    area = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 9.0]])
    success = np.zeros((2, 4, 2), bool)
    success[0, 3] = True
    found = ranks.compare(area, area, success, 20, 0)
    assert found["rank_agreement"] == pytest.approx(1.0)
    assert found["success"] == {"dream": 0.25, "twin": 0.0} and found["success_agrees"] == 0.75
    assert ranks.compare(area, -area, success, 20, 0)["rank_agreement"] == pytest.approx(-1.0)


def test_the_twin_is_walked_beyond_its_own_time_limit() -> None:
    env_id, kwargs = ranks.lasting("worldsim/TinyRoom-v0", {"max_episode_steps": 4}, 10)
    assert kwargs == {"max_episode_steps": 11}
    assert ranks.lasting(env_id, {"max_episode_steps": 50}, 10)[1] == {"max_episode_steps": 50}
    env = make_env(env_id, {**kwargs, "size": 16})
    walked = ranks.walk_twin(env, PolicySpec("random", 0.0, 1), 5, 10)
    assert walked.position.shape == (11, 3) and walked.start is not None
    again = ranks.walk_twin(env, PolicySpec("random", 0.0, 1), 5, 10)
    np.testing.assert_array_equal(walked.position, again.position)
