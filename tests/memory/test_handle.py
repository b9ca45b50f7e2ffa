"""The memory in a user's hands: defaults, bad input, edits, and the shipped world seen large."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from tests.helpers.worlds import SIZE, make_tiny_world
from worldsim.camera import Camera
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError, MissingGeometryError, NotFoundError, OutOfMemoryError
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig


@pytest.fixture
def env(world_folder: Path) -> WorldEnv:
    env = WorldEnv(world_folder)
    env.reset(seed=3)
    for action in (1, 3, 3):
        env.step(action)
    return env


@pytest.fixture(scope="module")
def shipped() -> WorldEnv:
    """The shipped world after a turn on the spot and a few steps."""
    env = WorldEnv("freedoom-tiny", device="cpu")
    env.reset(seed=0, options={"scene": "MAP28-8"})
    for action in [3] * 6 + [1] * 4:
        env.step(action)
    return env


def test_defaults_are_the_newest_frames(env: WorldEnv) -> None:
    memory, state = env.memory, env.state
    picture = memory.render()
    assert picture.rgb.shape == (SIZE, SIZE, 3) and picture.rgb.dtype == np.uint8
    np.testing.assert_array_equal(picture.pose, state.frame.pose[0])
    np.testing.assert_array_equal(picture.intrinsics, state.intrinsics[0])
    view = env.world.memory.render(
        state.memory, Camera(state.frame.pose, state.intrinsics, SIZE, SIZE)
    )
    # Everything that the dynamics' view knows is known here too.
    assert picture.mask[view.mask[0].numpy()].all()
    assert picture.depth.dtype == picture.normals.dtype == np.float32


def test_sizes_and_fields_of_view(env: WorldEnv) -> None:
    """Twice as high and four times as wide: square pixels of half the size, and more to see at the
    sides."""
    camera = env.memory.camera(size=(64, 128))
    assert camera.intrinsics[0].tolist() == [32.0, 32.0, 64.0, 32.0] and (
        camera.height,
        camera.width,
    ) == (64, 128)
    own = env.memory.camera(size=(64, 128), intrinsics=[50, 60, 70, 80])
    assert own.intrinsics[0].tolist() == [50.0, 60.0, 70.0, 80.0]
    given = env.memory.render(own)
    again = env.memory.render(size=(64, 128), intrinsics=(50, 60, 70, 80))
    for name in ("rgb", "depth", "mask", "normals"):
        np.testing.assert_array_equal(getattr(given, name), getattr(again, name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pose": np.eye(3)}, r"pose must be \(4, 4\)"),
        ({"pose": 2 * np.eye(4)}, "orthonormal"),
        ({"pose": np.full((4, 4), np.nan)}, "finite"),
        ({"pose": "north"}, "no array"),
        ({"size": 64}, "size is 64"),
        ({"size": (0, 64)}, "from 1 to"),
        ({"intrinsics": (1, 2, 3)}, r"intrinsics must be \(4,\)"),
        ({"intrinsics": (-1, 2, 3, 4)}, "positive"),
        (
            {"pose": Camera(torch.eye(4)[None], torch.ones(1, 4), 8, 8), "size": (8, 8)},
            "brings its own size",
        ),
    ],
)
def test_bad_cameras(env: WorldEnv, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        env.memory.render(**arguments)


def test_points_are_those_of_the_memory(env: WorldEnv) -> None:
    data, points = env.state.memory, env.memory.points()
    chosen = data.kind[0] == 1
    assert (
        len(points) == int(chosen.sum())
        and points.position.shape == (len(points), 3) == points.colour.shape
    )
    np.testing.assert_array_equal(points.position, data.position[0][:, chosen].T)
    np.testing.assert_array_equal(points.seen, data.seen[0][chosen])
    assert (points.position.dtype, points.colour.dtype, points.confidence.dtype) == (
        np.float32,
        np.uint8,
        np.uint8,
    )
    assert points.size.min() > 0 and points.confidence.min() >= 1
    numbers = env.memory.statistics()
    assert (
        type(numbers["points"]) is int
        and numbers["points"] == len(points)
        and type(numbers["extent_m"]) is float
    )
    direction, colour = env.memory.sky()
    assert len(direction) == len(colour) == numbers["directions"]


def test_edits_are_new_handles_and_the_dream_takes_them(env: WorldEnv, tmp_path: Path) -> None:
    memory = env.memory
    at = memory.pose.clone()
    at[:3, 3] += at[:3, 2]
    # This memory is full: a little room first.
    half_of_them = float(np.median(memory.points().position[:, 2]))
    roomy = memory.remove(((-99.0, -99.0, -99.0), (99.0, 99.0, half_of_them)))
    count = roomy.statistics()["points"]
    assert count < memory.statistics()["points"] - 2
    pasted = roomy.paste(([[0.0, 0, 0], [0.05, 0, 0]], np.full((2, 3), 77, np.uint8)), at)
    assert pasted.statistics()["points"] == count + 2 and roomy.statistics()["points"] == count
    box = ((-0.1, -0.1, -0.1), (0.1, 0.1, 0.1))
    red = pasted.recolour(box, (255, 0, 0), at)
    assert (red.points().colour == [255, 0, 0]).all(1).sum() >= 2
    assert red.remove(box, at).statistics()["points"] <= count
    env.edit(red)
    frame = env.state.frame
    assert bool((frame.rgb[0] == torch.tensor([255, 0, 0])[:, None, None]).all(0).any())
    assert torch.equal(env.trajectory.rgb[-1], frame.rgb[0]) and len(env.trajectory) == 7
    red.to_ply(tmp_path / "red.ply")
    assert len(trimesh.load(tmp_path / "red.ply").vertices) == count + 2
    for call in (
        lambda: memory.remove((1, 2, 3)),
        lambda: memory.recolour(box, (256, 0, 0)),
        lambda: memory.recolour(box, (1,)),
    ):
        with pytest.raises(InvalidInputError):
            call()


def test_rows_of_a_vector_environment(world_folder: Path) -> None:
    venv = WorldVectorEnv(3, world_folder)
    venv.reset(seed=3)
    single = WorldEnv(world_folder)
    single.reset(seed=4)
    np.testing.assert_array_equal(venv.memory_of(1).render().rgb, single.memory.render().rgb)
    for index in (-1, 3):
        with pytest.raises(InvalidInputError, match="there are 3"):
            venv.memory_of(index)


def test_worlds_without_memory(world_folder: Path) -> None:
    blind = make_tiny_world(geometry=False)
    env = WorldEnv(blind)
    env.reset(seed=0, options={"frames": {"rgb": np.zeros((1, SIZE, SIZE, 3), np.uint8)}})
    for other in (env, WorldEnv(make_tiny_world().without_memory())):
        if other is not env:
            other.reset(seed=0, options={"frames": some_frames(world_folder)})
        with pytest.raises(MissingGeometryError, match="no scene memory"):
            _ = other.memory
    with pytest.raises(MissingGeometryError, match="no geometry"):
        _ = env.trajectory


def some_frames(world_folder: Path) -> Any:
    env = WorldEnv(world_folder)
    env.reset(seed=0)
    trajectory = env.trajectory
    return {
        "rgb": trajectory.rgb.permute(0, 2, 3, 1).numpy(),
        "depth": trajectory.depth.numpy(),
        "pose": trajectory.pose.numpy(),
        "intrinsics": trajectory.intrinsics.numpy(),
    }


def test_a_memory_of_another_kind_shows_itself(env: WorldEnv) -> None:
    """Retrieval holds frames, not points: it can be looked at, and says what it cannot do."""
    kind = RetrievalMemory(RetrievalMemoryConfig(height=SIZE, width=SIZE, capacity=2))
    state = env.state
    camera = Camera(state.frame.pose, state.intrinsics, SIZE, SIZE)
    data = kind.integrate(kind.empty(1, "cpu"), state.frame, camera, state.step)
    handle = MemoryHandle.of(kind, dataclasses.replace(state, memory=data))
    picture = handle.render()
    # An untrained world's depth is noise: much of it lies between nearer pixels, where nothing is
    # shown.
    assert picture.mask.mean() > 0.2
    frame = state.frame.rgb[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(picture.rgb[picture.mask], frame[picture.mask])
    length = np.linalg.norm(picture.normals, axis=-1)
    unit = np.isclose(length, 1.0, atol=1e-4)
    assert unit[picture.mask].mean() > 0.5 and (unit | (length == 0)).all()
    for call in (
        handle.points,
        handle.top_down,
        handle.statistics,
        lambda: handle.remove(((0, 0, 0), (1, 1, 1))),
    ):
        with pytest.raises(InvalidInputError, match="RetrievalMemory"):
            call()


def test_the_shipped_world_seen_large(shipped: WorldEnv) -> None:
    """512x512 from a memory of 64x64 frames is dense, and it is the same place: shrunk, it is the
    dynamics' own view."""
    picture = shipped.memory.render(size=(512, 512))
    assert picture.mask.mean() > 0.99
    state = shipped.state
    view = shipped.world.memory.render(
        state.memory, Camera(state.frame.pose, state.intrinsics, 64, 64)
    )
    small = picture.rgb.reshape(64, 8, 64, 8, 3).mean((1, 3))
    error = np.square(small - view.rgb[0].permute(1, 2, 0).numpy())[view.mask[0].numpy()].mean()
    assert 10 * np.log10(255**2 / error) > 24
    solid = np.isfinite(picture.depth) & picture.mask
    length = np.linalg.norm(picture.normals, axis=-1)
    assert (np.isclose(length, 1, atol=1e-4) | (length == 0)).all() and (
        length[solid] > 0
    ).mean() > 0.9
    # Towards the camera: against the ray through the pixel, in world axes.
    fx, fy, cx, cy = picture.intrinsics
    v, u = np.mgrid[:512, :512] + 0.5
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ picture.pose[:3, :3].T
    assert (((ray * picture.normals).sum(-1) <= 1e-5) | ~solid).all()


def test_the_shipped_worlds_floor_faces_up(shipped: WorldEnv) -> None:
    """Of what is seen in the lowest eighth of the picture, most is floor."""
    normals = shipped.memory.render(size=(256, 256)).normals[224:]
    assert (normals[..., 2] > 0.8).mean() > 0.6


def test_things_stand_on_the_floor(shipped: WorldEnv) -> None:
    """Reproduces: the README's crate hung in mid-air. The player's eyes are 41 map units, 1.28 m,
    over the ground."""
    memory = shipped.memory
    ahead = memory.pose.clone()
    ahead[:3, 3] += 1.5 * ahead[:3, 2]
    assert memory.floor(ahead) == pytest.approx(float(memory.pose[2, 3]) - 41 / 32, abs=0.15)
    assert memory.floor(ahead[:2, 3], radius=0.4) == pytest.approx(memory.floor(ahead), abs=0.05)
    with pytest.raises(NotFoundError, match="the memory knows 0 points of the ground within 0.5 m"):
        memory.floor((1e4, 1e4))
    with pytest.raises(InvalidInputError, match="place"):
        memory.floor("here")
    with pytest.raises(InvalidInputError, match="radius"):
        memory.floor(ahead, radius=0)


def test_the_shipped_world_from_above_and_in_voxels(shipped: WorldEnv) -> None:
    memory = shipped.memory
    above = memory.top_down()
    assert (
        above.mask.any()
        and above.rgb[above.mask].any()
        and np.isnan(above.height[~above.mask]).all()
    )
    assert float(np.nanmax(above.height)) <= float(memory.pose[2, 3]) + 0.25
    one, walk = memory.occupancy(), memory.occupancy(trajectory=shipped.trajectory)
    np.testing.assert_array_equal(one.occupied, walk.occupied)
    assert walk.free.sum() > one.free.sum() > 0 and not (walk.free & walk.occupied).any()
    assert walk.free[tuple(walk.index(memory.pose[:3, 3] + 0.3 * memory.pose[:3, 2]))]


def test_pictures_that_memory_has_no_room_for(
    env: WorldEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8192x8192 take 17 GB while they are drawn."""
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "4")
    with pytest.raises(OutOfMemoryError, match="a picture of 8192x8192 pixels"):
        env.memory.render(size=(8192, 8192))
    assert env.memory.render(size=(40, 40)).mask.any()


@pytest.mark.parametrize(
    ("pose", "what"),
    [
        (np.diag([-1.0, 1, 1, 1]), "mirrors"),
        (np.eye(4) * 2, "orthonormal"),
        (np.eye(4) + np.eye(4, k=3) * 1e30, "within 1000000 m"),
        (np.eye(4)[[0, 1, 2, 2]], "last row"),
        ("pose", "no array of numbers"),
    ],
)
def test_poses_that_are_none(env: WorldEnv, pose: Any, what: str) -> None:
    box = ((0, 0, 0), (1, 1, 1))
    for use in (
        lambda: env.memory.render(pose),
        lambda: env.memory.remove(box, pose),
        lambda: env.memory.recolour(box, (1, 2, 3), pose),
    ):
        with pytest.raises(InvalidInputError, match=what):
            use()


@pytest.mark.parametrize("intrinsics", [[1e-30] * 4, [1e30] * 4, "abcd", [1, 2, 3, 10**400]])
def test_intrinsics_that_are_none(env: WorldEnv, intrinsics: Any) -> None:
    with pytest.raises(InvalidInputError, match="intrinsics"):
        env.memory.render(intrinsics=intrinsics)


def test_pastes_and_colours_that_are_none(env: WorldEnv) -> None:
    place, colour = np.zeros((2, 3)), np.zeros((2, 3), np.uint8)
    for shape in (
        (place,),
        (place * np.nan, colour),
        (place, colour[:1]),
        (place[:, :2], colour),
        (place, colour.astype(int)),
        ("a", "b"),
    ):
        with pytest.raises(InvalidInputError, match="shape"):
            env.memory.paste(shape, np.eye(4))
    with pytest.raises(InvalidInputError, match="distance = nan"):
        env.memory.paste((place, colour), np.eye(4), distance=np.nan)
    for bad in ("red", (1, 2), (256, 0, 0), (0.5, 0, 0), 3):
        with pytest.raises(InvalidInputError, match="colour"):
            env.memory.recolour(((0, 0, 0), (1, 1, 1)), bad)  # type: ignore[arg-type]
