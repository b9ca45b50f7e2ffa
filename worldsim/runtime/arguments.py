"""Checks of function arguments: numbers in a range, integers and flags.

Errors name the argument, the value and the range.
"""

from __future__ import annotations

import math
import numbers
from typing import SupportsFloat

from worldsim.errors import InvalidInputError

LARGEST = 1e9
"""Of numbers whose range is not narrower."""


def number(
    name: str, value: object, low: float = -LARGEST, high: float = LARGEST, unit: str = ""
) -> float:
    """Return ``value`` as a float in [low, high].

    Raises InvalidInputError for anything else, including NaN and strings.
    """
    found = _real(value)
    if found is None or not low <= found <= high:
        raise InvalidInputError(
            f"{name} = {shown(value)}: it must be a number from {low:g} to "
            f"{high:g}{unit and ' ' + unit}"
        )
    return found


def whole(name: str, value: object, low: float = 0, high: float = LARGEST, unit: str = "") -> int:
    """Return ``value`` as an int in [low, high].

    Raises InvalidInputError for anything else, including NaN and strings.
    """
    found = _real(value)
    if found is None or not low <= found <= high or found != int(found):
        asked = f"it must be a whole number from {low:,} to {high:,}{unit and ' ' + unit}"
        raise InvalidInputError(f"{name} = {shown(value)}: {asked}")
    return int(found)


def flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False; raise InvalidInputError otherwise."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} = {shown(value)}: it must be True or False")
    return value


def _real(value: object) -> float | None:
    """Return a real number as a float, None for anything else; infinity if it is too large."""
    # NumPy's and torch's scalars, too; an array of one number would be a guess.
    scalar = isinstance(value, numbers.Real) or (
        hasattr(value, "item") and getattr(value, "ndim", 1) == 0
    )
    if not scalar or isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return None
    if not isinstance(value, SupportsFloat):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf
    return None if math.isnan(found) else found


def shown(value: object) -> str:
    """Return a value as text for an error message: at most 80 characters."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."
