"""A process for a real twin that gets ready while the server starts.

A new process imports PyTorch, which takes as long as the rest of a session's beginning. This module
imports little, so that the process can be started before the server imports anything itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from worldsim.errors import EngineError
from worldsim.runtime.workers import Engine, Worker

if TYPE_CHECKING:
    from worldsim.sessions.twin_process import RunningTwin


class SpareTwin:
    """One process, for the first session that wants a twin.

    :meth:`prepare` starts an engine in it, before it is known whether that session needs the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker[RunningTwin] | None = Worker(_no_twin)
        self._thread = ThreadPoolExecutor(1, "worldsim-spare-twin")
        self._thread.submit(self._worker.call, _import)

    def prepare(self, make: Callable[[], RunningTwin]) -> None:
        """Start an engine in the process; returns at once. Errors show when it is used."""
        with self._lock:
            if self._worker is not None:
                self._thread.submit(_prepare, self._worker, make)

    def take(self) -> Worker[RunningTwin] | None:
        """Return the process once it is ready, None if somebody has it already."""
        with self._lock:
            worker, self._worker = self._worker, None
        self._thread.shutdown()
        return worker

    def close(self) -> None:
        """End the process, unless somebody has it."""
        worker = self.take()
        if worker is not None:
            worker.close()


def _prepare(worker: Worker[RunningTwin], make: Callable[[], RunningTwin]) -> None:
    worker.play_with(make)
    worker.call(_start)


# In the process.


def _no_twin() -> RunningTwin:
    raise EngineError("this process has not been told which twin to make")


def _import(_: Engine[RunningTwin]) -> None:
    import worldsim.sessions.twin_process  # noqa: F401


def _start(engine: Engine[RunningTwin]) -> None:
    # Whoever uses it starts it again, and is told why it fails.
    with contextlib.suppress(Exception):
        engine.play(lambda _: None)
