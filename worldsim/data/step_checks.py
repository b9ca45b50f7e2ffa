"""Checks of what an environment and a policy give at each step of a recording.

What is wrong is named at once, with its step, and not when a shard is written an hour later.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Action, Array, Space

MOST_REWARD = 1e8
"""Largest amount of a reward. Recordings store float32, whose neighbours are 8 apart there."""


def check_observation(env_id: str, step: int, observation: object, space: Space) -> Array:
    """Return a copy of the observation.

    Raises InvalidInputError unless it is an image of the space's shape and type.
    """
    image = np.array(observation)
    if image.dtype != space.dtype:
        remedy = "wrap it so that it gives what its space says (gymnasium.ObservationWrapper)"
    elif image.shape != space.shape:
        remedy = "frames of one size are needed: --size HEIGHT WIDTH resizes them all"
    else:
        return image
    raise InvalidInputError(
        f"{env_id}: the frame of step {step} is {image.shape} {image.dtype}, and the observation "
        f"space says {space.shape} {space.dtype}: {remedy}"
    )


def check_reward(env_id: str, step: int, reward: object) -> float:
    """Return the reward as a float.

    Raises InvalidInputError unless it is one finite number of at most :data:`MOST_REWARD`.
    """
    try:
        value = float(reward)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"{env_id}: the reward of step {step} is {reward!r}, and one number is needed: wrap it "
            f"in gymnasium.wrappers.TransformReward"
        ) from None
    if not math.isfinite(value) or abs(value) > MOST_REWARD:
        raise InvalidInputError(
            f"{env_id}: the reward of step {step} is {value:g}, and rewards must be finite and at "
            f"most {MOST_REWARD:g}, since recordings store them with 7 digits: correct, clip or "
            f"scale it (gymnasium.wrappers.TransformReward)"
        )
    return value


def check_action(policy: str, step: int, action: Action, space: Space) -> Array:
    """Return the action as it is stored.

    Raises InvalidInputError unless it is a whole number of a Discrete space, or finite numbers of
    a Box's shape.
    """
    stored = np.asarray(action)
    discrete = isinstance(space, gym.spaces.Discrete)
    fits = (
        stored.shape == () and np.issubdtype(stored.dtype, np.integer) and 0 <= stored < space.n
        if isinstance(space, gym.spaces.Discrete)
        else stored.shape == space.shape and bool(np.isfinite(stored.astype(np.float64)).all())
    )
    if not fits:
        raise InvalidInputError(
            f"the policy {policy!r} gave the action {action!r} at step {step}, which is none of "
            f"{space}: worldsim.testing.check_policy says what a policy must do"
        )
    return stored.astype(np.int64 if discrete else np.float32)
