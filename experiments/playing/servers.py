"""Servers of worldsim that an experiment runs in a process of their own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence

PATIENCE = 300.0
"""Seconds until something that must come is given up."""


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: str, port: int, more: Sequence[str] = (), wait: bool = True
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run ``worldsim COMMAND`` at a port until the context ends.

    wait: until it answers.
    """
    url = f"http://127.0.0.1:{port}"
    line = [sys.executable, "-m", "worldsim", command, "--port", str(port), *more]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        if wait:
            wait_for_server(url, process)
        yield url, process
    finally:
        process.terminate()
        process.wait(60)


def wait_for_server(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(f"{url}/api/v1/health", timeout=10).read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.02)
