"""TorchRL's ``GymWrapper`` around dreams, single and batched."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
import torch

import worldsim  # noqa: F401  registers the environments

pytest.importorskip("torchrl")

from torchrl.envs import GymWrapper
from torchrl.envs.utils import check_env_specs


def test_single(goal_folder: Path) -> None:
    env = GymWrapper(
        gym.make("worldsim/Dream-v0", world=str(goal_folder), max_episode_steps=6), device="cpu"
    )
    check_env_specs(env, seed=0)
    # Actions are drawn from PyTorch's own generator.
    torch.manual_seed(0)
    env.set_seed(0)
    first = env.rollout(5)
    torch.manual_seed(0)
    env.set_seed(0)
    again = env.rollout(5)
    assert torch.equal(first["action"], again["action"])
    assert first["pixels" if "pixels" in first.keys() else "observation"].shape[1:] == (32, 32, 3)
    assert 1 <= len(first) <= 5 and len(first) == len(again)


def test_batched(goal_folder: Path) -> None:
    """TorchRL resets finished environments itself, by ``reset_mask``."""
    envs = gym.make_vec(
        "worldsim/Dream-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        world=str(goal_folder),
        max_episode_steps=4,
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
    )
    env = GymWrapper(envs, device="cpu")
    assert env.batch_size == torch.Size([3])
    env.set_seed(0)
    rollout = env.rollout(6, break_when_any_done=False)
    assert rollout.batch_size == torch.Size([3, 6])
    assert rollout["next", "pixels" if "pixels" in rollout.keys() else "observation"].shape == (
        3,
        6,
        32,
        32,
        3,
    )
    done = rollout["next", "done"][..., 0]
    assert done.any()
    # What follows an end is another episode: its first picture is not the last one's.
    i, t = (int(x[0]) for x in torch.nonzero(done[:, :-1], as_tuple=True))
    key = "pixels" if "pixels" in rollout.keys() else "observation"
    assert (rollout[key][i, t + 1] != rollout["next", key][i, t]).any()
