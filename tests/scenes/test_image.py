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
from worldsim.protocols import Scene
from worldsim.scenes.image import ImageScene
from worldsim.world import World

RNG = np.random.default_rng(0)


def picture(height: int = 64, width: int = 128) -> Any:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_resized_with_its_camera() -> None:
    rgb = np.zeros((4, 8, 3), np.uint8)
    rgb[:, 4:] = 200
    depth = np.full((4, 8), 2.0, np.float32)
    depth[:, 4:] = np.inf
    scene = ImageScene(rgb, size=(2, 2), depth=depth, intrinsics=(4.0, 4.0, 4.0, 2.0)).start(RNG)
    assert scene.rgb.tolist() == [[[[0, 200], [0, 200]]] * 3]
    # 0.125 m / 2 m of 65,535, and 0 for infinity.
    assert scene.inverse_depth is not None and scene.inverse_depth.tolist() == [[[4096, 0], [4096, 0]]]
    assert scene.intrinsics is not None and scene.intrinsics.tolist() == [1.0, 2.0, 1.0, 1.0]
    assert scene.pose is not None and torch.equal(scene.pose[0], torch.eye(4))
    assert scene.act.tolist() == [0]


def test_default_camera_sees_90_degrees() -> None:
    scene = ImageScene(picture()).start(RNG)
    assert scene.intrinsics is not None and scene.intrinsics.tolist() == [64.0, 64.0, 64.0, 32.0]
    assert scene.inverse_depth is None and scene.pose is None


def test_a_world_starts_from_it(tiny_world: World, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "view.png")
    scene = ImageScene(tmp_path / "view.png", size=(32, 32), depth=np.full((64, 128), 3.0, np.float32))
    assert isinstance(scene, Scene)
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
