"""Delays Ctrl-C and SIGTERM until the end of a step."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
"""What handles a signal, as ``signal.getsignal`` returns it."""


class Interrupts:
    """Context in which the first Ctrl-C or SIGTERM sets :attr:`came`; the second acts as usual.

    Has no effect outside the main thread, where signals cannot be handled.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # Background jobs of a shell ignore Ctrl-C, and go on doing so.
            handled = [
                one for one in SIGNALS if signal.getsignal(one) not in (signal.SIG_IGN, None)
            ]
            self._before = {one: signal.signal(one, self._handle) for one in handled}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def end(self) -> None:
        """End the process as the received signal would have done; nothing if there was none."""
        if self.came == signal.SIGINT:
            raise KeyboardInterrupt
        if self.came is not None:
            sys.exit(128 + self.came)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.came = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
