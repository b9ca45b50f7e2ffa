"""One judge for both dreams: frames from true pasts, and returns of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from experiments.peers.dreams import Dream
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.starts import scene_at
from worldsim.evaluation.agreement import pearson
from worldsim.evaluation.episodes import Played, Task, play_real, watched_twin
from worldsim.evaluation.metrics import changed_psnr, psnr
from worldsim.evaluation.policy_batch import Crowd, PolicySpec
from worldsim.evaluation.statistics import interval, mean_statistic
from worldsim.runtime.types import Array, Env, JsonObject, Space
from worldsim.runtime.workers import Engine, WorkerPool
from worldsim.state import SceneStart
from worldsim.world import World

HORIZONS = (1, 8)
"""Steps after the last true frame at which frames are compared."""
PAST = 8
"""True frames before that, as far as the episode has them: worldsim's attention window. DIAMOND
takes the last four."""
BATCH = 64
CHANCES = (0.0, 0.25, 0.5, 0.75)
"""Shares of random actions mixed into each agent."""
POLICIES = 18


@dataclass(frozen=True)
class Windows:
    """Moments of the held-out recording.

    starts: n scenes, the past of each.
    act: (8, n) the true actions that follow.
    truth: (8, n, 3, h, w) uint8 the true frames that follow.
    episode: (n,) which episode each is of.
    """

    starts: list[SceneStart]
    act: Tensor
    truth: Tensor
    episode: Array


def windows(folder: Path, count: int, seed: int) -> Windows:
    """Return moments drawn uniformly from all that have 8 frames to follow."""
    dataset, last = EpisodeDataset(folder), max(HORIZONS)
    moments = [
        (i, t) for i, episode in enumerate(dataset) for t in range(len(episode.rgb) - last - 1)
    ]
    drawn = np.random.default_rng(seed).permutation(len(moments))[:count]
    starts, acts, truths, places = [], [], [], []
    for i, t in sorted(moments[k] for k in drawn):
        episode = dataset[i]
        starts.append(scene_at(episode, t, PAST))
        acts.append(torch.from_numpy(np.array(episode.act[t : t + last])))
        rgb = torch.from_numpy(np.array(episode.rgb[t + 1 : t + 1 + last]))
        truths.append(rgb.permute(0, 3, 1, 2))
        places.append(i)
    return Windows(starts, torch.stack(acts, 1), torch.stack(truths, 1), np.array(places))


def predict(dream: Dream, held_out: Windows, seed: int) -> dict[str, Array]:
    """Return the PSNR of each window at each horizon: (n,) each, NaN where no pixel changed.

    ``changed`` is over the pixels that differ from the last true frame by more than 8 of 255.
    ``copied`` compares that frame itself.
    """
    parts: dict[str, list[Array]] = {}
    for first in range(0, len(held_out.starts), BATCH):
        rows = slice(first, first + BATCH)
        starts = held_out.starts[rows]
        last = torch.stack([start.rgb[-1] for start in starts])
        dream.begin(starts, seed + first)
        for t in range(1, max(HORIZONS) + 1):
            rgb = dream.step(held_out.act[t - 1, rows])[0].cpu()
            if t in HORIZONS:
                truth = held_out.truth[t - 1, rows]
                found = {
                    f"whole_{t}": psnr(rgb, truth),
                    f"changed_{t}": changed_psnr(rgb, truth, last),
                    f"copied_whole_{t}": psnr(last, truth),
                    f"copied_changed_{t}": changed_psnr(last, truth, last),
                }
                for name, values in found.items():
                    parts.setdefault(name, []).append(values.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def by_episode(values: Array, episode: Array) -> list[Array]:
    """Split values (n,) by episode, without NaN and without episodes that have no other value."""
    split = [values[episode == one] for one in np.unique(episode)]
    return [kept for one in split if len(kept := one[~np.isnan(one)])]


def mean_of(values: Array, episode: Array, draws: int, seed: int) -> JsonObject:
    """Return the mean over windows with its 95% interval over episodes."""
    parts = by_episode(values, episode)
    every = np.concatenate(parts) if parts else np.zeros(0)
    return {
        "mean": float(every.mean()) if len(every) else None,
        "ci95": interval(mean_statistic(parts), len(parts), draws, seed),
        "windows": len(every),
    }


# Returns.


def policies(agents: Sequence[Path], space: Space) -> list[PolicySpec]:
    """Return 18 policies: two agents with shares of random actions, random, persistent, and single
    actions with and without random ones."""
    assert isinstance(space, gym.spaces.Discrete)
    specs = [PolicySpec(str(agent), chance) for agent in agents for chance in CHANCES]
    specs += [PolicySpec("random"), PolicySpec("persistent")]
    singles = [
        PolicySpec("random", chance, action)
        for chance in (0.0, 0.3, 0.6, 0.8, 0.9)
        for action in range(int(space.n))
    ]
    return (specs + singles)[:POLICIES]


@dataclass(frozen=True)
class RealReturns:
    """Returns of policies in the real twin.

    total, signs: (p, e) sums of rewards and of their signs, which are all that DIAMOND learns.
    starts: p x e first frames, policy by policy.
    """

    total: Array
    signs: Array
    starts: list[SceneStart]


def play(
    world: World, specs: Sequence[PolicySpec], seeds: Sequence[int], limit: int, workers: int
) -> RealReturns:
    """Play each policy with each seed in the real twin of a saved world."""
    assert world.folder is not None
    tasks = [(Task(spec, seed), limit) for spec in specs for seed in seeds]
    played: dict[int, Played] = {}
    with WorkerPool(min(workers, len(tasks)), partial(_twin, world.folder)) as pool:
        for index, one in pool.run(_play, tasks):
            played[index] = one
    order = [played[i] for i in range(len(tasks))]
    shape = (len(specs), len(seeds))
    return RealReturns(
        np.array([one.total for one in order]).reshape(shape),
        np.array([np.sign(one.rewards).sum() for one in order]).reshape(shape),
        [one.start for one in order if one.start is not None],
    )


def _twin(folder: Path) -> Env:
    return watched_twin(World.from_pretrained(folder, "cpu", trust=True))


def _play(engine: Engine[Env], task: Task, limit: int) -> Played:
    def one(env: Env) -> Played:
        # The frames stay here: they would be most of what is sent back.
        return replace(play_real(env, task, limit, keep=True), frames=None, acts=None)

    return engine.play(one)


@torch.no_grad()
def dreamed_returns(
    dream: Dream,
    specs: Sequence[PolicySpec],
    space: Space,
    starts: Sequence[SceneStart],
    seeds: Sequence[int],
    limit: int,
) -> Array:
    """Return the policies' returns (p, e) in a dream that begins with the real first frames.

    All policies are dreamed in one batch.
    """
    crowds = [Crowd(spec, space, seeds, dream.device) for spec in specs]
    size = len(seeds)
    rgb = dream.begin(starts, seeds[0])
    total = torch.zeros(len(starts), dtype=torch.float64, device=dream.device)
    alive = torch.ones(len(starts), dtype=torch.bool, device=dream.device)
    for _ in range(limit):
        shown = rgb.permute(0, 2, 3, 1).contiguous()
        acts = [crowd.act(shown[i * size : (i + 1) * size]) for i, crowd in enumerate(crowds)]
        rgb, rew, term = dream.step(torch.from_numpy(np.concatenate(acts)))
        total += rew.double() * alive
        alive = alive & ~term
        if not bool(alive.any()):
            break
    return total.cpu().numpy().reshape(len(specs), size)


def agreement(real: Array, dreams: dict[str, Array], draws: int, seed: int) -> JsonObject:
    """Return each dream's Pearson correlation of mean returns with the real ones, and differences.

    Intervals are a paired bootstrap over policies and over the episodes of each: all dreams are
    resampled together.

    real: (p, e).
    dreams: (p, e) by name; differences are those of the first one to each other one.
    """
    p, e = real.shape
    rng = np.random.default_rng(seed)
    names = list(dreams)

    def of(pairs: Array) -> float:
        return pearson(pairs)

    drawn: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(draws):
        policy, episode = rng.integers(p, size=p), rng.integers(e, size=(p, e))
        for name in names:
            both = np.stack([real, dreams[name]])[:, policy]
            drawn[name].append(of(np.take_along_axis(both, episode[None], 2).mean(2)))
    found: JsonObject = {
        name: {
            "pearson": _number(of(np.stack([real, dreams[name]]).mean(2))),
            "ci95": _interval(np.array(drawn[name])),
        }
        for name in names
    }
    for other in names[1:]:
        difference = np.array(drawn[names[0]]) - np.array(drawn[other])
        found[f"{names[0]} minus {other}"] = {"ci95": _interval(difference)}
    return found


def _interval(values: Array) -> list[float] | None:
    kept = values[np.isfinite(values)]
    return [float(x) for x in np.quantile(kept, [0.025, 0.975])] if len(kept) else None


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
