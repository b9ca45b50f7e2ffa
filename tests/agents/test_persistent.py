"""persistent-v1, the exploration policy of recordings and test sets."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np

from worldsim.agents.persistent import PersistentPolicy
from worldsim.protocols import Policy


def runs(acts: list[int]) -> list[tuple[int, int]]:
    """(action, length) of every stretch of equal actions."""
    changes = np.flatnonzero(np.diff(acts)) + 1
    bounds = [0, *changes, len(acts)]
    return [(acts[a], int(b - a)) for a, b in itertools.pairwise(bounds)]


def test_is_a_policy_and_repeats_itself_for_a_seed() -> None:
    policy = PersistentPolicy(gym.spaces.Discrete(7))
    assert isinstance(policy, Policy)
    walks = []
    for seed in (3, 3, 4):
        policy.reset(seed)
        walks.append([int(policy.act(None)) for _ in range(100)])
    assert walks[0] == walks[1] != walks[2]
    assert all(gym.spaces.Discrete(7).contains(policy.act(None)) for _ in range(20))


def test_the_frozen_walk_has_not_changed() -> None:
    policy = PersistentPolicy(gym.spaces.Discrete(7))
    policy.reset(0)
    # The frozen test sets depend on it: 1 forward, 4 turn right, 5 strafe left.
    assert runs([int(policy.act(None)) for _ in range(25)]) == [(1, 15), (4, 2), (5, 2), (4, 6)]


def test_draws_the_stated_shares() -> None:
    policy = PersistentPolicy(gym.spaces.Discrete(7))
    policy.reset(1)
    acts = np.array([policy.act(None) for _ in range(60_000)])
    shares = np.bincount(acts, minlength=7) / len(acts)
    np.testing.assert_allclose(shares, [0.03, 0.45, 0.06, 0.18, 0.18, 0.05, 0.05], atol=0.015)
    # Two draws of the same action join into one run, so only the shortest length is a bound.
    assert min(length for _, length in runs(acts.tolist())[:-1]) == 2


def test_other_spaces_repeat_uniform_draws() -> None:
    space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    policy = PersistentPolicy(space)
    policy.reset(0)
    acts = np.stack([policy.act(None) for _ in range(4000)])
    assert all(space.contains(a) for a in acts)
    bounds = np.flatnonzero((np.diff(acts, axis=0) != 0).any(1)) + 1
    lengths = np.diff(bounds)
    assert set(lengths) == set(range(2, 10))
    assert abs(acts.mean()) < 0.1
    three = PersistentPolicy(gym.spaces.Discrete(3))
    assert {int(three.act(None)) for _ in range(200)} == {0, 1, 2}


def test_an_action_handed_out_is_the_callers_own() -> None:
    policy = PersistentPolicy(gym.spaces.Box(-1.0, 1.0, (2,), np.float32))
    first = policy.act(None)
    kept = first.copy()
    first[:] = 9
    np.testing.assert_array_equal(policy.act(None), kept)
