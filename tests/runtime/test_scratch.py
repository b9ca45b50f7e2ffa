"""Temporary folders and shared memory of processes that are gone."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from worldsim.runtime.scratch import (
    PREFIX,
    SHARED_MEMORY,
    Scratch,
    engine_home,
    home,
    remove_orphaned_memory,
    sweep,
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_lasts_as_long_as_its_owner(temporary: Path) -> None:
    scratch = Scratch()
    folder = scratch.open()
    assert scratch.open() == folder and folder.parent == temporary
    (folder / "sub").mkdir()
    (folder / "sub" / "file").touch()
    sweep()
    assert (folder / "sub" / "file").is_file()
    scratch.close()
    scratch.close()
    assert list(temporary.iterdir()) == []
    again = scratch.open()
    assert again.is_dir()
    scratch.close()


def test_folders_of_dead_processes_are_swept_and_nothing_else(temporary: Path) -> None:
    code = (
        "import tempfile, os, sys; tempfile.tempdir = sys.argv[1]\n"
        "from worldsim.runtime.scratch import Scratch\n"
        "Scratch().open(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(temporary)]).returncode == -9
    (left,) = temporary.iterdir()
    assert left.name.startswith(PREFIX)
    (temporary / "worldsim-other").mkdir()
    sweep()
    assert [path.name for path in temporary.iterdir()] == ["worldsim-other"]


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="there is no /dev/shm")
def test_shared_memory_that_is_in_use_stays() -> None:
    used, unused = (SHARED_MEMORY / f"ViZDoomTest{uuid.uuid4().hex}" for _ in range(2))
    with open(used, "wb"):
        unused.touch()
        remove_orphaned_memory()
        assert used.exists() and not unused.exists()
    remove_orphaned_memory()
    assert not used.exists()


def test_engines_are_started_at_home(tmp_path: Path) -> None:
    before = Path.cwd()
    with engine_home("VizdoomTakeCover-v1"):
        assert Path.cwd() == before
    with home(tmp_path):
        with engine_home("VizdoomTakeCover-v1"):
            assert Path.cwd() == tmp_path
        with engine_home("worldsim/TinyRoom-v0"):
            assert Path.cwd() == before
    with engine_home("VizdoomTakeCover-v1"):
        assert Path.cwd() == before
