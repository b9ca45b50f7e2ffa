"""nerfstudio datasets: what is written, read back by other programs and by us, and what is
refused."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from worldsim.camera import Camera
from worldsim.envs.tiny_room import TinyRoom
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    StorageError,
)
from worldsim.evaluation.metrics import psnr
from worldsim.io.nerfstudio import open_capture, save_nerfstudio
from worldsim.io.rgbd import trajectory_of
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import Frame, Trajectory

Array = Any


@pytest.fixture(scope="module")
def dataset(
    room_walk: tuple[TinyRoom, Trajectory], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The walk in the room as a dataset. Tests must not write there."""
    return save_nerfstudio(room_walk[1], tmp_path_factory.mktemp("exported") / "room")


@pytest.fixture
def small(room_walk: tuple[TinyRoom, Trajectory], tmp_path: Path) -> Path:
    """Three frames of it, to spoil."""
    trajectory = room_walk[1]
    few = Trajectory(
        trajectory.rgb[:3], trajectory.inverse_depth[:3], trajectory.pose[:3], trajectory.intrinsics
    )
    return save_nerfstudio(few, tmp_path / "small")


def change(folder: Path, **values: Any) -> dict[str, Any]:
    """Change top keys of transforms.json; None removes one."""
    meta = json.loads((folder / "transforms.json").read_text())
    meta.update(values)
    meta = {key: value for key, value in meta.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return meta


def test_files(dataset: Path, room_walk: tuple[TinyRoom, Trajectory]):
    trajectory = room_walk[1]
    assert sorted(path.name for path in dataset.iterdir()) == [
        "depths",
        "images",
        "points.ply",
        "transforms.json",
    ]
    assert [p.name for p in dataset.parent.iterdir()] == ["room"]
    assert (
        len(list((dataset / "images").iterdir())) == len(list((dataset / "depths").iterdir())) == 80
    )
    meta = json.loads((dataset / "transforms.json").read_text())
    assert {key: meta[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model")} == {
        "w": 64,
        "h": 64,
        "fl_x": 32.0,
        "fl_y": 32.0,
        "cx": 32.0,
        "cy": 32.0,
        "camera_model": "PINHOLE",
    }
    assert "applied_transform" not in meta
    with Image.open(dataset / meta["frames"][7]["depth_file_path"]) as image:
        depth = np.array(image)
    assert depth.dtype == np.uint16
    np.testing.assert_allclose(depth, trajectory.depth[7] * 1000.0, atol=0.5)
    with Image.open(dataset / meta["frames"][7]["file_path"]) as image:
        np.testing.assert_array_equal(np.array(image), trajectory.rgb[7].permute(1, 2, 0))


def test_opengl_axes_by_hand(tmp_path: Path):
    """A camera at (1, 2, 3) that looks north (y) with z up: OpenCV columns east, down, north;
    OpenGL columns east, up, south."""
    pose = torch.tensor(
        [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0], [0.0, -1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]]
    )
    rgb, code = (
        torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        torch.full((1, 2, 2), 4096, dtype=torch.int32),
    )
    folder = save_nerfstudio(Trajectory(rgb, code, pose[None], torch.ones(4)), tmp_path / "one")
    written = json.loads((folder / "transforms.json").read_text())["frames"][0]["transform_matrix"]
    assert written == [
        [1.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, -1.0, 2.0],
        [0.0, 1.0, 0.0, 3.0],
        [0.0, 0.0, 0.0, 1.0],
    ]


def test_points_land_on_their_colours(dataset: Path):
    """Sparse points, projected by pinhole maths with the OpenGL poses in the file, meet pixels of
    their depth and colour."""
    import open3d

    cloud = open3d.io.read_point_cloud(str(dataset / "points.ply"))
    position, colour = np.asarray(cloud.points), np.asarray(cloud.colors) * 255.0
    meta = json.loads((dataset / "transforms.json").read_text())
    met, same = 0, 0
    for entry in meta["frames"][::8]:
        to_world = np.array(entry["transform_matrix"])
        x, y, z = ((position - to_world[:3, 3]) @ to_world[:3, :3]).T
        ahead = z < -0.1
        column = np.floor(meta["cx"] + meta["fl_x"] * x[ahead] / -z[ahead]).astype(int)
        row = np.floor(meta["cy"] - meta["fl_y"] * y[ahead] / -z[ahead]).astype(int)
        inside = (column >= 0) & (column < meta["w"]) & (row >= 0) & (row < meta["h"])
        column, row = column[inside], row[inside]
        with Image.open(dataset / entry["file_path"]) as image:
            shown = np.array(image, np.float64)[row, column]
        with Image.open(dataset / entry["depth_file_path"]) as image:
            depth = np.array(image)[row, column] / 1000.0
        seen = np.abs(depth + z[ahead][inside]) < 0.03 * depth
        met += seen.sum()
        same += (np.abs(shown - colour[ahead][inside])[seen].max(1) <= 1.0).sum()
    # Pixels on the border of two tiles may show the other one.
    assert met > 50_000 and same > 0.9 * met


def test_round_trip(dataset: Path, room_walk: tuple[TinyRoom, Trajectory]):
    trajectory = room_walk[1]
    again, known = trajectory_of(open_capture(dataset))
    assert bool(known.all())
    assert torch.equal(again.pose, trajectory.pose) and torch.equal(
        again.intrinsics, trajectory.intrinsics
    )
    assert torch.equal(again.rgb, trajectory.rgb)
    assert float((again.depth - trajectory.depth).abs().max()) <= 0.001


def test_a_memory_of_the_import_explains_the_frames(dataset: Path):
    trajectory, _ = trajectory_of(open_capture(dataset))
    memory = PointMemory(PointMemoryConfig(capacity=131072))
    data, cameras = memory.empty(1), trajectory.cameras
    coverage, quality = [], []
    for again in (False, True):
        for i in range(len(trajectory)):
            one = slice(i, i + 1)
            camera = Camera(cameras.pose[one], cameras.intrinsics[one], 64, 64)
            if again:
                view = memory.render(data, camera)
                coverage.append(float(view.coverage))
                shown = torch.where(view.mask[:, None], view.rgb, trajectory.rgb[one])
                quality.append(float(psnr(shown, trajectory.rgb[one])))
            else:
                frame = Frame(
                    trajectory.rgb[one], trajectory.inverse_depth[one], trajectory.pose[one]
                )
                data = memory.integrate(data, frame, camera, torch.tensor([i]))
    assert np.mean(coverage) > 0.9 and np.mean(quality) > 25.0


def test_sky_and_what_is_too_far_is_zero_and_comes_back_as_sky(tmp_path: Path):
    code = torch.tensor([[[124, 125], [126, 65535]]], dtype=torch.int32)
    trajectory = Trajectory(
        torch.zeros(1, 3, 2, 2, dtype=torch.uint8), code, torch.eye(4)[None], torch.ones(4)
    )
    folder = save_nerfstudio(trajectory, tmp_path / "sky")
    with Image.open(folder / "depths/frame_00000.png") as image:
        # 65,535 * 0.125 m / 125 is 65.535 m, the largest 16 bits hold.
        assert np.array(image).tolist() == [[0, 65535], [65015, 125]]
    again, known = trajectory_of(open_capture(folder))
    assert again.inverse_depth.tolist() == [[[0, 125], [126, 65535]]] and bool(known.all())
    _, known = trajectory_of(open_capture(folder, zero_is_sky=False))
    assert known.tolist() == [[[False, True], [True, True]]]


def test_points_may_be_given(small: Path, room_walk: tuple[TinyRoom, Trajectory], tmp_path: Path):
    import trimesh

    position, colour = np.array([[1.0, 2.0, 3.0]], np.float32), np.array([[10, 20, 30]], np.uint8)
    folder = save_nerfstudio(room_walk[1], tmp_path / "given", points=(position, colour))
    cloud = trimesh.load(folder / "points.ply")
    np.testing.assert_array_equal(cloud.vertices, position)
    np.testing.assert_array_equal(np.asarray(cloud.colors)[:, :3], colour)


def test_nothing_is_overwritten_without_force(
    small: Path, room_walk: tuple[TinyRoom, Trajectory], tmp_path: Path
):
    before = (small / "transforms.json").read_text()
    with pytest.raises(InvalidInputError, match="not empty.*--force"):
        save_nerfstudio(room_walk[1], small)
    assert (small / "transforms.json").read_text() == before
    save_nerfstudio(room_walk[1], small, force=True)
    assert len(open_capture(small)) == 80
    (tmp_path / "mine").mkdir()
    save_nerfstudio(room_walk[1], tmp_path / "mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("all of it")
    with pytest.raises(InvalidInputError, match="something else"):
        save_nerfstudio(room_walk[1], tmp_path / "other", force=True)
    assert (tmp_path / "other/thesis.tex").read_text() == "all of it"
    with pytest.raises(InvalidInputError, match="is a file"):
        save_nerfstudio(room_walk[1], tmp_path / "other/thesis.tex", force=True)


def test_a_failed_export_leaves_nothing_and_the_old_dataset(
    small: Path, room_walk: tuple[TinyRoom, Trajectory], monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    before = (small / "transforms.json").read_text()
    monkeypatch.setattr("worldsim.io.nerfstudio.write_json", full)
    for folder in (small, small.parent / "new"):
        with pytest.raises(OSError, match="no space"):
            save_nerfstudio(room_walk[1], folder, force=True)
    assert [path.name for path in small.parent.iterdir()] == ["small"]
    assert (small / "transforms.json").read_text() == before


# What is read.


def test_names_are_sorted_as_numbers(small: Path):
    meta = change(small)
    for entry, name in zip(meta["frames"], ("b_10.png", "b_9.png", "b_100.png"), strict=True):
        (small / entry["file_path"]).rename(small / name)
        entry["file_path"] = name
    change(small, frames=meta["frames"])
    assert [frame.name.split(": ")[1] for frame in open_capture(small)] == [
        "b_9.png",
        "b_10.png",
        "b_100.png",
    ]
    assert len(open_capture(small / "transforms.json")) == 3


def test_intrinsics_a_frame_or_an_angle(small: Path):
    meta = change(small, fl_x=None, fl_y=None)
    with pytest.raises(InvalidInputError, match="fl_x is None"):
        open_capture(small)
    for i, entry in enumerate(meta["frames"]):
        entry["fl_x"] = 20.0 + i
    change(small, frames=meta["frames"], cx=None, cy=None)
    # fl_y is fl_x, and the principal point the middle, where they are not given.
    assert [frame.intrinsics.tolist() for frame in open_capture(small)] == [
        [f, f, 32.0, 32.0] for f in (20.0, 21.0, 22.0)
    ]
    for entry in meta["frames"]:
        del entry["fl_x"]
    change(small, frames=meta["frames"], camera_angle_x=float(np.pi / 2))
    np.testing.assert_allclose(open_capture(small)[0].intrinsics, 32.0)


def test_units_and_up(small: Path):
    original = open_capture(small)[0].pose
    change(small, applied_scale=0.5)
    np.testing.assert_allclose(open_capture(small)[0].pose[:3, 3], 2.0 * original[:3, 3])
    np.testing.assert_allclose(
        open_capture(small, pose_scale=3.0)[0].pose[:3, 3], 3.0 * original[:3, 3]
    )
    change(small, depth_unit_scale_factor=None, integer_depth_scale=0.0005)
    depth = open_capture(small)[0].read()[1]
    np.testing.assert_allclose(open_capture(small, depth_scale=0.001)[0].read()[1], 2.0 * depth)
    # With y up, what was up (y) becomes z, and what was z becomes south (-y).
    turned = open_capture(small, up="y", pose_scale=1.0)[0].pose
    np.testing.assert_allclose(turned[:3], original[[0, 2, 1]] * np.array([[1.0], [-1.0], [1.0]]))
    turned = open_capture(small, up="-y", pose_scale=1.0)[0].pose
    np.testing.assert_allclose(turned[:3], original[[0, 2, 1]] * np.array([[1.0], [1.0], [-1.0]]))
    with pytest.raises(InvalidInputError, match="up is 'x'"):
        open_capture(small, up="x")
    with pytest.raises(InvalidInputError, match="metres a unit"):
        open_capture(small, depth_scale=0.0)


def test_depth_as_numbers(small: Path):
    meta = change(small)
    metres = np.full((32, 32), 2500.0, np.float32)
    metres[0, 0], metres[0, 1] = np.nan, np.inf
    np.save(small / "depth.npy", metres)
    meta["frames"][0]["depth_file_path"] = "depth.npy"
    change(small, frames=meta["frames"], zero_depth_is_sky=False)
    depth = open_capture(small)[0].read()[1]
    assert np.isnan(depth[0, 0]) and np.isinf(depth[0, 1]) and depth[5, 5] == 2.5


def test_missing(small: Path, tmp_path: Path):
    with pytest.raises(NotFoundError, match="no capture .*nowhere.*transforms.json"):
        open_capture(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="no nerfstudio dataset"):
        open_capture(small / "images")
    (small / "images/frame_00001.png").unlink()
    with pytest.raises(NotFoundError, match=r"frame_00001\.png is missing"):
        open_capture(small)


def test_truncated(small: Path):
    file = small / "transforms.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    with pytest.raises(DamagedFileError, match=r"transforms\.json is not valid JSON"):
        open_capture(small)
    for broken in ("[]", "{}", '{"frames": []}', '{"frames": [3]}', '{"frames": [{}]}'):
        file.write_text(broken)
        with pytest.raises(DamagedFileError, match=r"transforms\.json"):
            open_capture(small)
    file.write_text(text)
    (small / "images/frame_00000.png").write_bytes(b"\x89PNG")
    (small / "depths/frame_00001.png").write_bytes(b"\x89PNG")
    frames = open_capture(small)
    with pytest.raises(
        DamagedFileError, match=r"images/frame_00000\.png is not a readable picture"
    ):
        frames[0].read()
    with pytest.raises(
        DamagedFileError, match=r"depths/frame_00001\.png is not a readable picture.*PNG, TIFF"
    ):
        frames[1].read()


def test_pictures_of_the_wrong_size_or_kind(small: Path):
    Image.new("RGB", (32, 64)).save(small / "images/frame_00000.png")
    Image.new("I;16", (64, 32)).save(small / "depths/frame_00001.png")
    Image.new("L", (64, 64)).save(small / "depths/frame_00002.png")
    frames = open_capture(small)
    with pytest.raises(InvalidInputError, match="32x64 pixels and its camera 64x64"):
        frames[0].read()
    with pytest.raises(InvalidInputError, match="64x32 pixels: that is another shape"):
        frames[1].read()
    with pytest.raises(InvalidInputError, match="uint8.*16-bit"):
        frames[2].read()


def test_no_depth(small: Path):
    meta = change(small)
    del meta["frames"][1]["depth_file_path"]
    change(small, frames=meta["frames"])
    with pytest.raises(MissingGeometryError, match="frame_00001.*depth_file_path"):
        open_capture(small)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"k1": 0.02, "k2": -0.01}, "k1 = 0.02, k2 = -0.01"),
        ({"p1": 1e-4, "camera_model": "OPENCV"}, "p1 = 0.0001"),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
    ],
)
def test_distorted_cameras_are_refused(small: Path, values: dict[str, Any], said: str):
    change(small, **values)
    with pytest.raises(InvalidInputError, match=f"distorted .*{said}.*undistort"):
        open_capture(small)


def test_zero_distortion_is_none(small: Path):
    change(small, camera_model="OPENCV", k1=0.0, k2=0, p1=0.0, p2=0.0)
    assert len(open_capture(small)) == 3


def test_numbers_that_are_none(small: Path):
    meta = change(small)
    for matrix, said in (
        ([[1.0]], "4x4"),
        ("no", "transform_matrix"),
        ((2.0 * np.eye(4)).tolist(), "orthonormal"),
    ):
        meta["frames"][0]["transform_matrix"] = matrix
        change(small, frames=meta["frames"])
        with pytest.raises((InvalidInputError, DamagedFileError), match=f"frame_00000.*{said}"):
            open_capture(small)
    meta["frames"][0]["transform_matrix"] = np.eye(4).tolist()
    change(small, frames=meta["frames"], fl_x="wide")
    with pytest.raises(InvalidInputError, match="fl_x is 'wide'"):
        open_capture(small)


def changed(folder: Path, **changes: Any) -> Path:
    """The dataset with other values for its second frame."""
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    meta["frames"][1] |= changes
    file.write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("key", ["file_path", "depth_file_path"])
def test_only_files_inside_the_folder_are_read(small: Path, tmp_path: Path, key: str) -> None:
    """A capture from somebody else names files of its own folder, or it is refused."""
    outside = tmp_path / "outside.png"
    outside.write_bytes((small / "images/frame_00001.png").read_bytes())
    (small / "link.png").symlink_to(outside)
    (small / "linked").symlink_to(tmp_path)
    for name in (
        "../outside.png",
        str(outside),
        "link.png",
        "linked/outside.png",
        "images/../../outside.png",
        "/dev/zero",
    ):
        with pytest.raises(DamagedFileError, match=r"only files inside|leads out"):
            open_capture(changed(small, **{key: name}))
    (small / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(small / "pipe.png")
    for name in ("zero.png", "pipe.png"):
        with pytest.raises(DamagedFileError):
            open_capture(changed(small, **{key: name}))


@pytest.mark.parametrize(
    "changes",
    [
        {"w": 10**9},
        {"h": 0},
        {"w": 31.5},
        {"fl_x": 1e-300},
        {"fl_x": 10**400},
        {"cx": 1e300},
        {"k1": float("nan")},
        {"transform_matrix": (np.eye(4) + np.eye(4, k=3) * 1e30).tolist()},
        {"transform_matrix": (np.eye(4) * 1e200).tolist()},
        {"transform_matrix": np.eye(4)[[0, 1, 2, 2]].tolist()},
        {"transform_matrix": [[1], [2, 3]]},
        {"transform_matrix": 10**400},
    ],
)
def test_cameras_that_cannot_be(small: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(
        (InvalidInputError, DamagedFileError), match=r"frame_00001|transforms\.json"
    ):
        open_capture(changed(small, **changes))


@pytest.mark.parametrize("angle", [0.0, -1.0, 3.15, 1e9])
def test_angles_that_are_none(small: Path, angle: float) -> None:
    file = small / "transforms.json"
    meta = json.loads(file.read_text())
    del meta["fl_x"]
    file.write_text(json.dumps({**meta, "camera_angle_x": angle}))
    with pytest.raises(InvalidInputError, match="camera_angle_x"):
        open_capture(small)


@pytest.mark.parametrize(
    "given",
    [
        {"depth_scale": 1e300},
        {"pose_scale": "1"},
        {"up": 3},
        {"zero_is_sky": 1},
        {"depth_scale": float("nan")},
    ],
)
def test_arguments_that_are_none(small: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(given))):
        open_capture(small, **given)


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 1000000), }", b"\0" * 100),
        npy("{'descr': '<u2', 'fortran_order': False, 'shape': (-64, -64), }", b"\0" * 8192),
        npy(
            "{'descr': '|O', 'fortran_order': False, 'shape': (64, 64), }",
            b"cos\nsystem\n(S'true'\ntR.",
        ),
        npy("{'descr': '<u2', 'fortran_order': False, 'shape': open('x', 'w'), }"),
        npy("[" * 90),
        b"\x93NUMPY\x09\x00",
        b"",
        b"\x93NUM",
    ],
)
def test_arrays_of_depth_are_no_longer_than_their_file(small: Path, content: bytes) -> None:
    (small / "depth.npy").write_bytes(content)
    frames = open_capture(changed(small, depth_file_path="depth.npy"))
    with pytest.raises(DamagedFileError, match=r"depth\.npy is not a readable depth picture"):
        frames[1].read()


def test_pictures_of_other_formats_and_sizes_are_not_decoded(small: Path) -> None:
    """EPS starts Ghostscript, and a small file may claim gigabytes of pixels."""
    path = small / "images/frame_00000.png"
    for content in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n",
        png(2**31 - 1, 2**31 - 1),
        png(30_000, 30_000),
    ):
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"frame_00000\.png"):
            open_capture(small)[0].read()


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def test_a_dataset_is_not_written_through_a_link(
    room_walk: tuple[TinyRoom, Trajectory], small: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(small)
    trajectory = room_walk[1]
    few = Trajectory(
        trajectory.rgb[:2], trajectory.inverse_depth[:2], trajectory.pose[:2], trajectory.intrinsics
    )
    with pytest.raises(InvalidInputError, match="symbolic link"):
        save_nerfstudio(few, link, force=True)
    assert len(open_capture(small)) == 3
    with pytest.raises(StorageError):
        save_nerfstudio(few, "/proc/nothing/x")
    with pytest.raises(InvalidInputError, match="Trajectory"):
        save_nerfstudio(3, tmp_path / "new")  # type: ignore[arg-type]
    assert len(open_capture(save_nerfstudio(few, small, force=True))) == 2
    assert not [path for path in tmp_path.rglob(".*")]
