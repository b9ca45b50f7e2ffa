"""Files are read if they are regular and inside their folder, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    NotFoundError,
    OutOfMemoryError,
    StorageError,
)
from worldsim.runtime import files
from worldsim.runtime.files import (
    files_in,
    inside,
    present_folder,
    read_bytes,
    replacing,
    replacing_folder,
    require_regular,
    storage_errors,
    write_bytes,
)
from worldsim.runtime.limits import available_memory, require_memory_for

pytestmark = pytest.mark.fast


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, kind in (("fifo", "a FIFO"), ("zero", "a device")):
        with pytest.raises(DamagedFileError, match=kind):
            read_bytes(tmp_path / name)
    with pytest.raises(NotFoundError, match="a folder"):
        read_bytes(tmp_path / "folder")
    with pytest.raises(NotFoundError, match="does not exist"):
        read_bytes(tmp_path / "folder" / "none")
    with pytest.raises(InvalidInputError, match="more than 255 bytes"):
        require_regular(tmp_path / ("a" * 300))
    (tmp_path / "large").write_bytes(b"12345")
    assert read_bytes(tmp_path / "large", 5) == b"12345"
    with pytest.raises(DamagedFileError, match="5 bytes, at most 4"):
        read_bytes(tmp_path / "large", 4)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other", "a/../../other", "", "a\0b", 5, None, "link", "deep/link"]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "other").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "deep" / "link").symlink_to(tmp_path)
    with pytest.raises(DamagedFileError):
        inside(folder, name)
    with pytest.raises(DamagedFileError, match="leads out"):
        list(files_in(folder))


def test_links_inside_a_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert inside(tmp_path, "b").read_text() == "x"
    assert [path.name for path in files_in(tmp_path)] == ["a", "b"]


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    """As root, a rename over /dev/null would destroy it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "link", "folder"):
        with pytest.raises(StorageError, match="would be destroyed"):
            write_bytes(tmp_path / name, b"new")
    with pytest.raises(StorageError, match="a device"):
        write_bytes("/dev/null", b"new")
    assert not Path("/dev/null").is_file() and (tmp_path / "target").read_text() == "kept"
    assert names(tmp_path) == ["fifo", "folder", "link", "target"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    for error, advice in (
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "can be written to"),
        (errno.EIO, "another place"),
    ):
        with (
            pytest.raises(StorageError, match=f"file cannot be written.*{advice}.*is intact"),
            replacing(path) as temporary,
        ):
            temporary.write_bytes(b"half")
            raise OSError(error, os.strerror(error))
    with pytest.raises(KeyError), replacing(path) as temporary:
        raise KeyError("not of the disk")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """A limit on the size of files is the disk that any user can fill."""
    code = f"""
import resource, signal
from pathlib import Path
import torch
from worldsim.errors import StorageError
from worldsim.runtime.files import save_tensors, write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for write in (
    lambda path: write_bytes(path, bytes(20_000)),
    lambda path: save_tensors({{"a": torch.zeros(9000)}}, path),
):
    try:
        write(Path({str(tmp_path)!r}) / "file")
    except StorageError as error:
        print(error)
"""
    write_bytes(tmp_path / "file", b"old")
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert told.count("cannot be written") == 2
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    code = f"""
import os
from worldsim.runtime.files import replacing, replacing_folder
folder, file = {str(tmp_path / "folder")!r}, {str(tmp_path / "file")!r}
with replacing_folder(folder) as new, replacing(file) as temporary:
    temporary.write_text("half")
    (new / "a").write_text("half")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert len(names(tmp_path)) == 2 and not (tmp_path / "file").exists()
    write_bytes(tmp_path / "file", b"new")
    with replacing_folder(tmp_path / "folder") as new:
        (new / "a").write_text("whole")
    assert names(tmp_path) == ["file", "folder"]


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with replacing_folder(folder) as new:
        write_bytes(new / "a", b"1")
        write_bytes(new / "deep" / "b", b"1")
    with pytest.raises(KeyError), replacing_folder(folder) as new:
        write_bytes(new / "a", b"2")
        raise KeyError("interrupted")
    assert (folder / "a").read_bytes() == b"1"
    with replacing_folder(folder) as new:
        write_bytes(new / "a", b"2")
    # What was not written again is what it was.
    assert (folder / "a").read_bytes() == b"2" and (folder / "deep" / "b").read_bytes() == b"1"
    assert names(tmp_path) == ["folder"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file"), replacing_folder(tmp_path / "file"):
        pass


def test_killed_between_the_two_renames_the_old_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    with replacing_folder(folder) as new:
        write_bytes(new / "a", b"1")
    rename = os.rename

    def killed(source: object, target: object) -> None:
        if Path(str(target)) == folder:
            raise KeyboardInterrupt
        rename(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(files.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder) as new:
        write_bytes(new / "a", b"2")
    monkeypatch.undo()
    assert not folder.exists() and (present_folder(folder) / "a").read_bytes() == b"1"
    with replacing_folder(folder) as new:
        assert (new / "a").read_bytes() == b"1"
    assert present_folder(folder) == folder and names(tmp_path) == ["folder"]


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), storage_errors("x"):
        1 / 0  # noqa: B018


def test_memory_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory() > 0
    with pytest.raises(OutOfMemoryError, match="the moon would take 1048576.00 GiB"):
        require_memory_for(2**50, "the moon")
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "0.001")
    assert available_memory() == 0
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "much")
    with pytest.raises(InvalidInputError, match="'much'"):
        available_memory()
