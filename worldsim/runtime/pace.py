"""How fast a run goes on this machine, and whether what it is given suffices: said once, as soon as
a step has been timed."""

from __future__ import annotations

import time
from collections.abc import Callable

from worldsim.runtime.progress import span

Clock = Callable[[], float]
"""Seconds from some moment on; ``time.monotonic`` but in tests."""
WARM = 2
"""The step that is timed: in the first one memory is taken and code compiled."""


class Pace:
    """The clock of a run that may end by time: seconds between looks at it."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def look(self) -> float:
        """Seconds since the last look, or since the beginning."""
        last, self._last = self._last, self._clock()
        return self._last - last


def forecast(seconds: float, what: str, minutes_left: float | None, steps_left: float) -> str:
    """What to expect: ``a step of 32 windows takes 18.2 s here: about 13 in the 4 min that are
    left``.

    seconds: of a step. what: a step is made of. minutes_left: until the run ends by time, None if
    it does not. steps_left: until it ends by its number of steps.
    """
    told = f"a step of {what} takes {span(seconds)} here"
    if minutes_left is not None and (fits := steps_that_fit(seconds, minutes_left)) < steps_left:
        return f"{told}: about {fits:,} in the {span(60 * minutes_left)} that are left"
    return f"{told}: {steps_left:,.0f} more take about {span(seconds * steps_left)}"


def steps_that_fit(seconds: float, minutes_left: float) -> int:
    """Steps that begin within so many minutes, each of ``seconds``."""
    return int(60.0 * max(0.0, minutes_left) / max(seconds, 1e-9)) + 1


def smaller(size: int, fits: int, wanted: int) -> int:
    """The largest power of two, at most ``size``, of which ``wanted`` steps fit where ``fits``
    steps of ``size`` do; at least 1."""
    best = 1
    while 2 * best < size and 2 * best * wanted <= size * fits:
        best *= 2
    return best
