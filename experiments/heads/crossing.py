"""Policies for Freeway: random ones hardly ever cross the road, so its rewards are not recorded."""

from __future__ import annotations

import numpy as np

from worldsim.runtime.types import Action, Space

UP = 1
"""Freeway's action that walks towards the reward; 0 stands still and 2 walks back."""


class AlwaysUp:
    """Walks up at every step. ``action_space`` is Freeway's."""

    def __init__(self, action_space: Space) -> None:
        self.action_space = action_space

    def reset(self, seed: int | None = None) -> None:
        """Does nothing: it is not random."""

    def act(self, obs: object) -> Action:
        """Walk up; ``obs`` is not looked at."""
        return np.int64(UP)


class MostlyUp:
    """Repeats an action for some steps, 0.8 of them up.

    The share is drawn for each episode, from 0.5 to 1, and so is the mean number of repeats, from 1
    to 16. ``action_space`` is Freeway's.
    """

    def __init__(self, action_space: Space) -> None:
        self.action_space = action_space
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode and reseed."""
        self._rng = np.random.default_rng(seed)
        self._up = self._rng.uniform(0.5, 1.0)
        self._repeat = 1.0 - 1.0 / 2.0 ** self._rng.uniform(0.0, 4.0)
        self._action = UP

    def act(self, obs: object) -> Action:
        """An action; ``obs`` is not looked at."""
        if self._rng.random() >= self._repeat:
            others = [0, 2]
            up = self._rng.random() < self._up
            self._action = UP if up else others[self._rng.integers(2)]
        return np.int64(self._action)
