"""Episodes of a policy in the real twin and in the dream, from the same first frames.

Used to evaluate agents and by the protocol ``task``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.evaluation.policy_batch import Crowd, PolicySpec
from worldsim.runtime.chunks import Chunks, Here
from worldsim.runtime.cluster import pool_of
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.progress import Progress
from worldsim.runtime.ranges import Batch, Count, Positive, Seed, Workers
from worldsim.runtime.types import Array, Env
from worldsim.runtime.workers import ENGINE_TIMEOUT_S, Engine, Watched, WorkerPool
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.scene_files import scene_of
from worldsim.world.spread import portable
from worldsim.world.twin import make_twin
from worldsim.world.world import bucket

LONGEST = 1000
"""Steps of an episode where neither the user nor the real twin names a limit."""


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """How episodes are played in a dream and in its real twin."""

    json: Path | None = None
    """Also write the results to this file."""
    seed: Seed = 0
    """Episode i has the seed ``seed + i`` in the real twin, in the dream and for the agent's random
    numbers."""
    max_steps: Count | None = None
    """Maximum episode length in steps. By default the real twin's own limit, or 1,000 if it has
    none."""
    workers: Workers | None = None
    """Processes that play the real twin. By default one per core (at most 16). 0 plays in this
    process."""
    cluster: str | None = None
    """Compute on the machines of a Ray cluster (extra ``cluster``): ``auto``, as if no value is
    given, for the one that RAY_ADDRESS names or that runs on this machine, ``host:port`` of its
    head, or ``local`` to start one here. Real episodes and batches of dreams are spread. Results
    are those of one machine with the same ``batch`` and ``threads``. All machines must have the
    agents' folders."""
    batch: Batch = 128
    """Number of dreamed episodes at once."""
    device: str | None = None
    """Device of the dream. By default CUDA if it is available."""
    engine: str = "fast"
    """Engine of the dream: ``plain``, ``fast`` or ``compiled``."""
    engine_timeout_s: Positive = ENGINE_TIMEOUT_S
    """Time limit in seconds of one call of the real twin. After it, the engine is killed and the
    episode repeated. Has no effect with ``workers 0``."""
    trust: bool = False
    """Use the real twin, world and policy class that files name, whatever they are: this imports
    and runs their code. Use it only for files whose author you trust."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Played:
    """One episode.

    total: sum of its rewards.
    start: its first frame.
    truncated: whether the real twin truncated it.

    Optional are frames (t + 1, h, w, 3) uint8, rewards, and, in the real twin, acts (t, ...) int64
    or float32.
    """

    total: float
    steps: int
    terminated: bool
    start: SceneStart | None = None
    frames: Array | None = None
    rewards: tuple[float, ...] = ()
    truncated: bool = False
    acts: Array | None = None


@dataclass(frozen=True)
class Task:
    """One episode to play in the real twin."""

    spec: PolicySpec
    seed: int
    """Of the environment."""
    policy_seed: int | None = None
    """Of the policy; ``seed`` if not given."""


def require_rewards(world: World) -> None:
    """Raise InvalidInputError for a world that predicts no rewards."""
    if not world.config.has_rewards:
        raise InvalidInputError(
            f"world {world.folder or world.config.env_id} has no reward head, so there are no "
            f"returns to compare: "
            "train it on a recording with rewards"
        )


def step_limit(env: Env, asked: int | None, longest: int = LONGEST) -> int:
    """Return the maximum episode length in steps.

    It is ``asked`` if given, else the real twin's own limit, else ``longest``.
    """
    return asked or (env.spec.max_episode_steps if env.spec is not None else None) or longest


def twin_limit(world: World, asked: int | None) -> int:
    """Return :func:`step_limit` of the world's real twin, which is created for that."""
    with WorkerPool(0, partial(watched_twin, world)) as here:
        ((_, limit),) = here.run(limit_of, [(asked,)])
    return limit


def limit_of(engine: Engine[Env], asked: int | None, longest: int = LONGEST) -> int:
    """Return :func:`step_limit` of an engine's environment."""
    return engine.play(lambda env: step_limit(env, asked, longest))


def real_episodes(
    world: World,
    tasks: Sequence[Task],
    limit: int,
    workers: int,
    what: str = "real twin",
    timeout_s: float = ENGINE_TIMEOUT_S,
    cluster: str | None = None,
) -> list[Played]:
    """Play the tasks in the real twin, in ``workers`` processes; 0 plays in this one.

    limit: maximum number of steps.
    timeout_s: time limit of one call of the environment, see
        :class:`worldsim.runtime.workers.WorkerPool`.
    cluster: address of a Ray cluster whose machines play, instead of ``workers`` here.
    """
    if cluster is not None:
        make = partial(watched_twin, portable(world))
    elif workers == 0 or len(tasks) == 1:
        workers, make = 0, partial(watched_twin, world)
    elif world.folder is None:
        raise InvalidInputError(
            "this world was not loaded from a folder, as other processes would do: save it, or "
            "workers=0"
        )
    else:
        make = partial(_load_twin, world.folder, world.trusted)
    played: dict[int, Played] = {}
    bar = Progress(len(tasks), what, "episode")
    with bar, pool_of(cluster, min(workers, len(tasks)), make, timeout_s) as pool:
        for index, one in pool.run(_play_task, [(task, limit) for task in tasks]):
            played[index] = one
            bar.update()
    return [played[i] for i in range(len(tasks))]


def watched_twin(world: World) -> Env:
    """Return the real twin as a :class:`worldsim.runtime.workers.WorkerPool` plays it."""
    return Watched(make_twin(world))


def _load_twin(folder: Path, trust: bool) -> Env:
    return watched_twin(World.from_pretrained(folder, "cpu", trust=trust))


def _play_task(engine: Engine[Env], task: Task, limit: int) -> Played:
    return engine.play(lambda env: play_real(env, task, limit))


def play_real(env: Env, task: Task, limit: int, keep: bool = False) -> Played:
    """Play one episode in an environment, at most ``limit`` steps.

    keep: also return its frames, rewards and actions.
    """
    crowd = Crowd(
        task.spec, env.action_space, [task.seed if task.policy_seed is None else task.policy_seed]
    )
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    obs, info = env.reset(seed=task.seed)
    zero = np.zeros(env.action_space.shape or (), np.float32)
    start = scene_of([(np.array(obs), zero, info)], discrete)
    rewards, frames, acts, term, trunc = [], [np.array(obs)], [], False, False
    for _ in range(limit):
        acts.append(crowd.act(torch.from_numpy(np.array(obs))[None])[0])
        obs, rew, term, trunc, _ = env.step(int(acts[-1]) if discrete else acts[-1])
        rewards.append(float(rew))
        if keep:
            frames.append(np.array(obs))
        if term or trunc:
            break
    played = Played(sum(rewards), len(rewards), bool(term), start, truncated=bool(trunc))
    return (
        replace(played, frames=np.stack(frames), rewards=tuple(rewards), acts=np.stack(acts))
        if keep
        else played
    )


def dream_episodes(
    world: World,
    spec: PolicySpec,
    starts: Sequence[SceneStart],
    seeds: Sequence[int],
    limit: int,
    batch: int,
    keep: bool = False,
) -> list[Played]:
    """Dream one episode from each start, ``batch`` at a time.

    seeds: seeds of dream and policy, one per episode.
    """
    return dream_policies(Here(world), [(spec, starts)], seeds, limit, batch, keep)[0]


def dream_policies(
    chunks: Chunks,
    policies: Sequence[tuple[PolicySpec, Sequence[SceneStart]]],
    seeds: Sequence[int],
    limit: int,
    batch: int,
    keep: bool = False,
) -> list[list[Played]]:
    """Dream one episode of each policy from each of its starts, ``batch`` of a policy at a time.

    chunks: where batches are dreamed, see :func:`worldsim.world.spread.spread_world`.
    seeds: seeds of dream and policy, one per episode; all policies have the same.
    """
    parts: list[tuple[object, ...]] = []
    for spec, starts in policies:
        for first in range(0, len(starts), batch):
            some = slice(first, first + batch)
            parts.append((spec, starts[some], seeds[some], limit, keep))
    with Progress(len(parts), "dream", "batch") as bar:
        found = iter(chunks.map(_dream_batch, parts, bar.update))
    return [
        [one for _ in range(0, len(starts), batch) for one in next(found)] for _, starts in policies
    ]


def _dream_batch(
    world: World,
    spec: PolicySpec,
    starts: Sequence[SceneStart],
    seeds: Sequence[int],
    limit: int,
    keep: bool,
    tick: Callable[[], object],
) -> list[Played]:
    played = _dream_some(world, spec, starts, seeds, limit, keep)
    tick()
    return played


def _dream_some(
    world: World,
    spec: PolicySpec,
    starts: Sequence[SceneStart],
    seeds: Sequence[int],
    limit: int,
    keep: bool,
) -> list[Played]:
    crowd = Crowd(spec, world.action_space, seeds, world.device)
    if not keep:
        return dream_together(world, crowd, starts, seeds, limit)
    shown: list[tuple[Tensor, Tensor]] = []
    played = dream_together(
        world, crowd, starts, seeds, limit, lambda t, rgb, rew: shown.append((rgb.cpu(), rew.cpu()))
    )
    return [_kept(one, i, starts[i], shown) for i, one in enumerate(played)]


def _kept(
    played: Played, i: int, start: SceneStart, shown: Sequence[tuple[Tensor, Tensor]]
) -> Played:
    """Return the ``i``-th episode of a batch with its frames and rewards.

    shown: frames (b, 3, h, w) and rewards (b,) of each step.
    """
    rgb = [start.rgb[-1].cpu(), *(rgb[i] for rgb, _ in shown[: played.steps])]
    rewards = tuple(float(rew[i]) for _, rew in shown[: played.steps])
    return replace(
        played, frames=torch.stack(rgb).permute(0, 2, 3, 1).contiguous().numpy(), rewards=rewards
    )


@torch.no_grad()
def dream_together(
    world: World,
    crowd: Crowd,
    starts: Sequence[SceneStart],
    seeds: Sequence[int],
    limit: int,
    told: Callable[[int, Tensor, Tensor], object] | None = None,
) -> list[Played]:
    """Dream one episode of at most ``limit`` steps from each start, all in one batch.

    seeds: seeds of the dreams.
    told: called after each step with its number, from 1, the frames (b, 3, h, w) uint8 and the
        rewards (b,) float32 of the whole batch, including finished episodes.
    """
    n, device = len(starts), world.device
    state = world.pad(world.initial(starts, seeds), bucket(n))
    total, steps = (
        torch.zeros(n, dtype=torch.float64, device=device),
        torch.zeros(n, dtype=torch.int64, device=device),
    )
    alive = torch.ones(n, dtype=torch.bool, device=device)
    for t in range(1, limit + 1):
        act = torch.from_numpy(crowd.act(_shown(state.frame.rgb, n)))
        padded = torch.cat([act, act[:1].expand(bucket(n) - n, *act.shape[1:])])
        state, transition = world.step(state, padded.to(device))
        total, steps = total + transition.rew[:n].double() * alive, steps + alive
        if told is not None:
            told(t, transition.frame.rgb[:n], transition.rew[:n])
        alive = alive & ~transition.term[:n]
        if not bool(alive.any()):
            break
    return [
        Played(*one) for one in zip(total.tolist(), steps.tolist(), (~alive).tolist(), strict=True)
    ]


def _shown(rgb: Tensor, n: int) -> Tensor:
    """Return the first ``n`` frames as agents see them, (n, h, w, 3) uint8."""
    return rgb[:n].permute(0, 2, 3, 1).contiguous()
