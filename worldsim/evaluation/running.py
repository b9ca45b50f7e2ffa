"""What all protocols of ``worldsim evaluate`` share: recording, checks, chunks that fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import torch

from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.evaluation.benchmark_set import Recorded, Settings, digest, record_test_set
from worldsim.evaluation.config import EvaluateConfig
from worldsim.runtime.chunks import Chunks
from worldsim.runtime.progress import Progress
from worldsim.runtime.types import Array, JsonObject
from worldsim.world import World

MAX_WORKERS = 16
T = TypeVar("T")


class HasFrames(Recorded, Protocol):
    """A record with frames."""

    @property
    def rgb(self) -> Array:
        """(t, 3, h, w) uint8."""
        ...


E = TypeVar("E", bound=HasFrames)


def record(
    config: EvaluateConfig, world: World, settings: Settings[E], indices: Sequence[int], noun: str
) -> list[E]:
    """Record episodes in the real twin, and check them (:func:`check_recorded`).

    noun: what is recorded, for the progress bar.
    """
    with Progress(len(indices), "recording", noun) as bar:
        recorded = record_test_set(
            settings,
            indices,
            workers_of(config, len(indices)),
            config.cache,
            bar.update,
            config.engine_timeout_s,
            config.cluster,
        )
    check_recorded(config, world, recorded)
    return recorded


def check_recorded(
    config: EvaluateConfig,
    world: World,
    episodes: Sequence[HasFrames],
) -> None:
    """Raise InvalidInputError for maps that the world was trained on, or unfit frames."""
    known = set(world.card.get("train_maps", ())) & {e.map for e in episodes if e.map}
    if known:
        raise InvalidInputError(
            f"world {config.world} was trained on {', '.join(sorted(known))} (train_maps of its "
            f"card), which the test split of "
            f"{world.config.env_id} draws from: it has to be trained on {{'split': 'train'}} alone"
        )
    for episode in episodes[:1]:
        height, width = episode.rgb.shape[2:]
        spec = world.spec
        expected = (spec.height, spec.width)
        if (height, width) != expected:
            raise InvalidInputError(
                f"{world.config.env_id} with {world.config.env_kwargs} shows frames of "
                f"{height}x{width}, world {config.world} "
                f"takes {expected[0]}x{expected[1]}: its card must name the arguments that it was "
                f"recorded with"
            )


def workers_of(config: EvaluateConfig, episodes: int) -> int:
    """Return how many processes record."""
    if config.workers is not None:
        return config.workers
    return max(1, min(os.cpu_count() or 1, MAX_WORKERS, episodes // 4))


def over_chunks(
    config: EvaluateConfig,
    chunks: Chunks,
    function: Callable[..., T],
    parts: Iterable[tuple[object, ...]],
    tick: Callable[..., object],
    ticks: float,
) -> list[T]:
    """Return ``function(world, *part, tick=tick)`` of each part, here or on a cluster.

    An out-of-memory error says what to change.

    ticks: what a part adds to the progress.
    """
    return chunks.map(_fit, parts, tick, (config.batch, function), ticks)


def _fit(
    world: World,
    batch: int,
    function: Callable[..., T],
    *part: Any,
    tick: Callable[..., object],
) -> T:
    try:
        return function(world, *part, tick=tick)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{batch} walks at once do not fit on {world.device}: try --batch {max(1, batch // 4)}"
        ) from error


def dream_setting(config: EvaluateConfig, world: World) -> JsonObject:
    """Return what results depend on, beside the protocol and its episodes."""
    return {
        "env_id": world.config.env_id,
        "sampling_steps": world.config.dynamics.num_inference_steps,
        "temperature": world.config.dynamics.temperature,
        "seed": config.seed,
        "device": str(world.device),
    }


def setting_of(config: EvaluateConfig, world: World, recorded: Sequence[Recorded]) -> JsonObject:
    """Return what results depend on, beside the protocol."""
    return {
        "test_set_sha256": digest(recorded),
        "episodes": len(recorded),
        "maps": sorted({one.map for one in recorded}),
        "attention_window": world.spec.window,
    } | dream_setting(config, world)
