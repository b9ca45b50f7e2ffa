"""A policy that draws every action uniformly from the action space."""

from __future__ import annotations

import copy

from worldsim.runtime.types import Action, Space


class RandomPolicy:
    """Independent uniform actions.

    action_space: the environment's; it is copied, so the environment's own random numbers do not
        change.
    """

    def __init__(self, action_space: Space) -> None:
        self.action_space = copy.deepcopy(action_space)
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Reseed. ``None`` draws a fresh seed from the operating system."""
        self.action_space.seed(seed)

    def act(self, obs: object) -> Action:
        """An action of the space; ``obs`` is not looked at."""
        return self.action_space.sample()
