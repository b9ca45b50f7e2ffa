"""``worldsim evaluate``: measures a world against its real twin.

The walks of the frozen test set are recorded on maps that the world was not trained on. Every
result has a 95% interval over walks and simple baselines on the same frames. The parts are in
:mod:`worldsim.evaluation`.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, MissingGeometryError, OutOfMemoryError
from worldsim.evaluation import dreams, figures, long_walks, measure, task
from worldsim.evaluation import return_trips as returns
from worldsim.evaluation.benchmark_set import (
    PROTOCOL,
    Recorded,
    TestEpisode,
    TestSet,
    TestSetConfig,
    digest,
    record_test_set,
    stack,
)
from worldsim.evaluation.encoder import SIZE, encode, load_encoder
from worldsim.evaluation.memory_fitting import Fits, with_radiance
from worldsim.evaluation.metrics import area_average, comparable, moved_frames
from worldsim.evaluation.strips import save_strips
from worldsim.evaluation.trip_recording import UNDO, Trip, TripConfig, check_lengths, stack_trips
from worldsim.runtime.json_config import check_ranges, write_json
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.progress import Progress
from worldsim.runtime.ranges import Batch, Count, Number, Positive, Seed, Share, Workers
from worldsim.runtime.types import JsonObject
from worldsim.runtime.workers import ENGINE_TIMEOUT_S
from worldsim.state import Frame
from worldsim.world import World
from worldsim.world.twin import twin_of

FULL_EPISODES = 32
"""From this many walks on, an evaluation is the protocol's and has to reach ``min_seen_frames``."""
EXTRA_EPISODES = 8
"""Walks that are added at a time where too few frames show seen places."""
MAX_GROWTH = 4
"""The test set grows to at most this many times the walks asked for."""
ENCODED = ("worldsim/FreedoomReal-v0",)
"""Real twins whose frames the shipped encoder of distances was trained on."""
MAX_WORKERS = 16
TIMED_STEPS = 24
M = TypeVar("M")
EPISODES = {"walks": FULL_EPISODES, "return-trip": 8, "dreams": 64, "long-walks": 32}
"""Walks or trips by protocol, if no number is given."""
HORIZONS = {"walks": 48, "dreams": dreams.HORIZON, "long-walks": 1000}
"""Dreamed frames by protocol, if no number is given."""


@old_fields(steps="num_inference_steps")
@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a world against its real twin on the test maps."""

    world: str
    """Name of a shipped world, a world's folder, or ``hub:owner/name`` of the Hugging Face hub."""
    trust: bool = False
    """Use the real twin that the world's files name, whatever it is: this imports and runs its
    code."""
    json: Path | None = None
    """Also write the results to this file."""
    protocol: Literal["walks", "return-trip", "dreams", "long-walks"] = "walks"
    """``walks``: next frames, seen places, actions and poses on free walks. ``return-trip``: out
    and back along the same way. ``dreams``: sharpness, steadiness and distance from true frames
    over 96 dreamed frames. ``long-walks``: statistics of 1,000 steps beside those of real walks."""
    episodes: Count | None = None
    """Number of walks (default 32; 64 for ``dreams``, which records as many others to compare with)
    or return trips (default 8). With ``walks``, from 32 on, walks are added until there are
    ``min_seen_frames``, up to four times as many. Fewer give a quick estimate."""
    seed: Seed = 0
    """Seed of test set and dreams. Results of different seeds are of different test sets."""
    device: str | None = None
    """Device of the world, such as ``cpu`` or ``cuda:1``. By default CUDA if it is available."""
    num_inference_steps: Batch | None = None
    """Sampling steps per frame. By default the world's own."""
    temperature: Share | None = None
    """Temperature of the noise, in [0, 1]. By default the world's own."""
    memory: Literal["points", "radiance"] = "points"
    """``points``: the world's own memory. ``radiance``: a radiance field on top of its points,
    fitted where the dream begins (on return trips, at the turning point) and again every
    ``fit_every`` frames; until then, the points."""
    fit_iterations: Count = 200
    """Iterations per fit, with ``--memory radiance``."""
    fit_every: Count = 32
    """Dreamed frames between fits, with ``--memory radiance``."""
    history: Count = 64
    """True frames that a dream starts from. Another value is another protocol."""
    horizon: Count | None = None
    """Frames to dream after them: by default 48, 96 for ``dreams`` and 1,000 for ``long-walks``.
    Another value is another protocol."""
    min_seen_frames: Number = 300
    """Minimum number of frames of seen places for meaningful results."""
    cache: Path | None = None
    """Folder in which recorded walks are kept for the next evaluation."""
    lengths: tuple[int, ...] = (32, 125, 250)
    """Lengths of return trips: steps out, and as many back."""
    undo: tuple[int, ...] = UNDO
    """For return trips, the action that undoes each discrete action."""
    workers: Workers | None = None
    """Recording processes. By default one per core (at most 16, and at most one per 4 walks). 1
    plays in this process."""
    engine_timeout_s: Positive = ENGINE_TIMEOUT_S
    """Time limit in seconds of one call of the real twin. After it, the engine is killed and the
    walk recorded again. Has no effect in this process."""
    batch: Batch = 32
    """Walks to dream at once; smaller batches need less memory."""
    bootstrap: Count = 2000
    """Resamples of the walks for each 95% interval."""
    pictures: Path | None = None
    """Folder for strips of a few walks: real twin, dream, memory view."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.history < 2:
            raise InvalidInputError(
                f"EvaluateConfig.history = {self.history!r}: it must be at least 2"
            )
        check_lengths(self.lengths)

    @property
    def fits(self) -> Fits | None:
        """When the memory is fitted; None for points."""
        return Fits(self.fit_iterations, self.fit_every) if self.memory == "radiance" else None

    @property
    def walks(self) -> int:
        """Number of episodes."""
        return EPISODES[self.protocol] if self.episodes is None else self.episodes

    @property
    def dreamed(self) -> int:
        """Number of frames to dream after the history."""
        return HORIZONS.get(self.protocol, 48) if self.horizon is None else self.horizon


def evaluate(config: EvaluateConfig, world: World | None = None) -> JsonObject:
    """Measure, print and write the results; returns them.

    world: a loaded world, instead of ``config.world``.
    """
    began = time.monotonic()
    world = world or World.from_pretrained(config.world, config.device, trust=config.trust)
    world = world.with_dynamics(
        num_inference_steps=config.num_inference_steps, temperature=config.temperature
    )
    if not world.config.env_id:
        raise InvalidInputError(
            f"world {config.world} does not name its real twin (env_id in world.json): nothing to "
            f"compare with"
        )
    if config.fits is not None:
        world = with_radiance(world)
    if config.protocol == "walks" and not world.has_geometry:
        results, told = _task(config, world), task.table
    else:
        run, told = {
            "walks": (_walks, figures.table),
            "return-trip": (_return_trips, returns.table),
            "dreams": (_dreams, dreams.table),
            "long-walks": (_long_walks, long_walks.table),
        }[config.protocol]
        results = run(config, world)
    if config.fits is not None:
        results |= {
            "memory": config.memory,
            "fit_iterations": config.fit_iterations,
            "fit_every": config.fit_every,
        }
    results["seconds"] = round(time.monotonic() - began, 1)
    print(told(results))
    if config.json is not None:
        write_json(config.json, results)
    return results


def _task(config: EvaluateConfig, world: World) -> JsonObject:
    """Evaluate a world without geometry: next frames from the true past, and returns."""
    with Progress(config.walks, "recording", "episode") as bar:
        episodes, limit = task.play(world, config.walks, config.seed, bar.update)
    forced: list[task.Forced] = []
    dreams: list[task.Dreamed] = []
    with Progress(None, "dreaming") as bar:
        for i in range(0, len(episodes), config.batch):
            chunk = episodes[i : i + config.batch]
            forced += _fitting(config, world, partial(task.force, world, chunk, bar.update))
            dreams += _fitting(
                config, world, partial(task.dream, world, chunk, config.seed, i, limit, bar.update)
            )
    return task.compute(episodes, forced, dreams, config.bootstrap, config.seed) | {
        "protocol": task.PROTOCOL,
        "policy": task.POLICY,
        "episodes": len(episodes),
        "max_episode_steps": limit,
        "env_id": world.config.env_id,
        "sampling_steps": world.config.dynamics.num_inference_steps,
        "temperature": world.config.dynamics.temperature,
        "seed": config.seed,
        "device": str(world.device),
    }


def _return_trips(config: EvaluateConfig, world: World) -> JsonObject:
    if not world.has_geometry:
        raise MissingGeometryError(
            f"world {config.world} has no poses, so there is no way back: evaluate it with "
            f"--protocol walks"
        )
    settings = TripConfig(*twin_of(world), config.seed, lengths=config.lengths, undo=config.undo)
    with Progress(config.walks, "recording", "trip") as bar:
        recorded = record_test_set(
            settings,
            range(config.walks),
            _workers(config, config.walks),
            config.cache,
            bar.update,
            config.engine_timeout_s,
        )
    _check(config, world, recorded)
    chunks = [
        stack_trips(recorded[i : i + config.batch], settings, world.device)
        for i in range(0, len(recorded), config.batch)
    ]
    with Progress(sum(returns.steps_of(world, chunk) for chunk in chunks), "dreaming") as bar:
        measured = (
            returns.measure_returns(world, chunk, bar.update, config.fits) for chunk in chunks
        )
        parts = _fitting(config, world, lambda: list(measured))
    spec = world.spec
    results = returns.compute(returns.join(parts), spec.window, config.bootstrap, config.seed)
    return results | {"protocol": "return-trip/1"} | _setting(config, world, recorded)


def _setting(config: EvaluateConfig, world: World, recorded: Sequence[Recorded]) -> JsonObject:
    """Return what results depend on, beside the protocol."""
    return {
        "test_set_sha256": digest(recorded),
        "episodes": len(recorded),
        "sampling_steps": world.config.dynamics.num_inference_steps,
        "temperature": world.config.dynamics.temperature,
        "env_id": world.config.env_id,
        "maps": sorted({one.map for one in recorded}),
        "attention_window": world.spec.window,
        "seed": config.seed,
        "device": str(world.device),
    }


def _dreams(config: EvaluateConfig, world: World) -> JsonObject:
    """Evaluate dreams at the true poses; as many other walks are what they are compared with."""
    settings = TestSetConfig(*twin_of(world), config.seed, config.history, config.dreamed)
    count = config.walks
    with Progress(2 * count, "recording", "walk") as bar:
        recorded = record_test_set(
            settings,
            range(2 * count),
            _workers(config, 2 * count),
            config.cache,
            bar.update,
            config.engine_timeout_s,
        )
    _check(config, world, recorded)
    walks = stack(recorded, settings)
    test = walks.part(0, count, "cpu")
    chunks = range(0, count, config.batch)
    with Progress(len(chunks) * dreams.steps_of(config.history, config.dreamed), "dreaming") as bar:
        measured = (
            dreams.dream(
                world, walks.part(i, min(i + config.batch, count), world.device), bar.update
            )
            for i in chunks
        )
        found = dreams.join(_fitting(config, world, lambda: list(measured)))
    features = None
    if world.config.env_id in ENCODED and min(walks.rgb.shape[-2:]) >= SIZE:
        encoder, after = load_encoder(device=world.device), config.history

        def encoded(rgb: Tensor) -> Tensor:
            small = area_average(rgb.flatten(0, 1), SIZE, SIZE)
            return encode(encoder, small).cpu().unflatten(0, rgb.shape[:2])

        features = tuple(
            encoded(rgb) for rgb in (found.rgb, test.rgb[:, after:], walks.rgb[count:, after:])
        )
    results = dreams.compute(
        found, test, features, world.spec.window, config.bootstrap, config.seed
    )
    told = _setting(config, world, recorded) | {"episodes": count}
    return results | {"protocol": dreams.PROTOCOL, "horizon": config.dreamed} | told


def _long_walks(config: EvaluateConfig, world: World) -> JsonObject:
    """Evaluate the statistics of long walks, beside those of real ones from the same starts."""
    memory = world.config.memory
    if not world.has_geometry or memory is None:
        raise MissingGeometryError(
            f"world {config.world} has no poses or no memory: evaluate it with --protocol walks"
        )
    settings = long_walks.LongWalkConfig(
        *twin_of(world), config.seed, config.history, config.dreamed, memory=memory
    )
    with Progress(config.walks, "recording", "pair of walks") as bar:
        recorded = record_test_set(
            settings,
            range(config.walks),
            _workers(config, config.walks),
            config.cache,
            bar.update,
            config.engine_timeout_s,
        )
    _check(config, world, recorded)
    chunks = [(i, recorded[i : i + config.batch]) for i in range(0, len(recorded), config.batch)]
    with Progress(len(chunks) * (config.history - 1 + config.dreamed), "dreaming") as bar:
        parts = (
            long_walks.dream(world, chunk, settings, first, bar.update) for first, chunk in chunks
        )
        dreamed = np.concatenate(_fitting(config, world, lambda: list(parts)))
    results = long_walks.compute(dreamed, recorded, settings, config.bootstrap, config.seed)
    return results | {"protocol": long_walks.PROTOCOL} | _setting(config, world, recorded)


def _walks(config: EvaluateConfig, world: World) -> JsonObject:
    episodes, test = frozen_test_set(config, world)
    spec = world.spec
    parts = _measure(config, world, test)
    n = config.history
    measured = measure.join(parts)
    shared: JsonObject = {
        "moved": moved_frames(test.pose)[:, n - 1 :].numpy(),
        "covered": test.covered.numpy(),
        "window": spec.window,
        "draws": config.bootstrap,
        "seed": config.seed,
    }
    results = figures.compute(
        measure.at_size(measured, 0), pose=test.pose[:, n - 1 :].numpy(), **shared
    )
    if comparable(spec.height, spec.width):
        results[figures.REDUCED] = figures.compute_reduced(measure.at_size(measured, 1), **shared)
    results |= {
        "test_set_sha256": digest(episodes),
        "episodes": len(test),
        "sampling_steps": world.config.dynamics.num_inference_steps,
        "temperature": world.config.dynamics.temperature,
        "protocol": PROTOCOL,
        "env_id": world.config.env_id,
        "maps": sorted(set(test.maps)),
        "attention_window": spec.window,
        "seed": config.seed,
        "device": str(world.device),
        "steps_per_second": round(steps_per_second(world, test), 2),
    }
    if config.pictures is not None:
        save_strips(
            world, test.part(0, min(4, len(test)), world.device), config.pictures, config.fits
        )
    return results


def frozen_test_set(config: EvaluateConfig, world: World) -> tuple[list[TestEpisode], TestSet]:
    """Return the walks, recorded and stacked on the CPU."""
    settings = TestSetConfig(*twin_of(world), config.seed, config.history, config.dreamed)
    spec = world.spec
    episodes: list[TestEpisode] = []
    wanted, most = config.walks, config.walks * MAX_GROWTH
    with Progress(wanted, "recording", "walk") as bar:
        while True:
            workers = _workers(config, wanted - len(episodes))
            new = record_test_set(
                settings,
                range(len(episodes), wanted),
                workers,
                config.cache,
                bar.update,
                config.engine_timeout_s,
            )
            _check(config, world, new)
            episodes += new
            seen = _seen_frames(stack(episodes, settings), spec.window)
            if seen >= config.min_seen_frames or config.walks < FULL_EPISODES or wanted >= most:
                break
            wanted = min(most, wanted + EXTRA_EPISODES)
            bar.total = wanted
    return episodes, stack(episodes, settings)


def _seen_frames(test: TestSet, window: int) -> int:
    late = torch.arange(1, test.config.horizon + 1) >= window
    moved = moved_frames(test.pose)[:, test.config.history - 1 :]
    return int((moved & late & (test.covered > figures.SEEN_FRAME_SHARE)).sum())


def _check(
    config: EvaluateConfig,
    world: World,
    episodes: Sequence[TestEpisode | Trip | long_walks.LongWalk],
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


def _workers(config: EvaluateConfig, episodes: int) -> int:
    if config.workers is not None:
        return config.workers
    return max(1, min(os.cpu_count() or 1, MAX_WORKERS, episodes // 4))


def _measure(config: EvaluateConfig, world: World, test: TestSet) -> list[measure.Measured]:
    chunks = range(0, len(test), config.batch)
    actions = test.fork_act.shape[2]
    total = len(chunks) * measure.steps_of(
        world, config.history, config.dreamed, len(test.config.fork_frames), actions
    )
    with Progress(total, "dreaming") as bar:
        parts = (
            measure.measure(
                world, test.part(i, i + config.batch, world.device), bar.update, config.fits
            )
            for i in chunks
        )
        return _fitting(config, world, lambda: list(parts))


def _fitting(config: EvaluateConfig, world: World, measured: Callable[[], list[M]]) -> list[M]:
    """Return what ``measured`` returns; an out-of-memory error says what to change."""
    try:
        return measured()
    except torch.cuda.OutOfMemoryError as error:
        less = max(1, config.batch // 4)
        raise OutOfMemoryError(
            f"{config.batch} walks at once do not fit on {world.device}: try --batch {less}"
        ) from error


@torch.no_grad()
def steps_per_second(world: World, test: TestSet) -> float:
    """Return the steps per second of one environment, in wall-clock time after a warm-up."""
    one = dataclasses.replace(test.part(0, 1, world.device))
    state = measure.start_walks(world, one)
    act = one.act[:, 0]

    def step(count: int) -> Frame:
        nonlocal state
        for _ in range(count):
            state, transition = world.step(state, act)
        # Reading a number back waits for the device.
        transition.frame.rgb.sum().item()
        return transition.frame

    step(4)
    began = time.perf_counter()
    step(TIMED_STEPS)
    return TIMED_STEPS / (time.perf_counter() - began)
