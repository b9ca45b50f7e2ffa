"""Options of ``reset`` as Gymnasium passes them: a dict or None."""

from __future__ import annotations

from collections.abc import Mapping

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Info


def check_options(options: object) -> Info:
    """Return a copy of the reset options; an empty dict for None.

    Raises InvalidInputError for anything but a mapping.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidInputError(f"reset options must be a dict or None, got {options!r}")
    return dict(options)
