"""Killing the worker processes of this test's process, and the engines in them."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from worldsim.runtime.scratch import orphaned_memory

ENGINE = "vizdoom"
HELPERS = ("resource_tracker", "multiprocessing.forkserver")
"""In the command lines of processes that stay. The second is that of tests.helpers.launching."""


def children() -> list[psutil.Process]:
    """All processes that this one started, and theirs, but multiprocessing's own helpers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and not any(h in line for h in HELPERS):
                found.append(process)
    return found


def engines(of: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in of:
        with contextlib.suppress(psutil.Error):
            if process.name() == ENGINE:
                found.append(process)
    return found


class Killer:
    """While this context lasts, kills a ``worker``, an ``engine``, ``both``, or all ``engines``;
    ``stop`` stops an engine.

    when: nobody is killed before it is true. Each kill needs an engine, and those after the first
    are half a second apart.
    """

    def __init__(self, *victims: str, when: Callable[[], bool] = lambda: True) -> None:
        self.victims, self.when = victims, when
        self.killed: list[str] = []
        self._temporary = tempfile.TemporaryDirectory(prefix="worldsim-killing-")
        self._before = tempfile.tempdir
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> Killer:
        tempfile.tempdir = self._temporary.name
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        tempfile.tempdir = self._before

    def check_nothing_is_left(self) -> None:
        """Neither processes nor temporary folders nor shared memory."""
        assert children() == []
        assert list(Path(self._temporary.name).iterdir()) == []
        self._temporary.cleanup()
        deadline = time.monotonic() + 10.0
        # Other tests, in other processes, kill engines too, and remove what they leave.
        while orphaned_memory():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _kill(self) -> None:
        for victim in self.victims:
            while not (self.when() and kill(victim)):
                if self._over.wait(0.02):
                    return
            self.killed.append(victim)
            self._over.wait(0.5)


def kill(victim: str) -> bool:
    """Kill such a one; whether there was one."""
    if victim == "engines":
        found = engines(children())
        for engine in found if len(found) > 1 else ():
            engine.kill()
        return len(found) > 1
    for engine in engines(children()):
        with contextlib.suppress(psutil.Error):
            worker = engine.parent()
            if worker is None or worker.pid == os.getpid():
                continue
            if victim == "stop":
                engine.send_signal(signal.SIGSTOP)
            if victim in ("worker", "both"):
                worker.kill()
            if victim in ("engine", "both"):
                engine.kill()
            return True
    return False
