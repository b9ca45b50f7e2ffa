"""``worldsim agreement``: does the dream rank policies as the real twin does?

Policies of different skill play the same seeds in both; the dream's episodes begin with the first
frames of the real ones.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from worldsim.evaluation.episodes import (
    PlayConfig,
    Task,
    dream_policies,
    real_episodes,
    require_rewards,
    twin_limit,
)
from worldsim.evaluation.evaluate_agent import compare, workers_of
from worldsim.evaluation.policy_batch import PolicySpec
from worldsim.runtime.cluster_connection import using
from worldsim.runtime.json_config import write_json
from worldsim.runtime.ranges import Count
from worldsim.runtime.types import Array, JsonObject, Space
from worldsim.world import World
from worldsim.world.spread import spread_world

LEAST = 8
"""Policies below which a correlation says little."""


@dataclass(frozen=True)
class AgreementConfig(PlayConfig):
    """Compare the returns of several policies in the dream with those in the real twin."""

    world: str
    """Name or folder of the world."""
    agents: tuple[str, ...] = ()
    """Saved agents (folders or names) of different skill; each also plays with the shares
    ``chances`` of random actions."""
    chances: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    """Shares of random actions that are mixed into each agent."""
    episodes: Count = 20
    """Episodes per policy, in the dream and in the real twin."""
    bootstrap: Count = 2000
    """Resamples of policies and episodes for the 95% intervals."""


def agreement(config: AgreementConfig, world: World | None = None) -> JsonObject:
    """Measure, print and write the agreement; returns the results.

    world: a loaded world, instead of ``config.world``.
    """
    began = time.monotonic()
    world = world or World.from_pretrained(config.world, config.device, trust=config.trust)
    require_rewards(world)
    specs = policies(config, world.action_space)
    for spec in specs:
        spec.build(world.action_space)
    limit = twin_limit(world, config.max_steps)
    seeds = [config.seed + i for i in range(config.episodes)]
    tasks = [Task(spec, seed) for spec in specs for seed in seeds]
    with using(config.cluster):
        real = real_episodes(
            world,
            tasks,
            limit,
            workers_of(config.workers, len(tasks)),
            timeout_s=config.engine_timeout_s,
            cluster=config.cluster,
        )
        each = [real[i : i + config.episodes] for i in range(0, len(real), config.episodes)]
        starts = [[one.start for one in played if one.start is not None] for played in each]
        with spread_world(world.with_engine(config.engine), config.cluster) as chunks:
            dreams = dream_policies(
                chunks, list(zip(specs, starts, strict=True)), seeds, limit, config.batch
            )
    rows, pairs = [], np.zeros((2, len(specs), config.episodes))
    for i, (spec, played, dreamed) in enumerate(zip(specs, each, dreams, strict=True)):
        pairs[:, i] = [one.total for one in dreamed], [one.total for one in played]
        figures = compare(
            played,
            dreamed,
            config.bootstrap,
            config.seed,
            world.config.env_kwargs.get("frame_skip"),
        )
        rows.append(
            {"name": spec.name, **{k: v for k, v in figures.items() if not k.endswith("_returns")}}
        )
    results = {
        "world": config.world,
        "env_id": world.config.env_id,
        **correlations(pairs, config.bootstrap, config.seed),
        "policies": rows,
        "episodes": config.episodes,
        "seed": config.seed,
        "max_steps": limit,
        "wall_time_s": round(time.monotonic() - began, 1),
    }
    print(explain(results))
    if config.json is not None:
        write_json(config.json, results)
    return results


def policies(config: AgreementConfig, space: Space) -> list[PolicySpec]:
    """Return the policies to compare, at least eight.

    They are the agents with and without random actions, ``random``, ``persistent``, and single
    actions. Without agents, all single actions take part (the corners of a ``Box``), and if there
    are few of them, also mixed with random actions.
    """
    specs = [
        PolicySpec(agent, chance, trust=config.trust)
        for agent in config.agents
        for chance in (0.0, *config.chances)
    ]
    specs += [PolicySpec("random"), PolicySpec("persistent")]
    singles: Sequence[int | tuple[float, ...]]
    if isinstance(space, gym.spaces.Discrete):
        singles = range(int(space.n))
    else:
        assert isinstance(space, gym.spaces.Box)
        corners = itertools.product(*zip(space.low, space.high, strict=True))
        # There are 2 to the power of the dimension: no more are looked at than are ever wanted.
        singles = [tuple(map(float, corner)) for corner in itertools.islice(corners, 2 * LEAST)]
    wanted = max(LEAST - len(specs), 0 if config.agents else min(len(singles), 2 * LEAST))
    some = [
        PolicySpec("random", chance, action) for chance in (0.0, 0.3, 0.6) for action in singles
    ]
    return [*specs, *some[:wanted]]


def correlations(returns: Array, draws: int, seed: int) -> JsonObject:
    """Return Pearson's and Spearman's correlation of the policies' mean returns, with intervals.

    The 95% intervals come from a bootstrap over policies and over the episodes of each. Episodes
    are paired, since dream and real twin share their starts. None if all policies have the same
    return.

    returns: (2, p, e) of dream and real twin, p policies, e episodes.
    """
    _, p, e = returns.shape
    rng = np.random.default_rng(seed)
    means = returns.mean(2)
    figures: JsonObject = {
        "pearson": _round(pearson(means)),
        "spearman": _round(spearman(means)),
    }
    drawn: dict[Callable[[Array], float], list[float]] = {pearson: [], spearman: []}
    for _ in range(draws):
        policy = rng.integers(p, size=p)
        episode = rng.integers(e, size=(p, e))
        sample = np.take_along_axis(returns[:, policy], episode[None], 2).mean(2)
        for measure, values in drawn.items():
            values.append(measure(sample))
    for measure, name in ((pearson, "ci95"), (spearman, "spearman_ci95")):
        kept = np.array(drawn[measure])
        kept = kept[np.isfinite(kept)]
        figures[name] = (
            [round(float(x), 4) for x in np.quantile(kept, [0.025, 0.975])] if len(kept) else None
        )
    return figures


def pearson(means: Array) -> float:
    """Return the correlation of two rows (2, p); NaN if one is constant."""
    if np.ptp(means, axis=1).min() == 0:
        return float("nan")
    return float(np.corrcoef(means)[0, 1])


def spearman(means: Array) -> float:
    """Return the correlation of the ranks of two rows; equal values share their mean rank."""
    ranks = []
    for row in means:
        _, place, count = np.unique(row, return_inverse=True, return_counts=True)
        last = np.cumsum(count)
        ranks.append(((2 * last - count + 1) / 2)[place])
    return pearson(np.stack(ranks))


def _round(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def explain(results: JsonObject) -> str:
    """Return the results in words."""
    width = max(len(row["name"]) for row in results["policies"])
    lines = [f"{'':<{width}}{'real twin':>12}{'dream':>12}"]
    for row in sorted(results["policies"], key=lambda row: row["real_return_mean"]):
        lines.append(
            f"{row['name']:<{width}}{row['real_return_mean']:>12.2f}{row['dream_return_mean']:>12.2f}"
        )
    lines.append(
        f"Pearson {results['pearson']} {results['ci95']}, Spearman {results['spearman']} "
        f"{results['spearman_ci95']} over "
        f"{len(results['policies'])} policies, {results['episodes']} episodes each; "
        f"{results['wall_time_s']:.0f} s"
    )
    return "\n".join(lines)
