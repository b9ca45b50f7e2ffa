"""The protocol ``twin`` of ``worldsim evaluate``: all its parts.

Dreams are computed chunk by chunk, so they may run on a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import MissingGeometryError
from worldsim.evaluation.benchmark_set import TestSet, TestSetConfig, stack
from worldsim.evaluation.config import EvaluateConfig
from worldsim.evaluation.episodes import watched_twin
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.return_trips import memories_of, with_kind
from worldsim.evaluation.running import (
    dream_setting,
    over_chunks,
    record,
    setting_of,
    workers_of,
)
from worldsim.evaluation.twin import actions, drift, kept, outcomes, ranks
from worldsim.evaluation.twin.gate import GAP
from worldsim.evaluation.twin.trajectories import (
    TRAJECTORIES,
    Trajectory,
    TrajectoryConfig,
)
from worldsim.evaluation.twin.trajectories import stack as stack_trajectories
from worldsim.runtime.chunks import Chunks
from worldsim.runtime.cluster import pool_of
from worldsim.runtime.keyboard import action_names
from worldsim.runtime.progress import Progress
from worldsim.runtime.types import JsonObject
from worldsim.world import World
from worldsim.world.twin import twin_of

PROTOCOL = "twin/1"
DRIFT_WALKS = 8
"""Walks of the long dreams, of the action score, and episodes per policy, at most."""
OUTCOMES = 32
"""Episodes whose futures are compared; 16 with ``--quick``."""
LEAST_OUTCOMES = 4
"""Two halves of so many have pairs of different draws."""
Tick = kept.Tick


def measure_twin(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    """Evaluate what a dream keeps, beside its real twin.

    Raises MissingGeometryError for a world without poses and rewards, InvalidInputError for one
    whose actions do not move a camera.
    """
    if not world.has_geometry:
        if not (world.config.has_rewards or world.config.has_terminations):
            raise MissingGeometryError(
                f"world {config.world} has neither poses nor rewards: --protocol twin has nothing "
                f"to measure; use --protocol walks"
            )
        return (
            _outcomes(config, world, chunks)
            | {
                "protocol": PROTOCOL,
                "quick": config.quick,
            }
            | dream_setting(config, world)
        )
    settings = TrajectoryConfig(*twin_of(world), config.seed)
    walks = config.walks
    recorded = record(config, world, settings, range(walks * len(TRAJECTORIES)), "scripted walk")
    figures = Figures(walks, config.bootstrap, config.seed)
    shares = _kept(config, world, chunks, settings, recorded, figures)
    results: JsonObject = {**figures.values, "gated_share": shares, "ci95": figures.ci95}
    results |= _free(config, world, chunks, results["ci95"]) | _ranks(config, world, chunks)
    results |= {"protocol": PROTOCOL, "gap": GAP, "quick": config.quick}
    return results | setting_of(config, world, recorded) | {"episodes": walks}


def _kept(
    config: EvaluateConfig,
    world: World,
    chunks: Chunks,
    settings: TrajectoryConfig,
    recorded: Sequence[Trajectory],
    figures: Figures,
) -> JsonObject:
    """Add what all kinds of memory keep on all trajectories; returns the shares of gated pixels."""
    parts: list[tuple[object, ...]] = []
    names: list[str] = []
    steps = 0
    for index, name in enumerate(TRAJECTORIES):
        every = recorded[index :: len(TRAJECTORIES)]
        for first in range(0, len(every), config.batch):
            some = every[first : first + config.batch]
            parts.append((some, range(first, first + len(some)), settings, name))
            names.append(name)
            steps += len(memories_of(world)) * (len(some[0].rgb) - 1)
    with Progress(steps, "dreaming") as bar:
        found = over_chunks(config, chunks, _keep, parts, bar.update, steps / len(parts))
    shares: JsonObject = {}
    for name in TRAJECTORIES:
        same = [one for one, of in zip(found, names, strict=True) if of == name]
        for kind in same[0]:
            kept.add(figures, kept.join([one[kind] for one in same]), name, kind)
        both = kept.join([one[""] for one in same]).shares.mean((0, 1)).tolist()
        shares[name] = {"input": round(both[0], 4), "generated": round(both[1], 4)}
    return shares


def _keep(
    world: World,
    recorded: Sequence[Trajectory],
    numbers: Sequence[int],
    settings: TrajectoryConfig,
    name: str,
    tick: Tick,
) -> dict[str, kept.Kept]:
    """Return what the twin, a picture that stands still, and each kind of memory keep."""
    walks = stack_trajectories(recorded, numbers, settings, name, world.device)
    gates = kept.input_gates(walks)
    shown = {"_twin": kept.true_frames(walks), "_stand": kept.stand(walks)}
    for kind in memories_of(world):
        shown[kind] = kept.dream(with_kind(world, kind, walks.rgb.shape[1]), walks, tick)
    return {kind: kept.score(walks, one, gates) for kind, one in shown.items()}


def _free(config: EvaluateConfig, world: World, chunks: Chunks, ci95: JsonObject) -> JsonObject:
    """Return the drift of long dreams and the action score; adds their intervals."""
    # At least as long as the action score needs.
    frames = config.history + max(config.dreamed, actions.FRAMES)
    settings = TestSetConfig(
        *ranks.lasting(*twin_of(world), frames),
        config.seed,
        config.history,
        frames - config.history,
    )
    count = min(config.walks, DRIFT_WALKS)
    test = stack(record(config, world, settings, range(count), "walk"), settings)
    figures = Figures(count, config.bootstrap, config.seed)
    steps = drift.steps_of(config.history, config.dreamed)
    steps += actions.steps_of(config.history, world.spec.actions)
    parts = [
        (test.part(i, min(i + config.batch, count), "cpu"), config.dreamed)
        for i in range(0, count, config.batch)
    ]
    with Progress(steps * len(parts), "dreaming on") as bar:
        found = over_chunks(config, chunks, _go_on, parts, bar.update, steps)
    drift.add(figures, drift.join([one for one, _ in found]))
    taken = test.act[:, config.history - 1 : config.history - 1 + actions.FRAMES]
    names = action_names(world.action_space, world.config.env_id)
    actions.add(figures, torch.cat([one for _, one in found]), taken, names)
    ci95 |= figures.ci95
    return figures.values | {"horizon": config.dreamed, "history": config.history}


def _go_on(world: World, test: TestSet, horizon: int, tick: Tick) -> tuple[drift.Drift, Tensor]:
    here = test.part(0, len(test), world.device)
    return drift.dream(world, here, horizon, tick), actions.measure(world, here, tick)


def _ranks(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    """Return how policies rank in the dream and in the twin."""
    steps = ranks.STEPS
    specs = ranks.policies(world.action_space, world.config.env_id)
    count = min(config.walks, DRIFT_WALKS)
    seeds = [config.seed * 1_000_003 + i for i in range(count)]
    tasks = [(spec, seed, steps) for spec in specs for seed in seeds]
    walked: dict[int, ranks.Walked] = {}
    make = partial(ranks.make_twin, *ranks.lasting(*twin_of(world), steps + 1))
    pool = pool_of(config.cluster, workers_of(config, len(tasks)), make, config.engine_timeout_s)
    with Progress(len(tasks), "real twin", "episode") as bar, pool as engines:
        for number, one in engines.run(ranks.play_task, tasks):
            walked[number] = one
            bar.update()
    twins = [walked[i] for i in range(len(tasks))]
    parts: list[tuple[object, ...]] = []
    for p, spec in enumerate(specs):
        starts = [one.start for one in twins[p * count : (p + 1) * count]]
        for i in range(0, count, config.batch):
            parts.append((spec, starts[i : i + config.batch], seeds[i : i + config.batch], steps))
    with Progress(len(parts) * steps, "closed loop") as bar:
        found = over_chunks(config, chunks, ranks.walk_dream, parts, bar.update, steps)
    dreamed = [one for part in found for one in part]
    both = (dreamed, twins)
    area = np.array([[one.area for one in each] for each in both]).reshape(2, len(specs), count)
    success = np.array([[one.success for one in each] for each in both]).reshape(area.shape)
    told = ranks.compare(area[1], area[0], success, config.bootstrap, config.seed)
    return told | {"policies": [spec.name for spec in specs]}


def _outcomes(config: EvaluateConfig, world: World, chunks: Chunks) -> JsonObject:
    """Return how the random futures of dream and twin compare."""
    count = OUTCOMES // 2 if config.quick else OUTCOMES
    if config.episodes is not None:
        count = max(LEAST_OUTCOMES, config.episodes)
    acts = outcomes.actions(world.action_space, outcomes.STEPS[-1])
    twin = watched_twin(world)
    try:
        played = [outcomes.play_twin(twin, config.seed + i, acts) for i in range(count)]
    finally:
        twin.close()
    seeds = [config.seed + i for i in range(count)]
    parts = [
        ([start for start, _ in played[i : i + config.batch]], seeds[i : i + config.batch], acts)
        for i in range(0, count, config.batch)
    ]
    with Progress(len(parts) * len(acts), "dreaming") as bar:
        dreamed = over_chunks(config, chunks, outcomes.dream, parts, bar.update, len(acts))
    shown = min(len(future) for _, future in played)
    futures = outcomes.Futures(
        np.stack([future[:shown] for _, future in played]), np.concatenate(dreamed)[:, :shown]
    )
    told = outcomes.compare(futures, config.bootstrap, config.seed)
    return told | {"episodes": count}
