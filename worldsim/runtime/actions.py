"""Casts continuous actions of users and other libraries to the dtype of an action space."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array


def cast_box_action(action: object, space: gym.spaces.Box) -> Array:
    """Cast one action to the dtype and shape of a ``Box`` space.

    Real numbers of any precision are cast first and checked afterwards: Gymnasium's ``ClipAction``
    and ``RescaleAction`` return float64, which can exceed a float32 bound by a rounding error.
    Raises InvalidInputError, with the action, for another shape, for numbers outside the bounds and
    for NaN.
    """
    try:
        given = np.asarray(action)
        if given.dtype.kind not in "fiub":
            raise TypeError(f"dtype {given.dtype}")
        with np.errstate(over="ignore"):
            cast = given.astype(space.dtype)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"action {action!r} is no array of numbers ({error}): give one of {space}"
        ) from None
    if cast.shape != space.shape or not bool(((cast >= space.low) & (cast <= space.high)).all()):
        raise InvalidInputError(f"action {action!r} is outside {space}")
    return cast
