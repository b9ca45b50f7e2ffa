"""Records datasets: plays an environment in many processes and stores the episodes.

The content of a shard depends on the settings, the seed and the shard's number only, never on which
process plays it or when. An interrupted recording that is resumed therefore equals, bit for bit,
one that was not interrupted.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from worldsim.data.play import Player, RecordConfig
from worldsim.data.report import add_report
from worldsim.errors import InvalidInputError
from worldsim.runtime.files import (
    make_writable_folder,
    remove_unfinished,
    sha256_of,
    storage_errors,
)
from worldsim.runtime.progress import Progress, say
from worldsim.runtime.workers import TRIES, Engine, WorkerPool, report

__all__ = ["RecordConfig", "record"]


@dataclass(frozen=True)
class ShardResult:
    """The result of a worker.

    It has the finished shard, whether it existed before, and how many episodes were dropped.
    """

    shard: ShardInfo
    kept: bool
    dropped: int


def record(config: RecordConfig) -> EpisodeDataset:
    """Record until ``config.frames`` frames are on disk; resumes an interrupted recording.

    Valid shards are kept; missing and damaged ones are recorded. Ctrl-C leaves a readable dataset.
    The report of a complete recording (:mod:`worldsim.data.report`) is stored in its
    ``dataset.json``, and printed.
    Nothing is written before the environment has been created and reset once. Raises StorageError
    if the disk is full or read-only, and EngineError if the environment fails at once.
    """
    count = min(config.workers, config.shards)
    with (
        contextlib.ExitStack() as last,
        WorkerPool(count, partial(Player, config), config.engine_timeout_s) as workers,
    ):
        ((_, info),) = workers.run(_describe, [()])
        last.enter_context(_only_recorder(make_writable_folder(config.out)))
        known = _known_shards(config.out, info)
        # Once the workers have ended: one that is killed leaves what it was writing.
        last.callback(remove_unfinished, config.out)
        _record_shards(config, info, known, workers)
        # Its shards were written, or compared with their checksums, a moment ago.
        found = add_report(EpisodeDataset(config.out, verify=False))
    say(found.text())
    return EpisodeDataset(config.out)


def _record_shards(
    config: RecordConfig,
    info: DatasetInfo,
    known: dict[str, ShardInfo],
    workers: WorkerPool[Player],
) -> None:
    dropped = finished = 0
    done, ended = dict(known), Counter[int]()
    with Progress(config.shards * config.shard_frames, "recording", "frame") as bar:

        def show(here: int | None = None) -> None:
            played = finished + workers.progress if here is None else here
            bar.move_to(played, f"{dropped} episodes dropped" if dropped else "")

        tasks = [(config.out, i, known.get(shard_name(i))) for i in range(config.shards)]

        def died(shard: int, cause: str) -> None:
            ended[shard] += 1
            warnings.warn(
                f"{config.env_id}: the process that recorded shard {shard} is gone ({cause}); the "
                f"shard is recorded again, bit for bit the same (attempt {ended[shard] + 1} of "
                f"{TRIES})",
                stacklevel=2,
            )

        for _, result in workers.run(_finish_shard, tasks, show, died):
            dropped += result.dropped
            finished += result.shard.frames
            if not result.kept:
                done[result.shard.file] = result.shard
                with storage_errors(config.out / INDEX_FILE):
                    write_index(config.out, info, [done[name] for name in sorted(done)])
        # Whole shards: a few frames more than were asked for.
        bar.total = finished
        show(finished)


def _known_shards(out: Path, info: DatasetInfo) -> dict[str, ShardInfo]:
    if not (out / INDEX_FILE).exists():
        return {}
    old, shards = read_index(out)
    require_same_info(out, old, info)
    return {s.file: s for s in shards}


def _describe(player: Engine[Player]) -> DatasetInfo:
    return player.play(Player.describe)


def _finish_shard(
    player: Engine[Player], out: Path, index: int, expected: ShardInfo | None
) -> ShardResult:
    """Keep shard ``index`` if it is on disk as ``expected`` says, else record it."""
    path = out / shard_name(index)
    if expected is not None and path.is_file() and sha256_of(path) == expected.sha256:
        return ShardResult(expected, kept=True, dropped=0)
    episodes, dropped = player.play(lambda one: one.shard(index, report))
    with storage_errors(path):
        return ShardResult(write_shard(out, index, episodes), kept=False, dropped=dropped)


@contextlib.contextmanager
def _only_recorder(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when the process ends.

    Has no effect where ``fcntl`` does not exist.
    """
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
        raise InvalidInputError(
            f"Another process is recording into {str(out)!r}. Wait for it, or use another folder."
        ) from None
    finally:
        os.close(folder)
