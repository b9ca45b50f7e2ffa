"""Pictures that places are generated from: kinds of files, cameras, poses and conventions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.painters import INTRINSICS, SIZE
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.io.nerfstudio import OPENGL_AXES, save_nerfstudio
from worldsim.painting.places.pictures import check_upright, open_pictures, read_photo
from worldsim.painting.places.place import level_pose, ring
from worldsim.protocols import PainterSpec
from worldsim.state import Trajectory

SPEC = PainterSpec(SIZE, SIZE, INTRINSICS, 4)


def save(path: Path, array: Any, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.fixture
def noise() -> Any:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_usual_pictures_become_colours(tmp_path: Path, noise: Any):
    assert np.array_equal(read_photo(save(tmp_path / "a.png", noise)), noise)
    grey = read_photo(save(tmp_path / "grey.png", noise[..., 0]))
    assert np.array_equal(grey, noise[..., :1].repeat(3, 2))
    deep = read_photo(save(tmp_path / "deep.png", noise[..., 0].astype(np.uint16) * 257))
    assert np.array_equal(deep, grey), "16 bits are scaled, not clipped"
    cmyk = read_photo(save(tmp_path / "cmyk.jpg", noise, "CMYK"))
    assert cmyk.shape == noise.shape and cmyk.dtype == np.uint8
    for mode in ("P", "1", "LA", "RGBA"):
        assert read_photo(save(tmp_path / f"{mode}.png", noise, mode)).shape == noise.shape


def test_a_camera_that_was_turned_is_turned_back(tmp_path: Path, noise: Any):
    exif = Image.Exif()
    exif[274] = 6
    assert read_photo(save(tmp_path / "a.png", noise, exif=exif)).shape == (80, 60, 3)


def test_bad_pictures_are_named(tmp_path: Path, noise: Any):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    whole = save(tmp_path / "whole.png", noise).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("empty.png", "text.png", "cut.png"):
        with pytest.raises(DamagedFileError, match=name):
            read_photo(tmp_path / name)
    with pytest.raises(InvalidInputError, match="8x8 pixels"):
        read_photo(save(tmp_path / "small.png", noise[:8, :8]))
    with pytest.raises(InvalidInputError, match="float32"):
        read_photo(save(tmp_path / "real.tiff", noise[..., 0].astype(np.float32)))
    Image.new("1", (9_000, 9_000)).save(tmp_path / "huge.png")
    with pytest.raises(DamagedFileError, match="9000x9000"):
        read_photo(tmp_path / "huge.png")
    with pytest.raises(NotFoundError, match=r"none\.png"):
        open_pictures([tmp_path / "none.png"], SPEC)
    with pytest.raises(InvalidInputError, match="no pictures"):
        open_pictures([], SPEC)


def test_a_picture_is_cropped_to_the_painters_view(tmp_path: Path, noise: Any):
    large = np.repeat(np.repeat(noise, 8, 0), 8, 1)
    for name, array in (("a.png", noise), ("b.png", large), ("c.png", noise.transpose(1, 0, 2))):
        pictures = open_pictures([save(tmp_path / name, array)], SPEC)
        assert pictures.rgb.shape == (1, 3, SIZE, SIZE) and pictures.pose is None
        assert bool(pictures.covered.all()) and pictures.names == (name,)


def test_what_a_narrow_camera_does_not_see_is_not_covered(tmp_path: Path, noise: Any):
    poses = write_poses(tmp_path, "opencv", intrinsics=[60.0, 60.0, 40.0, 30.0])
    for i in range(2):
        save(tmp_path / f"{i}.png", noise)
    pictures = open_pictures([], SPEC, poses)
    covered = pictures.covered[0]
    assert not bool(covered.all()) and bool(covered[SIZE // 2, SIZE // 2])
    # 2 atan(40 / 60) of 73.7 degrees, along both axes.
    assert float(covered.float().mean()) == pytest.approx(0.8 * 0.89, abs=0.08)
    write_poses(tmp_path, "opencv", intrinsics=[500.0, 500.0, 40.0, 30.0])
    with pytest.raises(InvalidInputError, match="wider pictures"):
        open_pictures([], SPEC, poses)


def write_poses(
    folder: Path, convention: str, said: str = "", turn: Any = None, intrinsics: Any = None
) -> Path:
    """Poses of 0.png and 1.png, of two headings, in ``convention``; the file says ``said``."""
    poses = ring(level_pose(1.0, 2.0, 1.5), 8)[:2].double().numpy()
    axes = OPENGL_AXES if convention == "opengl" else np.eye(4)
    world = np.eye(4) if turn is None else turn
    values = {
        "convention": said or convention,
        "poses": {f"{i}.png": (world @ poses[i] @ axes).tolist() for i in range(2)},
        **({} if intrinsics is None else {"intrinsics": intrinsics}),
    }
    path = folder / "poses.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("convention", ["opencv", "opengl"])
def test_both_conventions_give_the_same_poses(tmp_path: Path, noise: Any, convention: str):
    paths = [save(tmp_path / f"{i}.png", noise) for i in range(2)]
    pictures = open_pictures(paths, SPEC, write_poses(tmp_path, convention))
    assert pictures.pose is not None
    expected = ring(level_pose(1.0, 2.0, 1.5), 8)[:2]
    assert float((pictures.pose - expected).abs().max()) < 1e-3


def test_wrong_conventions_are_refused(tmp_path: Path, noise: Any):
    paths = [save(tmp_path / f"{i}.png", noise) for i in range(2)]
    for convention, said in (("opengl", "opencv"), ("opencv", "opengl")):
        with pytest.raises(InvalidInputError, match="upside down.*other convention"):
            open_pictures(paths, SPEC, write_poses(tmp_path, convention, said))
    y_up = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    with pytest.raises(InvalidInputError, match="do not stand upright.*world-to-camera"):
        open_pictures(paths, SPEC, write_poses(tmp_path, "opencv", turn=y_up))


def test_world_to_camera_matrices_are_refused():
    poses = ring(level_pose(1.0, 2.0, 1.5), 8)[:3].double().numpy()
    names = ["a.png", "b.png", "c.png"]
    check_upright(list(poses), names)
    with pytest.raises(InvalidInputError, match="world-to-camera: inverted"):
        check_upright([np.linalg.inv(pose) for pose in poses], names)


def test_bad_poses_are_named(tmp_path: Path, noise: Any):
    paths = [save(tmp_path / f"{name}.png", noise) for name in ("0", "1", "2")]
    with pytest.raises(NotFoundError, match=r"no pose of 2\.png"):
        open_pictures(paths, SPEC, write_poses(tmp_path, "opencv"))
    poses = tmp_path / "poses.json"
    for content in ("{", "[]", '{"poses": {}}', '{"convention": "blender", "poses": {}}'):
        poses.write_text(content)
        with pytest.raises(DamagedFileError, match=r"poses\.json"):
            open_pictures(paths, SPEC, poses)
    matrix = (2.0 * np.eye(4)).tolist()
    poses.write_text(json.dumps({"convention": "opencv", "poses": {"0.png": matrix}}))
    with pytest.raises(InvalidInputError, match=r"0\.png.*orthonormal"):
        open_pictures(paths[:1], SPEC, poses)
    with pytest.raises(NotFoundError, match=r"none\.json"):
        open_pictures(paths, SPEC, tmp_path / "none.json")


def test_a_nerfstudio_dataset_gives_pictures_without_depth(
    tmp_path: Path, room_walk: tuple[Any, Trajectory]
):
    walk = room_walk[1]
    few = Trajectory(walk.rgb[:3], walk.inverse_depth[:3], walk.pose[:3], walk.intrinsics)
    folder = save_nerfstudio(few, tmp_path / "set")
    (folder / "depths" / "frame_00000.png").unlink()
    for given in (folder, folder / "transforms.json"):
        pictures = open_pictures([], SPEC, given)
        assert len(pictures) == 3 and pictures.pose is not None
        assert float((pictures.pose - few.pose).abs().max()) < 1e-3
    one = open_pictures([folder / "images" / "frame_00001.png"], SPEC, folder)
    assert one.names[0].endswith("frame_00001.png")
