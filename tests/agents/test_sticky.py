"""The sticky policy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from worldsim.agents.sticky import LONGEST, SHORTEST, StickyPolicy


def mean_hold(acts: list[float]) -> float:
    """Steps per run of equal actions."""
    return len(acts) / (1 + int((np.diff(acts) != 0).sum()))


def test_it_holds_an_action_as_often_as_it_says() -> None:
    """From 1,000 actions hardly two in a row are drawn alike: runs have 1 / (1 - p) steps."""
    policy = StickyPolicy(gym.spaces.Discrete(1000), repeat_prob=0.9)
    policy.reset(0)
    assert mean_hold([int(policy.act(None)) for _ in range(20_000)]) == pytest.approx(10.0, rel=0.1)


def test_episodes_differ_in_how_long_they_hold() -> None:
    policy, holds = StickyPolicy(gym.spaces.Box(-1.0, 1.0, (1,), np.float32)), []
    for seed in range(40):
        policy.reset(seed)
        holds.append(mean_hold([float(policy.act(None)[0]) for _ in range(300)]))
    assert min(holds) < 2 * SHORTEST and LONGEST / 2 < max(holds) < 3 * LONGEST
    # On a logarithmic scale, half of them are below the middle, sqrt(2 * 64) = 11.3.
    assert 10 <= sum(hold < (SHORTEST * LONGEST) ** 0.5 for hold in holds) <= 30
