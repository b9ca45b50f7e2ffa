"""Closed loop: do policies that act on dreamed frames fare as they do in the twin?

Policies of different habits walk from the same starts in both. Each is scored by its area: the
number of squares of one metre that the camera entered. Success is to leave the start by
:data:`FAR` metres. The ranks of the policies by their mean area are compared (Spearman), as
``worldsim agreement`` compares returns where there are rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch

from worldsim.evaluation.agreement import correlations
from worldsim.evaluation.benchmark_set import TEST_SPLIT, require_geometry
from worldsim.evaluation.policy_batch import Crowd, PolicySpec
from worldsim.runtime.keyboard import action_names
from worldsim.runtime.types import Array, Env, JsonObject, Space
from worldsim.runtime.workers import Engine, Watched
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.image_env import make_env
from worldsim.world.scene_files import scene_of

FAR = 5.0
"""Metres from the start that count as a success."""
STEPS = 100
"""Steps of an episode."""
Tick = Callable[[], object]


@dataclass(frozen=True)
class Walked:
    """The camera's positions (t, 3) float64 metres of one episode, and its first frame."""

    position: Array
    start: SceneStart | None = None

    @property
    def area(self) -> float:
        """Squares of one metre that were entered."""
        return float(len(np.unique(np.floor(self.position[:, :2]).astype(int), axis=0)))

    @property
    def success(self) -> bool:
        """Whether the camera got :data:`FAR` metres from its start."""
        return bool(np.linalg.norm(self.position - self.position[0], axis=1).max() >= FAR)


def policies(space: Space, env_id: str) -> list[PolicySpec]:
    """Return nine policies that walk differently far."""
    names = action_names(space, env_id)
    forward, turn = names.index("forward"), names.index("turn left")
    return [
        PolicySpec("random"),
        PolicySpec("persistent"),
        PolicySpec("sticky"),
        *(PolicySpec("random", chance, forward) for chance in (0.0, 0.2, 0.5, 0.8)),
        PolicySpec("random", 0.3, turn),
        PolicySpec("random", 0.3, names.index("strafe left")),
    ]


def walk_twin(env: Env, spec: PolicySpec, seed: int, steps: int) -> Walked:
    """Walk one episode in the real twin."""
    obs, info = env.reset(seed=seed, options=dict(TEST_SPLIT))
    require_geometry(info, str(env.spec.id if env.spec else env))
    crowd = Crowd(spec, env.action_space, [seed])
    start = scene_of([(np.array(obs), np.zeros((), np.float32), info)], True)
    position = [np.asarray(info["pose"])[:3, 3]]
    for _ in range(steps):
        act = crowd.act(torch.from_numpy(np.array(obs))[None])[0]
        obs, _, terminated, truncated, info = env.step(int(act))
        position.append(np.asarray(info["pose"])[:3, 3])
        if terminated or truncated:
            break
    return Walked(np.stack(position).astype(np.float64), start)


@torch.no_grad()
def walk_dream(
    world: World,
    spec: PolicySpec,
    starts: Sequence[SceneStart],
    seeds: Sequence[int],
    steps: int,
    tick: Tick = lambda: None,
) -> list[Walked]:
    """Walk one episode from each start in the dream, at its own poses."""
    crowd = Crowd(spec, world.action_space, seeds, world.device)
    state = world.initial(starts, seeds)
    assert state.frame.pose is not None
    position = [state.frame.pose[:, :3, 3].cpu()]
    for _ in range(steps):
        act = torch.from_numpy(crowd.act(state.frame.rgb.permute(0, 2, 3, 1).contiguous()))
        state, transition = world.step(state, act.to(world.device))
        assert transition.frame.pose is not None
        position.append(transition.frame.pose[:, :3, 3].cpu())
        tick()
    together = torch.stack(position, 1).double().numpy()
    return [Walked(one) for one in together]


def compare(twin: Array, dream: Array, success: Array, draws: int, seed: int) -> JsonObject:
    """Return the rank agreement and the shares of successes.

    twin, dream: (p, e) areas of p policies in e episodes.
    success: (2, p, e) bool, of dream and twin.
    """
    found = correlations(np.stack([dream, twin]), draws, seed)
    share = success.mean((1, 2))
    return {
        "rank_agreement": found["spearman"],
        "rank_agreement_ci95": found["spearman_ci95"],
        "success": {"dream": round(float(share[0]), 4), "twin": round(float(share[1]), 4)},
        "success_agrees": round(float((success[0] == success[1]).mean()), 4),
        "area": {
            "dream": [round(float(x), 2) for x in dream.mean(1)],
            "twin": [round(float(x), 2) for x in twin.mean(1)],
        },
    }


def lasting(env_id: str, env_kwargs: JsonObject, steps: int) -> tuple[str, JsonObject]:
    """Return id and arguments of the real twin with a time limit of at least ``steps``."""
    limit = gym.spec(env_id).max_episode_steps
    limit = env_kwargs.get("max_episode_steps", limit)
    if limit is None or limit < 0 or limit > steps:
        return env_id, env_kwargs
    return env_id, {**env_kwargs, "max_episode_steps": steps + 1}


def make_twin(env_id: str, env_kwargs: JsonObject) -> Env:
    """Return the real twin as a :class:`worldsim.runtime.workers.WorkerPool` plays it."""
    return Watched(make_env(env_id, env_kwargs))


def play_task(engine: Engine[Env], spec: PolicySpec, seed: int, steps: int) -> Walked:
    """Walk one episode in a pool's engine."""
    return engine.play(lambda env: walk_twin(env, spec, seed, steps))
