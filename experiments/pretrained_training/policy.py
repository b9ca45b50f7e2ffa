"""A policy that walks out and comes back by the same actions undone, again and again."""

from __future__ import annotations

import numpy as np

from worldsim.agents.persistent import PersistentPolicy
from worldsim.evaluation.trip_recording import UNDO
from worldsim.runtime.types import Action, Space

SHORTEST, LONGEST = 8, 40
"""Steps of a way out, both ends included, drawn uniformly."""


class OutAndBack:
    """Walks out like ``persistent-v1`` and undoes its actions in reverse order.

    action_space: ``Discrete(7)``, the actions of ``worldsim/FreedoomReal-v0``.
    """

    def __init__(self, action_space: Space) -> None:
        self.walk = PersistentPolicy(action_space)
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Begin a new walk. ``None`` draws a fresh seed from the operating system."""
        self.walk.reset(seed)
        self._rng = np.random.default_rng(seed)
        self._out: list[int] = []
        self._left = int(self._rng.integers(SHORTEST, LONGEST + 1))

    def act(self, obs: object) -> Action:
        """Return the next action; ``obs`` is not looked at."""
        if self._left:
            self._left -= 1
            self._out.append(int(self.walk.act(obs)))
            return np.int64(self._out[-1])
        back = UNDO[self._out.pop()]
        if not self._out:
            self._left = int(self._rng.integers(SHORTEST, LONGEST + 1))
        return np.int64(back)
