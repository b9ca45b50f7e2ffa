"""Whole episodes of a policy, in the real twin and in the dream, from the same first frames."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldsim.errors import InvalidInputError
from worldsim.evaluation.crowd import Crowd, PolicySpec
from worldsim.scene_files import scene_of
from worldsim.state import SceneStart
from worldsim.twin import make_twin
from worldsim.world import World, bucket

LONGEST = 1000
"""Steps of an episode where neither the user nor the real twin names a limit."""


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """How episodes are played in a dream and in its real twin."""

    json: Path | None = None
    """Write the figures to this file, too."""
    seed: int = 0
    """Episode i has the seed ``seed + i``, in the real twin, in the dream and for the agent's draws."""
    max_steps: int | None = None
    """Steps after which an episode is cut; the real twin's own limit, if not given, or 1,000 where it names none."""
    workers: int | None = None
    """Processes that play the real twin; as many as there are cores (at most 16), if not given. 0 plays in this process."""
    batch: int = 128
    """Dreamed episodes at once."""
    device: str | None = None
    """Where the dream runs; CUDA where there is one."""
    engine: str = "fast"
    """How it is run: ``plain``, ``fast`` or ``compiled``."""

    def __post_init__(self) -> None:
        least = {"episodes": 1, "batch": 1, "bootstrap": 1, "seed": 0, "max_steps": 1, "workers": 0}
        for name, bound in least.items():
            value = getattr(self, name, None)
            if value is not None and value < bound:
                raise InvalidInputError(f"{type(self).__name__}.{name} = {value!r}: it must be at least {bound}")


@dataclass(frozen=True)
class Played:
    """One episode. total: sum of its rewards. start: its first frame. frames: (t, h, w, 3) uint8, if they were to be kept."""

    total: float
    steps: int
    terminated: bool
    start: SceneStart | None = None
    frames: Any = None
    rewards: tuple[float, ...] = ()


@dataclass(frozen=True)
class Task:
    """One episode to play in the real twin."""

    spec: PolicySpec
    seed: int


def require_rewards(world: World) -> None:
    """Raise InvalidInputError for a world whose dreams have no rewards."""
    if not world.config.has_rewards:
        raise InvalidInputError(
            f"world {world.folder or world.config.env_id} has no reward head, so there are no returns to compare: "
            "train it on a recording with rewards"
        )


def step_limit(env: gym.Env[Any, Any], asked: int | None) -> int:
    """The longest episode, in steps: what is asked for, else the real twin's own limit."""
    return asked or (env.spec.max_episode_steps if env.spec is not None else None) or LONGEST


def real_episodes(world: World, tasks: Sequence[Task], limit: int, workers: int, what: str = "real twin") -> list[Played]:
    """Play the tasks in the real twin, in ``workers`` processes; 0 plays here. limit: steps after which an episode is cut."""
    bar = tqdm(total=len(tasks), desc=what, unit="episode", disable=None)
    played: list[Played] = []
    if workers == 0 or len(tasks) == 1:
        env = make_twin(world)
        try:
            for task in tasks:
                played.append(play_real(env, task, limit))
                bar.update()
        finally:
            env.close()
            bar.close()
        return played
    if world.folder is None:
        raise InvalidInputError("this world was not loaded from a folder, as other processes would do: save it, or workers=0")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (world.folder,)) as pool, bar:
        for one in pool.map(_play_in_worker, tasks, [limit] * len(tasks)):
            played.append(one)
            bar.update()
    return played


def play_real(env: gym.Env[Any, Any], task: Task, limit: int, keep: bool = False) -> Played:
    """One episode in an environment, at most ``limit`` steps. keep: its frames, too."""
    crowd = Crowd(task.spec, env.action_space, [task.seed])
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    obs, info = env.reset(seed=task.seed)
    zero = np.zeros(env.action_space.shape or (), np.float32)
    start = scene_of([(np.array(obs), zero, info)], discrete)
    rewards, frames, term = [], [np.array(obs)], False
    for _ in range(limit):
        act = crowd.act(torch.from_numpy(np.array(obs))[None])[0]
        obs, rew, term, trunc, _ = env.step(int(act) if discrete else act)
        rewards.append(float(rew))
        if keep:
            frames.append(np.array(obs))
        if term or trunc:
            break
    kept = np.stack(frames) if keep else None
    return Played(sum(rewards), len(rewards), bool(term), start, kept, tuple(rewards) if keep else ())


@torch.no_grad()
def dream_episodes(
    world: World, spec: PolicySpec, starts: Sequence[SceneStart], seeds: Sequence[int], limit: int, batch: int, keep: bool = False
) -> list[Played]:
    """One dreamed episode from each start, ``batch`` at a time. seeds: of dream and policy, one an episode."""
    played: list[Played] = []
    for first in tqdm(range(0, len(starts), batch), desc="dream", unit="batch", disable=None):
        part = slice(first, first + batch)
        played += _dream_batch(world, spec, starts[part], seeds[part], limit, keep)
    return played


def _dream_batch(
    world: World, spec: PolicySpec, starts: Sequence[SceneStart], seeds: Sequence[int], limit: int, keep: bool
) -> list[Played]:
    n, device = len(starts), world.device
    crowd = Crowd(spec, world.action_space, seeds, device)
    state = world.pad(world.initial(starts, seeds), bucket(n))
    total, steps = torch.zeros(n, dtype=torch.float64, device=device), torch.zeros(n, dtype=torch.int64, device=device)
    alive = torch.ones(n, dtype=torch.bool, device=device)
    frames, rewards = [_shown(state.frame.rgb, n)], []
    for _ in range(limit):
        act = torch.from_numpy(crowd.act(_shown(state.frame.rgb, n)))
        padded = torch.cat([act, act[:1].expand(bucket(n) - n, *act.shape[1:])])
        state, transition = world.step(state, padded.to(device))
        rew = transition.rew[:n].double() * alive
        total, steps = total + rew, steps + alive
        if keep:
            frames.append(_shown(state.frame.rgb, n))
            rewards.append(rew)
        alive = alive & ~transition.term[:n]
        if not bool(alive.any()):
            break
    film = torch.stack(frames).cpu().numpy() if keep else None
    gains = torch.stack(rewards).cpu().tolist() if keep else []
    results = zip(total.tolist(), steps.tolist(), (~alive).tolist(), strict=True)
    return [
        Played(
            value, length, ended,
            frames=None if film is None else film[: length + 1, i], rewards=tuple(row[i] for row in gains[:length]),
        )
        for i, (value, length, ended) in enumerate(results)
    ]  # fmt: skip


def _shown(rgb: Tensor, n: int) -> Tensor:
    """The first ``n`` frames as agents see them, (n, h, w, 3) uint8."""
    return rgb[:n].permute(0, 2, 3, 1).contiguous()


_env: gym.Env[Any, Any] | None = None


def _start_worker(folder: Path) -> None:
    global _env
    torch.set_num_threads(1)
    _env = make_twin(World.from_pretrained(folder, "cpu"))


def _play_in_worker(task: Task, limit: int) -> Played:
    assert _env is not None
    return play_real(_env, task, limit)
