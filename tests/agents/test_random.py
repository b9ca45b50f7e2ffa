"""The random policy."""

from __future__ import annotations

import gymnasium as gym

from worldsim.agents.random import RandomPolicy
from worldsim.protocols import Policy


def test_draws_every_action_and_repeats_itself_for_a_seed() -> None:
    policy = RandomPolicy(gym.spaces.Discrete(5))
    assert isinstance(policy, Policy)
    walks = []
    for seed in (3, 3, 4):
        policy.reset(seed)
        walks.append([int(policy.act(None)) for _ in range(100)])
    assert walks[0] == walks[1] != walks[2]
    assert set(walks[0]) == set(range(5))


def test_leaves_the_environments_space_alone() -> None:
    space, same = gym.spaces.Discrete(1000, seed=1), gym.spaces.Discrete(1000, seed=1)
    policy = RandomPolicy(space)
    policy.reset(5)
    policy.act(None)
    assert space.sample() == same.sample()
