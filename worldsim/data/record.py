"""Recording: play an environment in many processes and keep what it shows as a dataset.

The content of a shard depends on the settings, the seed and the shard's number only, never on which process plays it
or when. So an interrupted recording, run again, ends up the same bit for bit as one that ran through.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from worldsim.data.dataset import (
    INDEX_FILE,
    DatasetInfo,
    EpisodeDataset,
    ShardInfo,
    read_index,
    require_same_info,
    shard_name,
    write_index,
    write_shard,
)
from worldsim.data.episode import measure_alignment
from worldsim.data.play import Player, RecordConfig
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.runtime.files import sha256_of
from worldsim.workers import close_at_exit

__all__ = ["RecordConfig", "record"]


@dataclass(frozen=True)
class ShardResult:
    """What a worker hands back: the finished shard, whether it was there already, and how many episodes it dropped."""

    shard: ShardInfo
    kept: bool
    dropped: int


def record(config: RecordConfig) -> EpisodeDataset:
    """Record until ``config.frames`` frames are on disk, or go on with a recording that was interrupted.

    Shards that are there and whole are kept; missing and damaged ones are recorded. Ctrl-C leaves a readable dataset.
    Nothing is written before the environment has been made and reset once.
    """
    with _players(config) as play:
        info = play.describe()
        config.out.mkdir(parents=True, exist_ok=True)
        with _only_recorder(config.out):
            known = _known_shards(config.out, info)
            for leftover in config.out.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            _record_shards(config, info, known, play)
    dataset = EpisodeDataset(config.out)
    for problem in measure_alignment(dataset).problems:
        warnings.warn(f"{config.env_id}: {problem}", stacklevel=2)
    return dataset


def _record_shards(config: RecordConfig, info: DatasetInfo, known: dict[str, ShardInfo], play: _Play) -> None:
    dropped = 0
    done = dict(known)
    with tqdm(total=config.shards * config.shard_frames, unit=" frames", unit_scale=True, disable=None) as bar:
        expected = [known.get(shard_name(i)) for i in range(config.shards)]
        for result in play.shards(expected, bar.update):
            dropped += result.dropped
            bar.set_postfix(dropped=dropped)
            if not result.kept:
                done[result.shard.file] = result.shard
                write_index(config.out, info, [done[name] for name in sorted(done)])


def _known_shards(out: Path, info: DatasetInfo) -> dict[str, ShardInfo]:
    if not (out / INDEX_FILE).exists():
        return {}
    old, shards = read_index(out)
    require_same_info(out, old, info)
    return {s.file: s for s in shards}


def _finish_shard(
    player: Callable[[], Player], out: Path, index: int, expected: ShardInfo | None, count: Callable[[int], None]
) -> ShardResult:
    """Keep shard ``index`` if it is on disk as ``expected`` says, else record it."""
    path = out / shard_name(index)
    if expected is not None and path.is_file() and sha256_of(path) == expected.sha256:
        count(expected.frames)
        return ShardResult(expected, kept=True, dropped=0)
    episodes, dropped = player().shard(index, count)
    return ShardResult(write_shard(out, index, episodes), kept=False, dropped=dropped)


class _Play:
    """Plays shards in this process."""

    def __init__(self, config: RecordConfig) -> None:
        self.config = config
        self.player = Player(config)

    def describe(self) -> DatasetInfo:
        return self.player.describe()

    def shards(self, expected: list[ShardInfo | None], count: Callable[[int], Any]) -> Iterator[ShardResult]:
        for i, shard in enumerate(expected):
            yield _finish_shard(lambda: self.player, self.config.out, i, shard, count)

    def close(self) -> None:
        self.player.close()


class _ParallelPlay(_Play):
    """Plays shards in ``config.workers`` spawned processes."""

    def __init__(self, config: RecordConfig) -> None:
        self.config = config
        context = multiprocessing.get_context("spawn")
        self.stop = context.Event()
        self.counter = context.Value("q", 0)
        workers = min(config.workers, config.shards)
        self.pool = ProcessPoolExecutor(workers, context, _start_worker, (config, self.stop, self.counter))

    def describe(self) -> DatasetInfo:
        with _deaf_to_interrupts():
            described = self.pool.submit(_describe_in_worker)
        with _own_errors():
            return described.result()

    def shards(self, expected: list[ShardInfo | None], count: Callable[[int], Any]) -> Iterator[ShardResult]:
        with _deaf_to_interrupts():
            waiting: set[Future[ShardResult]] = {self.pool.submit(_shard_in_worker, i, shard) for i, shard in enumerate(expected)}
        counted = 0
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            now = self.counter.value
            count(now - counted)
            counted = now
            for future in finished:
                with _own_errors():
                    result = future.result()
                yield result

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _players(config: RecordConfig) -> Iterator[_Play]:
    play = _ParallelPlay(config) if config.workers > 0 else _Play(config)
    try:
        yield play
    finally:
        play.close()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in here never get Ctrl-C, which reaches all processes of a terminal: the parent alone decides,
    and stops its workers in order. The parent gets it afterwards."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Let an error of a worker surface as it was, without the worker's traceback around it if it explains itself."""
    try:
        yield
    except BrokenProcessPool:
        raise WorldsimError(
            "A recording process was killed, perhaps for lack of memory. What is finished is kept: "
            "run the same command again to go on, with fewer workers if it happens again."
        ) from None
    except WorldsimError as error:
        raise error from None


@contextlib.contextmanager
def _only_recorder(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases however the process ends. Without effect where there is no fcntl."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InvalidInputError(f"Another process is recording into {str(out)!r}. Wait for it, or use another folder.") from None
    finally:
        os.close(folder)


@dataclass
class _Worker:
    """What a worker process keeps between shards. The player is made on first use: kept shards need none."""

    config: RecordConfig
    stop: Any
    counter: Any
    player: Player | None = None

    def get_player(self) -> Player:
        if self.player is None:
            self.player = Player(self.config, self.stop.is_set)
            close_at_exit(self.player)
        return self.player

    def count(self, frames: int) -> None:
        with self.counter.get_lock():
            self.counter.value += frames


_worker: _Worker | None = None


def _start_worker(config: RecordConfig, stop: Any, counter: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _worker = _Worker(config, stop, counter)
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end_with_parent(stop: Any) -> None:
    """A pool's worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop.set()
    # Time enough to leave a step and close the environment.
    time.sleep(2.0)
    if _worker is not None and _worker.player is not None:
        with contextlib.suppress(Exception):
            _worker.player.close()
    os._exit(1)


def _describe_in_worker() -> DatasetInfo:
    assert _worker is not None
    return _worker.get_player().describe()


def _shard_in_worker(index: int, expected: ShardInfo | None) -> ShardResult:
    assert _worker is not None
    return _finish_shard(_worker.get_player, _worker.config.out, index, expected, _worker.count)
