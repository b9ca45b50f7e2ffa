"""Whether random futures have the right spread: energy distance between dreams and twins.

From the first frames of episodes of several engine seeds, dreams and twins play the same actions. A
future is a vector of its frame, its reward so far and whether it has ended. The energy distance of
two samples (Szekely and Rizzo 2013) is ``2 E|X - Y| - E|X - X'| - E|Y - Y'|``, with pairs of
different draws in the last two terms. It is 0 for equal distributions and can be slightly negative
by chance. It is given in units of ``E|Y - Y'|``, the twins' own spread, beside the distance of one
half of the twins from the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.evaluation.metrics import area_average
from worldsim.runtime.types import Array, Env, JsonObject, Space
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.scene_files import scene_of

CELLS = 8
"""Pixels a side of a future's reduced frame."""
STEPS = (10, 20, 40)
"""Steps after which futures are compared."""
SHARED_SEED = 17
"""Seed of the actions, which all episodes share."""
Tick = Callable[[], object]


@dataclass(frozen=True)
class Futures:
    """Futures of ``n`` episodes after each of :data:`STEPS`: (n, s, d) float64."""

    twin: Array
    dream: Array


def actions(space: Space, steps: int) -> list[object]:
    """Return the actions that all episodes play: each is held for one to eight steps."""
    rng = np.random.default_rng(SHARED_SEED)
    space.seed(SHARED_SEED)
    chosen: list[object] = []
    while len(chosen) < steps:
        chosen += [space.sample()] * int(rng.integers(1, 9))
    return chosen[:steps]


def play_twin(env: Env, seed: int, acts: Sequence[object]) -> tuple[SceneStart, Array]:
    """Play the actions in the real twin.

    Returns the start and its futures (s, d): fewer than :data:`STEPS` if a time limit cuts the
    episode off.

    Raises InvalidInputError if it does so before the first of them.
    """
    obs, info = env.reset(seed=seed)
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    zero = np.zeros(env.action_space.shape or (), np.float32)
    start = scene_of([(np.array(obs), zero, info)], discrete)
    total, ended, found = 0.0, False, []
    for i, act in enumerate(acts, 1):
        if not ended:
            obs, reward, terminated, truncated, _ = env.step(act)
            total += float(reward)
            ended = bool(terminated)
            if truncated and not ended:
                break
        if i in STEPS:
            picture = torch.from_numpy(np.ascontiguousarray(obs.transpose(2, 0, 1)))[None]
            found.append(_future(picture, torch.tensor([total]), torch.tensor([ended]))[0])
    if not found:
        raise InvalidInputError(
            f"{env.spec.id if env.spec else env} cut an episode off before step {STEPS[0]}: "
            f"--protocol twin needs longer ones (max_episode_steps of the world's env_kwargs)"
        )
    return start, np.stack(found)


@torch.no_grad()
def dream(
    world: World,
    starts: Sequence[SceneStart],
    seeds: Sequence[int],
    acts: Sequence[object],
    tick: Tick = lambda: None,
) -> Array:
    """Dream the actions from each start; returns (n, s, d)."""
    state = world.initial(starts, seeds)
    n = len(starts)
    total = torch.zeros(n, dtype=torch.float64)
    ended = torch.zeros(n, dtype=torch.bool)
    rgb, found = state.frame.rgb.cpu(), []
    for i, act in enumerate(acts, 1):
        each = torch.as_tensor(np.stack([np.asarray(act)] * n), device=world.device)
        state, transition = world.step(state, each)
        alive = ~ended
        shown = transition.frame.rgb.cpu()
        rgb = torch.where(alive[:, None, None, None], shown, rgb)
        total += transition.rew.cpu().double() * alive
        ended |= transition.term.cpu()
        if i in STEPS:
            found.append(_future(rgb, total, ended))
        tick()
    return np.stack(found, 1)


def _future(rgb: Tensor, total: Tensor, ended: Tensor) -> Array:
    """Return vectors (n, d) of frames (n, 3, h, w), rewards so far (n,) and endings (n,)."""
    small = area_average(rgb, CELLS, CELLS).double().flatten(1) / 255.0
    # A picture's distance is then at most 1, as that of an ending.
    columns = [small / small.shape[1] ** 0.5, total.double()[:, None], ended.double()[:, None]]
    return np.asarray(torch.cat(columns, 1).numpy())


def energy_distance(x: Array, y: Array) -> float:
    """Return the energy distance of two samples (n, d) and (m, d), each of at least two draws."""
    return float(2 * _between(x, y) - _within(x) - _within(y))


def _between(x: Array, y: Array) -> float:
    return float(np.linalg.norm(x[:, None] - y[None], axis=-1).mean())


def _within(x: Array) -> float:
    n = len(x)
    return float(np.linalg.norm(x[:, None] - x[None], axis=-1).sum() / (n * (n - 1)))


def compare(futures: Futures, draws: int, seed: int) -> JsonObject:
    """Return the energy distances by step, and how probable such a distance is by chance.

    Rewards are divided by the twins' standard deviation of them, where they differ. ``outcome_p``
    is the share of random divisions of all futures into two samples that lie at least as far apart.
    ``outcome_spread`` is the unit, the mean distance of two twins: where it is nearly 0, small
    errors are large distances.
    """
    names = ("distance", "distance_of_twins", "p", "spread")
    results: JsonObject = {f"outcome_{name}": {} for name in names}
    rng = np.random.default_rng(seed)
    for s, step in enumerate(STEPS[: futures.twin.shape[1]]):
        twin, mine = futures.twin[:, s].copy(), futures.dream[:, s].copy()
        spread = twin[:, -2].std()
        for sample in (twin, mine):
            sample[:, -2] /= spread if spread > 0 else 1.0
        scale, n = _within(twin) or 1.0, len(twin)
        found, both = energy_distance(mine, twin), np.concatenate([mine, twin])
        chance = 1
        for _ in range(draws):
            mixed = both[rng.permutation(2 * n)]
            chance += energy_distance(mixed[:n], mixed[n:]) >= found
        halves = energy_distance(twin[: n // 2], twin[n // 2 :])
        results["outcome_distance"][str(step)] = round(found / scale, 4)
        results["outcome_distance_of_twins"][str(step)] = round(halves / scale, 4)
        results["outcome_spread"][str(step)] = round(_within(twin), 6)
        results["outcome_p"][str(step)] = round(chance / (draws + 1), 4)
    return results
