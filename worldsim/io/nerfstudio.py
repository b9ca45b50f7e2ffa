"""Captures as nerfstudio datasets: ``transforms.json`` with the folders ``images`` and ``depths``.

Cameras there have OpenGL axes (x right, y up, z backward); worldsim has OpenCV axes. Only this
module converts between them. World axes are the same, z up, metres. Depth is a 16-bit PNG in
millimetres; 0 means unknown, or infinitely far if ``transforms.json`` says so, as it does for
trajectories.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import torch

from worldsim.camera import Camera
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    OutOfMemoryError,
)
from worldsim.io.pictures import read_picture, save_picture
from worldsim.io.rgbd import MOST_SIDE, CapturedFrame
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.splat import POINT
from worldsim.runtime.arguments import flag, number, whole
from worldsim.runtime.files import (
    as_path,
    inside,
    is_file,
    is_folder,
    replacing_folder,
    require_regular,
)
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.ply import save_ply
from worldsim.runtime.types import Array, JsonMapping
from worldsim.state import Frame, Trajectory

TRANSFORMS, POINTS = "transforms.json", "points.ply"
ZERO_IS_SKY = "zero_depth_is_sky"
"""A key of our own in ``transforms.json``: whether a depth of 0 is infinitely far. Other readers
pass it over."""
MILLIMETRE = 0.001
FARTHEST = 65_535
"""In millimetres: what is further off is written as 0."""
SPARSE_POINTS = 100_000
"""At most so many points are written beside the pictures, those seen last."""
OPENGL_AXES = np.diag([1.0, -1.0, -1.0, 1.0])
"""From a camera's OpenGL axes to its OpenCV axes, and back."""
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL")
"""Camera models that are a pinhole as long as their distortion is zero."""
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
UP = {
    "z": np.eye(3),
    "y": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
    "-y": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}
"""By the axis of a capture that points up: the rotation that brings it to z."""
LEAST_UNIT, MOST_UNIT = 1e-6, 1e3
"""Metres a unit of depth pictures and poses: from micrometres to kilometres."""
DEPTH_FORMATS = ("PNG", "TIFF")
ASPECT_TOLERANCE = 0.02
"""By how much (as a share) the aspect ratio of a depth picture may differ from that of its colour
picture."""


def save_nerfstudio(
    trajectory: Trajectory,
    folder: str | os.PathLike[str],
    points: tuple[Array, Array] | None = None,
    force: bool = False,
) -> Path:
    """Write a trajectory as a nerfstudio dataset: images, depths, cameras and sparse points.

    points: positions (n, 3) world axes, metres, and colours (n, 3) uint8 for ``points.ply``; by
        default what a point memory keeps of the trajectory.
    force: replace an existing dataset. Any other folder with content is left as it is.

    The folder is written atomically.
    """
    folder = as_path(folder)
    if not isinstance(trajectory, Trajectory):
        raise InvalidInputError(
            f"a nerfstudio dataset is written of a Trajectory, not of a {type(trajectory).__name__}"
        )
    _check_target(folder, force)
    position, colour = trajectory_points(trajectory) if points is None else points
    with replacing_folder(folder) as new:
        for old in new.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        _write_dataset(trajectory, new, position, colour)
    return folder


def _check_target(folder: Path, force: bool) -> None:
    if is_file(folder):
        raise InvalidInputError(
            f"{folder} is a file: a nerfstudio dataset is a folder, choose another place"
        )
    if not is_folder(folder):
        return
    if folder.is_symlink():
        raise InvalidInputError(f"{folder} is a symbolic link: name the folder itself")
    if not any(folder.iterdir()):
        return
    if not force:
        raise InvalidInputError(
            f"{folder} is not empty: choose another folder, or replace the dataset in it with "
            f"force (--force)"
        )
    if not is_file(folder / TRANSFORMS):
        raise InvalidInputError(
            f"{folder} holds something else than a dataset (no {TRANSFORMS}): choose another folder"
        )


def _write_dataset(trajectory: Trajectory, folder: Path, position: Array, colour: Array) -> None:
    for name in ("images", "depths"):
        (folder / name).mkdir(parents=True)
    millimetres = np.round(trajectory.depth.double().numpy() / MILLIMETRE)
    millimetres = np.where(millimetres <= FARTHEST, millimetres, 0.0).astype(np.uint16)
    frames = []
    for i, pose in enumerate(trajectory.pose.double().numpy()):
        picture, distance = f"images/frame_{i:05d}.png", f"depths/frame_{i:05d}.png"
        save_picture(trajectory.rgb[i].permute(1, 2, 0).contiguous().numpy(), folder / picture)
        save_picture(millimetres[i], folder / distance)
        frames.append(
            {
                "file_path": picture,
                "depth_file_path": distance,
                "transform_matrix": pose @ OPENGL_AXES,
            }
        )
    save_ply(position, colour, folder / POINTS)
    fx, fy, cx, cy = trajectory.intrinsics.double().tolist()
    height, width = trajectory.rgb.shape[-2:]
    write_json(
        folder / TRANSFORMS,
        {
            "camera_model": "PINHOLE",
            "fl_x": fx,
            "fl_y": fy,
            "cx": cx,
            "cy": cy,
            "w": width,
            "h": height,
            "depth_unit_scale_factor": MILLIMETRE,
            ZERO_IS_SKY: True,
            "ply_file_path": POINTS,
            "frames": frames,
        },
    )


def trajectory_points(trajectory: Trajectory, capacity: int = SPARSE_POINTS) -> tuple[Array, Array]:
    """Return the points that a point memory keeps of a trajectory, without the sky.

    Returns (n, 3) float32 world axes, metres, and (n, 3) uint8.
    """
    memory = PointMemory(PointMemoryConfig(capacity=capacity))
    data, cameras = memory.empty(1), trajectory.cameras
    for i in range(len(trajectory)):
        one = slice(i, i + 1)
        frame = Frame(trajectory.rgb[one], trajectory.inverse_depth[one], trajectory.pose[one])
        camera = Camera(cameras.pose[one], cameras.intrinsics[one], cameras.height, cameras.width)
        data = memory.integrate(data, frame, camera, torch.tensor([i]))
    point = data.kind[0] == POINT
    return data.position[0][:, point].T.numpy(), data.colour[0][:, point].T.numpy()


def open_capture(
    path: str | os.PathLike[str],
    depth_scale: float | None = None,
    pose_scale: float | None = None,
    up: str = "z",
    zero_is_sky: bool | None = None,
    with_depth: bool = True,
) -> list[CapturedFrame]:
    """Open a nerfstudio dataset; returns its frames in the order of their names.

    path: the dataset's folder, or its JSON file.
    depth_scale: metres per unit of the depth pictures; by default the value of ``transforms.json``,
        else 0.001.
    pose_scale: metres per unit of the poses; by default the inverse of ``applied_scale``, else 1.
    up: the world axis that points up, ``z`` (nerfstudio), ``y`` or ``-y``.
    zero_is_sky: whether depth 0 is infinitely far instead of unknown; by default the value of
        ``transforms.json``, else False.
    with_depth: False reads no depth pictures, which then need not exist: all depth is unknown.

    Raises NotFoundError, DamagedFileError (not JSON, not a dataset), InvalidInputError (distorted
    cameras, invalid poses or intrinsics) or MissingGeometryError (no depth). A picture is opened
    only when its frame is read.
    """
    path = as_path(path)
    file = path if path.suffix == ".json" else path / TRANSFORMS
    if not is_folder(path) and not is_file(path):
        raise NotFoundError(
            f"no capture {str(path)!r}: give a nerfstudio dataset, a folder with {TRANSFORMS}"
        )
    if not is_file(file):
        raise NotFoundError(f"{path} has no {TRANSFORMS}: it is no nerfstudio dataset")
    if not isinstance(up, str) or up not in UP:
        raise InvalidInputError(f"up is {up!r}: the axis that points up is one of {', '.join(UP)}")
    meta = read_json(inside(file.parent, file.name))
    listed = meta.get("frames") if isinstance(meta, dict) else None
    if (
        not isinstance(listed, list)
        or not listed
        or not all(isinstance(frame, dict) for frame in listed)
    ):
        raise DamagedFileError(
            f"{file} lists no frames: it is no nerfstudio dataset, or was cut short"
        )
    scale = _number(
        meta,
        "depth_unit_scale_factor",
        file,
        _number(meta, "integer_depth_scale", file, MILLIMETRE),
    )
    applied = number(
        f"{file}: applied_scale",
        _number(meta, "applied_scale", file, 1.0),
        1.0 / MOST_UNIT,
        1.0 / LEAST_UNIT,
    )
    units = {"depth_scale": scale, "pose_scale": 1.0 / applied}
    given = {"depth_scale": depth_scale, "pose_scale": pose_scale}
    units |= {name: one for name, one in given.items() if one is not None}
    scale, metres = (
        number(f"{file}: {name}", one, LEAST_UNIT, MOST_UNIT, "metres a unit")
        for name, one in units.items()
    )
    sky = (
        flag(f"{file}: {ZERO_IS_SKY}", meta.get(ZERO_IS_SKY, False))
        if zero_is_sky is None
        else flag("zero_is_sky", zero_is_sky)
    )
    frames = [
        _listed_frame(file, {**meta, **frame}, scale, metres, UP[up], sky, with_depth)
        for frame in listed
    ]
    return sorted(frames, key=lambda frame: _natural(frame.name))


def _listed_frame(
    file: Path,
    entry: JsonMapping,
    depth_scale: float,
    metres: float,
    up: Array,
    sky: bool,
    with_depth: bool,
) -> CapturedFrame:
    """Return one frame of ``transforms.json``.

    entry: its keys, and the keys that all frames share.
    """
    name = entry.get("file_path")
    if not isinstance(name, str):
        raise DamagedFileError(
            f"{file}: a frame has no file_path; it was cut short or is no nerfstudio dataset"
        )
    where = f"{file}: {name}"
    _check_pinhole(where, entry)
    depth_name = entry.get("depth_file_path")
    if with_depth and not isinstance(depth_name, str):
        raise MissingGeometryError(
            f"{where} has no depth_file_path: a memory needs depth for every frame; add depth "
            f"pictures (16-bit PNG, millimetres)"
        )
    names = (name, depth_name) if with_depth else (name,)
    files = [inside(file.parent, one, file) for one in names]
    for needed in files:
        if not is_file(needed):
            raise NotFoundError(f"{where}: {needed} is missing: copy the capture again")
        require_regular(needed)
    try:
        matrix = np.array(entry["transform_matrix"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DamagedFileError(f"{where} has no transform_matrix of 4x4 numbers") from None
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.shape == (4, 4) and np.isfinite(matrix).all() and np.abs(matrix).max() < 1e12:
        matrix = matrix @ OPENGL_AXES
        matrix[:3, 3] *= metres
        matrix[:3] = up @ matrix[:3]
    width, height = (
        whole(f"{where}: {key}", _number(entry, key, where), 1, MOST_SIDE, "pixels")
        for key in ("w", "h")
    )
    intrinsics = np.array(_intrinsics(entry, where, width, height))

    def read() -> tuple[Array, Array]:
        rgb = _read_rgb(files[0], height, width)
        if not with_depth:
            return rgb, np.full((height, width), np.nan, np.float32)
        return rgb, _read_depth(files[1], depth_scale, sky, height, width)

    return CapturedFrame(where, matrix, intrinsics, height, width, read)


def _intrinsics(
    entry: JsonMapping, where: str, width: int, height: int
) -> tuple[float, float, float, float]:
    if "fl_x" not in entry and "camera_angle_x" in entry:
        angle = number(
            f"{where}: camera_angle_x",
            _number(entry, "camera_angle_x", where),
            1e-3,
            math.pi - 1e-3,
            "radians",
        )
        fx = 0.5 * width / math.tan(0.5 * angle)
    else:
        fx = _number(entry, "fl_x", where)
    fy = _number(entry, "fl_y", where, fx)
    return (
        fx,
        fy,
        _number(entry, "cx", where, 0.5 * width),
        _number(entry, "cy", where, 0.5 * height),
    )


def _check_pinhole(where: str, entry: JsonMapping) -> None:
    model = str(entry.get("camera_model", "PINHOLE"))
    bent = {key: value for key in DISTORTION if (value := _number(entry, key, where, 0.0)) != 0.0}
    if model not in PINHOLES or bent:
        what = (
            ", ".join(f"{key} = {value:g}" for key, value in bent.items())
            or f"camera_model {model}"
        )
        raise InvalidInputError(
            f"{where}: its camera is distorted ({what}), worldsim has pinhole cameras: undistort "
            f"the pictures and depth first, "
            "for instance with `colmap image_undistorter` or cv2.undistort"
        )


def _number(values: JsonMapping, key: str, where: object, default: float | None = None) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise InvalidInputError(f"{where}: {key} is {value!r:.80}, a number is needed")
    return float(value)


def _read_rgb(path: Path, height: int, width: int) -> Array:
    rgb = read_picture(path, "RGB")
    if rgb.shape[:2] != (height, width):
        raise InvalidInputError(
            f"{path} has {rgb.shape[1]}x{rgb.shape[0]} pixels and its camera {width}x{height}: "
            f"intrinsics would not fit; "
            f"restore the picture, or correct w, h, fl_x, fl_y, cx and cy in {TRANSFORMS}"
        )
    return rgb


def _read_depth(path: Path, scale: float, sky: bool, height: int, width: int) -> Array:
    """Read depth (h', w') float32 in metres: ``inf`` infinitely far, ``nan`` unknown."""
    raw = _read_array(path) if path.suffix == ".npy" else read_picture(path, formats=DEPTH_FORMATS)
    if raw.ndim != 2 or raw.dtype == np.uint8 or raw.dtype.kind not in "uif":
        raise InvalidInputError(
            f"{path} holds {raw.dtype} {raw.shape}: depth is one 16-bit or float number a pixel"
        )
    if 0 in raw.shape or max(raw.shape) > MOST_SIDE:
        raise InvalidInputError(
            f"{path} holds {raw.shape} numbers: depth pictures have 1 to {MOST_SIDE} pixels a side"
        )
    if abs(raw.shape[1] * height / (raw.shape[0] * width) - 1.0) > ASPECT_TOLERANCE:
        found = f"{raw.shape[1]}x{raw.shape[0]}"
        raise InvalidInputError(
            f"{path} has {found} pixels: that is another shape than its picture's {width}x{height}"
        )
    metres = raw.astype(np.float64) * scale
    return np.where(metres > 0, metres, np.inf if sky else np.nan).astype(np.float32)


def _read_array(path: Path) -> Array:
    """Read a NumPy file with one array of numbers.

    The file must be exactly as long as its header says.
    """
    size = require_regular(path).stat().st_size
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"version {version}")
            shape, _, kind = read(file)
            left = size - file.tell()
        if kind.hasobject or min(shape, default=1) < 0 or math.prod(shape) * kind.itemsize != left:
            raise ValueError(f"{kind} {shape} do not take {left:,} bytes")
        if len(shape) != 2 or max(shape) > MOST_SIDE:
            raise ValueError(f"{shape} numbers: depth pictures have 1 to {MOST_SIDE} pixels a side")
        # The numbers, and as many in double precision.
        require_memory_for(size + 8 * math.prod(shape), f"the depth picture {path}")
        return np.load(path, allow_pickle=False)
    except OutOfMemoryError:
        raise
    except Exception as error:  # NumPy raises whatever the parsers of its headers raise
        raise DamagedFileError(
            f"{path} is not a readable depth picture ({error}): give 16-bit PNG, TIFF or .npy"
        ) from error


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
