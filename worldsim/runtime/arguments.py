"""Arguments of functions, checked: numbers in a range, whole numbers and flags. Errors name
argument, value and range."""

from __future__ import annotations

import math
import numbers
from typing import Any

from worldsim.errors import InvalidInputError

LARGEST = 1e9
"""Of numbers whose range is not narrower."""


def number(
    name: str, value: Any, low: float = -LARGEST, high: float = LARGEST, unit: str = ""
) -> float:
    """``value`` as a float in [low, high]; InvalidInputError for anything else, NaN and texts
    included."""
    found = _real(value)
    if found is None or not low <= found <= high:
        raise InvalidInputError(
            f"{name} = {shown(value)}: it must be a number from {low:g} to "
            f"{high:g}{unit and ' ' + unit}"
        )
    return found


def whole(name: str, value: Any, low: float = 0, high: float = LARGEST, unit: str = "") -> int:
    """``value`` as an int in [low, high]; InvalidInputError for anything else, NaN and texts
    included."""
    found = _real(value)
    if found is None or not low <= found <= high or found != int(found):
        asked = f"it must be a whole number from {low:,} to {high:,}{unit and ' ' + unit}"
        raise InvalidInputError(f"{name} = {shown(value)}: {asked}")
    return int(found)


def flag(name: str, value: Any) -> bool:
    """``value``, if it is True or False."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} = {shown(value)}: it must be True or False")
    return value


def _real(value: Any) -> float | None:
    """A real number as a float, None for anything else; what no float holds is infinite."""
    # NumPy's and torch's scalars, too; an array of one number would be a guess.
    scalar = isinstance(value, numbers.Real) or (
        hasattr(value, "item") and getattr(value, "ndim", 1) == 0
    )
    if not scalar or isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf
    return None if math.isnan(found) else found


def shown(value: Any) -> str:
    """A value for an error message: at most 80 characters."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."
