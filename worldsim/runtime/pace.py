"""A forecast of a training run's speed, printed once, after the first step has been timed."""

from __future__ import annotations

import time
from collections.abc import Callable

from worldsim.runtime.progress import span

Clock = Callable[[], float]
"""Seconds from some moment on; ``time.monotonic`` but in tests."""
WARM = 2
"""The step that is timed: in the first one memory is taken and code compiled."""


class Pace:
    """The clock of a run with a time limit."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def look(self) -> float:
        """Return the seconds since the last call, or since creation."""
        last, self._last = self._last, self._clock()
        return self._last - last


def forecast(seconds: float, what: str, minutes_left: float | None, steps_left: float) -> str:
    """Return the forecast, such as ``a step of 32 windows takes 18.2 s here: about 13 in ...``.

    seconds: duration of one step.
    what: what a step consists of.
    minutes_left: time left, None if the run is not limited by time.
    steps_left: steps left, None if the run is not limited by steps.
    """
    told = f"a step of {what} takes {span(seconds)} here"
    if minutes_left is not None and (fits := steps_that_fit(seconds, minutes_left)) < steps_left:
        return f"{told}: about {fits:,} in the {span(60 * minutes_left)} that are left"
    return f"{told}: {steps_left:,.0f} more take about {span(seconds * steps_left)}"


def steps_that_fit(seconds: float, minutes_left: float) -> int:
    """Return how many steps of ``seconds`` each start within ``minutes_left``."""
    return int(60.0 * max(0.0, minutes_left) / max(seconds, 1e-9)) + 1


def smaller(size: int, fits: int, wanted: int) -> int:
    """Return the largest power of two up to ``size`` at which ``wanted`` steps fit; at least 1.

    fits: how many steps of ``size`` fit.
    """
    best = 1
    while 2 * best < size and 2 * best * wanted <= size * fits:
        best *= 2
    return best
