"""``worldsim evaluate``: measures a world against its real twin.

The walks of the frozen test set are recorded on maps that the world was not trained on. Every
result has a 95% interval over walks and simple baselines on the same frames. The parts are in
:mod:`worldsim.evaluation`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch

from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.evaluation import dreams, figures, long_walks, measure, task
from worldsim.evaluation import return_trips as returns
from worldsim.evaluation.benchmark_set import (
    PROTOCOL,
    TestEpisode,
    TestSet,
    TestSetConfig,
    record_test_set,
    stack,
)
from worldsim.evaluation.config import FULL_EPISODES, EvaluateConfig
from worldsim.evaluation.dream_protocols import measure_dreams, measure_long_walks
from worldsim.evaluation.memory_fitting import Fits, with_radiance
from worldsim.evaluation.metrics import comparable, moved_frames
from worldsim.evaluation.running import (
    check_recorded,
    dream_setting,
    over_chunks,
    record,
    setting_of,
    workers_of,
)
from worldsim.evaluation.strips import save_strips
from worldsim.evaluation.trip_recording import Trip, TripConfig, stack_trips
from worldsim.evaluation.twin.protocol import measure_twin
from worldsim.evaluation.twin.report import table as twin_table
from worldsim.runtime.chunks import Chunks
from worldsim.runtime.cluster_connection import using
from worldsim.runtime.json_config import write_json
from worldsim.runtime.progress import Progress
from worldsim.runtime.types import JsonObject
from worldsim.state import Frame, map_tensors
from worldsim.world import World
from worldsim.world.spread import spread_world
from worldsim.world.twin import twin_of

EXTRA_EPISODES = 8
"""Walks that are added at a time where too few frames show seen places."""
MAX_GROWTH = 4
"""The test set grows to at most this many times the walks asked for."""
TIMED_STEPS = 24

__all__ = ["EvaluateConfig", "evaluate", "frozen_test_set", "steps_per_second"]


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
    run, told = {
        "walks": (_walks, figures.table) if world.has_geometry else (_task, task.table),
        "return-trip": (_return_trips, returns.table),
        "dreams": (measure_dreams, dreams.table),
        "long-walks": (measure_long_walks, long_walks.table),
        "twin": (measure_twin, twin_table),
    }[config.protocol]
    # One connection for all that is recorded and dreamed.
    with using(config.cluster), spread_world(world, config.cluster) as chunks:
        results = run(config, world, chunks)
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


def _task(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    """Evaluate a world without geometry: next frames from the true past, and returns."""
    with Progress(config.walks, "recording", "episode") as bar:
        episodes, limit = task.play(world, config.walks, config.seed, bar.update, config.cluster)
    parts = [
        (episodes[i : i + config.batch], config.seed, i, limit)
        for i in range(0, len(episodes), config.batch)
    ]
    with Progress(None, "dreaming") as bar:
        found = over_chunks(config, chunks, task.measure, parts, bar.update, limit)
    forced = [one for part, _ in found for one in part]
    dreams = [one for _, part in found for one in part]
    return (
        task.compute(episodes, forced, dreams, config.bootstrap, config.seed)
        | {
            "protocol": task.PROTOCOL,
            "policy": task.POLICY,
            "episodes": len(episodes),
            "max_episode_steps": limit,
        }
        | dream_setting(config, world)
    )


def _return_trips(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    if not world.has_geometry:
        raise MissingGeometryError(
            f"world {config.world} has no poses, so there is no way back: evaluate it with "
            f"--protocol walks"
        )
    settings = TripConfig(*twin_of(world), config.seed, lengths=config.lengths, undo=config.undo)
    recorded = record(config, world, settings, range(config.walks), "trip")
    starts = range(0, len(recorded), config.batch)
    parts = [(recorded[i : i + config.batch], settings, config.fits) for i in starts]
    steps = returns.steps_of(world, stack_trips(recorded[:1], settings))
    with Progress(steps * len(parts), "dreaming") as bar:
        measured = over_chunks(config, chunks, _measure_returns, parts, bar.update, steps)
    window = world.spec.window
    results = returns.compute(returns.join(measured), window, config.bootstrap, config.seed)
    return results | {"protocol": "return-trip/1"} | setting_of(config, world, recorded)


def _measure_returns(
    world: World,
    trips: list[Trip],
    settings: TripConfig,
    fits: Fits | None,
    tick: Callable[[], object],
) -> returns.Returned:
    return returns.measure_returns(world, stack_trips(trips, settings, world.device), tick, fits)


def _walks(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    episodes, test = frozen_test_set(config, world)
    spec = world.spec
    parts = _measure(config, world, chunks, test)
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
        "protocol": PROTOCOL,
        **setting_of(config, world, episodes),
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
            workers = workers_of(config, wanted - len(episodes))
            new = record_test_set(
                settings,
                range(len(episodes), wanted),
                workers,
                config.cache,
                bar.update,
                config.engine_timeout_s,
                config.cluster,
            )
            check_recorded(config, world, new)
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


def _measure(
    config: EvaluateConfig, world: World, chunks: Chunks, test: TestSet
) -> list[measure.Measured]:
    starts = range(0, len(test), config.batch)
    parts = [(test.part(i, i + config.batch, "cpu"), config.fits) for i in starts]
    steps = measure.steps_of(
        world,
        *(config.history, config.dreamed),
        *(len(test.config.fork_frames), test.fork_act.shape[2]),
    )
    with Progress(len(parts) * steps, "dreaming") as bar:
        return over_chunks(config, chunks, _measure_walks, parts, bar.update, steps)


def _measure_walks(
    world: World, test: TestSet, fits: Fits | None, tick: Callable[[], object]
) -> measure.Measured:
    found = measure.measure(world, test.part(0, len(test), world.device), tick, fits)
    return map_tensors(torch.Tensor.cpu, found)


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
