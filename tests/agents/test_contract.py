"""The policy contract holds for every agent that needs nothing but an action space, and catches
those that break it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim.agents.persistent import PersistentPolicy
from worldsim.agents.random import RandomPolicy
from worldsim.agents.sticky import StickyPolicy
from worldsim.testing import ContractError, check_policy

pytestmark = pytest.mark.fast

SPACES = [gym.spaces.Discrete(7), gym.spaces.Box(-1.0, 1.0, (2,), np.float32)]
OBSERVATIONS = [np.full((8, 8, 3), k, np.uint8) for k in range(30)]


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "box"])
@pytest.mark.parametrize("kind", [RandomPolicy, PersistentPolicy, StickyPolicy])
def test_agents_keep_it(kind: Any, space: gym.Space[Any]) -> None:
    check_policy(kind(space), space, OBSERVATIONS)


class Broken(RandomPolicy):
    """Keeps the contract but for one fault."""

    fault = ""
    calls = 0

    def reset(self, seed: int | None = None) -> None:
        super().reset(None if self.fault == "seed" else seed)
        if self.fault != "memory":
            self.calls = 0

    def act(self, obs: Any) -> Any:
        self.calls += 1
        if self.fault == "space":
            return 7
        if self.fault == "observation":
            obs += 1
        if self.fault == "memory" and self.calls > len(OBSERVATIONS):
            return (int(super().act(obs)) + self.calls) % 7
        return super().act(obs)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("", None),
        ("space", "not in Discrete"),
        ("observation", "changed its observation"),
        ("seed", "other actions"),
        ("memory", "other actions"),
    ],
)
def test_faults_are_found(fault: str, complaint: str | None) -> None:
    policy = Broken(gym.spaces.Discrete(7))
    policy.fault = fault
    observations = [x.copy() for x in OBSERVATIONS]
    if complaint is None:
        check_policy(policy, gym.spaces.Discrete(7), observations)
        return
    with pytest.raises(ContractError, match=complaint):
        check_policy(policy, gym.spaces.Discrete(7), observations)


def test_what_is_no_policy_is_named() -> None:
    with pytest.raises(ContractError, match="lacks one of the methods"):
        check_policy(object(), gym.spaces.Discrete(7), OBSERVATIONS)  # type: ignore[arg-type]
