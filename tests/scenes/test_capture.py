"""Captures as starts: from files, trajectories and arrays, fitted to a world, with and without
holes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.camera import Camera, quantise_depth
from worldsim.envs.tiny_room import TinyRoom, walk_in_room
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.io.nerfstudio import save_nerfstudio
from worldsim.io.rgbd import captured_frames, frames_of
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig
from worldsim.protocols import FittingScene, Scene
from worldsim.scenes.capture import CaptureScene, CaptureScenes
from worldsim.state import Frame, Trajectory
from worldsim.testing import check_scene
from worldsim.world import World
from worldsim.world.scene_files import load_scene, save_scene

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def captures(
    room_walk: tuple[TinyRoom, Trajectory], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with two datasets. Tests must not write there."""
    folder = tmp_path_factory.mktemp("captures")
    save_nerfstudio(room_walk[1], folder / "room-2")
    save_nerfstudio(walk_in_room(20, seed=3, room="room-5")[1], folder / "room-5")
    return folder


def test_a_start_has_the_last_frames_and_a_memory_of_the_others(
    room_walk: tuple[TinyRoom, Trajectory],
):
    trajectory = room_walk[1]
    scene = CaptureScene(trajectory)
    assert isinstance(scene, Scene) and isinstance(scene, FittingScene)
    start = scene.start(RNG)
    assert torch.equal(start.rgb, trajectory.rgb[-12:]) and torch.equal(
        start.inverse_depth, trajectory.inverse_depth[-12:]
    )
    torch.testing.assert_close(start.pose, trajectory.pose[-12:], atol=2e-4, rtol=0.0)
    assert start.act.tolist() == [0] * 12 and start.name == "capture"
    memory, ahead = PointMemory(PointMemoryConfig(capacity=start.memory.capacity)), start.pose[:1]
    view = memory.render(start.memory, Camera(ahead, start.intrinsics[None], 64, 64))
    assert float(view.coverage) > 0.8
    # The memory is older than the start, whose frames count up to step 0.
    assert int(start.memory.seen.max()) == -13


def test_what_stood_before_a_surface_and_went_leaves_no_points():
    """A red square 0.1 m before a grey wall, and the wall without it: a memory that compares no
    colours keeps the square."""
    pose, intrinsics = torch.eye(4)[None], torch.tensor([8.0, 8.0, 8.0, 8.0])
    depth, rgb = torch.full((1, 16, 16), 2.0), torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    wall = Frame(rgb, quantise_depth(depth), pose)
    near, red = depth.clone(), rgb.clone()
    near[:, 4:12, 4:12], red[:, 0, 4:12, 4:12] = 1.9, 250
    trajectory = Trajectory.of((Frame(red, quantise_depth(near), pose), wall, wall), intrinsics)
    memory = CaptureScene(trajectory, last=1).start(RNG).memory
    assert int((memory.kind > 0).sum()) == 256 and not bool((memory.colour[0, 0] == 250).any())
    plain = PointMemory(PointMemoryConfig(capacity=512))
    data = plain.empty(1)
    for i, frame in enumerate(trajectory.frames):
        data = plain.integrate(
            data, frame, Camera(pose, intrinsics[None], 16, 16), torch.tensor([i])
        )
    assert int((data.colour[0, 0] == 250).sum()) == 64


def test_a_short_capture_is_all_start(room_walk: tuple[TinyRoom, Trajectory]):
    start = CaptureScene(frames_of(room_walk[1])[:5], last=8, name="short").start(RNG)
    assert len(start.rgb) == 5 and start.memory.capacity == 0 and start.name == "short"


def test_fitted_to_a_world(
    tiny_world: World, captures: Path, room_walk: tuple[TinyRoom, Trajectory]
):
    check_scene(CaptureScene(captures / "room-2"), tiny_world)
    check_scene(CaptureScenes(captures), tiny_world)
    scene = CaptureScene(captures / "room-2").fit_to(tiny_world)
    assert scene.fit_to(tiny_world) is scene
    start = scene.start(RNG)
    assert start is scene.start(RNG) and start.name == "room-2"
    assert start.rgb.shape == (12, 3, 32, 32) and start.intrinsics.tolist() == [
        16.0,
        16.0,
        16.0,
        16.0,
    ]
    # Two pixels by two are averaged; halves are rounded up.
    blocks = room_walk[1].rgb[-12:].float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert int((start.rgb.float() - (blocks + 0.5).floor()).abs().max()) <= 1
    env = WorldEnv(tiny_world, scenes=CaptureScene(captures / "room-2"))
    obs, info = env.reset(seed=0)
    np.testing.assert_array_equal(obs, start.rgb[-1].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(info["pose"], room_walk[1].pose[-1], atol=2e-4)
    assert info["memory_coverage"] > 0.9
    _, _, _, _, info = env.step(0)
    assert info["memory_coverage"] > 0.9


def test_worlds_of_other_kinds(captures: Path, room_walk: tuple[TinyRoom, Trajectory]):
    retrieval = make_tiny_world().with_memory(RetrievalMemory(RetrievalMemoryConfig(32, 32, 128)))
    _, info = WorldEnv(retrieval, scenes=CaptureScene(captures / "room-2")).reset(seed=0)
    assert info["memory_coverage"] > 0.5
    without = WorldEnv(make_tiny_world().without_memory(), scenes=CaptureScene(captures / "room-2"))
    assert without.reset(seed=0)[1]["memory_coverage"] == 0.0
    flat = WorldEnv(make_tiny_world(geometry=False), scenes=CaptureScene(room_walk[1]))
    assert flat.reset(seed=0)[0].shape == (32, 32, 3)
    continuous = WorldEnv(make_tiny_world(action_dim=2), scenes=CaptureScene(room_walk[1]))
    continuous.reset(seed=0)
    continuous.step(np.zeros(2, np.float32))


def test_captures_by_name_and_by_string(tiny_world: World, captures: Path):
    scenes = CaptureScenes(captures)
    assert isinstance(scenes, Scene) and scenes.names() == ["room-2", "room-5"]
    assert CaptureScenes(captures / "room-5").names() == ["room-5"]
    env = WorldEnv(tiny_world, scenes=f"worldsim.scenes.capture:CaptureScenes:{captures}")
    first, _ = env.reset(seed=0, options={"scene": "room-5"})
    named = WorldEnv(tiny_world, scenes=f"captures:{captures}")
    np.testing.assert_array_equal(named.reset(seed=0, options={"scene": "room-5"})[0], first)
    with pytest.raises(NotFoundError, match="'NAME:FOLDER' with a NAME of recorded, captures"):
        WorldEnv(tiny_world, scenes=f"capture:{captures}")
    assert {env.reset(seed=seed)[1]["pose"].tobytes() for seed in range(12)} == {
        env.reset(seed=0, options={"scene": name})[1]["pose"].tobytes() for name in scenes.names()
    }
    with pytest.raises(NotFoundError, match=r"'room-9'.*room-2, room-5"):
        env.reset(options={"scene": "room-9"})
    with pytest.raises(NotFoundError, match="holds no captures"):
        CaptureScenes(captures / "nowhere").start(RNG)
    with pytest.raises(NotFoundError, match="no capture"):
        CaptureScene(captures / "nowhere")
    # A fork resets to the same captures.
    env.reset(seed=0, options={"scene": "room-5"})
    obs, _ = env.fork(2).reset(seed=0, options={"scene": "room-5"})
    np.testing.assert_array_equal(obs[1], first)


def test_a_start_can_be_kept_as_a_scene_of_a_world(
    tiny_world: World, captures: Path, tmp_path: Path
):
    start = CaptureScene(captures / "room-5", last=4, world=tiny_world).start(RNG)
    again = load_scene(save_scene(start, tmp_path / "room-5"))
    assert torch.equal(again.rgb, start.rgb) and torch.equal(
        again.memory.position, start.memory.position
    )
    env = WorldEnv(tiny_world, scenes=tmp_path)
    assert env.reset(seed=0)[1]["memory_coverage"] > 0.5


def holed(depth: Any, hole: slice) -> Any:
    spoiled = depth.copy()
    spoiled[:, hole, hole] = np.nan
    return spoiled


def test_unknown_depth_teaches_the_memory_nothing():
    """A wall 3 m ahead; in the middle of every frame depth is unknown. Nothing is kept, and nothing
    dropped, there."""
    depth = holed(np.full((6, 16, 16), 3.0, np.float32), slice(4, 12))
    frames = captured_frames(
        np.zeros((6, 16, 16, 3), np.uint8), depth, np.eye(4)[None].repeat(6, 0), np.full(4, 8.0)
    )
    start = CaptureScene(frames, last=1).start(RNG)
    assert start.memory.capacity == 16 * 16 - 8 * 8
    # The start frame's hole takes the depth beside it.
    assert bool((start.inverse_depth == quantise_depth(torch.tensor(3.0))).all())


def test_a_start_frames_hole_takes_what_the_memory_knows():
    depth = np.full((2, 16, 16), 3.0, np.float32)
    depth[0, 4:12, 4:12] = 2.0
    depth[1, 4:12, 4:12] = np.nan
    frames = captured_frames(
        np.zeros((2, 16, 16, 3), np.uint8), depth, np.eye(4)[None].repeat(2, 0), np.full(4, 8.0)
    )
    start = CaptureScene(frames, last=1).start(RNG)
    np.testing.assert_allclose(0.125 * 65535 / start.inverse_depth[0].numpy(), depth[0], rtol=1e-3)


def test_the_nearest_known_pixel_fills_a_hole():
    depth = np.full((1, 4, 6), np.nan, np.float32)
    depth[0, :, 0], depth[0, :, 5] = 2.0, 4.0
    frames = captured_frames(
        np.zeros((1, 4, 6, 3), np.uint8), depth, np.eye(4)[None], np.full(4, 2.0)
    )
    code = CaptureScene(frames).start(RNG).inverse_depth
    np.testing.assert_allclose(
        0.125 * 65535 / code[0].numpy(), [[2.0, 2.0, 2.0, 4.0, 4.0, 4.0]] * 4, rtol=1e-3
    )
    frames = captured_frames(
        np.zeros((1, 4, 6, 3), np.uint8), np.zeros_like(depth), np.eye(4)[None], np.full(4, 2.0)
    )
    with pytest.raises(InvalidInputError, match="frame 0: its depth is unknown everywhere"):
        CaptureScene(frames).start(RNG)


def test_bad_input(room_walk: tuple[TinyRoom, Trajectory]):
    with pytest.raises(InvalidInputError, match="last is 0"):
        CaptureScene(room_walk[1], last=0)
    with pytest.raises(InvalidInputError, match="no frames"):
        CaptureScene([])


def test_a_capture_of_the_real_twin(tmp_path: Path):
    """A walk in the real engine becomes a dataset, and a dream that starts in it knows the
    place."""
    pytest.importorskip("vizdoom", reason="the real twin needs vizdoom")
    from worldsim.shipped.policies import make_policy

    real = gym.make("worldsim/FreedoomReal-v0")
    policy = make_policy("persistent", real.action_space)
    obs, info = real.reset(seed=3, options={"map": "MAP30"})
    policy.reset(5)
    frames: dict[str, list[Any]] = {"rgb": [], "depth": [], "pose": []}
    for _ in range(96):
        for key, value in (("rgb", obs), ("depth", info["depth"]), ("pose", info["pose"])):
            frames[key].append(value)
        obs, _, _, _, info = real.step(policy.act(obs))
    real.close()
    rgb, depth, pose = (torch.from_numpy(np.stack(frames[key])) for key in ("rgb", "depth", "pose"))
    trajectory = Trajectory(
        rgb.permute(0, 3, 1, 2).contiguous(),
        quantise_depth(depth),
        pose,
        torch.from_numpy(info["intrinsics"]),
    )
    save_nerfstudio(trajectory, tmp_path / "MAP30")

    env = gym.make(
        "worldsim/FreedoomDream-v0", device="cpu", scenes=CaptureScene(tmp_path / "MAP30")
    )
    obs, info = env.reset(seed=0)
    np.testing.assert_array_equal(obs, frames["rgb"][-1])
    np.testing.assert_allclose(info["pose"], frames["pose"][-1], atol=1e-3)
    coverage = [info["memory_coverage"]]
    for _ in range(8):
        _, _, _, _, info = env.step(3)
        coverage.append(info["memory_coverage"])
    assert np.mean(coverage) > 0.75, coverage
    env.close()
