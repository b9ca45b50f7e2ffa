"""A world with random weights and start scenes from a small room: enough to test everything but the quality of the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.camera import quantise_depth
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.heads import EgoMotionHead, OutcomeHead
from worldsim.journey import Journey
from worldsim.memory.points import PointMemoryConfig
from worldsim.scene_files import ScenesConfig, load_scene, record_scenes
from worldsim.testing import TinyRoom
from worldsim.world import World, WorldConfig

# Such small networks gain nothing from threads, and several test processes would only wait for one another.
torch.set_num_threads(1)
SIZE = 32
INTRINSICS = (16.0, 16.0, 16.0, 16.0)


def make_tiny_world(seed: int = 0, geometry: bool = True, rewards: bool = False, action_dim: int = 0, **config: Any) -> World:
    """32x32 frames, window 4. Layers that start at zero get random weights too, so that everything has an effect.

    rewards: rewards and terminations are on; the termination's logit is about zero-mean, so that episodes end.
    """
    torch.manual_seed(seed)
    actions = 0 if action_dim else 7
    channels, view_channels = (4, 8) if geometry else (3, 0)
    network = SpaceTimeTransformer(
        height=SIZE, width=SIZE, channels=channels, view_channels=view_channels, actions=actions, action_dim=action_dim,
        dim=32, depth=2, heads=2, levels=(8, 8, 16), window=4,
    )  # fmt: skip
    ego_motion = EgoMotionHead(actions=actions, action_dim=action_dim, hidden=32) if geometry else None
    outcome = OutcomeHead(dim=32, hidden=8)
    # Again, so that the network's random weights do not depend on how many numbers a head takes to begin with.
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for module in (network, outcome):
            for weight in module.parameters():
                if not weight.any():
                    weight.normal_(0.0, 0.05)
        if ego_motion is not None:
            # World axes: it walks on the floor and turns about the vertical.
            ego_motion.scale.copy_(torch.tensor([0.3, 0.3, 0.01, 0.01, 0.01, 0.2]))
        if rewards:
            outcome.mlp[-1].weight.normal_(0.0, 1.0)
    settings: dict[str, Any] = {
        "env_id": "worldsim/TinyRoom-v0",
        "env_kwargs": {"size": SIZE},
        "intrinsics": INTRINSICS if geometry else None,
        "memory": PointMemoryConfig(capacity=4096) if geometry else None,
        "has_rewards": rewards,
        "has_terminations": rewards,
    }
    return World(network, WorldConfig(**{**settings, **config}), ego_motion, outcome)


@pytest.fixture(scope="session")
def tiny_world() -> World:
    """A world with geometry, not on disk."""
    return make_tiny_world()


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six start scenes of two rooms."""
    folder = tmp_path_factory.mktemp("recorded") / "scenes"
    size, maps = {"size": SIZE}, ("room-6", "room-7")
    record_scenes(
        ScenesConfig("worldsim/TinyRoom-v0", folder, maps=maps, count=6, frames=4, steps=8, min_travel=0.3, env_kwargs=size)
    )
    return folder


@pytest.fixture(scope="session")
def room_scene(scenes_folder: Path) -> Any:
    """One start scene."""
    return load_scene(scenes_folder / "room-6-1")


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory, scenes_folder: Path) -> Path:
    """The tiny world with its start scenes, on disk. Tests must not write there."""
    folder = scenes_folder.parent
    make_tiny_world().save_pretrained(folder)
    return folder


def walk_in_room(steps: int = 80, size: int = 64, seed: int = 0, room: str = "room-2") -> tuple[TinyRoom, Journey]:
    """A random walk in a room of exactly known geometry, and the room."""
    room_env, rng, act = TinyRoom(size=size), np.random.default_rng(seed), 0
    obs, info = room_env.reset(seed=seed, options={"map": room})
    rgb, depth, pose = [obs], [info["depth"]], [info["pose"]]
    for step in range(steps - 1):
        act = int(rng.choice([1, 1, 1, 2, 3, 3, 4, 4, 5, 6])) if step % 4 == 0 else act
        obs, _, _, _, info = room_env.step(act)
        rgb.append(obs), depth.append(info["depth"]), pose.append(info["pose"])
    journey = Journey(
        rgb=torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2).contiguous(),
        inverse_depth=quantise_depth(torch.from_numpy(np.stack(depth))),
        pose=torch.from_numpy(np.stack(pose)),
        intrinsics=torch.from_numpy(info["intrinsics"]),
    )
    return room_env, journey


@pytest.fixture(scope="session")
def room_walk() -> tuple[TinyRoom, Journey]:
    """Eighty frames of 64x64 in one room, and the room."""
    return walk_in_room()
