"""Cleanup after killed processes: temporary folders and shared memory of engines.

The next process finds and removes them. ViZDoom's engine keeps its frames in files of ``/dev/shm``,
11 MB each, which it removes only on an orderly exit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX, UNLOCKED_PREFIX = "worldsim-scratch-", "worldsim-new-"
SHARED_MEMORY, ENGINE_FILES = Path("/dev/shm"), "ViZDoom*"


class Scratch:
    """A temporary folder with a lock that its owner holds.

    :func:`sweep` uses the lock to tell it from the folders of dead processes.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._handle = -1

    def open(self) -> Path:
        """Return the folder; creates it if necessary."""
        if self._folder is None:
            sweep()
            # Locked before it has the name that others look for.
            unlocked = Path(tempfile.mkdtemp(prefix=UNLOCKED_PREFIX))
            if os.name == "posix":
                self._handle = os.open(unlocked, os.O_RDONLY)
                _lock(self._handle)
            self._folder = unlocked.rename(
                unlocked.with_name(PREFIX + unlocked.name.removeprefix(UNLOCKED_PREFIX))
            )
        return self._folder

    def close(self) -> None:
        """Remove the folder and its content."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def sweep() -> None:
    """Remove the temporary folders of dead processes."""
    if os.name != "posix":
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                if _lock(handle):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def orphaned_memory(but: int | None = None) -> set[Path]:
    """Return this user's engine files in ``/dev/shm`` that no process has open.

    but: a process to ignore.
    """
    found: set[Path] = set()
    for path in SHARED_MEMORY.glob(ENGINE_FILES):
        with contextlib.suppress(OSError):
            found |= {path} if path.stat().st_uid == os.getuid() else set()
    for process in Path("/proc").glob("[0-9]*") if found else ():
        if int(process.name) != but:
            found -= _open_files(process, found)
    return found


def remove_orphaned_memory(but: int | None = None) -> None:
    """Remove the files of :func:`orphaned_memory`."""
    for path in orphaned_memory(but):
        path.unlink(missing_ok=True)


def _open_files(process: Path, files: set[Path]) -> set[Path]:
    names = ""
    with contextlib.suppress(OSError):
        # Files are opened, then mapped, then closed: in this order none is missed.
        for handle in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                names += os.readlink(handle) + "\n"
        names += (process / "maps").read_text()
    return {path for path in files if str(path) in names}


_home: Path | None = None


@contextlib.contextmanager
def home(folder: Path) -> Iterator[None]:
    """Context in which ViZDoom's engines start in ``folder``; see :func:`engine_home`."""
    global _home
    before, _home = _home, folder
    try:
        yield
    finally:
        _home = before


def engine_home(env_id: str) -> contextlib.AbstractContextManager[None]:
    """Context in which to reset the environment ``env_id``.

    ViZDoom's environments start their engines in the first reset. The engines keep files in the
    working directory, where several processes would conflict.
    """
    return (
        contextlib.chdir(_home)
        if _home is not None and "Vizdoom" in env_id
        else contextlib.nullcontext()
    )
