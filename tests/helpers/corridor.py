"""A corridor of 16x16 pixels with rewards and terminations, learned in seconds."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SIZE, WIDE = 16, 4


class Corridor(gym.Env[Any, Any]):
    """A square goes left or right, 2 pixels a step; at the right end it is paid and terminates."""

    observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.place = 2 * int(self.np_random.integers(0, 4))
        return self.frame(), {}

    def frame(self) -> Any:
        image = np.full((SIZE, SIZE, 3), 40, np.uint8)
        image[6:10, self.place : self.place + WIDE] = (220, 160, 60)
        return image

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.place = int(np.clip(self.place + (2 if action else -2), 0, SIZE - WIDE))
        over = self.place == SIZE - WIDE
        return self.frame(), float(over), over, False, {}


gym.register("tests/Corridor-v0", entry_point=Corridor, max_episode_steps=40)
