"""Journeys on disk: one file per place, and ``journey.json`` with what was told and every verdict.

A journey is saved after each place, so an interrupted one resumes with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.camera import DEPTH_CODES, check_poses
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.painting.journeys.journey import JourneyConfig, JourneyMaker
from worldsim.painting.journeys.trip import Stop, Trip
from worldsim.protocols import PainterSpec, Setting, identity_of
from worldsim.runtime.files import (
    check_files,
    inside,
    is_file,
    load_tensors,
    make_folder,
    save_tensors,
    sha256_of,
)
from worldsim.runtime.json_config import (
    check_format,
    check_seal,
    from_json,
    read_json,
    to_json,
    write_sealed,
)
from worldsim.state import Frame

FORMAT, VERSION = "worldsim-journey", 1
CARD = "journey.json"
FREE = (
    "length",
    "tries",
    "hopeless",
    "cameras",
    "accept",
    "nearest",
    "furthest",
    "repaints",
    "way_out",
)
"""Settings that may change when a journey resumes; the length only if it does not come back."""


@dataclass(frozen=True)
class Told:
    """What a journey depends on. A journey resumes only with equal values.

    prompt: the words that were given.
    config: the settings.
    painter: SHA-256 of the painter's weights.
    sampling: the painter's settings.
    """

    prompt: str
    config: JourneyConfig
    painter: str
    sampling: dict[str, Setting]


@dataclass(frozen=True)
class SavedTrip:
    """A journey as read from disk: what it depends on, its places, and the views of each."""

    told: Told
    stops: list[Stop]
    frames: list[Frame]


@dataclass(frozen=True)
class _Card:
    format: str
    version: Annotated[int, Ge(1), Le(VERSION)]
    told: Told
    stops: list[Stop]
    sha256: dict[str, str]
    content_sha256: str = ""


def told_of(maker: JourneyMaker, prompt: str) -> Told:
    """Return what a journey of ``maker`` depends on."""
    painter = identity_of(maker.painter)
    return Told(prompt, maker.config, painter.weights, painter.settings)


def travel(maker: JourneyMaker, prompt: str = "", folder: Path | None = None) -> Iterator[Trip]:
    """Yield a journey as far as it is saved, then after each further place.

    folder: where it is kept, and resumes from. None keeps nothing.

    Raises PaintingError, and InvalidInputError if the folder holds a journey of other settings.
    """
    told, trip = told_of(maker, prompt), maker.begin()
    if folder is not None and has_trip(folder):
        saved = load_trip(folder, maker.painter.spec)
        require_same(saved.told, told, folder)
        count = min(len(saved.stops), maker.config.length)
        trip = maker.resume(saved.stops[:count], saved.frames[:count])
    yield trip
    for longer in maker.places(trip):
        if folder is not None:
            save_trip(folder, longer, told)
        yield longer


def place_path(folder: Path, place: int) -> Path:
    """Return the file of a place's views."""
    return folder / f"place-{place:03d}.safetensors"


def has_trip(folder: Path) -> bool:
    """Return whether ``folder`` holds a journey."""
    return is_file(folder / CARD)


def save_trip(folder: Path, trip: Trip, told: Told) -> None:
    """Write a journey; places that are there already are left as they are.

    The views of a place are written before ``journey.json`` names them, so an interruption loses at
    most one place. Raises StorageError.
    """
    make_folder(folder)
    sums: dict[str, str] = {}
    if has_trip(folder):
        sums = dict(read_json(folder / CARD).get("sha256", {}))
    for place, frames in enumerate(trip.frames):
        path = place_path(folder, place)
        if path.name not in sums or not is_file(path):
            assert frames.inverse_depth is not None and frames.pose is not None
            tensors = {
                "rgb": frames.rgb,
                "inverse_depth": frames.inverse_depth,
                "pose": frames.pose,
            }
            save_tensors({name: x.contiguous() for name, x in tensors.items()}, path)
            sums[path.name] = sha256_of(path)
    names = [place_path(folder, place).name for place in range(len(trip))]
    card = {
        "format": FORMAT,
        "version": VERSION,
        "told": to_json(told),
        "stops": to_json(trip.stops),
        "sha256": {name: sums[name] for name in names},
    }
    write_sealed(folder / CARD, card)


def load_trip(folder: Path, spec: PainterSpec) -> SavedTrip:
    """Read a journey.

    spec: the painter's views, whose size the frames must have.

    Raises NotFoundError or DamagedFileError.
    """
    path = folder / CARD
    values = read_json(path)
    check_format(path, values, FORMAT, VERSION)
    check_seal(path, values)
    try:
        card = from_json(_Card, values)
    except InvalidInputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}): start a new journey.") from error
    check_files(path, card.sha256)
    if len(card.sha256) != len(card.stops):
        raise DamagedFileError(
            f"{path} lists {len(card.sha256)} files for {len(card.stops)} places: start a new "
            "journey."
        )
    frames = []
    for place, stop in enumerate(card.stops):
        file = inside(folder, place_path(folder, place).name, path)
        frames.append(_frame_of(load_tensors(file), file, card.told.config.headings, spec))
        if len(stop.pose) != 16:
            raise DamagedFileError(
                f"{path}: the pose of place {place} has {len(stop.pose)} numbers, not 16: start a "
                "new journey."
            )
    return SavedTrip(card.told, card.stops, frames)


def _frame_of(tensors: dict[str, Tensor], path: Path, headings: int, spec: PainterSpec) -> Frame:
    """Check the shapes and ranges of a place's views."""
    size = (headings, spec.height, spec.width)
    wanted = {
        "rgb": (torch.uint8, (headings, 3, *size[1:])),
        "inverse_depth": (torch.int32, size),
        "pose": (torch.float32, (headings, 4, 4)),
    }
    for name, (dtype, shape) in wanted.items():
        found = tensors.get(name)
        if found is None or found.dtype != dtype or tuple(found.shape) != shape:
            told = "missing" if found is None else f"{found.dtype} {tuple(found.shape)}"
            raise DamagedFileError(
                f"{path}: {name} is {told}, {dtype} {shape} is needed: start a new journey."
            )
    frame = Frame(tensors["rgb"], tensors["inverse_depth"], tensors["pose"])
    assert frame.inverse_depth is not None
    if not bool(((frame.inverse_depth >= 0) & (frame.inverse_depth <= DEPTH_CODES)).all()):
        raise DamagedFileError(f"{path}: inverse_depth leaves [0, {DEPTH_CODES}]: start anew.")
    try:
        check_poses(frame.pose)
    except InvalidInputError as error:
        raise DamagedFileError(f"{path}: {error} Start a new journey.") from error
    return frame


def require_same(saved: Told, told: Told, folder: Path) -> None:
    """Raise InvalidInputError, which names the first difference, unless a journey can resume."""
    before, now = to_json(saved), to_json(told)
    for values in (before, now):
        for name in FREE[int(told.config.loop) :]:
            values["config"].pop(name)
    flat = [_flat(values) for values in (before, now)]
    for key in sorted({*flat[0], *flat[1]}):
        if flat[0].get(key) != flat[1].get(key):
            raise InvalidInputError(
                f"{folder} holds a journey with {key} = {flat[0].get(key)!r}, now it is "
                f"{flat[1].get(key)!r}: give the same, or another folder."
            )


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
