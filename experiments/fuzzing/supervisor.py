"""Watches over the process that uses inputs: time, memory and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from experiments.fuzzing.case import Outcome

POLL_S = 0.05
START_S = 900.0
"""A process that is not ready by then is given up."""
TIRED_BYTES = 2 * 2**30
"""A process that holds more than this after an input is replaced, so that none is charged for what
others left."""


class Clock:
    """What a process uses of its time: all of it, but what it waits for a processor that others
    use."""

    def __init__(self, pid: int) -> None:
        self._process, self._counted = psutil.Process(pid), 0.0
        self._wall, self._used = time.monotonic(), self._now()

    def _now(self) -> float:
        try:
            times = self._process.cpu_times()
            return float(times.user + times.system)
        except psutil.NoSuchProcess:
            return self._used

    def seconds(self) -> float:
        """Seconds so far. To be asked often: what the process does now counts as what it did
        since."""
        wall, used = time.monotonic(), self._now()
        try:
            ready = self._process.status() == psutil.STATUS_RUNNING
        except psutil.NoSuchProcess:
            ready = False
        self._counted += used - self._used if ready else wall - self._wall
        self._wall, self._used = wall, used
        return self._counted


class Supervisor:
    """One worker at a time. seconds, peak_bytes: what an input may take, its child processes
    included."""

    def __init__(
        self, root: Path, seed: int, kinds: list[str], seconds: float, peak_bytes: int
    ) -> None:
        self.root, self.seed, self.kinds, self.seconds, self.peak_bytes = (
            root,
            seed,
            kinds,
            seconds,
            peak_bytes,
        )
        self.restarts = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] | None = None
        self._looked = 0.0

    def ask(self, kind: str, index: int) -> dict[str, Any]:
        """The verdict on one input."""
        process = self._running()
        self._send({"kind": kind, "index": index})
        began: dict[str, Any] = {"mutation": "?", "detail": "", "expect": ""}
        clock, peak = Clock(process.pid), 0
        while True:
            message = self._read(POLL_S)
            peak = max(peak, self._held())
            if message is not None and "began" in message:
                began, clock = message["began"], Clock(process.pid)
                continue
            counted = clock.seconds()
            if message is not None:
                result = {"kind": kind, "index": index, **message["result"], "peak_mb": peak >> 20}
                if peak > self.peak_bytes:
                    result |= {"outcome": Outcome.MEMORY, "message": f"{peak / 2**30:.1f} GiB"}
                if self._held() > TIRED_BYTES:
                    self.stop()
                return result
            trace, outcome, told = "", None, ""
            if peak > self.peak_bytes:
                outcome, told, trace = Outcome.MEMORY, f"{peak / 2**30:.1f} GiB", self._stack()
            elif process.poll() is not None:
                code = process.returncode
                outcome = Outcome.CRASH
                told = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            elif counted > self.seconds:
                outcome, told, trace = Outcome.HANG, f"over {self.seconds:.0f} s", self._stack()
            if outcome is not None:
                self.stop()
                found = {"outcome": outcome, "message": told, "trace": trace}
                sizes = {"seconds": round(counted, 3), "peak_mb": peak >> 20}
                return {"kind": kind, "index": index, **began, **found, **sizes}

    def stop(self) -> None:
        """End the worker and its children."""
        process, self._process = self._process, None
        self._family = None
        if process is None:
            return
        tree: list[psutil.Process] = []
        try:
            parent = psutil.Process(process.pid)
            tree = [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            pass
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        self.restarts += 1
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "experiments.fuzzing.worker",
            str(self.root),
            str(self.seed),
        ]
        place = Path(__file__).resolve().parents[2]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=place
        )
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        self._unread = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.stdout, selectors.EVENT_READ)
        self._expect("ready")
        self._send({"prepare": self.kinds})
        self._expect("prepared")
        return process

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _expect(self, word: str) -> None:
        end = time.monotonic() + START_S
        while True:
            message = self._read(1.0)
            if message is not None and word in message:
                return
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(
                    f"the worker is not {word}: run `python -m experiments.fuzzing.worker "
                    f"{self.root} {self.seed}`"
                )

    def _read(self, timeout: float) -> dict[str, Any] | None:
        """The next message, None if there is none in time."""
        assert self._process is not None and self._process.stdout is not None
        # Not through a buffer: what it holds, a selector does not see.
        if b"\n" not in self._unread and self._selector.select(timeout):
            self._unread += os.read(self._process.stdout.fileno(), 1 << 16)
        line, newline, rest = self._unread.partition(b"\n")
        if not newline:
            return None
        self._unread = rest
        message: dict[str, Any] = json.loads(line)
        return message

    def _held(self) -> int:
        """Bytes that the worker and its children hold."""
        assert self._process is not None
        now = time.monotonic()
        try:
            if self._family is None or now - self._looked > 1.0:
                parent = psutil.Process(self._process.pid)
                # Finding children looks at every process of the machine.
                self._family, self._looked = [parent, *parent.children(recursive=True)], now
        except psutil.NoSuchProcess:
            return 0
        total = 0
        for one in self._family:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                self._looked = 0.0
        return total

    def _stack(self) -> str:
        """Where the worker is; empty if that cannot be told."""
        assert self._process is not None
        place = self.root / "stack.txt"
        try:
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(1.0)
            return place.read_text()[-1500:]
        except (OSError, UnicodeDecodeError):
            return ""
