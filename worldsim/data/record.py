"""Records datasets: plays an environment in many processes and stores the episodes.

The processes are on this machine or on those of a Ray cluster.
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
    DatasetInfo,
    EpisodeDataset,
    ShardInfo,
    require_same_info,
    shard_name,
)
from worldsim.data.play import Player, RecordConfig
from worldsim.data.remote import (
    get_index,
    has_dataset,
    has_shard,
    open_dataset,
    put_index,
    put_shard,
)
from worldsim.data.report import add_report
from worldsim.errors import InvalidInputError
from worldsim.runtime.cluster import ClusterPool, Pool, pool_of
from worldsim.runtime.files import is_file, make_writable_folder, remove_unfinished
from worldsim.runtime.progress import Progress, say
from worldsim.runtime.remote import Place, place_of
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
    if the disk is full or read-only or a store cannot be reached, and EngineError if the
    environment fails at once.
    """
    out = place_of(config.out)
    with contextlib.ExitStack() as last, _pool(config) as workers:
        ((_, info),) = workers.run(_describe, [()])
        if isinstance(out, Path):
            last.enter_context(_only_recorder(make_writable_folder(out)))
            # Once the workers have ended: one that is killed leaves what it was writing.
            last.callback(remove_unfinished, out)
        known = _known_shards(out, info)
        _record_shards(config, out, info, known, workers)
        # Its shards were written, or compared with their checksums, a moment ago.
        found = add_report(open_dataset(out, verify=False))
    say(found.text())
    return open_dataset(out)


def _pool(config: RecordConfig) -> WorkerPool[Player] | ClusterPool[Player]:
    workers = min(config.workers, config.shards)
    return pool_of(config.cluster, workers, partial(Player, config), config.engine_timeout_s)


def _record_shards(
    config: RecordConfig,
    out: Place,
    info: DatasetInfo,
    known: dict[str, ShardInfo],
    workers: Pool,
) -> None:
    dropped = finished = 0
    done, ended = dict(known), Counter[int]()
    if isinstance(out, Path) and config.cluster is not None:
        # Other machines' processes may work in other folders.
        out = out.absolute()
    with Progress(config.shards * config.shard_frames, "recording", "frame") as bar:

        def show(here: int | None = None) -> None:
            played = finished + workers.progress if here is None else here
            bar.move_to(played, f"{dropped} episodes dropped" if dropped else "")

        tasks = [(out, i, known.get(shard_name(i))) for i in range(config.shards)]

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
            _require_shared(config, out, result.shard)
            if not result.kept:
                done[result.shard.file] = result.shard
                put_index(out, info, [done[name] for name in sorted(done)])
        # Whole shards: a few frames more than were asked for.
        bar.total = finished
        show(finished)


def _require_shared(config: RecordConfig, out: Place, shard: ShardInfo) -> None:
    """Raise InvalidInputError if a shard that a cluster's machine wrote cannot be seen here."""
    if config.cluster is None or not isinstance(out, Path) or is_file(out / shard.file):
        return
    raise InvalidInputError(
        f"a machine of the cluster wrote {shard.file} into its own {out}: give a folder that all "
        f"machines share, or a URL such as s3://bucket/folder"
    )


def _known_shards(out: Place, info: DatasetInfo) -> dict[str, ShardInfo]:
    if not has_dataset(out):
        return {}
    old, shards = get_index(out)
    require_same_info(out, old, info)
    return {s.file: s for s in shards}


def _describe(player: Engine[Player]) -> DatasetInfo:
    return player.play(Player.describe)


def _finish_shard(
    player: Engine[Player], out: Place, index: int, expected: ShardInfo | None
) -> ShardResult:
    """Keep shard ``index`` if it is in ``out`` as ``expected`` says, else record it."""
    if expected is not None and has_shard(out, expected):
        return ShardResult(expected, kept=True, dropped=0)
    episodes, dropped = player.play(lambda one: one.shard(index, report))
    return ShardResult(put_shard(out, index, episodes), kept=False, dropped=dropped)


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
