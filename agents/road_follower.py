"""Drives Gymnasium's CarRacing by eye, imperfectly on purpose, for recordings.

Measured results: docs/experiments/task_agents.md.

Random actions hardly leave the start: they brake as often as they accelerate. A world needs data of
driving, on the road and off it, at all speeds. This policy steers towards the grey ahead of the
car, with a slowly changing offset, at a speed that changes at random.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array, Space

AHEAD = (0.35, 0.62)
"""Rows looked at, in shares of the picture's height; the car is at 0.73."""
GREY = 25
"""Road is where the colours differ by less than this."""


class RoadFollower:
    """Steers towards the road with drifting noise; a :class:`worldsim.protocols.Policy`.

    action_space: CarRacing's, (steering in [-1, 1], gas in [0, 1], brake in [0, 1]). wander: size
    of the drift; 0 follows the road.
    """

    def __init__(self, action_space: Space, wander: float = 0.5) -> None:
        if not isinstance(action_space, gym.spaces.Box) or action_space.shape != (3,):
            raise InvalidInputError(
                f"RoadFollower drives by (steering, gas, brake), a Box of shape (3,); this is "
                f"{action_space}"
            )
        self.action_space, self.wander = action_space, wander
        self.settings = {"wander": wander}
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Begin anew and reseed."""
        self._rng = np.random.default_rng(seed)
        self._drift, self._left = 0.0, 0
        self._wander, self._gas, self._brake = self.wander, 0.3, 0.0
        self._before: Array | None = None

    def act(self, obs: Array) -> NDArray[np.float32]:
        """The action for one (h, w, 3) uint8 picture."""
        if self._left == 0:
            self._left = int(self._rng.integers(10, 50))
            self._gas = float(
                self._rng.choice(
                    [0.0, 0.1, 0.2, 0.35, 0.6, 1.0], p=[0.05, 0.3, 0.3, 0.2, 0.1, 0.05]
                )
            )
            self._brake = float(self._rng.choice([0.0, 0.1, 0.6], p=[0.85, 0.1, 0.05]))
            self._wander = self.wander * float(self._rng.choice([0.2, 1.0, 2.0]))
        self._left -= 1
        # About a second's memory at 50 frames a second.
        self._drift = 0.95 * self._drift + 0.31 * self._wander * float(self._rng.normal())
        steering = float(np.clip(self._heading(np.asarray(obs)) + self._drift, -1.0, 1.0))
        return np.array(
            [steering, self._gas * (1.0 - 0.5 * abs(steering)), self._brake], np.float32
        )

    @staticmethod
    def _heading(obs: Array) -> float:
        """How far left (< 0) or right the road ahead is, from its pixels; 0 where there is none."""
        height, width = obs.shape[:2]
        ahead = obs[round(AHEAD[0] * height) : round(AHEAD[1] * height)].astype(int)
        road = ahead.max(-1) - ahead.min(-1) < GREY
        if road.sum() < 4:
            return 0.0
        return float(3.0 * (np.nonzero(road)[1].mean() / (width - 1) - 0.5))
