"""A world with random weights and start scenes from a small room: enough to test everything but the
quality of the pictures."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.envs.tiny_room import TinyRoom, walk_in_room
from worldsim.memory.points import PointMemoryConfig
from worldsim.state import Trajectory
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.heads import EgoMotionHead, OutcomeHead
from worldsim.world.scene_files import ScenesConfig, load_scene, record_scenes

# Such small networks gain nothing from threads, and several test processes would only wait for one
# another.
torch.set_num_threads(1)
SIZE = 32
INTRINSICS = (16.0, 16.0, 16.0, 16.0)


def make_tiny_world(
    seed: int = 0,
    geometry: bool = True,
    rewards: bool = False,
    action_dim: int = 0,
    fold: int = 1,
    **config: Any,
) -> World:
    """32x32 frames, window 4. Layers that start at zero get random weights too, so that everything
    has an effect.

    rewards: rewards and terminations are on; the termination's logit is about zero-mean, so that
    episodes end.
    """
    torch.manual_seed(seed)
    actions = 0 if action_dim else 7
    channels, view_channels = (4, 8) if geometry else (3, 0)
    network = SpaceTimeTransformer(
        height=SIZE,
        width=SIZE,
        channels=channels,
        view_channels=view_channels,
        actions=actions,
        action_dim=action_dim,
        dim=32,
        depth=2,
        heads=2,
        levels=(8, 8, 16) if fold == 1 else (8, 16),
        window=4,
        fold=fold,
    )
    ego_motion = (
        EgoMotionHead(actions=actions, action_dim=action_dim, hidden=32) if geometry else None
    )
    outcome = OutcomeHead(dim=32, hidden=8)
    # Again, so that the network's random weights do not depend on how many numbers a head takes to
    # begin with.
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
        ScenesConfig(
            "worldsim/TinyRoom-v0",
            folder,
            maps=maps,
            count=6,
            frames=4,
            steps=8,
            min_travel=0.3,
            env_kwargs=size,
        )
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


@pytest.fixture(scope="session")
def goal_folder(tmp_path_factory: pytest.TempPathFactory, scenes_folder: Path) -> Path:
    """A tiny world of a room with rewards and terminations, with start scenes, on disk. Tests must
    not write there."""
    folder = tmp_path_factory.mktemp("goal")
    world = make_tiny_world(rewards=True, env_kwargs={"size": SIZE, "goal": True})
    world.card["frames"] = 1234
    world.save_pretrained(folder)
    shutil.copytree(scenes_folder, folder / "scenes")
    return folder


@pytest.fixture(scope="session")
def room_walk() -> tuple[TinyRoom, Trajectory]:
    """Eighty frames of 64x64 in one room, and the room."""
    return walk_in_room()


def state_of(trainer: Any) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint must bring back."""
    state = {f"model.{k}": v.clone() for k, v in trainer.loss_module.state_dict().items()}
    state |= {f"ema.{i}": v.clone() for i, v in enumerate(trainer.ema.shadow_params)}
    for i, values in trainer.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{k}": torch.as_tensor(v).clone() for k, v in values.items()}
    return state


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and len(a) > 10
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
