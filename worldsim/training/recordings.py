"""The recordings that a world is trained on, and checks that they agree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.remote import has_dataset
from worldsim.data.report import training_warnings
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.runtime.files import inside
from worldsim.runtime.remote import Place, RemoteFolder, place_of
from worldsim.runtime.types import JsonObject


def list_folders(folders: Sequence[Place]) -> str:
    """Folders as error messages name them."""
    return ", ".join(map(str, folders))


def require_alike(datasets: Sequence[EpisodeDataset]) -> None:
    """Raise InvalidInputError unless all recordings have the same environment and settings.

    The error names the first difference.
    """
    first = datasets[0]
    for other in datasets[1:]:
        for name in (
            "env_id",
            "env_kwargs",
            "observation_space",
            "action_space",
            "pixels",
            "geometry",
            "intrinsics",
        ):
            mine, its = getattr(first.info, name), getattr(other.info, name)
            if mine != its:
                raise InvalidInputError(
                    f"{first.place} and {other.place} cannot be used together: {name} is {mine!r} "
                    f"in one, {its!r} in the other"
                )


def frames_to_hold(datasets: Sequence[EpisodeDataset], fit: int) -> int:
    """Return how many frames to take a GPU's memory for, at most ``fit``.

    Complete recordings get twice what they hold, so that several trainings can share a GPU and new
    recordings of the same size still fit. Of recordings in progress the size is not known.
    """
    if not all(dataset.info.report for dataset in datasets):
        return fit
    return min(fit, 2 * sum(shard.frames for dataset in datasets for shard in dataset.shards))


def warn_of(dataset: EpisodeDataset) -> None:
    """Warn of what a world cannot learn from a recording, such as shifted actions."""
    for sentence in training_warnings(dataset):
        warnings.warn(f"{dataset.place}: {sentence}", stacklevel=2)


def recordings_in(where: Place) -> list[Place]:
    """Return the recordings in a folder: itself, or those directly inside, such as a task's rounds.

    Empty if nothing was recorded.

    where: the folder, or its URL.
    """
    folder = place_of(where)
    if has_dataset(folder):
        return [folder]
    if not isinstance(folder, Path):
        inner = [f"{folder}/{name}" for name in RemoteFolder(folder).folders()]
        return [url for url in inner if has_dataset(url)]
    return [
        inside(folder, name)
        for name in sorted(file.parent.name for file in folder.glob("*/dataset.json"))
    ]


def require_recording(data: Place) -> None:
    """Raise NotFoundError if the folder holds no recording."""
    if not recordings_in(data):
        raise NotFoundError(
            f"{data} has no dataset.json: record it with `worldsim record ENV_ID --out {data}`"
        )


def require_split(episodes: Sequence[JsonObject], split: str, folders: Sequence[Place]) -> None:
    """Raise InvalidInputError unless every episode that names a split names ``split``.

    episodes: the info of each episode.
    """
    wrong = {str(e["split"]) for e in episodes if e.get("split", split) != split}
    if wrong:
        raise InvalidInputError(
            f"{list_folders(folders)} holds episodes of the split {', '.join(wrong)}: training "
            f"takes "
            f"only {split!r}, "
            f"record it with --reset-options split {split}"
        )


def all_seen(
    earlier: JsonObject, datasets: Sequence[EpisodeDataset], frames: int
) -> tuple[list[JsonObject], int]:
    """Return the recordings and frames that a world's weights were trained on, for its card.

    They are ``frames`` of ``datasets`` and those of the world that training started from. A
    recording in both counts once.

    earlier: the card of the world that training started from, or empty.
    """
    mine = [{"policy": d.info.policy, "seed": d.info.seed, "frames": d.frames} for d in datasets]
    try:
        return _sum(earlier, mine, frames)
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedFileError(
            f"the card of the world that training starts from does not list its recordings "
            f"({error})"
        ) from error


def _sum(earlier: JsonObject, mine: list[JsonObject], frames: int) -> tuple[list[JsonObject], int]:
    listed: list[JsonObject] = earlier.get("recordings", [])
    known = {(one["policy"], one["seed"]) for one in mine}
    others = [one for one in listed if (one["policy"], one["seed"]) not in known]
    # A card without a list may still tell of frames.
    unlisted = earlier.get("frames", 0) - sum(one["frames"] for one in listed)
    return [*others, *mine], frames + sum(one["frames"] for one in others) + max(0, unlisted)
