"""Messages while torch compiles: that it does, how long it took last time, where its cache is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from worldsim.runtime.progress import say, span

LAST = "worldsim-seconds.txt"
"""File in the compiler's cache that holds how many seconds it took the last time."""
LONGEST_S = 1e6


def cache_folder() -> Path:
    """Return the folder in which inductor caches compiled code.

    This is ``TORCHINDUCTOR_CACHE_DIR`` if it is set, else a folder of the user's among the
    temporary files.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())


class Compiling:
    """Reports once that parts are being compiled and, after the first full step, how long it took.

    folder: the compiler's cache.
    clock: returns the time in seconds.
    """

    def __init__(
        self, folder: Callable[[], Path] = cache_folder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._clock = folder, clock
        self._seconds: float | None = None
        self._depth = 0

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Context around the first call of a part."""
        if self._seconds is None:
            self._seconds = 0.0
            last = self._last()
            took = (
                "a minute or more at first"
                if last is None
                else f"it took {span(last)} the last time here"
            )
            say(
                f"compiling with torch's inductor: {took}. What it compiles is kept in "
                f"{self._folder()}"
            )
        self._depth += 1
        began = self._clock()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._seconds += self._clock() - began

    def done(self) -> None:
        """Mark the first full step as finished, so that everything it needs is compiled.

        Has no effect if nothing was compiled.
        """
        if self._seconds is None or self._depth:
            return
        seconds, self._seconds = self._seconds, None
        say(f"compiled in {span(seconds)}")
        with contextlib.suppress(OSError):
            (self._folder() / LAST).write_text(f"{seconds:.1f}\n")

    def _last(self) -> float | None:
        with contextlib.suppress(OSError, ValueError):
            seconds = float((self._folder() / LAST).read_text()[:32])
            return seconds if math.isfinite(seconds) and 0 < seconds < LONGEST_S else None
        return None


COMPILING = Compiling()
"""Of this process."""
