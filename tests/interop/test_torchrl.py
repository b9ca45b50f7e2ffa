"""TorchRL's checks on the registered ids, with what ``info`` holds."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

pytest.importorskip("torchrl")

from torchrl.envs import GymWrapper
from torchrl.envs.gym_like import default_info_dict_reader
from torchrl.envs.utils import check_env_specs

from worldsim.world import World

DREAM, ROOM, REAL = "worldsim/FreedoomDream-v0", "worldsim/TinyRoom-v0", "worldsim/FreedoomReal-v0"


@pytest.mark.parametrize("env_id", [DREAM, "worldsim/Dream-v0", ROOM, REAL])
def test_check_env_specs(env_id: str) -> None:
    if env_id == REAL:
        pytest.importorskip("vizdoom")
    env = GymWrapper(
        gym.make(env_id, **({"world": "carracing"} if env_id == "worldsim/Dream-v0" else {})),
        device="cpu",
    )
    check_env_specs(env, seed=0)
    env.close()


def test_infos_of_a_dream_are_registered(freedoom: World) -> None:
    """Reproduces: ``auto_register_info_dict`` failed, since a Python float has no dtype."""
    env = GymWrapper(
        gym.make(DREAM, world=freedoom, uncertainty=True), device="cpu"
    ).auto_register_info_dict()
    rollout = env.rollout(2)
    assert rollout["next", "depth"].shape == (2, 64, 64) and rollout["next", "pose"].shape == (
        2,
        4,
        4,
    )
    kinds = {
        name: rollout["next", name].dtype
        for name in ("memory_coverage", "uncertainty", "generated", "intrinsics")
    }
    assert kinds == dict.fromkeys(kinds, torch.float32) | {"generated": torch.bool}


def test_infos_of_a_batch_are_registered(freedoom: World) -> None:
    envs = gym.make_vec(
        DREAM, num_envs=1, vectorization_mode="vector_entry_point", world=freedoom,
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
    )  # fmt: skip
    rollout = GymWrapper(envs, device="cpu").auto_register_info_dict().rollout(2)
    assert rollout["next", "memory_coverage"].dtype == torch.float32 and rollout[
        "next", "depth"
    ].shape == (1, 2, 64, 64)


def test_infos_of_a_real_twin_are_named() -> None:
    """TorchRL keeps numbers alone, and a real twin's ``map`` is a text: the others are named."""
    env = GymWrapper(gym.make(ROOM), device="cpu")
    env.set_info_dict_reader(default_info_dict_reader(["depth", "pose"], spec=None))
    assert env.rollout(2)["next", "depth"].shape[-2:] == (64, 64)
