"""Start scenes on disk: an exact round trip, small files, clear errors, and recordings that line
up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldsim.camera import snap_pose
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import SceneStart, flatten
from worldsim.world import World
from worldsim.world.scene_files import (
    ScenesConfig,
    load_scene,
    record_scenes,
    save_scene,
    scene_names,
)


def assert_same(a: SceneStart, b: SceneStart) -> None:
    first, second = flatten(a), flatten(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


def with_points(scene: SceneStart, world: World) -> SceneStart:
    memory = PointMemory(PointMemoryConfig(capacity=4096))
    seen = world.initial([scene], [0]).memory
    return dataclasses.replace(scene, memory=memory.trim(seen, 1000))


def test_round_trip_is_exact(room_scene: SceneStart, tmp_path: Path, tiny_world: World) -> None:
    for scene in (
        room_scene,
        with_points(room_scene, tiny_world),
        dataclasses.replace(room_scene, act=torch.rand(4, 2)),
    ):
        folder = save_scene(scene, tmp_path / "scene")
        assert_same(load_scene(folder), scene)
    colour_only = SceneStart(rgb=room_scene.rgb, act=room_scene.act, name="plain")
    loaded = load_scene(save_scene(colour_only, tmp_path / "plain"))
    assert_same(loaded, colour_only)
    assert (
        loaded.name == "plain"
        and loaded.inverse_depth is None
        and loaded.pose is None
        and loaded.memory is None
    )


def test_long_scenes_and_those_of_version_1_are_png(room_scene: SceneStart, tmp_path: Path) -> None:
    """WebP has no more than 16,383 rows. A scene that is written over another leaves no frames of
    it."""
    rgb = torch.randint(0, 256, (2, 3, 8192, 2), dtype=torch.uint8)
    long = SceneStart(rgb=rgb, act=torch.tensor([0, 1]), name="long")
    folder = save_scene(dataclasses.replace(room_scene, name="long"), tmp_path / "scene")
    assert (folder / "frames.webp").is_file()
    save_scene(long, folder)
    assert (folder / "frames.png").is_file() and not (folder / "frames.webp").exists()
    assert_same(load_scene(folder), long)
    meta = json.loads((folder / "scene.json").read_text())
    del meta["content_sha256"]
    (folder / "scene.json").write_text(json.dumps(meta | {"version": 1}))
    assert_same(load_scene(folder), long)
    save_scene(room_scene, folder)
    assert not (folder / "frames.png").exists()
    assert_same(load_scene(folder), room_scene)


def test_a_memory_comes_along(room_scene: SceneStart, tmp_path: Path, tiny_world: World) -> None:
    """Its points are there before the frames are: the first frame's view knows something."""
    alone = tiny_world.initial([room_scene], [0])
    more = with_points(room_scene, tiny_world)
    loaded = load_scene(save_scene(more, tmp_path / "scene"))
    assert loaded.memory.capacity == 1000
    memory = PointMemory(PointMemoryConfig(capacity=4096))
    one = dataclasses.replace(
        loaded,
        **{name: getattr(loaded, name)[:1] for name in ("rgb", "act", "inverse_depth", "pose")},
    )
    assert float(tiny_world.coverage(tiny_world.initial([one], [0]))) > 0.3
    assert int(memory.count(tiny_world.initial([loaded], [0]).memory)) >= 1000
    assert int(memory.count(alone.memory)) > 1000


def test_full_size_scenes_are_small(tmp_path: Path) -> None:
    folders = record_scenes(
        ScenesConfig(env_id="worldsim/TinyRoom-v0", out=tmp_path, maps=("room-1",), count=2)
    )
    for folder in folders:
        assert load_scene(folder).rgb.shape == (6, 3, 64, 64)
        assert sum(file.stat().st_size for file in folder.iterdir()) < 100_000


def one_room(out: Path, **changes: Any) -> ScenesConfig:
    """Return settings that record one scene of five frames in a room."""
    return ScenesConfig(
        env_id="worldsim/TinyRoom-v0",
        out=out,
        maps=("room-3",),
        count=1,
        frames=5,
        min_travel=0,
        **changes,
    )


def test_recording_lines_up_with_the_real_twin(tmp_path: Path) -> None:
    """Replaying a scene's actions in the engine from its first frame's place gives its frames."""
    config = one_room(
        tmp_path,
        steps=12,
        seed=4,
    )
    scene = load_scene(record_scenes(config)[0])
    assert scene.pose is not None and scene.inverse_depth is not None
    env = gym.make("worldsim/TinyRoom-v0").unwrapped
    env.reset(seed=0, options={"map": "room-3"})
    first = scene.pose[0].numpy()
    env._position, env._yaw = (
        first[:2, 3].astype(float),
        float(np.arctan2(first[1, 2], first[0, 2])),
    )  # type: ignore[attr-defined]
    for t in range(1, 5):
        obs, _, _, _, info = env.step(int(scene.act[t]))
        wrong = (obs != scene.rgb[t].permute(1, 2, 0).numpy()).any(-1)
        assert wrong.mean() < 0.02
        np.testing.assert_allclose(scene.pose[t].numpy(), info["pose"], atol=2e-3)
    assert torch.equal(scene.pose, snap_pose(scene.pose))


def test_a_scene_may_begin_with_a_turn_on_the_spot(tmp_path: Path) -> None:
    """Every third frame of the turn, then the last frames one after another."""
    config = one_room(
        tmp_path,
        steps=8,
        look_action=3,
        look_steps=9,
        min_view=0,
    )
    scene = load_scene(record_scenes(config)[0])
    assert len(scene.rgb) == 3 + 5 and scene.pose is not None
    assert scene.act[:3].tolist() == [3, 3, 3]
    turn = scene.pose[:3, :3, 3]
    assert torch.allclose(turn, turn[:1].expand(3, 3), atol=1e-3), (
        "the walker stays where it is while it turns"
    )
    with pytest.raises(InvalidInputError, match="look_every 0"):
        dataclasses.replace(config, look_every=0)
    with pytest.raises(InvalidInputError, match="darker than 256"):
        record_scenes(dataclasses.replace(config, min_brightness=256))


def test_same_seed_same_scenes(tmp_path: Path) -> None:
    config = ScenesConfig(
        env_id="worldsim/TinyRoom-v0",
        out=tmp_path / "a",
        count=3,
        frames=2,
        steps=4,
        min_travel=0,
        env_kwargs={"size": 32},
    )
    a = record_scenes(config)
    b = record_scenes(dataclasses.replace(config, out=tmp_path / "b"))
    assert [folder.name for folder in a] == [folder.name for folder in b]
    for one, two in zip(a, b, strict=True):
        assert_same(load_scene(one), load_scene(two))
    c = record_scenes(dataclasses.replace(config, out=tmp_path / "c", seed=1))
    assert any(
        not torch.equal(load_scene(one).rgb, load_scene(two).rgb)
        for one, two in zip(a, c, strict=True)
    )


def test_names_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("MAP30-10", "MAP30-2", "MAP4-1", "E1M1-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scene.json").write_text("{}")
    (tmp_path / "unfinished").mkdir()
    assert scene_names(tmp_path) == ["E1M1-1", "MAP4-1", "MAP30-2", "MAP30-10"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, alter])
@pytest.mark.parametrize("name", ["frames.webp", "inverse_depth.png", "points.safetensors"])
def test_damaged_file(
    room_scene: SceneStart, tmp_path: Path, tiny_world: World, name: str, damage: Any
) -> None:
    folder = save_scene(with_points(room_scene, tiny_world), tmp_path / "scene")
    damage(folder / name)
    with pytest.raises(DamagedFileError, match=name):
        load_scene(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frames", 3),
        ("frames", "many"),
        ("pose", [[1.0]]),
        ("act", None),
        ("version", 99),
        ("format", "x"),
        ("sha256", {}),
    ],
)
def test_damaged_description(room_scene: SceneStart, tmp_path: Path, key: str, value: Any) -> None:
    folder = save_scene(room_scene, tmp_path / "scene")
    meta = json.loads((folder / "scene.json").read_text())
    (folder / "scene.json").write_text(json.dumps(meta | {key: value}))
    with pytest.raises(DamagedFileError, match=r"scene\.json"):
        load_scene(folder)
    (folder / "scene.json").write_text("[]")
    with pytest.raises(DamagedFileError, match=r"scene\.json"):
        load_scene(folder)


def test_missing_files(room_scene: SceneStart, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"scene\.json"):
        load_scene(tmp_path / "nowhere")
    folder = save_scene(room_scene, tmp_path / "scene")
    (folder / "inverse_depth.png").unlink()
    with pytest.raises(NotFoundError, match=r"inverse_depth\.png"):
        load_scene(folder)


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="steps 3"):
        ScenesConfig(env_id="worldsim/TinyRoom-v0", out=tmp_path, frames=6, steps=3)
    with pytest.raises(NotFoundError, match="worldsim/NoRoom-v0"):
        record_scenes(ScenesConfig(env_id="worldsim/NoRoom-v0", out=tmp_path))
    with pytest.raises(InvalidInputError, match="min_view"):
        record_scenes(
            ScenesConfig(
                "worldsim/TinyRoom-v0",
                tmp_path,
                env_kwargs={"size": 8},
                min_view=1e3,
                frames=1,
                steps=1,
            )
        )
    assert not any(tmp_path.iterdir())
