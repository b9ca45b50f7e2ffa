"""One image as a start: sizes, depth, cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from worldsim.envs.world_env import WorldEnv
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.scenes.image import ImageScene
from worldsim.testing import check_scene
from worldsim.world import World

RNG = np.random.default_rng(0)


def picture(height: int = 64, width: int = 128) -> Any:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_cropped_and_resized_with_its_camera() -> None:
    """Reproduces: a picture of other proportions was stretched without a word."""
    rgb = np.zeros((4, 8, 3), np.uint8)
    rgb[:, 4:] = 200
    rgb[:, :2] = rgb[:, 6:] = 99
    depth = np.full((4, 8), 2.0, np.float32)
    depth[:, 4:] = np.inf
    scene = ImageScene(rgb, size=(2, 2), depth=depth, intrinsics=(4.0, 4.0, 4.0, 2.0)).start(RNG)
    assert scene.rgb.tolist() == [[[[0, 200], [0, 200]]] * 3]
    # 0.125 m / 2 m of 65,535, and 0 for infinity.
    assert scene.inverse_depth is not None and scene.inverse_depth.tolist() == [
        [[4096, 0], [4096, 0]]
    ]
    assert scene.intrinsics is not None and scene.intrinsics.tolist() == [2.0, 2.0, 1.0, 1.0]
    assert scene.pose is not None and torch.equal(scene.pose[0], torch.eye(4))
    assert scene.act.tolist() == [0]


@pytest.mark.slow
def test_a_world_sees_it_with_its_own_camera() -> None:
    """Reproduces: 90 degrees were assumed, where freedoom-tiny sees 73.7 by 64.0. A disc in a photo
    of 3:2 stays round."""
    world = World.from_pretrained("freedoom-tiny", device="cpu")
    rows, columns = np.mgrid[:200, :300] + 0.5
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[np.hypot(rows - 100, columns - 150) < 50] = 255
    env = WorldEnv(world, scenes=ImageScene(photo, depth=np.full((200, 300), 4.0)))
    obs, info = env.reset(seed=0)
    assert obs.shape == (64, 64, 3)
    np.testing.assert_allclose(info["intrinsics"], world.config.intrinsics, rtol=1e-5)
    fx, fy = info["intrinsics"][:2]
    across, down = ((obs[..., 0] > 127).any(axis).sum() for axis in (0, 1))
    # Equal angles, though the world's pixels are not square.
    assert abs(across / fx - down / fy) < 1.5 / fy
    np.testing.assert_allclose(info["pose"][:3, 2], [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(info["pose"][:3, 1], [0, 0, -1], atol=1e-3)
    _, _, _, _, info = env.step(3)
    assert info["memory_coverage"] > 0.5


@pytest.mark.slow
def test_a_world_of_continuous_actions_starts_from_it() -> None:
    world = World.from_pretrained("carracing", device="cpu")
    env = WorldEnv(world, scenes=ImageScene(picture(96, 96)))
    env.reset(seed=0)
    assert env.observation_space.contains(env.step(np.zeros(3, np.float32))[0])


def test_default_camera_sees_90_degrees() -> None:
    scene = ImageScene(picture()).start(RNG)
    assert scene.intrinsics is not None and scene.intrinsics.tolist() == [64.0, 64.0, 64.0, 32.0]
    assert scene.inverse_depth is None and scene.pose is None


def test_a_world_starts_from_it(tiny_world: World, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "view.png")
    scene = ImageScene(
        tmp_path / "view.png", size=(32, 32), depth=np.full((64, 128), 3.0, np.float32)
    )
    check_scene(scene, tiny_world)
    env = WorldEnv(tiny_world, scenes=scene)
    obs, info = env.reset(seed=0)
    np.testing.assert_array_equal(obs, scene.scene.rgb[0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(info["depth"], 3.0, rtol=1e-3)
    assert info["memory_coverage"] == 0.0
    _, _, _, _, info = env.step(0)
    assert info["memory_coverage"] > 0.5


def test_depth_is_needed_for_a_memory(tiny_world: World) -> None:
    with pytest.raises(MissingGeometryError, match="depth"):
        WorldEnv(tiny_world, scenes=ImageScene(picture(32, 32))).reset()


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DamagedFileError, match=r"broken\.png"):
        ImageScene(tmp_path / "broken.png")
    with pytest.raises(NotFoundError, match=r"none\.png"):
        ImageScene(tmp_path / "none.png")
    with pytest.raises(InvalidInputError, match="float64"):
        ImageScene(np.zeros((4, 4, 3)))
    with pytest.raises(InvalidInputError, match=r"\(4, 5\)"):
        ImageScene(np.zeros((4, 4, 3), np.uint8), depth=np.ones((4, 5)))
    with pytest.raises(InvalidInputError, match="positive"):
        ImageScene(np.zeros((4, 4, 3), np.uint8), depth=np.zeros((4, 4)))
    with pytest.raises(InvalidInputError, match="fx fy cx cy"):
        ImageScene(np.zeros((4, 4, 3), np.uint8), intrinsics=np.zeros(3))
