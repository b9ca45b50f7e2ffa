"""Action spaces as JSON values, in datasets and agents' cards."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.types import JsonMapping, JsonObject, Space

MOST_ACTIONS = 65_536
"""Most discrete actions, or numbers of a continuous one, that a file may claim."""


def describe_space(space: Space) -> JsonObject:
    """Convert an action space to JSON values."""
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return {"type": "Discrete", "n": int(space.n)}
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return {"type": "Box", "low": space.low.tolist(), "high": space.high.tolist()}
    raise InvalidInputError(
        f"Action space {space} cannot be recorded: Discrete (from 0) and Box of floats can."
    )


def space_of(description: JsonMapping) -> Space:
    """Create the action space from :func:`describe_space`'s values. Raises DamagedFileError."""
    try:
        if description["type"] == "Discrete":
            n = description["n"]
            if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_ACTIONS:
                raise ValueError(f"n is {n!r}: 1 to {MOST_ACTIONS} actions")
            return gym.spaces.Discrete(n)
        low, high = (np.array(description[name], np.float32) for name in ("low", "high"))
        if description["type"] != "Box" or low.size > MOST_ACTIONS or not (low <= high).all():
            raise ValueError(
                f"a Box with low at most high, of at most {MOST_ACTIONS} numbers, is needed"
            )
        return gym.spaces.Box(low, high, dtype=np.float32)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise DamagedFileError(f"{description!r} describes no action space ({error})") from None
