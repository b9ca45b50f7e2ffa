"""Recording of look-arounds: sets of views of one place, from a real engine, in many processes.

A set consists of ``headings`` views at a place, evenly rotated, and ``displaced`` views from
cameras a few steps away. A shard depends only on the settings and its number, so an interrupted
recording resumes, and an engine that crashes costs only time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from worldsim.camera import quantise_depth
from worldsim.errors import InvalidInputError
from worldsim.painting.training.views import ViewSets, disagreement, load_view_sets, save_view_sets
from worldsim.runtime.files import is_file, make_writable_folder, remove_unfinished
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.progress import Progress
from worldsim.runtime.ranges import Count, NotNegative, Number, Positive, Seed, Share, Workers
from worldsim.runtime.registry import Registry
from worldsim.runtime.types import Array
from worldsim.runtime.workers import ENGINE_TIMEOUT_S, Engine, WorkerPool, report, time_limit

SURVEYORS = Registry(
    "surveyor",
    ("begin", "look_around", "close"),
    {"freedoom": "worldsim.envs.doom_survey:DoomSurveyor"},
)
"""Engines that can look around at a place, by name."""
MAX_DROPPED = 200
"""Largest number of consecutive rejected sets; after it the recording raises an error."""


@dataclass(frozen=True)
class LookAround:
    """The views of one place as NumPy arrays with a leading axis of ``k`` views.

    rgb: (k, h, w, 3) uint8.
    depth: (k, h, w) float32 metres, ``inf`` for sky.
    pose: (k, 4, 4) float32 camera-to-world.
    attributes: (k, a) float32 in [0, 1].
    """

    rgb: Array
    depth: Array
    pose: Array
    attributes: Array


class Surveyor(Protocol):
    """An engine that renders views from any place.

    It is constructed with height and width in pixels.
    """

    names: tuple[str, ...]
    """Names of the attributes."""
    intrinsics: Array
    """(4,) float32, ``fx fy cx cy`` in pixels."""

    def begin(self, split: str, rng: np.random.Generator) -> str:
        """Load a map of a split, drawn with ``rng``; returns its name."""
        ...

    def look_around(
        self, headings: int, displaced: int, reach: tuple[float, float], rng: np.random.Generator
    ) -> LookAround | None:
        """Look around at a place of the map, drawn with ``rng``; None if the place is unsuitable.

        reach: smallest and largest distance of the displaced cameras in metres.
        """
        ...

    def close(self) -> object:
        """Stop the engine."""
        ...


@dataclass(frozen=True)
class LookAroundConfig:
    """Settings of :func:`record_look_arounds`."""

    out: Path
    """Folder of the shards ``views-00000.safetensors`` and so on."""
    sets: Count = 4096
    """Number of sets, rounded up to whole shards."""
    split: str = "train"
    """Split of maps. ``test`` is never used for training."""
    surveyor: str = "freedoom"
    """A registered name, or ``module:Class``."""
    height: Count = 64
    """Height of a view in pixels."""
    width: Count = 64
    """Width of a view in pixels."""
    headings: Count = 8
    """Views at the place itself. With a 74 degree field of view, neighbours of 8 overlap by 29
    degrees."""
    displaced: Number = 6
    """Views from cameras a few steps away."""
    nearest: NotNegative = 2.0
    """Smallest distance of those cameras in metres. One step in Freedoom is about one metre."""
    furthest: Positive = 6.0
    """Largest distance of those cameras in metres."""
    sets_per_shard: Count = 64
    """Sets per shard. A shard of 64 sets of 14 views at 64x64 takes 18 MB."""
    sets_per_map: Count = 32
    """Sets per map before the next one is loaded."""
    most_disagreement: Share = 0.03
    """Largest share of points that other views see past. Sets above it are rejected."""
    seed: Seed = 0
    """Seed of all random numbers."""
    first_shard: Number = 0
    """Number of the first shard, so that several machines record one data set without overlap."""
    workers: Workers = 2
    """Worker processes with one engine each; 0 records in the main process."""
    engine_timeout_s: Positive = ENGINE_TIMEOUT_S
    """Seconds after which loading a map or a look-around counts as hung."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.nearest > self.furthest:
            raise InvalidInputError(
                f"LookAroundConfig.nearest = {self.nearest} is more than furthest = "
                f"{self.furthest}: give the smaller distance first."
            )

    @property
    def shards(self) -> Sequence[int]:
        """Numbers of the shards to record."""
        return range(self.first_shard, self.first_shard - (-self.sets // self.sets_per_shard))


def shard_path(out: Path, index: int) -> Path:
    """Return the path of shard ``index``."""
    return out / f"views-{index:05d}.safetensors"


def shard_files(out: Path) -> list[Path]:
    """Return the finished shards of a folder, in order; [] if there are none."""
    return sorted(out.glob("views-*.safetensors"))


def record_look_arounds(config: LookAroundConfig) -> dict[str, int]:
    """Record the missing shards; returns the numbers of kept and rejected sets.

    Raises StorageError if the disk is full and EngineError if the engine fails at once.
    """
    out = make_writable_folder(config.out)
    tasks = [(config, index) for index in config.shards if not is_file(shard_path(out, index))]
    count = {"kept": 0, "left_out": 0}
    workers = min(config.workers, len(tasks))
    make = partial(_make, config)
    with (
        Progress(len(tasks) * config.sets_per_shard, "recording", "set") as bar,
        WorkerPool(workers, make, config.engine_timeout_s) as pool,
    ):
        for _, left_out in pool.run(_record_shard, tasks):
            count["kept"] += config.sets_per_shard
            count["left_out"] += left_out
            bar.update(config.sets_per_shard)
    remove_unfinished(out)
    return count


def _make(config: LookAroundConfig) -> Surveyor:
    surveyor: Surveyor = SURVEYORS.of_user(config.surveyor)(config.height, config.width)
    return surveyor


def _record_shard(engine: Engine[Surveyor], config: LookAroundConfig, index: int) -> int:
    sets, left_out = engine.play(lambda surveyor: play_shard(surveyor, config, index))
    save_view_sets(sets, shard_path(config.out, index))
    return left_out


def play_shard(surveyor: Surveyor, config: LookAroundConfig, index: int) -> tuple[ViewSets, int]:
    """Record shard ``index``; returns its sets and the number of rejected sets.

    Raises InvalidInputError after :data:`MAX_DROPPED` consecutive rejections.
    """
    rng = np.random.default_rng([config.seed, index])
    kept: list[LookAround] = []
    maps: list[str] = []
    left_out = in_a_row = here = 0
    name = ""
    while len(kept) < config.sets_per_shard:
        with time_limit():
            if here % config.sets_per_map == 0:
                name = surveyor.begin(config.split, rng)
            reach = config.nearest, config.furthest
            seen = surveyor.look_around(config.headings, config.displaced, reach, rng)
        here += 1
        if seen is None or _disagrees(seen, surveyor, config.most_disagreement):
            left_out, in_a_row = left_out + 1, in_a_row + 1
            if in_a_row == MAX_DROPPED:
                raise InvalidInputError(
                    f"{in_a_row} look-arounds in a row were rejected, the last in map {name!r}: "
                    f"raise most_disagreement ({config.most_disagreement}) or lower furthest "
                    f"({config.furthest})."
                )
            continue
        in_a_row = 0
        kept.append(seen)
        maps.append(name)
        report(len(kept))
    return _stack(kept, surveyor, tuple(maps)), left_out


def _codes(depth: Array) -> torch.Tensor:
    return quantise_depth(torch.from_numpy(depth))


def _disagrees(seen: LookAround, surveyor: Surveyor, most: float) -> bool:
    pose, lens = torch.from_numpy(seen.pose), torch.from_numpy(surveyor.intrinsics)
    return float(disagreement(_codes(seen.depth)[None], pose[None], lens)[0]) > most


def _stack(kept: Sequence[LookAround], surveyor: Surveyor, maps: tuple[str, ...]) -> ViewSets:
    return ViewSets(
        rgb=np.stack([one.rgb for one in kept]),
        inverse_depth=np.stack([_codes(one.depth).numpy().astype(np.uint16) for one in kept]),
        pose=np.stack([one.pose for one in kept]),
        intrinsics=surveyor.intrinsics,
        attributes=np.stack([one.attributes for one in kept]),
        names=surveyor.names,
        maps=maps,
    )


def load_folder(out: Path, most: int | None = None) -> list[ViewSets]:
    """Load the shards of a folder, at most ``most``.

    Raises NotFoundError or DamagedFileError.
    """
    return [load_view_sets(path) for path in shard_files(out)[:most]]
