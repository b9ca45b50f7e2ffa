"""Folders in object stores and other file systems of fsspec, such as ``s3://bucket/folder``.

An object store writes a whole object or nothing, and cannot rename one. So a file is uploaded under
its own name, and a reader relies on the index alone: what it does not list does not exist.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import fsspec

from worldsim.errors import (
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    StorageError,
)
from worldsim.runtime.extras import how_to_install, missing_module
from worldsim.runtime.files import as_path

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://")
STORES = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "azure")
"""Packages of stores' clients, whose errors say why a store refuses."""

Place = Path | str
"""A folder on this machine, or the URL of one elsewhere."""


def place_of(where: Place) -> Place:
    """Return a URL as it is, and everything else as a Path; ``file://`` URLs are local folders.

    Raises InvalidInputError for what is neither, and for chains of file systems (``a::b``).
    """
    text = str(where)
    if "::" in text:
        raise InvalidInputError(
            f"{text!r} chains file systems: give one URL, such as s3://bucket/folder"
        )
    if isinstance(where, Path) or not _URL.match(text):
        return as_path(where)
    parts = urlsplit(text)
    if parts.scheme != "file":
        return text.rstrip("/")
    if parts.netloc not in ("", "localhost"):
        raise InvalidInputError(
            f"{text!r} names the machine {parts.netloc!r}: a file URL has three slashes, as in "
            f"file:///shared/recording"
        )
    return as_path(url2pathname(parts.path))


class RemoteFolder:
    """A folder of a file system that fsspec knows.

    Credentials are those of the file system's own library: for S3, ``AWS_ACCESS_KEY_ID`` and the
    other variables of boto. Calls raise StorageError, with the library's own reason, if the store
    cannot be reached or refuses.

    url: such as ``s3://bucket/folder``.

    Raises MissingDependencyError if the file system's library is not installed, and
    InvalidInputError for a scheme that fsspec does not know.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._files, self._root = fsspec.url_to_fs(self.url)
        except ImportError as error:
            raise MissingDependencyError(
                f"{url} cannot be opened ({error}): {how_to_install(missing_module(error))}"
            ) from error
        except ValueError as error:
            raise InvalidInputError(
                f"{url} cannot be opened ({error}): give a folder, or a URL such as "
                f"s3://bucket/folder"
            ) from error

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[Any, ...]:
        # Connections stay behind: another process opens its own.
        return RemoteFolder, (self.url,)

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        with self._errors(name):
            # Another machine may have written it since this one last looked.
            self._files.invalidate_cache()
            return bool(self._files.isfile(self._path(name)))

    def folders(self) -> list[str]:
        """Return the names of the folders directly inside, sorted; empty if it does not exist."""
        with contextlib.suppress(NotFoundError), self._errors(""):
            self._files.invalidate_cache()
            listed = self._files.ls(self._root, detail=True)
            return sorted(
                one["name"].rstrip("/").rpartition("/")[2]
                for one in listed
                if one["type"] == "directory"
            )
        return []

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, hexadecimal; reads all of it."""
        with self._errors(name), self._files.open(self._path(name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def upload(self, path: Path) -> None:
        """Write a local file into the folder, under its own name; replaces an older one."""
        with self._errors(path.name):
            self._files.put_file(str(path), self._path(path.name))

    def download(self, name: str, path: Path) -> None:
        """Copy a file of the folder to ``path``. Raises NotFoundError if it is not there."""
        with self._errors(name):
            self._files.get_file(self._path(name), str(path))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFoundError(f"{self.url}/{name} does not exist") from None
        except (OSError, RuntimeError) as error:
            raise self._refused(name, error) from error
        except Exception as error:
            # Stores have error classes of their own, for example botocore's.
            if type(error).__module__.partition(".")[0] not in STORES:
                raise
            raise self._refused(name, error) from error

    def _refused(self, name: str, error: Exception) -> StorageError:
        return StorageError(
            f"{self.url}/{name} cannot be reached ({type(error).__name__}: {error}): check the "
            f"address, the network and the credentials"
        )
