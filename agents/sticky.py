"""``sticky``: repeats an action for a while whose typical length differs from episode to episode.

Sticky actions are those of Machado et al. 2018 (doi:10.1613/jair.5699), with a probability that is
drawn anew for each episode. Things that need one action for long, such as crossing a road, then
happen in some episodes, and quick corrections in others.
"""

from __future__ import annotations

import copy

import numpy as np

from worldsim.runtime.types import Action, Space

SHORTEST, LONGEST = 2.0, 64.0
"""Range of the mean number of steps that an action is repeated for; drawn for each episode,
uniformly on a logarithmic scale."""


class StickyPolicy:
    """Repeats the last action with a probability, else draws one uniformly.

    action_space: the environment's; it is copied, so the environment's own random numbers do not
        change.
    repeat_prob: probability that the last action is repeated. None draws it for each episode, so
        that an action is held for 2 to 64 steps on average.
    """

    def __init__(self, action_space: Space, repeat_prob: float | None = None) -> None:
        self.action_space = copy.deepcopy(action_space)
        self.repeat_prob = repeat_prob
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode and reseed. ``None`` draws a seed from the operating system."""
        self._rng = np.random.default_rng(seed)
        self.action_space.seed(seed)
        self._action: Action | None = None
        held = np.exp(self._rng.uniform(np.log(SHORTEST), np.log(LONGEST)))
        self._repeat = 1.0 - 1.0 / held if self.repeat_prob is None else self.repeat_prob

    def act(self, obs: object) -> Action:
        """An action of the space; ``obs`` is not looked at."""
        if self._action is None or self._rng.random() >= self._repeat:
            self._action = self.action_space.sample()
        return copy.copy(self._action)
