"""Editing a memory: boxes, colours, pasted points, and what comes from meshes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from worldsim.camera import Camera
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.memory.editing import in_box, surface_points
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.runtime.picture_formats import usual_pictures

MEMORY = PointMemory(PointMemoryConfig(capacity=8))
POSITION = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]]])
COLOUR = torch.tensor([[[10, 0, 0], [20, 0, 0], [30, 0, 0], [40, 0, 0]]], dtype=torch.uint8)


def test_boxes_by_hand() -> None:
    data = MEMORY.from_points(POSITION, COLOUR)
    assert (
        in_box(data, (-0.5, -0.5, -0.5), (1.0, 0.5, 0.5))[0].tolist()
        == [True, True, False, False] + [False] * 4
    )
    # A box of half a metre around (0, 2, 0), turned by a quarter: its x axis is the world's y.
    pose = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert in_box(data, (-0.25, -0.1, -0.1), (0.25, 0.1, 0.1), pose)[0, :4].tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert in_box(data, (-2.0, -0.1, -0.1), (0.0, 0.1, 0.1), pose)[0, :4].tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_remove_and_recolour() -> None:
    data = MEMORY.from_points(POSITION, COLOUR)
    chosen = in_box(data, (0.5, -1, -1), (1.5, 1, 1))
    assert MEMORY.count(MEMORY.remove(data, chosen)).tolist() == [3]
    red = MEMORY.recolour(data, chosen, torch.tensor([255, 1, 2], dtype=torch.uint8))
    assert red.colour[0, :, 1].tolist() == [255, 1, 2] and red.colour[0, :, 0].tolist() == [
        10,
        0,
        0,
    ]
    assert data.colour[0, :, 1].tolist() == [20, 0, 0]
    with pytest.raises(InvalidInputError, match="uint8"):
        MEMORY.recolour(data, chosen, torch.tensor([1.0, 0, 0]))


def test_pasted_points_are_seen_where_they_were_put() -> None:
    """A point a metre ahead of a camera that looks along y: at the middle of its picture, a metre
    deep."""
    memory = PointMemory(PointMemoryConfig(capacity=8))
    pose = torch.tensor([[1.0, 0, 0, 5], [0, 0, 1, 6], [0, -1, 0, 7], [0, 0, 0, 1]])
    data = memory.from_points(POSITION.expand(2, 4, 3), COLOUR.expand(2, 4, 3))
    ahead, colour = torch.tensor([[0.01, 0.01, 1.0]]), torch.tensor([[9, 8, 7]], dtype=torch.uint8)
    pasted = memory.paste(data, ahead, colour, pose, torch.tensor([5, 6]))
    assert memory.count(pasted).tolist() == [5, 5] and pasted.seen[:, 4].tolist() == [5, 6]
    torch.testing.assert_close(pasted.position[0, :, 4], torch.tensor([5.01, 7.0, 6.99]))
    view = memory.render(
        pasted, Camera(pose.expand(2, 4, 4), torch.tensor([[4.0, 4, 4, 4]]).expand(2, 4), 8, 8)
    )
    assert view.mask[0].nonzero().tolist() == [[4, 4]] and view.rgb[0, :, 4, 4].tolist() == [
        9,
        8,
        7,
    ]
    assert float(view.depth[0, 4, 4]) == pytest.approx(1.0, abs=1e-3)


def test_the_oldest_give_way_to_pasted_points() -> None:
    memory = PointMemory(PointMemoryConfig(capacity=4))
    data = memory.from_points(POSITION, COLOUR)
    data.seen[0] = torch.tensor([3, 1, 2, 4])
    pasted = memory.paste(
        data,
        torch.zeros(2, 3),
        torch.full((2, 3), 99, dtype=torch.uint8),
        torch.eye(4),
        torch.tensor([9]),
    )
    assert pasted.colour[0, 0].tolist() == [10, 99, 99, 40]
    with pytest.raises(InvalidInputError, match="5 points do not fit a memory of 4"):
        memory.paste(
            data,
            torch.zeros(5, 3),
            torch.zeros(5, 3, dtype=torch.uint8),
            torch.eye(4),
            torch.tensor([9]),
        )
    with pytest.raises(InvalidInputError, match="uint8"):
        memory.paste(data, torch.zeros(5, 3), torch.zeros(5, 3), torch.eye(4), torch.tensor([9]))


def test_points_of_a_mesh(tmp_path: Path) -> None:
    """A crate of 1 m: 6 square metres, so twice 6 / 0.1^2 points, all on its faces, in its
    colour."""
    crate = trimesh.creation.box((1.0, 1.0, 1.0))
    crate.visual = trimesh.visual.ColorVisuals(crate, vertex_colors=[[200, 100, 50, 255]] * 8)
    painted = crate.copy()
    painted.visual = trimesh.visual.ColorVisuals(painted, face_colors=[200, 100, 50, 255])
    for shape in (crate, painted, tmp_path / "crate.glb", tmp_path / "crate.ply"):
        if isinstance(shape, Path):
            crate.export(shape)
        position, colour = surface_points(shape, spacing=0.1)
        assert (
            position.shape == (1200, 3)
            and position.dtype == torch.float32
            and colour.dtype == torch.uint8
        )
        torch.testing.assert_close(position.abs().amax(1), torch.full((1200,), 0.5))
        assert colour.unique(dim=0).tolist() == [[200, 100, 50]]


def test_points_of_a_cloud_and_of_nothing(tmp_path: Path) -> None:
    cloud = trimesh.PointCloud([[0.0, 0, 0], [1, 2, 3]], colors=[[1, 2, 3, 255], [4, 5, 6, 255]])
    position, colour = surface_points(cloud)
    assert position.tolist() == [[0, 0, 0], [1, 2, 3]] and colour.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(NotFoundError, match=r"nothing\.glb"):
        surface_points(tmp_path / "nothing.glb")
    (tmp_path / "text.glb").write_text("no mesh")
    with pytest.raises(InvalidInputError, match="GLB"):
        surface_points(tmp_path / "text.glb")
    with pytest.raises(InvalidInputError, match="no surface"):
        surface_points(trimesh.Trimesh())


def test_a_file_to_paste_names_no_other_files(tmp_path: Path) -> None:
    """An OBJ's material may name any picture of this computer, and a picture in a GLB may be of a
    format that starts programs."""
    (tmp_path / "secret").mkdir()
    Image.fromarray(np.full((2, 2, 3), 7, np.uint8)).save(tmp_path / "secret/t.png")
    (tmp_path / "m.mtl").write_text("newmtl a\nmap_Kd secret/t.png\n")
    lines = [
        "mtllib m.mtl",
        "usemtl a",
        "v 0 0 0",
        "v 1 0 0",
        "v 0 1 0",
        "vt 0 0",
        "vt 1 0",
        "vt 0 1",
        "f 1/1 2/2 3/3",
    ]
    (tmp_path / "m.obj").write_text("\n".join(lines) + "\n")
    position, colour = surface_points(tmp_path / "m.obj", 0.1)
    assert len(position) and not bool((colour == 7).all(1).any())
    with usual_pictures():
        assert "EPS" not in Image.OPEN and "EPS" not in Image.ID
        with pytest.raises(OSError, match="cannot identify image file"):
            Image.open(
                io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
            )
    assert "EPS" in Image.OPEN and "EPS" in Image.ID


def test_files_that_are_no_shapes(tmp_path: Path) -> None:
    (tmp_path / "a.xaml").write_text("<x/>")
    os.mkfifo(tmp_path / "a.glb")
    for name, error in {
        "a.xaml": InvalidInputError,
        "a.glb": DamagedFileError,
        "b.stl": NotFoundError,
    }.items():
        with pytest.raises(error):
            surface_points(tmp_path / name)
