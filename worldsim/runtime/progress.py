"""Progress of long tasks: a bar on a terminal, occasional lines elsewhere, nothing when quiet.

Everything goes to stderr, so that stdout holds results alone.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

EVERY_S = 10.0
"""Seconds between two lines where stderr is not a terminal."""
SHARE = "%"
"""Unit of a progress that is told as a share, in [0, 100]."""

T = TypeVar("T")
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Turn progress and hints off or on for this process. Warnings and errors are always shown."""
    global _quiet
    _quiet = bool(quiet)


def is_quiet() -> bool:
    """Return whether :func:`set_quiet` turned progress off."""
    return _quiet


@contextlib.contextmanager
def silence(quiet: bool = True) -> Iterator[None]:
    """Context with :func:`set_quiet`."""
    before = _quiet
    set_quiet(before or quiet)
    try:
        yield
    finally:
        set_quiet(before)


def say(text: str, always: bool = False) -> None:
    """Print lines on stderr, above open bars.

    always: print even when quiet.
    """
    if always or not _quiet:
        # Where both go to one file, results printed before come before.
        sys.stdout.flush()
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def span(seconds: float) -> str:
    """Format a duration: ``0.25 s``, ``18.2 s``, ``7 min 30 s``, ``5 h 33 min``."""
    if 0.0005 <= seconds < 1.0:
        return f"{seconds:.2g} s"
    if seconds < 60.0:
        return f"{seconds:.1f} s" if seconds < 59.95 else "1 min"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600:,} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")


class Progress:
    """Progress of a long task; a context manager that closes the bar or writes the last line.

    On a terminal it is a tqdm bar, which disappears at the end. Elsewhere it writes a line every
    :data:`EVERY_S` seconds and one at the end.
    """

    def __init__(
        self,
        total: float | None,
        what: str,
        unit: str = "step",
        initial: float = 0.0,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the display.

        total: number of units, None if unknown.
        what: name of the task, such as ``dreaming``.
        unit: singular noun, or ``%``.
        initial: units done before.
        shown: False if another process shows the progress.
        clock: returns the time in seconds.
        """
        self.total, self.what, self.unit, self.n = total, what, unit, initial
        self._initial, self._clock = initial, clock
        self._began = self._told = clock()
        self._note = ""
        self._lines = shown and not _quiet
        self._bar: tqdm | None = None
        if self._lines and sys.stderr.isatty():
            self._lines = False
            shape = (
                "{desc} {percentage:5.1f}% |{bar}| {elapsed}<{remaining}{postfix}"
                if unit == SHARE
                else None
            )
            name = "" if unit == SHARE else f" {unit}"
            self._bar = tqdm(
                total=total,
                desc=what,
                unit=name,
                initial=initial,
                leave=False,
                dynamic_ncols=True,
                file=sys.stderr,
                bar_format=shape,
                unit_scale=bool(total and total >= 10_000),
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: float = 1.0) -> None:
        """Add ``n`` finished units."""
        self.move_to(self.n + n)

    def move_to(self, n: float, note: str | None = None) -> None:
        """Set the number of units done to ``n``.

        note: text to show beside it until the next one.
        """
        step, self.n = n - self.n, n
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.total = self.total
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(step)
        elif self._lines and self._clock() - self._told >= EVERY_S:
            self._line()

    def close(self) -> None:
        """Remove the bar, or write the last line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._lines:
            self._line(last=True)
            self._lines = False

    def _line(self, last: bool = False) -> None:
        self._told = self._clock()
        passed, done = self._told - self._began, self.n - self._initial
        parts = [self._count(), span(passed)]
        if not last and self.total is not None and done > 0 and self.n < self.total:
            parts.append(f"about {span(passed * (self.total - self.n) / done)} left")
        print(
            f"{self.what}: " + ", ".join([*parts, *([self._note] if self._note else [])]),
            file=sys.stderr,
            flush=True,
        )

    def _count(self) -> str:
        if self.unit == SHARE:
            return f"{self.n:.1f}%"
        count = f"{self.n:,.0f}" if self.total is None else f"{self.n:,.0f} of {self.total:,.0f}"
        singular = (self.total if self.total is not None else self.n) == 1
        return f"{count} {self.unit if singular else _plural(self.unit)}"


def _plural(unit: str) -> str:
    return unit + ("es" if unit.endswith(("ch", "s", "x")) else "s")


def follow(
    items: Iterable[T], what: str, unit: str = "step", total: int | None = None
) -> Iterator[T]:
    """Yield the items one by one and show a :class:`Progress` over them.

    total: number of items, if they have no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, what, unit) as progress:
        for item in items:
            yield item
            progress.update()
