"""The actor-critic: hand-computed advantages, learning on classic tasks and in a dream, resuming,
the saved agent."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.agents.actor_critic import Args, make_dreams, train
from worldsim.agents.actor_critic_learner import Learner, advantages
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.shipped.agent_files import load_agent, read_card


class Bars(gym.Env):
    """A bright bar on one side of a picture of 16x16; stepping towards it pays 1. Ends by chance,
    or never."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)

    def __init__(self, continuous: bool = False) -> None:
        self.action_space = (
            gym.spaces.Box(-2.0, 4.0, (1,), np.float32) if continuous else gym.spaces.Discrete(2)
        )

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.look(), {}

    def look(self) -> np.ndarray:
        self.right = bool(self.np_random.integers(2))
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[:, 8 if self.right else 0 :][:, :8] = 255
        return picture

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        # The middle of the Box is 1.
        chosen = (
            bool(action)
            if isinstance(self.action_space, gym.spaces.Discrete)
            else float(action[0]) > 1.0
        )
        rew = float(chosen == self.right)
        return self.look(), rew, bool(self.np_random.random() < 0.05), False, {}


def vector(make: Any, n: int = 8, limit: int = 20) -> gym.vector.VectorEnv:
    return gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.TimeLimit(make(), limit) for _ in range(n)]
    )


def settings(out: Path, **changes: Any) -> Args:
    defaults = {
        "world": "",
        "out": out,
        "num_envs": 8,
        "steps": 6_000,
        "stack": 1,
        "hidden": 32,
        "minibatches": 4,
        "device": "cpu",
    }
    return Args(**{**defaults, "learning_rate": 1e-3, **changes})


def test_advantages_by_hand() -> None:
    """Discount 0.5, lambda 0.5. The middle environment terminates at its first step, the last one
    is cut there."""
    rew = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]])
    term = torch.tensor([[False, True, False], [False, False, False]])
    done = torch.tensor([[False, True, True], [False, False, False]])
    values = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    result = advantages(rew, term, done, values, 0.5, 0.5)
    # Second step: 2 + 0.5 * 4 - 2 = 2. First: 1 + 0.5 * 2 - 1 = 1, and 0.25 * 2 carried.
    assert result[:, 0].tolist() == [1.5, 2.0]
    # Terminated: 1 + 0 - 1. Cut: what follows is worth 0.5 * 2, and nothing is carried.
    assert result[0].tolist() == [1.5, 0.0, 1.0]


def test_a_reset_step_is_left_out(tmp_path: Path) -> None:
    envs = vector(Bars, limit=5)
    learner = Learner(settings(tmp_path, rollout=12), envs)
    batch = learner.rollout()
    valid, done = batch["valid"], batch["done"]
    assert valid[0].all() and bool((~valid[1:] == done[:-1]).all()) and bool(done.any())
    assert bool((batch["rew"][~valid] == 0).all())


def test_stacks_begin_with_their_episode() -> None:
    policy = ActorCriticPolicy(gym.spaces.Discrete(2), (16, 16, 3), stack=3, hidden=8)
    first, second, third = (np.full((2, 16, 16, 3), value, np.uint8) for value in (10, 20, 30))
    assert policy.look(first)[0, ::3, 0, 0].tolist() == [10, 10, 10]
    assert policy.look(second)[0, ::3, 0, 0].tolist() == [10, 10, 20]
    stacked = policy.look(third, np.array([True, False]))
    assert stacked[:, ::3, 0, 0].tolist() == [[30, 30, 30], [10, 20, 30]]


@pytest.mark.parametrize("continuous", [False, True])
def test_learns_from_pictures(tmp_path: Path, continuous: bool) -> None:
    """Right in half of the steps by chance."""
    envs = vector(lambda: Bars(continuous))
    policy = train(settings(tmp_path, steps=3_000, gamma=0.3, learning_rate=2e-3), envs)
    policy.reset(0)
    env = Bars(continuous)
    obs, _ = env.reset(seed=1)
    right = 0.0
    for _ in range(200):
        obs, rew, _, _, _ = env.step(policy.act(obs))
        right += rew
    assert right > 160


def test_learns_cart_pole(tmp_path: Path) -> None:
    """Random play ends after some 22 steps."""
    envs = gym.make_vec("CartPole-v1", num_envs=8, vectorization_mode="vector_entry_point")
    policy = train(settings(tmp_path, steps=16_000, hidden=64, rollout=64), envs)
    env = gym.make("CartPole-v1")
    lengths = []
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        policy.reset(seed)
        done, steps = False, 0
        while not done:
            obs, _, term, trunc, _ = env.step(policy.act(obs))
            done, steps = term or trunc, steps + 1
        lengths.append(steps)
    assert np.mean(lengths) > 70


def test_trains_in_a_dream(tmp_path: Path, goal_folder: Path) -> None:
    args = settings(
        tmp_path / "agent",
        world=str(goal_folder),
        steps=128,
        rollout=8,
        horizon=6,
        stack=2,
        engine="plain",
    )
    train(args)
    card = read_card(tmp_path / "agent")
    assert (card.world, card.env_id, card.real_frames_used) == (
        str(goal_folder),
        "worldsim/TinyRoom-v0",
        1234,
    )
    assert card.training["steps"] == 128
    assert (tmp_path / "agent/weights.safetensors").stat().st_size < 1_000_000
    policy = load_agent(tmp_path / "agent", gym.spaces.Discrete(7))
    assert policy.act(np.zeros((32, 32, 3), np.uint8)) in range(7)


def test_uncertainty_costs_reward_and_cuts(tmp_path: Path, goal_folder: Path) -> None:
    args = settings(
        tmp_path,
        world=str(goal_folder),
        num_envs=2,
        rollout=4,
        stack=1,
        engine="plain",
        uncertainty_penalty=1e3,
    )
    learner = Learner(args, make_dreams(args))
    plain = settings(
        tmp_path, world=str(goal_folder), num_envs=2, rollout=4, stack=1, engine="plain"
    )
    other = Learner(plain, make_dreams(plain))
    punished, free = learner.rollout(), other.rollout()
    assert torch.equal(punished["seen"], free["seen"]) and bool(
        (punished["rew"][0] < free["rew"][0]).all()
    )
    limited = settings(
        tmp_path,
        world=str(goal_folder),
        num_envs=2,
        rollout=4,
        engine="plain",
        uncertainty_limit=1e-6,
    )
    assert bool(Learner(limited, make_dreams(limited)).rollout()["done"][0].all())


def test_the_default_size_is_at_most_a_megabyte(tmp_path: Path) -> None:
    from worldsim.shipped.agent_files import save_agent

    save_agent(ActorCriticPolicy(gym.spaces.Box(-1.0, 1.0, (3,), np.float32)), tmp_path)
    assert (tmp_path / "weights.safetensors").stat().st_size <= 1_000_000


def test_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    train(settings(tmp_path, steps=512), vector(Bars))
    before = load_agent(tmp_path)
    learner = Learner(settings(tmp_path, steps=1024), vector(Bars))
    assert learner.resume() and learner.taken == 512 and len(learner.optimizer.state) > 4
    for name, value in before.state_dict().items():
        torch.testing.assert_close(learner.policy.state_dict()[name], value, rtol=2**-10, atol=1e-6)
    train(settings(tmp_path, steps=1024), vector(Bars))
    assert json.loads((tmp_path / "checkpoint" / "checkpoint.json").read_text())["taken"] == 1024
    with pytest.raises(InvalidInputError, match="other hidden"):
        Learner(settings(tmp_path, hidden=16), vector(Bars)).resume()
    (tmp_path / "checkpoint" / "state.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFileError, match="differs from its checksum"):
        Learner(settings(tmp_path), vector(Bars)).resume()


class Counted(gym.vector.SyncVectorEnv):
    """Counts its steps, and may be told to send this process a signal at one of them."""

    steps, terminate_at = 0, 0

    def step(self, actions: Any) -> Any:
        self.steps += 1
        if self.steps == self.terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(actions)


def test_a_time_limit_ends_it_within_a_rollout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reproduces: time was looked at after whole rollouts, 8,192 dreamed steps, with nothing on
    screen or on disk until then."""
    envs = Counted([Bars] * 8)
    train(
        settings(tmp_path, minutes=1.0, steps=10**6, num_envs=None),
        envs,
        clock=lambda: 5.0 * envs.steps,
    )
    assert envs.steps == 12
    checkpoint = json.loads((tmp_path / "checkpoint" / "checkpoint.json").read_text())
    assert (checkpoint["taken"], checkpoint["elapsed"], checkpoint["args"]["num_envs"]) == (
        0,
        60.0,
        8,
    )
    assert load_agent(tmp_path, gym.spaces.Discrete(2)) is not None
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "a step of 8 dreams takes 5.0 s here: about 11 in the 50.0 s that are left; the first "
        "update comes after 32, in 2 min 30 s"
        ". That is little: stop with Ctrl-C and try --num-envs 1 and more --minutes, with another "
        "--out"
    )
    assert lines[-1] == (
        f"trained 0 dreamed steps; saved in {tmp_path}: the same command goes on. Not one update "
        f"was reached: "
        "its actions are random."
    )


def test_a_signal_ends_it_after_a_step_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reproduces: SIGTERM lost all since the last minute, without a word."""
    envs = Counted([Bars] * 8)
    envs.terminate_at = 40
    with pytest.raises(SystemExit) as stop:
        train(settings(tmp_path, steps=10**6), envs)
    assert stop.value.code == 128 + signal.SIGTERM and envs.steps == 40
    assert json.loads((tmp_path / "checkpoint" / "checkpoint.json").read_text())["taken"] == 8 * 32
    assert (
        f"interrupted after 256 dreamed steps; saved in {tmp_path}: the same command goes on."
        in capsys.readouterr().err
    )


def test_the_number_of_dreams_fits_the_device_and_stays(tmp_path: Path) -> None:
    """Reproduces: 256 dreams at once on a CPU, too. A run that goes on keeps its number where none
    is asked for."""
    args = settings(tmp_path, num_envs=None)
    assert args.settle().num_envs == 8
    train(dataclasses.replace(args, num_envs=4, steps=128), vector(Bars, n=4))
    assert args.settle().num_envs == 4
    assert dataclasses.replace(args, num_envs=16).settle().num_envs == 16


def test_starts_from_another_agent(tmp_path: Path) -> None:
    first = train(settings(tmp_path / "first", steps=600), vector(Bars))
    learner = Learner(
        settings(tmp_path / "second", init_from=str(tmp_path / "first")), vector(Bars)
    )
    for name, weights in learner.policy.state_dict().items():
        # Saved at 16 bits.
        assert torch.equal(weights, first.state_dict()[name].half().float())
    with pytest.raises(InvalidInputError, match="'hidden': 32.*'hidden': 64"):
        Learner(
            settings(tmp_path / "third", init_from=str(tmp_path / "first"), hidden=64), vector(Bars)
        )


def test_bad_input(tmp_path: Path, world_folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="no reward head"):
        train(settings(tmp_path, world=str(world_folder), engine="plain"))
    with pytest.raises(InvalidInputError, match="NEXT_STEP is needed"):
        mode = gym.vector.AutoresetMode.SAME_STEP
        train(settings(tmp_path), gym.vector.SyncVectorEnv([Bars] * 8, autoreset_mode=mode))
    with pytest.raises(InvalidInputError, match="Args.rollout = 1"):
        settings(tmp_path, rollout=1)
    with pytest.raises(InvalidInputError, match="cannot be learned"):
        ActorCriticPolicy(gym.spaces.MultiDiscrete([2, 2]), (16, 16, 3))
    assert not (tmp_path / "agent.json").exists()


def test_dreams_are_cut_at_the_horizon(tmp_path: Path, goal_folder: Path) -> None:
    envs = make_dreams(
        settings(tmp_path, world=str(goal_folder), num_envs=2, horizon=3, engine="plain")
    )
    assert envs.unwrapped.max_episode_steps == 3 and envs.unwrapped.output == "torch"
