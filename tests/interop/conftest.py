"""The shipped worlds under the ids that other libraries see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.world import World


@pytest.fixture(scope="session")
def freedoom() -> World:
    """The shipped world of discrete actions, with geometry. Tests must not change it."""
    return World.from_pretrained("freedoom-tiny", "cpu")


@pytest.fixture(scope="session")
def carracing() -> World:
    """The shipped world of continuous actions, without geometry. Tests must not change it."""
    return World.from_pretrained("carracing", "cpu")


def run_with_threads(code: str, folder: Path, seconds: float = 300.0) -> str:
    """What a program prints that computes with two of torch's threads; it fails if it is not done
    after so many seconds.

    The suite itself uses one thread (tests/conftest.py), as users do not.
    """
    path = folder / "program.py"
    path.write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
        cwd=folder,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # Its children, too: they are what waits.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pytest.fail(f"not done after {seconds:.0f} seconds")
    assert process.returncode == 0, said
    return said


@pytest.fixture
def threaded(tmp_path: Path):
    """:func:`run_with_threads` in a folder of its own."""
    return lambda code: run_with_threads(code, tmp_path, 240.0)
