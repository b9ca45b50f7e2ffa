"""A policy that balances CartPole by its picture: pushes towards the side to which the pole leans.

``worldsim evaluate-agent experiments.fit.balancer:Balancer --world WORLD`` says whether a dream of
CartPole ranks it above random actions. It learns nothing, and its rule is the same in the dream.
"""

from __future__ import annotations

import numpy as np

AHEAD_STEPS = 8.0
"""The lean is looked at so many steps ahead, by its last change."""


class Balancer:
    def __init__(self, action_space):
        self.reset()

    def reset(self, seed=None):
        self.last = None

    def act(self, obs):
        lean = pole_lean(obs)
        change = 0.0 if self.last is None else lean - self.last
        self.last = lean
        return int(lean + AHEAD_STEPS * change > 0)


def pole_lean(obs):
    """Columns by which the upper half of the pole is right of its lower half, over the width.

    obs: (h, w, 3) uint8. The pole alone is more red than blue; cart, track and sky are grey.
    """
    picture = np.asarray(obs, np.float64)
    brown = np.clip(picture[..., 0] - picture[..., 2], 0.0, None)
    rows = np.flatnonzero(brown.sum(1) > 0.2 * brown.sum(1).max())
    if len(rows) < 2:
        return 0.0
    middle = (rows[0] + rows[-1] + 1) // 2
    columns = np.arange(brown.shape[1])
    halves = [brown[rows[0] : middle].sum(0), brown[middle : rows[-1] + 1].sum(0)]
    upper, lower = ((columns * half).sum() / max(half.sum(), 1e-6) for half in halves)
    return float(upper - lower) / brown.shape[1]
