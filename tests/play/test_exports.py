"""Files of a walk: they hold the walk, and say that it was generated."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from worldsim.envs.tiny_room import TinyRoom
from worldsim.errors import InvalidInputError
from worldsim.io.meshes import save_glb
from worldsim.io.provenance.mark import read_picture_mark
from worldsim.io.provenance.publish import SWITCH
from worldsim.play.exports import Walk, export
from worldsim.state import Trajectory


@pytest.fixture
def walk(room_walk: tuple[TinyRoom, Trajectory]) -> Walk:
    """Six frames of a walk, and three points."""
    trajectory = room_walk[1]
    short = Trajectory(
        trajectory.rgb[:6],
        trajectory.inverse_depth[:6],
        trajectory.pose[:6],
        trajectory.intrinsics,
    )
    points = np.eye(3, dtype=np.float32), np.full((3, 3), 200, np.uint8)
    frames = short.rgb.permute(0, 2, 3, 1).contiguous().numpy()
    return Walk(frames, points, short, 8.75, "room", "ab12", 7)


def told(text: str) -> None:
    found = json.loads(text)
    assert found["generated"] is True
    assert (found["world"], found["weights_sha256"], found["seed"]) == ("room", "ab12", 7)


def test_a_picture(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    marked = read_mark(export(walk, "frame.png"))
    assert marked == walk.origin.payload
    monkeypatch.setenv(SWITCH, "off")
    with Image.open(io.BytesIO(export(walk, "frame.png"))) as picture:
        told(picture.info["comment"])
        pixels = np.asarray(picture)
    assert pixels.shape == (512, 512, 3)
    np.testing.assert_array_equal(pixels[::8, ::8], walk.frames[-1])


def read_mark(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as picture:
        found = read_picture_mark(np.asarray(picture))
    assert found.found
    return found.payload


def test_a_video(walk: Walk) -> None:
    with av.open(io.BytesIO(export(walk, "walk.mp4"))) as video:
        told(video.metadata["comment"])
        assert len(list(video.decode(video=0))) == 6


def test_points(walk: Walk) -> None:
    content = export(walk, "memory.ply")
    header = content.split(b"end_header")[0].decode()
    comment = next(line for line in header.splitlines() if line.startswith("comment comment: "))
    told(comment.removeprefix("comment comment: "))
    cloud = trimesh.load(io.BytesIO(content), file_type="ply")
    np.testing.assert_array_equal(cloud.vertices, np.eye(3))


def test_a_mesh(tmp_path: Path, walk: Walk) -> None:
    content = save_glb(trimesh.creation.box(), tmp_path / "a.glb", walk.metadata).read_bytes()
    length = int.from_bytes(content[12:16], "little")
    told(json.loads(content[20 : 20 + length])["asset"]["extras"]["comment"])


def test_a_dataset(walk: Walk) -> None:
    with zipfile.ZipFile(io.BytesIO(export(walk, "nerfstudio.zip"))) as packed:
        told(packed.read("dataset/generated.json").decode())
        assert "dataset/transforms.json" in packed.namelist()
        assert len([n for n in packed.namelist() if n.startswith("dataset/images/")]) == 6


def test_a_world_without_geometry(walk: Walk) -> None:
    plain = Walk(walk.frames, None, None, 50.0, "room", "ab12", 7)
    assert export(plain, "frame.png") == export(walk, "frame.png")
    for name in ("memory.ply", "memory.glb", "nerfstudio.zip"):
        with pytest.raises(InvalidInputError, match="this world has no"):
            export(plain, name)
