"""Environments that break in the ways of real ones; processes import this module for them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

SIZE = 16


class Squares(gym.Env[Any, Any]):
    """A square of 4x4 pixels that the four actions move by a pixel; nothing breaks yet."""

    observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.steps = 0
        self.place = self.np_random.integers(0, SIZE - 4, 2)
        return self.frame(), {}

    def frame(self) -> Any:
        image = np.full((SIZE, SIZE, 3), 40, np.uint8)
        y, x = self.place
        image[y : y + 4, x : x + 4] = 220
        return image

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.steps += 1
        way = ((-1, 0), (1, 0), (0, -1), (0, 1))[int(action)]
        self.place = np.clip(self.place + way, 0, SIZE - 4)
        return self.frame(), 0.0, False, False, {}


class Growing(Squares):
    """Its frames grow by a row in the third step."""

    def frame(self) -> Any:
        image = super().frame()
        return np.concatenate([image, image[:1]]) if self.steps == 3 else image


class Floats(Squares):
    """Its frames are floats, and its space says bytes."""

    def frame(self) -> Any:
        return super().frame() / 255.0


class Ignoring(Squares):
    """Its square walks by itself."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        return super().step(self.np_random.integers(4))


class Paying(Squares):
    """Pays ``amount`` in the fifth step.

    seed: of the only episode that pays; -1 for all.
    """

    def __init__(self, amount: Any = 1.0, seed: int = -1) -> None:
        self.amount, self.seed = {"list": [1.0, 2.0]}.get(amount, amount), seed

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.pays = self.seed in (-1, seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        frame, reward, *rest = super().step(action)
        return (frame, self.amount if self.pays and self.steps == 5 else reward, *rest)


class Raising(Squares):
    """Raises an error in the fourth step of every episode."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        if self.steps == 3:
            raise RuntimeError("the joint left its limits")
        return super().step(action)


class Killed(Squares):
    """Kills its process by a signal at a reset with a certain seed, once.

    folder: has a file ``SEED-SIGNAL`` for each signal that is still to come.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = Path(folder)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        for file in self.folder.glob(f"{seed}-*"):
            file.unlink()
            os.kill(os.getpid(), signal.Signals[file.name.partition("-")[2]])
        return super().reset(seed=seed, options=options)


class Hanging(Squares):
    """Hangs in resets with the seed ``seed``."""

    def __init__(self, seed: int = -1) -> None:
        self.seed = seed

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if seed == self.seed:
            time.sleep(3600)
        return super().reset(seed=seed, options=options)


for made in (Squares, Growing, Floats, Ignoring, Paying, Raising, Killed, Hanging):
    gym.register(f"breaking/{made.__name__}-v0", entry_point=made)
