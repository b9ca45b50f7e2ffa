"""Meshes of a room whose geometry and colours are exactly known, and their files read back by other
programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from worldsim.camera import dequantise_depth, quantise_depth
from worldsim.envs.tiny_room import TILE_METRES, TinyRoom
from worldsim.errors import (
    InvalidInputError,
    MissingDependencyError,
    OutOfMemoryError,
    StorageError,
)
from worldsim.io.fusion import refined_depth
from worldsim.io.meshes import (
    GLTF_FROM_WORLD,
    FusionConfig,
    PoissonConfig,
    fuse,
    save_glb,
    wrap,
)
from worldsim.io.nerfstudio import trajectory_points
from worldsim.runtime.ply import save_ply
from worldsim.state import Trajectory

Array = Any


def off_the_walls(room: TinyRoom, position: Array) -> Array:
    """(n,) metres from each point to the nearest of the room's surfaces."""
    to_wall = np.minimum(np.abs(position), np.abs(position - room._extent)).min(1)
    aside = np.abs(position[:, :2] - room._pillar) - room._pillar_half
    to_pillar = np.where(
        (aside < 0).all(1), np.abs(aside).min(1), np.linalg.norm(np.maximum(aside, 0.0), axis=1)
    )
    return np.minimum(to_wall, to_pillar)


def floor_colour(room: TinyRoom, position: Array) -> tuple[Array, Array]:
    """The colours (n, 3) of the room's floor at points on it, and which of them lie over 0.1 m
    inside a tile."""
    tile = np.floor(position[:, :2] / TILE_METRES).astype(int) & 15
    colour = room._texture[(4 * 16 + tile[:, 0]) * 16 + tile[:, 1]]
    place = position[:, :2] % TILE_METRES
    return colour, ((place > 0.1) & (place < TILE_METRES - 0.1)).all(1)


def check_mesh(
    mesh: trimesh.Trimesh, room: TinyRoom, cell: float, share: float, tone: float
) -> None:
    """Vertices on the walls, faces towards the room's inside, the floor's colours."""
    vertices = np.asarray(mesh.vertices)
    distance = off_the_walls(room, vertices)
    assert distance.mean() < 0.01 and (distance < cell).mean() > share and distance.max() < 5 * cell
    # Most of the floor is there.
    assert len(np.unique(np.floor(vertices[vertices[:, 2] < 0.05, :2] / 0.25), axis=0)) > 500
    centre, normal = mesh.triangles_center, mesh.face_normals
    on_floor = (np.abs(centre[:, 2]) < 0.02) & (np.abs(normal[:, 2]) > 0.9)
    assert on_floor.sum() > 5000 and (normal[on_floor, 2] > 0).mean() > 0.99
    at_wall = (centre[:, 0] < 0.02) & (np.abs(normal[:, 0]) > 0.9)
    assert at_wall.sum() > 500 and (normal[at_wall, 0] > 0).mean() > 0.99
    floor = np.abs(vertices[:, 2]) < 0.02
    expected, inside = floor_colour(room, vertices[floor])
    colours: Any = mesh.visual.vertex_colors
    error = np.abs(colours[floor, :3].astype(float) - expected)[inside]
    assert len(error) > 1000 and np.median(error) <= 1.0 and error.mean() < tone


@pytest.fixture(scope="module")
def fused(room_walk: tuple[TinyRoom, Trajectory]) -> trimesh.Trimesh:
    return fuse(room_walk[1])


def test_a_fused_trajectory_is_the_room(
    fused: trimesh.Trimesh, room_walk: tuple[TinyRoom, Trajectory]
):
    check_mesh(fused, room_walk[0], 0.05, 0.98, 4.0)


def test_points_are_wrapped_into_the_room(room_walk: tuple[TinyRoom, Trajectory]):
    room, trajectory = room_walk
    position, colour = trajectory_points(trajectory)
    stray = np.array([[3.0, 3.0, 1.5], [5.0, 2.0, 1.0]], np.float32)
    position, colour = (
        np.concatenate([position, stray]),
        np.concatenate([colour, np.full((2, 3), 255, np.uint8)]),
    )
    mesh = wrap(position, colour, trajectory.pose[:, :3, 3].numpy())
    check_mesh(mesh, room, PoissonConfig().cell, 0.97, 8.0)


def test_glb_has_y_up_and_comes_back(fused: trimesh.Trimesh, tmp_path: Path):
    path = save_glb(fused, tmp_path / "new/room.glb")
    assert [p.name for p in path.parent.iterdir()] == ["room.glb"]
    read: Any = trimesh.load(path, force="mesh")
    # The floor, z = 0, is y = 0; north is -z.
    low, high = read.bounds
    assert abs(low[1]) < 0.1 and 2.5 < high[1] < 3.6 and low[2] < -5.0 and high[2] < 0.1
    back = trimesh.transform_points(read.vertices, GLTF_FROM_WORLD.T)
    np.testing.assert_allclose(back, fused.vertices, atol=1e-5)
    np.testing.assert_array_equal(read.faces, fused.faces)
    np.testing.assert_array_equal(read.visual.vertex_colors, fused.visual.vertex_colors)


def test_the_way_back_is_the_transpose():
    np.testing.assert_array_equal(GLTF_FROM_WORLD @ GLTF_FROM_WORLD.T, np.eye(4))
    assert np.linalg.det(GLTF_FROM_WORLD) == 1.0
    np.testing.assert_array_equal(GLTF_FROM_WORLD @ [1.0, 2.0, 3.0, 1.0], [1.0, 3.0, -2.0, 1.0])


def test_ply_is_read_by_open3d_and_trimesh(tmp_path: Path):
    import open3d

    position = np.array([[1.0, 2.0, 3.0], [-4.0, 5.5, 0.25]], np.float32)
    colour = np.array([[255, 0, 7], [1, 2, 3]], np.uint8)
    path = save_ply(position, colour, tmp_path / "points.ply")
    cloud: Any = trimesh.load(path)
    np.testing.assert_array_equal(cloud.vertices, position)
    np.testing.assert_array_equal(np.asarray(cloud.colors)[:, :3], colour)
    other = open3d.io.read_point_cloud(str(path))
    np.testing.assert_array_equal(np.asarray(other.points), position)
    np.testing.assert_allclose(np.asarray(other.colors) * 255.0, colour, atol=1e-4)


def test_what_is_seen_through_later_is_gone():
    """A wall 4 m ahead; a box stands 2 m ahead in the first frame and has gone in the nine after
    it."""
    code = quantise_depth(torch.full((10, 32, 32), 4.0))
    code[0, 10:22, 10:22] = quantise_depth(torch.tensor(2.0))
    rgb, pose = torch.full((10, 3, 32, 32), 100, dtype=torch.uint8), torch.eye(4).repeat(10, 1, 1)
    mesh = fuse(Trajectory(rgb, code, pose, torch.tensor([16.0, 16.0, 16.0, 16.0])))
    np.testing.assert_allclose(mesh.vertices[:, 2], 4.0, atol=0.01)


def test_sky_and_what_is_far_is_left_out():
    code = quantise_depth(torch.full((2, 32, 32), 4.0))
    code[:, :8], code[:, 24:] = 0, quantise_depth(torch.tensor(30.0))
    rgb, pose = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.eye(4).repeat(2, 1, 1)
    trajectory = Trajectory(rgb, code, pose, torch.tensor([16.0, 16.0, 16.0, 16.0]))
    vertices = fuse(trajectory).vertices
    np.testing.assert_allclose(vertices[:, 2], 4.0, atol=0.01)
    # Rows 8 to 24 of 32 span 2 m to either side.
    assert -2.1 < vertices[:, 1].min() < -1.9 and 1.9 < vertices[:, 1].max() < 2.1
    with pytest.raises(InvalidInputError, match="nothing but sky"):
        fuse(Trajectory(rgb, torch.zeros_like(code), pose, trajectory.intrinsics))


def test_refined_depth_is_exact_on_planes_and_keeps_edges():
    """Ground seen at a slant: inverse depth grows linearly from row to row. A column of sky, one of
    something near."""
    code = torch.zeros(8, 8)
    code += 1000.0 + 50.0 * torch.arange(8.0)[:, None]
    fine = refined_depth(code.numpy(), 2)
    # The centres of half pixels lie a quarter of a pixel off the whole one's.
    np.testing.assert_allclose(
        fine[4], dequantise_depth(torch.tensor(1000.0 + 50.0 * 1.75)), rtol=1e-6
    )
    code[:, 3], code[:, 6] = 0.0, 4000.0
    fine = refined_depth(code.numpy(), 2)
    assert np.isinf(fine[:, 6:8]).all() and np.isfinite(fine[:, :6]).all()
    np.testing.assert_allclose(fine[:, 12:14], dequantise_depth(torch.tensor(4000.0)))
    np.testing.assert_allclose(fine[6:8, 8:12], dequantise_depth(torch.tensor(1150.0)))


def test_bad_input(room_walk: tuple[TinyRoom, Trajectory]):
    points, colours = np.zeros((500, 3), np.float32), np.zeros((500, 3), np.uint8)
    with pytest.raises(InvalidInputError, match="voxel = 0"):
        fuse(room_walk[1], FusionConfig(voxel=0))
    with pytest.raises(InvalidInputError, match="5 points are too few"):
        wrap(points[:5], colours[:5])
    with pytest.raises(InvalidInputError, match="float32"):
        wrap(points, points)
    with pytest.raises(InvalidInputError, match="0 of 500 points"):
        wrap(np.arange(1500, dtype=np.float32).reshape(500, 3), colours)


def test_without_open3d_it_is_named(
    room_walk: tuple[TinyRoom, Trajectory], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[open3d\]'"):
        fuse(room_walk[1])


def test_open3d_is_imported_when_it_is_needed():
    code = (
        "import sys, worldsim.io.meshes, worldsim.io.nerfstudio, worldsim.scenes.capture; "
        "print('open3d' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
        == "False\n"
    )


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (FusionConfig, {"voxel": 1e-6}),
        (FusionConfig, {"voxel": float("nan")}),
        (FusionConfig, {"far": (1, 2)}),
        (FusionConfig, {"refine": 10**6}),
        (FusionConfig, {"truncation": 1e30}),
        (FusionConfig, {"sightings": 0}),
        (FusionConfig, {"smallest": -1}),
        (PoissonConfig, {"cell": 1e-6}),
        (PoissonConfig, {"neighbours": 10**9}),
        (PoissonConfig, {"neighbours": 2.5}),
        (PoissonConfig, {"outlier": 0.0}),
        (PoissonConfig, {"reach": -1.0}),
    ],
)
def test_settings_out_of_range(config: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"{config.__name__}.{next(iter(changes))} = "):
        config(**changes)


def test_meshes_that_memory_has_no_room_for(
    room_walk: tuple[TinyRoom, Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millimetres of a room of 8 m would take hundreds of gigabytes."""
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "4")
    with pytest.raises(OutOfMemoryError, match="a mesh with cells of 0.001 m"):
        fuse(room_walk[1], FusionConfig(voxel=0.001, far=20.0))


def test_points_that_are_none(tmp_path: Path) -> None:
    place, colour = np.zeros((300, 3)), np.zeros((300, 3), np.uint8)
    for position, colours in (
        (3, colour),
        (place[:, :2], colour),
        (place, colour[:1]),
        (place * np.nan, colour),
        (place + 1e30, colour),
    ):
        with pytest.raises(InvalidInputError):
            wrap(position, colours)  # type: ignore[arg-type]
    for position, colours in (
        (place, colour[:1]),
        (place * np.nan, colour),
        (place, colour.astype(float)),
        ("abc", colour),
    ):
        with pytest.raises(InvalidInputError):
            save_ply(position, colours, tmp_path / "a.ply")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="Trajectory"):
        fuse(3)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    place, colour = np.zeros((3, 3)), np.zeros((3, 3), np.uint8)
    (tmp_path / "link.ply").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("precious")
    with pytest.raises(StorageError, match="a symbolic link and would be destroyed"):
        save_ply(place, colour, tmp_path / "link.ply")
    assert (tmp_path / "precious").read_text() == "precious"
    with pytest.raises(StorageError):
        save_ply(place, colour, "/proc/nothing/a.ply")
