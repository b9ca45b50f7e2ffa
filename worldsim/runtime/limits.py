"""Memory limits, checked before large allocations."""

from __future__ import annotations

import contextlib
import ctypes
import os

import psutil

from worldsim.errors import InvalidInputError, OutOfMemoryError

LIMIT_VARIABLE = "WORLDSIM_MEMORY_LIMIT_GB"
"""Environment variable that limits this process, in GiB."""
ARENA_MAX = -8
"""glibc's ``M_ARENA_MAX`` (``malloc.h``)."""
ARENAS = 2
"""Arenas of a server."""


def available_memory() -> int:
    """Return how many bytes of memory this process may still allocate.

    This is the machine's free memory, or what is left of the limit in the environment variable
    ``WORLDSIM_MEMORY_LIMIT_GB``.
    """
    free = int(psutil.virtual_memory().available)
    limit = os.environ.get(LIMIT_VARIABLE)
    if limit:
        try:
            free = min(free, int(float(limit) * 2**30) - int(psutil.Process().memory_info().rss))
        except (ValueError, OverflowError):
            raise InvalidInputError(
                f"{LIMIT_VARIABLE} is {limit!r}: give a number of GiB, or unset it"
            ) from None
    return max(0, free)


def require_memory_for(size: int, what: str) -> None:
    """Raise OutOfMemoryError unless ``size`` bytes are free.

    what: what needs them, for the message.
    """
    free = available_memory()
    if size > free:
        raise OutOfMemoryError(
            f"{what} would take {size / 2**30:.2f} GiB and {free / 2**30:.2f} GiB are free: ask "
            f"for less"
        )


def share_arenas() -> None:
    """Let all threads allocate from few arenas, where the C library is glibc.

    By default each thread has an arena of its own, and what one thread frees the others cannot use:
    a server whose threads make and drop states grows. Call it before there are threads.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(ARENA_MAX, ARENAS)


def return_freed_memory() -> None:
    """Give freed memory back to the operating system, where the C library is glibc."""
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
