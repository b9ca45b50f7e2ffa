"""Stable-Baselines3's check, its helpers and its processes on the registered ids."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv

from worldsim.envs.sb3 import SB3VecEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError
from worldsim.world import World

DREAM, ROOM, REAL = "worldsim/FreedoomDream-v0", "worldsim/TinyRoom-v0", "worldsim/FreedoomReal-v0"


@pytest.mark.parametrize("env_id", [DREAM, "worldsim/Dream-v0", ROOM, REAL])
def test_check_env(env_id: str) -> None:
    if env_id == REAL:
        pytest.importorskip("vizdoom")
    env = gym.make(env_id, **({"world": "carracing"} if env_id == "worldsim/Dream-v0" else {}))
    with warnings.catch_warnings():
        # It recommends actions between -1 and 1; the car's pedals go from 0 to 1, as in its real
        # twin.
        warnings.filterwarnings("ignore", ".*symmetric and normalized")
        check_env(env)
    env.close()


def rollout(envs: Any, steps: int) -> list[Any]:
    taken = [envs.reset()]
    for act in range(steps):
        obs, rewards, dones, infos = envs.step(np.full(envs.num_envs, act))
        taken.append((obs, rewards, dones, infos))
    return taken


def test_make_vec_env_makes_one_batch(freedoom: World) -> None:
    """Reproduces: "'list' object has no attribute 'metadata'". As with its own vector environment,
    statistics included."""
    kwargs: dict[str, Any] = {
        "n_envs": 2,
        "seed": 3,
        "env_kwargs": {"world": freedoom, "max_episode_steps": 2},
    }
    mine, own = make_vec_env(DREAM, vec_env_cls=SB3VecEnv, **kwargs), make_vec_env(DREAM, **kwargs)
    assert isinstance(mine.envs, WorldVectorEnv) and mine.envs.num_envs == 2
    assert mine.action_space.sample() == own.action_space.sample()
    (first, *a), (other, *b) = rollout(mine, 3), rollout(own, 3)
    assert (np.abs(first.astype(int) - other) <= 2).mean() > 0.98
    for (obs_a, rew_a, done_a, infos_a), (obs_b, rew_b, done_b, infos_b) in zip(a, b, strict=True):
        assert (np.abs(obs_a.astype(int) - obs_b) <= 2).mean() > 0.98
        assert rew_a.tolist() == rew_b.tolist() and done_a.tolist() == done_b.tolist()
        for x, y in zip(infos_a, infos_b, strict=True):
            assert x.keys() == y.keys()
            assert [x.get("episode", {}).get(key) for key in "rl"] == [
                y.get("episode", {}).get(key) for key in "rl"
            ]
    assert sum("episode" in info for _, _, _, infos in a for info in infos) == 2
    assert mine.env_is_wrapped(Monitor) == own.env_is_wrapped(Monitor) == [True, True]


def test_make_vec_env_makes_others_one_by_one(tmp_path: Path, freedoom: World) -> None:
    """Reproduces: the same error for environments that are no dreams, and dreams that differ or
    have wrappers of their own."""
    kwargs: dict[str, Any] = {
        "n_envs": 2,
        "seed": 3,
        "env_kwargs": {"size": 16, "max_episode_steps": 2},
    }
    mine, own = make_vec_env(ROOM, vec_env_cls=SB3VecEnv, **kwargs), make_vec_env(ROOM, **kwargs)
    (first, *a), (other, *b) = rollout(mine, 3), rollout(own, 3)
    np.testing.assert_array_equal(first, other)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x[0], y[0])
        assert [info["map"] for info in x[3]] == [info["map"] for info in y[3]]
        assert [info.get("episode", {}).get("l") for info in x[3]] == [
            info.get("episode", {}).get("l") for info in y[3]
        ]
    assert mine.get_attr("height") == [16, 16] and mine.env_is_wrapped(Monitor) == [True, True]
    assert mine.env_method("get_keys_to_action", indices=[1])[0][("w",)] == 1

    def dream(**kwargs: Any) -> gym.Env:
        return gym.make(DREAM, world=freedoom, **kwargs)

    assert isinstance(SB3VecEnv([dream, dream]).envs, WorldVectorEnv)
    assert not isinstance(
        SB3VecEnv([dream, lambda: dream(max_episode_steps=9)]).envs, WorldVectorEnv
    )
    assert not isinstance(
        SB3VecEnv([dream, lambda: dream(uncertainty_limit=0.5)]).envs, WorldVectorEnv
    )
    with pytest.warns(UserWarning, match="one by one, since each has a ResizeObservation"):
        envs = SB3VecEnv([lambda: gym.wrappers.ResizeObservation(dream(), (32, 32))] * 2)
    assert envs.reset().shape == (2, 32, 32, 3)
    with pytest.warns(UserWarning, match="each has a Monitor"):
        make_vec_env(dream, 1, monitor_dir=str(tmp_path), vec_env_cls=SB3VecEnv).close()
    assert (tmp_path / "0.monitor.csv").exists()
    for bad in ([], ["CartPole-v1"], 3):
        with pytest.raises(
            InvalidInputError, match="neither a vector environment nor a list of functions"
        ):
            SB3VecEnv(bad)


def test_ppo_learns_and_is_evaluated_on_what_make_vec_env_makes(freedoom: World) -> None:
    envs = make_vec_env(
        DREAM, 1, vec_env_cls=SB3VecEnv, env_kwargs={"world": freedoom, "max_episode_steps": 3}
    )
    model = PPO("MlpPolicy", envs, n_steps=6, batch_size=6, n_epochs=1, seed=0, device="cpu").learn(
        6
    )
    assert [episode["l"] for episode in model.ep_info_buffer] == [3, 3]
    with warnings.catch_warnings():
        # That statistics may be wrong without a Monitor.
        warnings.simplefilter("error")
        assert evaluate_policy(model, envs, n_eval_episodes=2, return_episode_rewards=True)[1] == [
            3,
            3,
        ]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="environments come from this process")
def test_dreams_come_from_processes() -> None:
    """Reproduces: ``SubprocVecEnv.get_attr`` of what holds a live dream could not be pickled on its
    way."""
    envs = SubprocVecEnv([lambda: gym.make(DREAM)], start_method="fork")
    try:
        envs.seed(0)
        envs.reset()
        envs.step(np.array([1]))
        (dream,) = envs.get_attr("unwrapped")
        np.testing.assert_array_equal(dream.step(1)[0], envs.step(np.array([1]))[0][0])
    finally:
        envs.close()
