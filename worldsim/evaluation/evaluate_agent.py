"""``worldsim evaluate-agent``: an agent's return in the dream and in the real twin.

Every dreamed episode begins with the first frame of a real one, so the returns are paired.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.evaluation.episodes import (
    PlayConfig,
    Played,
    Task,
    dream_policies,
    real_episodes,
    require_rewards,
    twin_limit,
)
from worldsim.evaluation.policy_batch import PolicySpec
from worldsim.evaluation.statistics import interval, interval_text, mean_statistic, report
from worldsim.runtime.cluster_connection import using
from worldsim.runtime.json_config import write_json
from worldsim.runtime.ranges import Count
from worldsim.runtime.types import Array, JsonObject
from worldsim.shipped.agent_files import read_card, update_card
from worldsim.shipped.policies import saved_folder
from worldsim.world import World
from worldsim.world.files import find_world_of_file
from worldsim.world.spread import spread_world

MAX_WORKERS = 16


@dataclass(frozen=True)
class EvaluateAgentConfig(PlayConfig):
    """Measure an agent in the dream and in its real twin."""

    agent: str
    """A saved agent's folder, a shipped agent's name, or ``random``, ``persistent``,
    ``module:Class``."""
    world: str | None = None
    """Name or folder of the world. By default the one in the agent's card."""
    episodes: Count = 100
    """Episodes in the dream and in the real twin."""
    bootstrap: Count = 2000
    """Resamples of the episodes for each 95% interval."""
    into_card: bool = False
    """Also write the results into the agent's card."""


def evaluate_agent(config: EvaluateAgentConfig, world: World | None = None) -> JsonObject:
    """Measure, print and write the results; returns them.

    world: a loaded world, instead of ``config.world``.
    """
    began = time.monotonic()
    folder = saved_folder(config.agent)
    if config.into_card and folder is None:
        raise InvalidInputError(f"{config.agent!r} is no saved agent: it has no card to write into")
    card = read_card(folder) if folder is not None else None
    name = config.world
    if name is None and card is not None and card.world and folder is not None:
        name = find_world_of_file(card.world, folder, config.trust)
    if world is None and not name:
        raise InvalidInputError(f"agent {config.agent!r} names no world: give one with --world")
    world = world or World.from_pretrained(str(name), config.device, trust=config.trust)
    require_rewards(world)
    spec = PolicySpec(config.agent, trust=config.trust)
    # Before anything is played: an agent of other spaces is told at once.
    spec.build(world.action_space)
    limit = twin_limit(world, config.max_steps)
    seeds = [config.seed + i for i in range(config.episodes)]
    workers = workers_of(config.workers, len(seeds))
    with using(config.cluster):
        real = real_episodes(
            world,
            [Task(spec, seed) for seed in seeds],
            limit,
            workers,
            timeout_s=config.engine_timeout_s,
            cluster=config.cluster,
        )
        real_seconds = time.monotonic() - began
        starts = [one.start for one in real if one.start is not None]
        with spread_world(world.with_engine(config.engine), config.cluster) as chunks:
            (dream,) = dream_policies(chunks, [(spec, starts)], seeds, limit, config.batch)
    frames = card.real_frames_used if card else 0
    if frames is None:
        frames = world.card.get("frames")
    results = {
        "agent": config.agent,
        "world": str(name or world.folder),
        "env_id": world.config.env_id,
        "episodes": config.episodes,
        "seed": config.seed,
        "max_steps": limit,
        **compare(
            real, dream, config.bootstrap, config.seed, world.config.env_kwargs.get("frame_skip")
        ),
        "real_frames_used": frames,
        "real_seconds": round(real_seconds, 1),
        "wall_time_s": round(time.monotonic() - began, 1),
    }
    print(explain(results))
    if config.json is not None:
        write_json(config.json, results)
    if config.into_card and folder is not None:
        update_card(folder, results=results)
    return results


def compare(
    real: Sequence[Played],
    dream: Sequence[Played],
    draws: int,
    seed: int,
    frame_skip: int | None = None,
) -> JsonObject:
    """Return the results of paired episodes: means, 95% intervals, and each episode's return.

    Intervals are over episodes; None for fewer than five.

    frame_skip: tics per step, if the real twin has them; survival is then also given in tics.
    """
    figures: JsonObject = {}
    totals = {
        side: np.array([one.total for one in played])
        for side, played in (("real", real), ("dream", dream))
    }
    for side, played in (("real", real), ("dream", dream)):
        steps = np.array([one.steps for one in played], np.float64)
        figures |= _mean(f"{side}_return", totals[side], draws, seed)
        figures[f"{side}_return_std"] = round(float(totals[side].std()), 4)
        figures |= _mean(f"{side}_steps", steps, draws, seed)
        if frame_skip:
            prefix = "survival_tics" if side == "real" else "dream_survival_tics"
            figures |= _mean(prefix, steps * frame_skip, draws, seed)
        figures[f"{side}_terminated"] = round(float(np.mean([one.terminated for one in played])), 4)
        figures[f"{side}_returns"] = [round(float(x), 4) for x in totals[side]]
    gap = _mean("gap", totals["dream"] - totals["real"], draws, seed)
    return {**figures, "gap": gap["gap_mean"], "gap_ci95": gap["gap_ci95"]}


def _mean(name: str, values: Array, draws: int, seed: int) -> JsonObject:
    found = interval(mean_statistic(list(values[:, None])), len(values), draws, seed)
    return {f"{name}_mean": round(float(values.mean()), 4), f"{name}_ci95": found}


def workers_of(asked: int | None, episodes: int) -> int:
    """Return the number of processes for ``episodes`` episodes."""
    return min(asked if asked is not None else min(os.cpu_count() or 1, MAX_WORKERS), episodes)


def explain(results: JsonObject) -> str:
    """Return the results in words."""

    def line(name: str, key: str) -> str:
        interval = interval_text(results[f"{key}_ci95"])
        return f"{name:<18}{results[f'{key}_mean']:>10.2f}  {interval}".rstrip()

    lines = [
        f"{results['agent']} over {results['episodes']} episodes of at most "
        f"{results['max_steps']} steps, 95% intervals:"
    ]
    lines += [line("real twin, return", "real_return"), line("dream, return", "dream_return")]
    lines.append(
        f"{'gap':<18}{results['gap']:>10.2f}  {interval_text(results['gap_ci95'])}  dream minus "
        f"real, same starts"
    )
    if "survival_tics_mean" in results:
        lines += [
            line("real twin, tics", "survival_tics"),
            line("dream, tics", "dream_survival_tics"),
        ]
    lines.append(f"{results['real_frames_used']} real frames used; {results['wall_time_s']:.0f} s")
    return report(lines, results["episodes"])
