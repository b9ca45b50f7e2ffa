"""Settings of child processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

VARIABLE = "PYTHONSAFEPATH"
"""Python's own: where it is set, the present folder is no place to import from."""


@contextlib.contextmanager
def safe_imports() -> Iterator[None]:
    """Context in which new Python processes import no module from the working directory.

    Python searches it first, and it may be the folder of a world that was downloaded.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
