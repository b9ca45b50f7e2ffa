"""Starts in the middle of recorded episodes."""

from __future__ import annotations

import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.play import RecordConfig
from worldsim.data.record import record
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.protocols import FittingScene, Scene
from worldsim.scenes.episodes import EpisodeScenes
from worldsim.testing import check_scene
from worldsim.world import World


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recording")
    settings = {"size": 32, "goal": True}
    record(
        RecordConfig(
            "worldsim/TinyRoom-v0",
            out,
            frames=200,
            workers=0,
            episode_steps=20,
            env_kwargs=settings,
            min_travel=0.0,
        )
    )
    return out


def test_moments_are_those_of_the_recording(recording: Path) -> None:
    scenes, episodes = EpisodeScenes(recording, count=40, frames=4), EpisodeDataset(recording)
    assert isinstance(scenes, Scene) and isinstance(scenes, FittingScene)
    frames = []
    for name in scenes.names():
        _, index, frame = name.split("-")
        episode, end, scene = episodes[int(index)], int(frame), scenes.load(name)
        frames.append(end)
        assert len(scene.rgb) == min(4, end + 1) and end < len(episode.rgb) - 1
        assert (scene.rgb[-1].permute(1, 2, 0).numpy() == episode.rgb[end]).all()
        # What led to a frame is the action of the one before it; nothing led to the first.
        assert scene.act[-1] == (episode.act[end - 1] if end else 0)
        assert scene.pose is not None and torch.equal(
            scene.pose[-1], torch.from_numpy(np.array(episode.pose[end]))
        )
    assert min(frames) == 0 and len(set(frames)) > 10
    assert EpisodeScenes(recording, count=40).names() == EpisodeScenes(recording, count=40).names()
    assert EpisodeScenes(recording, count=40, seed=1).names() != scenes.names()
    assert all(name.endswith("-0") for name in EpisodeScenes(recording, beginnings=1.0).names())


def test_several_recordings(recording: Path, tmp_path: Path) -> None:
    """Episodes count through all recordings in a folder, by name; other environments are
    refused."""
    for name in ("first", "second"):
        shutil.copytree(recording, tmp_path / name)
    alone, both = EpisodeScenes(recording, count=40), EpisodeScenes(tmp_path, count=40)
    n = len(alone.datasets[0])
    indices = {int(name.split("-")[1]) for name in both.names()}
    assert min(indices) < n <= max(indices) < 2 * n
    for name in both.names():
        _, index, frame = name.split("-")
        episode = alone.datasets[0][int(index) % n]
        assert (both.load(name).rgb[-1].permute(1, 2, 0).numpy() == episode.rgb[int(frame)]).all()
    record(
        RecordConfig(
            "worldsim/TinyRoom-v0",
            tmp_path / "third",
            frames=30,
            workers=0,
            env_kwargs={"size": 16},
            min_travel=0.0,
        )
    )
    with pytest.raises(InvalidInputError, match="cannot be used together"):
        EpisodeScenes(tmp_path)


def test_dreams_begin_there(recording: Path, goal_folder: Path) -> None:
    spec = f"worldsim.scenes.episodes:EpisodeScenes:{recording}"
    envs = gym.make_vec(
        "worldsim/Dream-v0",
        num_envs=6,
        vectorization_mode="vector_entry_point",
        world=str(goal_folder),
        scenes=spec,
    )
    obs, _ = envs.reset(seed=0)
    assert len({frame.tobytes() for frame in obs}) > 3
    scenes = EpisodeScenes(recording)
    known = {
        scenes.load(name).rgb[-1].permute(1, 2, 0).numpy().tobytes() for name in scenes.names()
    }
    assert all(frame.tobytes() in known for frame in obs)
    envs.step(envs.action_space.sample())


def test_a_world_without_geometry(recording: Path) -> None:
    from tests.helpers.worlds import make_tiny_world

    envs = WorldVectorEnv(
        4, make_tiny_world(geometry=False, rewards=True), scenes=EpisodeScenes(recording)
    )
    envs.reset(seed=0)
    obs, *_, info = envs.step(np.zeros(4, np.int64))
    assert obs.shape == (4, 32, 32, 3) and "pose" not in info


def test_moments_are_as_long_as_the_world_attends(recording: Path) -> None:
    from tests.helpers.worlds import make_tiny_world

    world = make_tiny_world(geometry=False, rewards=True)
    window = world.spec.window
    check_scene(EpisodeScenes(recording), world)
    scenes, given = EpisodeScenes(recording), EpisodeScenes(recording, frames=2)
    late = next(name for name in scenes.names() if int(name.split("-")[2]) > 12)
    assert window != 8 and len(scenes.load(late).rgb) == 8
    assert (
        len(scenes.fit_to(world).load(late).rgb) == window
        and len(given.fit_to(world).load(late).rgb) == 2
    )


def test_states_of_many_starts_are_kept(recording: Path, goal_folder: Path) -> None:
    world = World.from_pretrained(goal_folder, "cpu")
    scenes = EpisodeScenes(recording, count=100)
    starts = [scenes.load(name) for name in scenes.names()]
    assert 64 < len(starts) <= world.kept_starts
    world.initial(starts, list(range(len(starts))))
    assert len(world._starts) == len(starts)


def test_bad_input(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no dataset.json"):
        EpisodeScenes(tmp_path)
    with pytest.raises(NotFoundError, match="no moment 'x'"):
        EpisodeScenes(recording).load("x")
    with pytest.raises(InvalidInputError, match="a share in"):
        EpisodeScenes(recording, beginnings=2.0)
    with pytest.raises(InvalidInputError, match="the world sees"):
        EpisodeScenes(recording).fit_to(World.from_pretrained("freedoom-tiny", "cpu"))
