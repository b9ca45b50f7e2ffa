"""``persistent-v1``: walks and turns of 2 to 9 steps, for recording and the frozen test sets.

A change of its random numbers changes every frozen test set: create a ``persistent-v2`` instead.
"""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np

from worldsim.runtime.types import Action, Space

SHORTEST, LONGEST = 2, 9
"""An action is repeated this many steps, both ends included, drawn uniformly."""
ACTION_SHARES = (0.03, 0.45, 0.06, 0.18, 0.18, 0.05, 0.05)
"""How often each action of ``Discrete(7)`` is drawn: no-op, forward, backward, turn left, right,
strafe left, right."""


class PersistentPolicy:
    """Repeats a drawn action for 2 to 9 steps: with independent steps a walk hugs the walls.

    action_space: ``Discrete(7)`` uses ``ACTION_SHARES``; from any other space an action is drawn
    uniformly. The space is copied, so its own randomness stays untouched.
    """

    def __init__(self, action_space: Space) -> None:
        self.action_space = copy.deepcopy(action_space)
        self._shares = (
            ACTION_SHARES if action_space == gym.spaces.Discrete(len(ACTION_SHARES)) else None
        )
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Begin a new walk and reseed. ``None`` draws a fresh seed from the operating system."""
        self._rng = np.random.default_rng(seed)
        self.action_space.seed(seed)
        self._left = 0
        self._action: Action = 0

    def act(self, obs: object) -> Action:
        """An action of the space; ``obs`` is not looked at."""
        if self._left == 0:
            self._left = int(self._rng.integers(SHORTEST, LONGEST + 1))
            self._action = (
                self.action_space.sample()
                if self._shares is None
                else self._rng.choice(7, p=self._shares)
            )
        self._left -= 1
        return copy.copy(self._action)
