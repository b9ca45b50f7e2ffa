"""The real places of the protocol: frozen test places, and train places for floor and memorisation.

A shard of look-arounds depends only on its settings and number, so the same seed gives the same
places on every machine. Recorded shards stay in the cache. Instead of recording, both may come from
folders of shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.painting.evaluation.memorisation import descriptors
from worldsim.painting.evaluation.places import (
    Places,
    check_views,
    digest,
    each_shard,
    first_sets,
    matching,
    places_of,
)
from worldsim.painting.training.lookaround import LookAroundConfig, record_look_arounds
from worldsim.painting.training.store import place_attributes
from worldsim.painting.training.views import ViewSets, join
from worldsim.protocols import PainterSpec

TEST_SEED = 500
"""Seed of the test places of ``seed`` 0."""
TRAIN_SEED = 30_000
"""Seed of the train places. The third leg of ``freedoom-painter`` recorded its training set with
it, so the painter has seen these very places."""
POOL = 8
"""Train places for each test place."""
MAX_WORKERS = 16


@dataclass(frozen=True)
class RecordSettings:
    """Where look-arounds come from and how they are recorded.

    cache: folder of the recordings.
    surveyor: engine, see :data:`worldsim.painting.training.lookaround.SURVEYORS`.
    spec: size of the views.
    workers: recording processes; None for one per core, at most 16.
    engine_timeout_s: seconds after which the engine counts as hung.
    """

    cache: Path
    surveyor: str
    spec: PainterSpec
    workers: int | None
    engine_timeout_s: float


def recorded_folder(settings: RecordSettings, split: str, seed: int, places: int) -> Path:
    """Record what is missing of ``places`` places of a split; returns the folder.

    Raises EngineError or StorageError.
    """
    spec = settings.spec
    engine = settings.surveyor.replace(":", "-")
    out = settings.cache / f"{engine}-{split}-{seed}-{spec.height}x{spec.width}"
    config = LookAroundConfig(
        out=out,
        sets=places,
        split=split,
        surveyor=settings.surveyor,
        height=spec.height,
        width=spec.width,
        seed=seed,
        workers=_workers(settings, places),
        engine_timeout_s=settings.engine_timeout_s,
    )
    record_look_arounds(config)
    return out


def _workers(settings: RecordSettings, places: int) -> int:
    if settings.workers is not None:
        return settings.workers
    shards = -(-places // LookAroundConfig.sets_per_shard)
    return max(1, min(os.cpu_count() or 1, MAX_WORKERS, shards))


@dataclass(frozen=True)
class TestPlaces:
    """The frozen test places. sha256: of their content. maps: the maps that they lie in."""

    places: Places
    sha256: str
    maps: tuple[str, ...]


def load_test_places(
    folder: Path, count: int, spec: PainterSpec, train_maps: tuple[str, ...] = ()
) -> TestPlaces:
    """Load the first ``count`` test places, with the attributes in the painter's order.

    Raises InvalidInputError for too few places, another size or camera, or maps of ``train_maps``.
    """
    sets = first_sets(folder, count)
    check_views(sets)
    if len(sets) < count:
        raise InvalidInputError(
            f"{folder} holds {len(sets)} places and {count} are asked for: give --places "
            f"{len(sets)}, or record more."
        )
    height, width = sets.rgb.shape[2:4]
    lens = [abs(a - b) for a, b in zip(sets.intrinsics.tolist(), spec.intrinsics, strict=True)]
    if (height, width) != (spec.height, spec.width) or max(lens) > 0.02 * width:
        raise InvalidInputError(
            f"{folder} holds views of {height}x{width} pixels, fx fy cx cy "
            f"{sets.intrinsics.tolist()}, and the painter paints {spec.height}x{spec.width} with "
            f"{list(spec.intrinsics)}: record places with the painter's camera."
        )
    known = set(train_maps) & set(sets.maps)
    if known:
        raise InvalidInputError(
            f"{folder} has places of {', '.join(sorted(known)[:3])}, which the painter was trained "
            "on (train_maps of its card): record places of the test split."
        )
    places = places_of(sets)
    attributes = in_order(places.attributes, sets.names, spec.attributes, folder)
    places = Places(places.rgb, places.code, places.pose, attributes, places.intrinsics)
    return TestPlaces(places, digest(sets), tuple(sorted(set(sets.maps))))


def in_order(
    attributes: Tensor, names: tuple[str, ...], wanted: tuple[str, ...], folder: Path
) -> Tensor:
    """Return the columns of (s, a) attributes by the painter's names. Raises InvalidInputError."""
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InvalidInputError(
            f"{folder} does not tell the attributes {', '.join(missing)}, which the painter takes: "
            f"it has {', '.join(names) or 'none'}."
        )
    return attributes[:, [names.index(name) for name in wanted]]


@dataclass(frozen=True)
class TrainPlaces:
    """What the protocol needs of train places.

    matched: (s * 8, 3, h, w) uint8 headings of the places whose attributes are nearest to those of
        the test places, one after another, without repetition. They are sought among the first
        eight for each test place, however many there are: a larger choice would lower the floor.
    median_code: (h, w) int32, median of the first views' inverse depth codes.
    frames: (f, d) float32 descriptors of all views.
    count: number of places.
    """

    matched: Tensor
    median_code: Tensor
    frames: Tensor
    count: int


def load_train_places(folder: Path, count: int, test: Places, spec: PainterSpec) -> TrainPlaces:
    """Read up to ``count`` train places shard by shard.

    Raises InvalidInputError if there are fewer than test places.
    """
    attributes, codes, frames = [], [], []
    for sets in _shards(folder, count):
        told = torch.from_numpy(place_attributes(sets))
        attributes.append(in_order(told, sets.names, spec.attributes, folder))
        codes.append(torch.from_numpy(sets.inverse_depth[:, 0].astype("int32")))
        rgb = torch.from_numpy(sets.rgb).flatten(0, 1).permute(0, 3, 1, 2)
        frames.append(descriptors(rgb))
    pool = torch.cat(attributes) if attributes else torch.zeros(0, 0)
    if len(pool) < len(test):
        raise InvalidInputError(
            f"{folder} holds {len(pool)} train places for {len(test)} test places: record at least "
            "as many, better eight times as many."
        )
    rows = matching(test.attributes.cpu(), pool[: POOL * len(test)])
    chosen = _pick(folder, count, rows)
    median = torch.cat(codes)[: len(test)].flatten(1).median(0).values
    return TrainPlaces(
        matched=places_of(chosen).headings,
        median_code=median.view(codes[0].shape[1:]),
        frames=torch.cat(frames),
        count=len(pool),
    )


def _shards(folder: Path, count: int) -> Iterator[ViewSets]:
    for sets in each_shard(folder, count):
        check_views(sets, 0)
        yield sets


def _pick(folder: Path, count: int, rows: Tensor) -> ViewSets:
    """Return the sets of the numbers ``rows`` (s,), in that order."""
    found: dict[int, ViewSets] = {}
    start, wanted = 0, set(rows.tolist())
    for sets in each_shard(folder, min(count, max(wanted) + 1)):
        for number in wanted & set(range(start, start + len(sets))):
            found[number] = _one(sets, number - start)
        start += len(sets)
    return join([found[number] for number in rows.tolist()])


def _one(sets: ViewSets, index: int) -> ViewSets:
    """Return a copy of one set, so that its shard can be freed."""
    at = slice(index, index + 1)
    return ViewSets(
        rgb=sets.rgb[at].copy(),
        inverse_depth=sets.inverse_depth[at].copy(),
        pose=sets.pose[at].copy(),
        intrinsics=sets.intrinsics,
        attributes=sets.attributes[at].copy(),
        names=sets.names,
        maps=sets.maps[at],
    )
