"""The protocol ``twin`` of ``worldsim evaluate``: all its parts, and their table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import MissingGeometryError
from worldsim.evaluation.benchmark_set import TestSetConfig, stack
from worldsim.evaluation.config import EvaluateConfig
from worldsim.evaluation.episodes import watched_twin
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.running import fitting, record, setting_of, workers_of
from worldsim.evaluation.statistics import interval_text, report
from worldsim.evaluation.twin import actions, drift, kept, outcomes, ranks
from worldsim.evaluation.twin.gate import GAP
from worldsim.evaluation.twin.trajectories import (
    TRAJECTORIES,
    Trajectories,
    Trajectory,
    TrajectoryConfig,
)
from worldsim.evaluation.twin.trajectories import stack as stack_trajectories
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig
from worldsim.runtime.keyboard import action_names
from worldsim.runtime.progress import Progress
from worldsim.runtime.types import JsonMapping, JsonObject
from worldsim.runtime.workers import WorkerPool
from worldsim.world import World
from worldsim.world.twin import twin_of

PROTOCOL = "twin/1"
QUICK_WALKS = 4
"""Walks with ``--quick``."""
QUICK_STEPS = 200
"""Steps of the long dreams with ``--quick``."""
DRIFT_WALKS = 8
"""Walks of the long dreams, of the action score, and episodes per policy, at most."""
OUTCOMES = 32
"""Episodes whose futures are compared."""
Tick = Callable[[], object]


def measure_twin(config: EvaluateConfig, world: World) -> JsonObject:
    """Evaluate what a dream keeps, beside its real twin.

    Raises MissingGeometryError for a world without poses, InvalidInputError for one whose actions
    do not move a camera.
    """
    if not world.has_geometry:
        if not (world.config.has_rewards or world.config.has_terminations):
            raise MissingGeometryError(
                f"world {config.world} has neither poses nor rewards: --protocol twin has nothing "
                f"to measure; use --protocol walks"
            )
        return _outcomes(config, world) | {
            "protocol": PROTOCOL,
            "episodes": OUTCOMES,
            "env_id": world.config.env_id,
            "sampling_steps": world.config.dynamics.num_inference_steps,
            "temperature": world.config.dynamics.temperature,
            "seed": config.seed,
            "device": str(world.device),
        }
    settings = TrajectoryConfig(*twin_of(world), config.seed)
    walks = QUICK_WALKS if config.quick else config.walks
    recorded = record(config, world, settings, range(walks * len(TRAJECTORIES)), "trajectory")
    figures = Figures(walks, config.bootstrap, config.seed)
    shares = _kept(config, world, settings, recorded, walks, figures)
    results: JsonObject = {**figures.values, "gated_share": shares, "ci95": figures.ci95}
    results |= _free(config, world, results["ci95"]) | _ranks(config, world)
    results |= {"protocol": PROTOCOL, "gap": GAP, "quick": config.quick}
    return results | setting_of(config, world, recorded) | {"episodes": walks}


def kinds_of(world: World, frames: int) -> dict[str, World]:
    """Return the world with its memory, without, and restricted to the nearest past frame."""
    if world.config.memory is None:
        return {"": world}
    spec = world.spec
    nearest = RetrievalMemory(RetrievalMemoryConfig(spec.height, spec.width, frames))
    return {
        "": world,
        "_no_memory": world.without_memory(),
        "_retrieval": world.with_memory(nearest),
    }


def _kept(
    config: EvaluateConfig,
    world: World,
    settings: TrajectoryConfig,
    recorded: list[Trajectory],
    walks: int,
    figures: Figures,
) -> JsonObject:
    """Add what all kinds of memory keep on all trajectories; returns the gate's shares."""
    longest = max(len(one.rgb) for one in recorded)
    kinds = kinds_of(world, longest)
    shares: JsonObject = {}
    total = 0
    sets: list[Trajectories] = []
    for index, name in enumerate(TRAJECTORIES):
        for first in range(0, walks, config.batch):
            numbers = range(first, min(first + config.batch, walks))
            chosen = [recorded[n * len(TRAJECTORIES) + index] for n in numbers]
            sets.append(stack_trajectories(chosen, numbers, settings, name, world.device))
            total += len(kinds) * kept.steps_of(sets[-1])
    with Progress(total, "dreaming") as bar:
        for name in TRAJECTORIES:
            chunks = [one for one in sets if one.name == name]
            of_twin = kept.join([kept.score(one, kept.true_frames(one)) for one in chunks])
            kept.add(figures, of_twin, name, "_twin")
            gated = of_twin.shares.mean((0, 1))
            shares[name] = [round(float(x), 4) for x in gated]
            for kind, one_world in kinds.items():
                run = partial(_score_all, one_world, chunks, bar.update)
                kept.add(figures, kept.join(fitting(config, world, run)), name, kind)
    return shares


def _score_all(world: World, chunks: list[Trajectories], tick: Tick) -> list[kept.Kept]:
    return [kept.score(one, kept.dream(world, one, tick)) for one in chunks]


def _free(config: EvaluateConfig, world: World, ci95: JsonObject) -> JsonObject:
    """Return the drift of long dreams and the action score; adds their intervals."""
    steps = QUICK_STEPS if config.quick else config.dreamed
    settings = TestSetConfig(*twin_of(world), config.seed, config.history, steps)
    count = QUICK_WALKS if config.quick else min(config.walks, DRIFT_WALKS)
    test = stack(record(config, world, settings, range(count), "walk"), settings)
    figures = Figures(count, config.bootstrap, config.seed)
    actions_count = world.spec.actions
    total = drift.steps_of(config.history, steps) + actions.steps_of(config.history, actions_count)
    chunks = range(0, count, config.batch)
    with Progress(total * len(chunks), "dreaming on") as bar:
        drifts: list[drift.Drift] = []
        scores: list[Tensor] = []
        for first in chunks:
            part = test.part(first, min(first + config.batch, count), world.device)
            drifts += fitting(
                config, world, lambda part=part: [drift.dream(world, part, bar.update)]
            )
            scores += fitting(
                config, world, lambda part=part: [actions.measure(world, part, bar.update)]
            )
    drift.add(figures, drift.join(drifts))
    taken = test.act[:, config.history - 1 : config.history - 1 + actions.FRAMES]
    names = action_names(world.action_space, world.config.env_id)
    actions.add(figures, torch.cat(scores), taken, names)
    ci95 |= figures.ci95
    return figures.values


def _ranks(config: EvaluateConfig, world: World) -> JsonObject:
    """Return how policies rank in the dream and in the twin."""
    specs = ranks.policies(world.action_space, world.config.env_id)
    count = QUICK_WALKS if config.quick else min(config.walks, DRIFT_WALKS)
    seeds = [config.seed * 1_000_003 + i for i in range(count)]
    tasks = [(spec, seed) for spec in specs for seed in seeds]
    walked: dict[int, ranks.Walked] = {}
    bar = Progress(len(tasks), "real twin", "episode")
    make = partial(ranks.make_twin, *twin_of(world))
    with bar, WorkerPool(workers_of(config, len(tasks)), make, config.engine_timeout_s) as pool:
        for number, one in pool.run(ranks.play_task, tasks):
            walked[number] = one
            bar.update()
    area, success = np.zeros((2, len(specs), count)), np.zeros((2, len(specs), count), bool)
    with Progress(len(specs) * ranks.STEPS, "closed loop") as bar:
        for p, spec in enumerate(specs):
            twins = [walked[p * count + i] for i in range(count)]
            starts = [one.start for one in twins if one.start is not None]
            dreamed = ranks.walk_dream(world, spec, starts, seeds, bar.update)
            for i, pair in enumerate(zip(dreamed, twins, strict=True)):
                area[:, p, i] = [one.area for one in pair]
                success[:, p, i] = [one.success for one in pair]
    found = ranks.compare(area[1], area[0], success, config.bootstrap, config.seed)
    return found | {"policies": [spec.name for spec in specs]}


def _outcomes(config: EvaluateConfig, world: World) -> JsonObject:
    """Return how the random futures of dream and twin compare."""
    count = QUICK_WALKS * 4 if config.quick else OUTCOMES
    acts = outcomes.actions(world.action_space, outcomes.STEPS[-1])
    twin = watched_twin(world)
    try:
        played = [outcomes.play_twin(twin, config.seed + i, acts) for i in range(count)]
    finally:
        twin.close()
    starts = [start for start, _ in played]
    seeds = [config.seed + i for i in range(count)]
    dreamed = outcomes.dream(world, starts, seeds, acts)
    futures = outcomes.Futures(np.stack([future for _, future in played]), dreamed)
    return outcomes.compare(futures, config.bootstrap, config.seed)


ROWS = (
    ("input kept, dB", "input_kept"),
    ("generated kept, dB", "generated_kept"),
    ("self-consistent, dB", "self_consistent"),
    ("mirrored, dB", "mirrored"),
)
KINDS = (("", ""), ("  memory off", "_no_memory"), ("  nearest frame", "_retrieval"))
"""Name and key of each kind of memory; the twin's own figures come last."""


def table(results: JsonMapping) -> str:
    """Return the results as a table."""
    if "outcome_distance" in results:
        return _outcome_table(results)
    lines = [f"{'':<22}" + "".join(f"{name:>20}" for name in TRAJECTORIES)]
    for title, key in ROWS:
        for name, kind in (*KINDS, ("  real twin", "_twin")):
            if key + kind in results:
                cells = [_cell(results, key + kind, one) for one in TRAJECTORIES]
                lines.append(f"{name or title:<22}" + "".join(f"{cell:>20}" for cell in cells))
    gated = results["gated_share"]
    for title, i in (("pixels gated, input", 0), ("  generated", 1)):
        lines.append(f"{title:<22}" + "".join(f"{gated[one][i]:>20.2f}" for one in TRAJECTORIES))
    for title, key in (
        ("long dream, dB", "drift_psnr"),
        ("  last true frame", "drift_psnr_stand"),
        ("  sharpness", "drift_sharpness"),
        ("  colour, codes", "drift_colour"),
    ):
        lines.append(
            f"{title:<22}"
            + "  ".join(f"{span}: {_cell(results, key, span)}" for span in results[key])
        )
    scores = results["action_score"]
    lines.append(
        "action score          "
        + "  ".join(f"{name}: {_cell(results, 'action_score', name)}" for name in scores)
    )
    success = results["success"]
    lines.append(
        f"{len(results['policies'])} policies: rank agreement {results['rank_agreement']} "
        f"{results['rank_agreement_ci95']}; {success['dream']:.0%} of episodes get "
        f"{ranks.FAR:g} m away in the dream, {success['twin']:.0%} in the twin, the same ones in "
        f"{results['success_agrees']:.0%}"
    )
    lines.append(
        f"{results['episodes']} walks per trajectory at the true poses; "
        f"{results['sampling_steps']} sampling steps; {results['seconds']:.0f} s"
    )
    return report(lines, results["episodes"])


def _outcome_table(results: JsonMapping) -> str:
    lines = [f"{'steps':>8}{'dream - twin':>16}{'twin - twin':>16}{'by chance':>12}"]
    for step, value in results["outcome_distance"].items():
        halves, chance = results["outcome_distance_of_twins"][step], results["outcome_p"][step]
        lines.append(f"{step:>8}{value:>16.3f}{halves:>16.3f}{chance:>12.3f}")
    lines.append(
        "energy distance of random futures, in units of the twins' spread; share of random "
        "divisions as far apart"
    )
    return report(lines, results["episodes"])


def _cell(results: JsonMapping, key: str, name: str) -> str:
    value = results[key].get(name)
    if value is None:
        return "-"
    between = interval_text(results["ci95"].get(f"{key}.{name}"), 1)
    return f"{value:.2f} {between}".rstrip()
