"""Safe file access: regular files only, of bounded size, inside their folder, written atomically.

Every reader and writer of worldsim's formats goes through this module, so the same rules hold for
all files:

- Only regular files are read. A FIFO, a device or a link to one could hang the process or fill its
  memory.
- A file that another file names lies in the same folder: no absolute paths, no ``..``, no links
  that lead out.
- A file is written beside its destination and then renamed. Only regular files are ever replaced.
- A full or read-only disk raises :class:`worldsim.errors.StorageError`, which names the path; the
  old file stays.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError, StorageError
from worldsim.runtime.limits import require_memory_for

if TYPE_CHECKING:
    from torch import Tensor

JSON_LIMIT = 64 * 2**20
"""Largest JSON file that is read, in bytes: the index of a dataset of 100,000 shards takes 20
MB."""

LONGEST_NAME = 255
"""Bytes of the longest name of a file that file systems take."""

Name = str | os.PathLike[str]
# The second number is missing in what earlier versions left.
_LEFTOVER = re.compile(r"\.(\d+)(?:-\d+)?\.(?:tmp|new)")

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
}


def as_path(path: Name) -> Path:
    """Return ``path`` as a Path.

    Raises InvalidInputError for anything that is no path, such as a number or a string with a zero
    byte.
    """
    try:
        found = Path(path)
    except TypeError:
        raise InvalidInputError(f"{path!r} is no path: give a text or a pathlib.Path") from None
    if "\0" in str(found):
        raise InvalidInputError(f"{path!r} is no path: it holds a zero byte")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in found.parts):
        raise InvalidInputError(
            f"{str(path)[:40]}... has a name of more than {LONGEST_NAME} bytes: choose a shorter "
            f"one"
        )
    return found


def require_regular(path: Name, limit: int | None = None) -> Path:
    """Return ``path`` if it is a regular file or a link to one.

    limit: maximum size in bytes.

    Raises NotFoundError if nothing is there, and DamagedFileError for anything that is not a
    regular file or is larger. Does not open the file.
    """
    path = as_path(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({_reason(error)}): check the path and its permissions"
        ) from None
    if stat.S_ISDIR(found.st_mode):
        raise NotFoundError(f"{path} is a folder, not a file: name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise DamagedFileError(
            f"{path} is {_kind(found.st_mode)}, not a regular file: replace it with the file itself"
        )
    if limit is not None and found.st_size > limit:
        raise DamagedFileError(
            f"{path} has {found.st_size:,} bytes, at most {limit:,} are read: it is not what its "
            f"name says"
        )
    return path


def read_bytes(path: Name, limit: int | None = None) -> bytes:
    """The content of a regular file. Raises as :func:`require_regular` does."""
    path = require_regular(path, limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedFileError(
            f"{path} cannot be read ({_reason(error)}): check the path and its permissions"
        ) from None


def is_file(path: Name) -> bool:
    """Return whether ``path`` exists and is not a folder; False for names that no file can have."""
    try:
        return not stat.S_ISDIR(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Name) -> bool:
    """Return whether ``path`` is a folder; False for names that no folder can have."""
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def inside(folder: Name, name: object, where: Name | None = None) -> Path:
    """Return the path of the file ``name`` in ``folder``.

    A file in the same folder names it.

    where: the file that names it, for the error.

    Raises DamagedFileError for a name that is absolute, has ``..`` or leads out of the folder
    through a link. The file need not exist. Links of the Hugging Face hub's cache (``snapshots`` to
    ``blobs``) are accepted.
    """
    folder = as_path(folder)
    source = where or folder
    if (
        not isinstance(name, str)
        or not name
        or "\0" in name
        or Path(name).is_absolute()
        or ".." in Path(name).parts
    ):
        raise DamagedFileError(
            f"{source} names the file {name!r}: only files inside {folder} can be named"
        )
    path = folder / name
    try:
        target, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise DamagedFileError(
            f"{source} names the file {name!r}, which cannot be found ({_reason(error)})"
        ) from None
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(one) for one in roots):
        raise DamagedFileError(
            f"{path} is a link that leads out of {folder}: copy the file itself into the folder"
        )
    return path


def files_in(folder: Name, root: Name | None = None) -> Iterator[Path]:
    """Return every regular file below ``folder``, sorted.

    Raises DamagedFileError for links that lead out and for anything that is not a regular file.

    root: links may not lead out of this folder, and ``folder`` must lie inside it. It is the folder
        that the user named; by default ``folder`` itself.
    """
    folder = as_path(folder)
    root = folder if root is None else as_path(root)
    for path in (folder, *sorted(folder.rglob("*"))):
        if path != root:
            inside(root, path.relative_to(root).as_posix())
        if path.is_dir() and not path.is_symlink():
            continue
        if not path.is_dir():
            yield require_regular(path)


def sha256_of(path: Name) -> str:
    """Return the hexadecimal SHA-256 of a regular file."""
    with open(require_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(path: Name) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success, that file replaces ``path``.

    ``path`` holds either the old file or the complete new one at any time: the new one is flushed
    to disk and renamed. The folder is created if it is missing. The temporary file has the same
    name. Raises StorageError if ``path`` exists and is not a regular file (a device, a link, a
    FIFO), or if the disk is full or read-only.
    """
    path = as_path(path)
    require_replaceable(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        # In a folder of its own: safetensors makes another temporary file beside the one that it is
        # to write.
        own = _beside(path, ".tmp")
        own.mkdir()
        temporary = own / path.name
    try:
        with storage_errors(path):
            yield temporary
            # safetensors makes files that their owner alone can read.
            temporary.chmod(0o644)
            flush(temporary)
            require_replaceable(path)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(folder: Name) -> Iterator[Path]:
    """Yield a temporary copy of ``folder`` to change; on success, it replaces ``folder``.

    Files in the copy are hard links to the old ones, so replace them as :func:`replacing` does and
    never write into them. If the process is killed between the two renames, the old folder stays as
    ``.NAME.old``, where :func:`present_folder` finds it. Raises StorageError as :func:`replacing`
    does.
    """
    folder = as_path(folder)
    folder = folder.resolve() if folder.is_symlink() or folder.name in ("", "..") else folder
    old = _old(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise StorageError(
            f"{folder} is a file, and a folder is to be written there: choose another place"
        )
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if old.is_dir() and not folder.exists():
            os.rename(old, folder)
        shutil.rmtree(old, ignore_errors=True)
        _remove_leftovers(folder)
        new = _beside(folder, ".new")
        new.mkdir()
        if folder.is_dir():
            shutil.copytree(folder, new, symlinks=True, dirs_exist_ok=True, copy_function=_link)
    try:
        with storage_errors(folder):
            try:
                yield new
            except StorageError as error:
                # Nobody knows the temporary folder's name.
                raise StorageError(str(error).replace(str(new), str(folder))) from error
            flush(new)
            if folder.exists():
                os.rename(folder, old)
            os.rename(new, folder)
            flush(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def present_folder(folder: Name) -> Path:
    """Return ``folder``, or its old version if a :func:`replacing_folder` was killed."""
    folder = Path(folder)
    old = _old(folder)
    return old if not is_folder(folder) and is_folder(old) else folder


def write_bytes(path: Name, content: bytes) -> None:
    """Write a file atomically; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def require_replaceable(path: Name) -> None:
    """Raise StorageError if ``path`` exists and is not a regular file.

    Writing there would destroy it.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be written ({_reason(error)}): choose another place"
        ) from None
    if not stat.S_ISREG(mode):
        raise StorageError(
            f"{path} is {_kind(mode)} and would be destroyed: name a regular file, or one that "
            f"does not exist yet"
        )


@contextlib.contextmanager
def storage_errors(path: Name) -> Iterator[None]:
    """Turn OSError while writing ``path`` into StorageError, which names the next step."""
    try:
        yield
    except (NotFoundError, StorageError):
        raise
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space",
            errno.EROFS: "choose a folder that can be written to",
            errno.EACCES: "choose a folder that can be written to",
            errno.EPERM: "choose a folder that can be written to",
            errno.ENAMETOOLONG: "choose a shorter name",
        }.get(error.errno or 0, "choose another place")
        raise StorageError(
            f"{path} cannot be written ({_reason(error)}): {advice}. What was there before is "
            f"intact."
        ) from error
    except Exception as error:
        # safetensors wraps the system's errors in one of its own.
        if type(error).__name__ == "SafetensorError" and "os error" in str(error).lower():
            raise StorageError(
                f"{path} cannot be written ({error}): free some space or choose another place. "
                f"What was there before is intact."
            ) from error
        raise


def make_folder(path: Name) -> Path:
    """Create a folder to write to, with its parents. Raises StorageError."""
    path = as_path(path)
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def make_writable_folder(path: Name) -> Path:
    """Create a folder and write a test file to it, so that errors come before the work.

    Raises StorageError.
    """
    path = make_folder(path)
    with storage_errors(path), tempfile.TemporaryFile(dir=path) as file:
        file.write(b"\0" * 4096)
    return path


def remove_unfinished(folder: Name) -> None:
    """Remove what killed writers left in ``folder`` and below.

    These are the temporary files and folders of :func:`replacing` and :func:`replacing_folder`. No
    other process may be writing there.
    """
    for left in list(Path(folder).rglob(".*")):
        if _LEFTOVER.search(left.name):
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(
                    missing_ok=True
                )


def flush(path: Name) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_tensors(path: Name) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file by name. Raises NotFoundError or DamagedFileError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = require_regular(path)
    require_memory_for(path.stat().st_size, f"the tensors of {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedFileError(
            f"{path} is not a readable safetensors file ({error}): copy it again"
        ) from error


def tensor_shapes(path: Name) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors by name, read from its header alone.

    Raises the same errors as :func:`load_tensors`.
    """
    from safetensors import SafetensorError, safe_open

    path = require_regular(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedFileError(
            f"{path} is not a readable safetensors file ({error}): copy it again"
        ) from error


def save_tensors(
    tensors: Mapping[str, Tensor], path: Name, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically; see :func:`replacing`."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, metadata)


def check_files(path: Name, told: object) -> None:
    """Compare files with the SHA-256 checksums that the file ``path`` lists.

    told: checksums by file name, relative to the folder of ``path``.

    Raises NotFoundError for the first file that is missing and DamagedFileError for the first that
    differs.
    """
    path = Path(path)
    if not isinstance(told, dict):
        raise DamagedFileError(
            f"{path} has no checksums of the files beside it: copy the folder again"
        )
    for name, checksum in told.items():
        file = inside(path.parent, name, path)
        if not is_file(file):
            raise NotFoundError(f"{file} is missing: copy the folder again")
        # All of them are read into memory later: larger ones need not be hashed first, which would
        # take for ever.
        require_memory_for(require_regular(file).stat().st_size, f"{file}")
        if sha256_of(file) != checksum:
            raise DamagedFileError(
                f"{file} differs from its checksum in {path.name}: it was cut short or altered; "
                f"copy the folder again"
            )


def require_finite(tensors: Mapping[str, Tensor], source: Name) -> None:
    """Raise DamagedFileError if a tensor from the file ``source`` holds NaN or infinity.

    The error names the tensor.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DamagedFileError(
                f"{source}: {name} holds numbers that are NaN or infinite: copy the file again"
            )


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old") if folder.name else folder


def _beside(path: Path, suffix: str) -> Path:
    """Return a temporary name that identifies its process and thread."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}-{threading.get_native_id()}{suffix}")


def _remove_leftovers(path: Path) -> None:
    """Delete temporary files that killed writers of ``path`` left beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name[:100])}.*-*"):
        found = _LEFTOVER.search(left.name)
        if found and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(
                missing_ok=True
            )


def _link(source: str, target: str) -> None:
    """Create a hard link, or copy the file if the file system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
