"""The real twin of a world: the environment that it imitates, with identical spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.pixels import make_pixels
from worldsim.world import World


def make_twin(world: World, **kwargs: Any) -> gym.Env[Any, Any]:
    """The environment that ``world`` was trained on, made and wrapped as it was recorded.

    kwargs: further arguments of ``gymnasium.make``, before those that the world remembers, such as ``max_episode_steps=525``. Its
    observation and action spaces are the world's. Raises InvalidInputError if the world names no twin, or one whose spaces differ;
    NotFoundError or MissingDependencyError if it cannot be made here.
    """
    config = world.config
    if not config.env_id:
        raise InvalidInputError("this world does not name its real twin (env_id in world.json): there is none to make")
    env = make_pixels(config.env_id, {**config.env_kwargs, **kwargs}, config.pixels)
    try:
        require_same_spaces(world, env, config.env_id)
    except BaseException:
        env.close()
        raise
    return env


def require_same_spaces(world: World, env: gym.Env[Any, Any], name: str) -> None:
    """Raise InvalidInputError, naming both, unless the environment observes and acts in the world's spaces.

    Bounds of continuous actions are compared as the world keeps them, in float32.
    """
    for what in ("observation", "action"):
        mine, other = getattr(world, f"{what}_space"), getattr(env, f"{what}_space")
        if not _same(mine, other):
            raise InvalidInputError(
                f"the world's {what} space is {mine}, that of {name} is {other}: it must be made as it was recorded "
                "(env_kwargs and pixels in world.json)"
            )


def _same(a: gym.Space[Any], b: gym.Space[Any]) -> bool:
    if isinstance(a, gym.spaces.Box) and isinstance(b, gym.spaces.Box):
        alike = a.shape == b.shape and (a.dtype == np.uint8) == (b.dtype == np.uint8)
        return alike and np.allclose(a.low, b.low) and np.allclose(a.high, b.high)
    if isinstance(a, gym.spaces.Discrete) and isinstance(b, gym.spaces.Discrete):
        return a.n == b.n and a.start == b.start
    return a == b
