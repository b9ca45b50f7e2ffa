"""Datasets in folders and in object stores; the shards of the latter are fetched when needed.

The files are those of :mod:`worldsim.data.dataset`. A shard exists once ``dataset.json`` lists it,
and what is fetched is compared with the checksum there.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from worldsim.data.dataset import (
    INDEX_FILE,
    DatasetInfo,
    EpisodeDataset,
    Shard,
    ShardInfo,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from worldsim.data.episode import Episode
from worldsim.errors import DamagedFileError, NotFoundError
from worldsim.runtime.files import is_file, sha256_of, storage_errors
from worldsim.runtime.remote import Place, RemoteFolder, place_of
from worldsim.runtime.types import JsonObject

TRIES, KEPT = 2, 2
"""A shard that arrives with another checksum is fetched once more; local copies of so many shards
are kept beside the present and the next one."""


def open_dataset(where: Place, verify: bool = True) -> EpisodeDataset:
    """Open a dataset in a folder, or at a URL such as ``s3://bucket/folder``.

    verify: compare a shard with its checksum before its frames are first used; those that are
        fetched always are.
    """
    place = place_of(where)
    if isinstance(place, Path):
        return EpisodeDataset(place, verify=verify)
    return RemoteDataset(place)


def has_dataset(where: Place) -> bool:
    """Return whether there is a dataset in a folder or at a URL."""
    place = place_of(where)
    if isinstance(place, Path):
        return is_file(place / INDEX_FILE)
    return RemoteFolder(place).has(INDEX_FILE)


def get_index(place: Place) -> tuple[DatasetInfo, tuple[ShardInfo, ...]]:
    """Read the ``dataset.json`` in a folder or at a URL.

    Raises NotFoundError or DamagedFileError.
    """
    if isinstance(place, Path):
        return read_index(place)
    remote = RemoteFolder(place)
    with tempfile.TemporaryDirectory() as folder:
        try:
            remote.download(INDEX_FILE, Path(folder) / INDEX_FILE)
        except NotFoundError:
            raise NotFoundError(
                f"No dataset at {remote}: it has no {INDEX_FILE}. Record one with: worldsim record "
                f"ENV_ID --out {remote}"
            ) from None
        try:
            return read_index(Path(folder))
        except DamagedFileError as error:
            raise DamagedFileError(str(error).replace(folder, str(remote))) from None


def put_index(place: Place, info: DatasetInfo, shards: Sequence[ShardInfo]) -> None:
    """Write the ``dataset.json`` of a folder or URL, all of it or nothing. Raises StorageError."""
    if isinstance(place, Path):
        with storage_errors(place / INDEX_FILE):
            write_index(place, info, shards)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), info, shards)
        RemoteFolder(place).upload(Path(folder) / INDEX_FILE)


def has_shard(place: Place, expected: ShardInfo) -> bool:
    """Return whether a folder or URL has a shard as the index describes it; reads all of it."""
    if isinstance(place, Path):
        path = place / expected.file
        return path.is_file() and sha256_of(path) == expected.sha256
    remote = RemoteFolder(place)
    return remote.has(expected.file) and remote.sha256(expected.file) == expected.sha256


def put_shard(place: Place, index: int, episodes: Sequence[Episode]) -> ShardInfo:
    """Write episodes as shard ``index`` of a folder or URL, all of it or nothing.

    Raises StorageError. Does not change ``dataset.json``.
    """
    if isinstance(place, Path):
        with storage_errors(place / shard_name(index)):
            return write_shard(place, index, episodes)
    with tempfile.TemporaryDirectory() as folder:
        written = write_shard(Path(folder), index, episodes)
        RemoteFolder(place).upload(Path(folder) / written.file)
    return written


class RemoteDataset(EpisodeDataset):
    """A dataset at a URL, with the shards in use in a temporary folder.

    Opening it reads the index alone. While one shard is used, the next one is fetched, and copies
    of all but the last few are removed. Damaged shards raise when they are used.

    url: such as ``s3://bucket/folder``, see :class:`worldsim.runtime.remote.RemoteFolder`.

    Raises NotFoundError if there is no dataset, and StorageError if the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.remote = RemoteFolder(url)
        self._copies = tempfile.TemporaryDirectory(prefix="worldsim-shards-")
        self._fetching: dict[int, Future[None]] = {}
        self._infos: dict[int, list[JsonObject]] = {}
        self._fetcher = ThreadPoolExecutor(1, "fetch")
        folder = Path(self._copies.name)
        write_index(folder, *get_index(url))
        # What is fetched has been compared with its checksum.
        super().__init__(folder, verify=False)

    @property
    def place(self) -> str:
        """The dataset's URL."""
        return self.remote.url

    def where(self, entry: ShardInfo) -> str:
        """Return the URL of a shard."""
        return f"{self.remote}/{entry.file}"

    def refresh(self) -> int:
        """Add the shards that a recording in progress has finished since; returns how many."""
        write_index(self.path, *get_index(self.place))
        return super().refresh()

    def load_shard(self, index: int) -> Shard:
        """Return shard ``index`` as :meth:`EpisodeDataset.load_shard` does; fetches it if needed.

        Raises DamagedFileError if what is in the store differs from its checksum.
        """
        self._fetch(index).result()
        for oldest in [i for i in self._fetching if i not in (index, index + 1)][:-KEPT]:
            self._drop(oldest)
        if index + 1 < len(self.shards):
            self._fetch(index + 1)
        shard = super().load_shard(index)
        self._infos[index] = shard.episodes
        return shard

    def _drop(self, index: int) -> None:
        """Forget a shard and remove its local copy. Memory maps in use stay readable."""
        self._open.pop(index, None)
        self._fetching.pop(index, None)
        with contextlib.suppress(FileNotFoundError):
            (self.path / self.shards[index].file).unlink()

    def verify(self) -> tuple[str, ...]:
        """Compare every shard in the store with ``dataset.json``, which reads all data.

        Raises :class:`DamagedFileError`, which names all bad files.
        """
        bad = [one.file for one in self.shards if not has_shard(self.place, one)]
        if bad:
            raise DamagedFileError(
                f"In {self.remote}, missing or not as recorded: {', '.join(bad)}. Run the same "
                f"`worldsim record` command again to record them anew."
            )
        return ()

    def _infos_of(self, index: int) -> list[JsonObject]:
        return self._infos[index] if index in self._infos else self.load_shard(index).episodes

    def close(self) -> None:
        """Remove the local copies."""
        self._fetcher.shutdown(cancel_futures=True)
        self._copies.cleanup()

    def __reduce__(self) -> tuple[type[RemoteDataset], tuple[str]]:
        return RemoteDataset, (self.place,)

    def _fetch(self, index: int) -> Future[None]:
        known = self._fetching.get(index)
        # One that failed ahead of its use, perhaps for a moment, is tried again.
        if known is None or (known.done() and known.exception() is not None):
            self._fetching[index] = self._fetcher.submit(self._download, self.shards[index])
        return self._fetching[index]

    def _download(self, entry: ShardInfo) -> None:
        path = self.path / entry.file
        unfinished = path.with_suffix(".part")
        for _ in range(TRIES):
            try:
                self.remote.download(entry.file, unfinished)
            except NotFoundError:
                break
            if sha256_of(unfinished) == entry.sha256:
                unfinished.rename(path)
                return
        unfinished.unlink(missing_ok=True)
        raise DamagedFileError(
            f"Shard {self.remote}/{entry.file} is missing, or differs from its checksum in "
            f"{INDEX_FILE}. Run the same `worldsim record` command again to record it anew."
        )

    def _readable_from(self, first: int) -> Iterator[int]:
        # Opened when they are used: opening them now would fetch all.
        return iter(range(first, len(self.shards)))
