"""A world with random weights and start scenes from a small room: enough to test everything but the
quality of the pictures."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.worlds import SIZE, make_tiny_world
from worldsim.envs.tiny_room import TinyRoom, walk_in_room
from worldsim.state import Trajectory
from worldsim.world import World
from worldsim.world.scene_files import ScenesConfig, load_scene, record_scenes

# Such small networks gain nothing from threads, and several test processes would only wait for one
# another. Nor does inductor, whose processes import torch once more.
torch.set_num_threads(1)
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# Exported files are signed: with a key of the tests, not the user's.
os.environ["WORLDSIM_KEY"] = str(Path(tempfile.mkdtemp(prefix="worldsim-key-")) / "ed25519.pem")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first in each half of the tests.

    Two workers start with one half each: a long test at the end would leave one of them idle.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = {
        path: sum(test.get_closest_marker("slow") is not None for test in tests)
        for path, tests in files.items()
    }
    halves: list[list[Path]] = [[], []]
    for path in (path for path in files if slow[path]):
        min(halves, key=lambda half: sum(slow[one] for one in half)).append(path)
    for path in (path for path in files if not slow[path]):
        min(halves, key=lambda half: sum(len(files[one]) for one in half)).append(path)
    items[:] = [test for half in halves for path in half for test in files[path]]


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
