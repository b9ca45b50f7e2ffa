"""Pictures that a place is generated from: files, their cameras, and their poses.

A picture is resampled to the painter's camera. Where a picture sees less than that, the rest stays
unknown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Len
from PIL import Image
from torch import Tensor

from worldsim.camera import snap_pose
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.io.nerfstudio import OPENGL_AXES, open_capture
from worldsim.io.pictures import read_picture
from worldsim.io.rgbd import CapturedFrame, resample
from worldsim.protocols import PainterSpec
from worldsim.runtime.files import as_path, is_file, is_folder
from worldsim.runtime.json_config import from_json, read_json
from worldsim.runtime.types import Array

LEAST_SIDE = 16
"""Smallest height and width of a picture in pixels."""
MOST_SIDE = 4096
"""Larger pictures are shrunk to this before they are resampled, pixels."""
LEAST_COVERED = 0.2
"""Smallest share of the painter's view that a picture must show."""
COVERED = 250
"""Pixels of the painter's view count as shown if the picture covers this many 255ths of them."""
UPRIGHT = 0.5
"""Smallest mean cosine between the cameras' up and the world's."""
LEVEL, LEANING = 0.9, 0.1
"""Poses count as world-to-camera if this cosine is at least ``LEVEL`` for each of their inverses,
and on average larger by ``LEANING``."""

Numbers4 = Annotated[list[float], Len(4, 4)]
Matrix = Annotated[list[Numbers4], Len(4, 4)]


@dataclass(frozen=True)
class Pictures:
    """Pictures at the painter's size and camera.

    rgb: (k, 3, h, w) uint8.
    covered: (k, h, w) bool, pixels that the picture shows.
    pose: (k, 4, 4) float32 camera-to-world, snapped, or None if unknown.
    names: of their files.
    """

    rgb: Tensor
    covered: Tensor
    pose: Tensor | None
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rgb)


@dataclass(frozen=True)
class PosesFile:
    """A file of camera poses for ``worldsim generate --images``."""

    convention: Literal["opencv", "opengl"]
    """Axes of the cameras: ``opencv`` (x right, y down, z forward) or ``opengl`` (x right, y up, z
    backward). World axes have z up, metres."""
    poses: dict[str, Matrix]
    """Camera-to-world matrices by the pictures' file names."""
    intrinsics: dict[str, Numbers4] | Numbers4 | None = None
    """``fx fy cx cy`` in pixels of the files: one camera for all pictures, or one by file name. By
    default a picture shows what the painter's camera sees."""


def read_photo(path: str | os.PathLike[str]) -> Array:
    """Read a picture of any usual kind as (h, w, 3) uint8.

    Grey, 16-bit, CMYK, palette and transparent pictures are converted. The camera's orientation
    (EXIF) is applied.

    Raises NotFoundError, DamagedFileError, and InvalidInputError for floating-point pictures and
    pictures of fewer than :data:`LEAST_SIDE` pixels a side.
    """
    raw = read_picture(path, upright=True)
    if raw.ndim == 2 and raw.dtype.kind in "iu" and raw.dtype.itemsize > 1:
        # Pillow would clip 16 bits at 255.
        grey = (raw.astype(np.float64).clip(0, 65535) / 257.0).round().astype(np.uint8)
        rgb = np.repeat(grey[..., None], 3, 2)
    elif raw.dtype.kind == "f":
        raise InvalidInputError(
            f"{path} holds {raw.dtype} numbers, whose range is unknown: save it as 8 or 16 bits"
        )
    else:
        rgb = read_picture(path, mode="RGB", upright=True)
    if min(rgb.shape[:2]) < LEAST_SIDE:
        raise InvalidInputError(
            f"{path} has {rgb.shape[1]}x{rgb.shape[0]} pixels: give a picture of at least "
            f"{LEAST_SIDE} pixels a side"
        )
    return rgb


def open_pictures(
    paths: Sequence[str | os.PathLike[str]],
    spec: PainterSpec,
    poses: str | os.PathLike[str] | None = None,
) -> Pictures:
    """Read pictures for a painter.

    paths: their files. With ``poses`` they may be empty: then all pictures that it names are read.
    poses: a :class:`PosesFile`, or a nerfstudio dataset (its folder or ``transforms.json``).

    Raises NotFoundError, DamagedFileError or InvalidInputError; each names the file.
    """
    if poses is None:
        if not paths:
            raise InvalidInputError("no pictures are given: name at least one file.")
        captured = [_captured(Path(path), np.eye(4), None, spec) for path in paths]
    else:
        captured = _posed(paths, as_path(poses), spec)
        check_upright([frame.pose for frame in captured], [frame.name for frame in captured])
    shown = [_resampled(frame, spec) for frame in captured]
    place = torch.from_numpy(np.stack([frame.pose for frame in captured]))
    return Pictures(
        rgb=torch.from_numpy(np.stack([rgb for rgb, _ in shown])).permute(0, 3, 1, 2).contiguous(),
        covered=torch.from_numpy(np.stack([covered for _, covered in shown])),
        pose=None if poses is None else snap_pose(place),
        names=tuple(frame.name for frame in captured),
    )


def check_upright(poses: Sequence[Array], names: Sequence[str]) -> None:
    """Raise InvalidInputError if cameras hang upside down or lie on their side.

    Pictures are taken more or less upright, so such poses have other axes than they claim.

    poses: (4, 4) camera-to-world, OpenCV axes, world axes with z up.
    """
    up = np.array([-pose[2, 1] for pose in poses])
    worst = names[int(up.argmin())]
    # The inverse of a rotation is its transpose.
    inverse_up = np.array([-pose[1, 2] for pose in poses])
    if float(inverse_up.min()) >= LEVEL and float(inverse_up.mean() - up.mean()) >= LEANING:
        raise InvalidInputError(
            f"the poses seem to be world-to-camera: inverted, all cameras stand upright ({worst} "
            "does not now). Give camera-to-world matrices"
        )
    if float(up.mean()) >= UPRIGHT:
        return
    if float(up.mean()) <= -UPRIGHT:
        raise InvalidInputError(
            f"the cameras of the poses are upside down (first of all {worst}): the other "
            'convention seems to be meant. Say "opengl" for x right, y up, z backward, or "opencv" '
            "for x right, y down, z forward"
        )
    raise InvalidInputError(
        f"the cameras of the poses do not stand upright (least of all {worst}): poses are "
        "camera-to-world matrices (not world-to-camera) in a world whose z axis points up, in "
        "metres. Turn the world, or invert the matrices"
    )


def _posed(
    paths: Sequence[str | os.PathLike[str]], poses: Path, spec: PainterSpec
) -> list[CapturedFrame]:
    file = poses / "transforms.json" if is_folder(poses) else poses
    values = read_json(file)
    if isinstance(values, dict) and "frames" in values:
        frames = open_capture(file, with_depth=False)
        named = {Path(frame.name.split(": ", 1)[-1]).name: frame for frame in frames}
        if not paths:
            return frames
        return [_found(named, Path(path), file) for path in paths]
    try:
        told = from_json(PosesFile, values)
    except InvalidInputError as error:
        raise DamagedFileError(
            f"{file} holds no poses ({error}): give transforms.json, or an object with "
            '"convention" and "poses"'
        ) from error
    chosen = [Path(path) for path in paths] or [file.parent / name for name in told.poses]
    return [_told_frame(path, told, file, spec) for path in chosen]


def _found(named: Mapping[str, CapturedFrame], path: Path, file: Path) -> CapturedFrame:
    if path.name not in named:
        raise NotFoundError(f"{file} has no pose of {path.name}: add it, or leave the picture out")
    return named[path.name]


def _told_frame(path: Path, told: PosesFile, file: Path, spec: PainterSpec) -> CapturedFrame:
    matrix = told.poses.get(path.name, told.poses.get(str(path)))
    if matrix is None:
        raise NotFoundError(f"{file} has no pose of {path.name}: add it, or leave the picture out")
    pose = np.array(matrix, np.float64)
    if told.convention == "opengl":
        pose = pose @ OPENGL_AXES
    lens = told.intrinsics
    if isinstance(lens, dict):
        if path.name not in lens:
            raise NotFoundError(f"{file} has no intrinsics of {path.name}: add them")
        lens = lens[path.name]
    return _captured(path, pose, None if lens is None else np.array(lens), spec)


def _captured(
    path: Path, pose: Array, intrinsics: Array | None, spec: PainterSpec
) -> CapturedFrame:
    if not is_file(path):
        raise NotFoundError(f"no picture {str(path)!r}: give a PNG, JPEG, WebP, TIFF or BMP file")
    rgb = read_photo(path)
    height, width = rgb.shape[:2]
    if intrinsics is None:
        # The longest focal length at which the picture covers the painter's view.
        fx, fy = spec.intrinsics[:2]
        focal = min(width * fx / spec.width, height * fy / spec.height)
        intrinsics = np.array([focal, focal, 0.5 * width, 0.5 * height])
    depth = np.full((height, width), np.nan, np.float32)
    return CapturedFrame(path.name, pose, intrinsics, height, width, lambda: (rgb, depth))


def _resampled(frame: CapturedFrame, spec: PainterSpec) -> tuple[Array, Array]:
    """Return a picture at the painter's camera: (h, w, 3) uint8, and (h, w) bool, what it shows.

    The rest has the colours of the picture's edge.
    """
    rgb, lens = _shrunk(frame.read()[0], frame.intrinsics)
    size = rgb.shape[:2]
    fx, fy, cx, cy = lens
    gx, gy, hx, hy = spec.intrinsics
    # What the painter's camera sees, in pixels of the picture.
    left, right = cx - hx * fx / gx, cx + (spec.width - hx) * fx / gx
    top, bottom = cy - hy * fy / gy, cy + (spec.height - hy) * fy / gy
    inner_w = max(0.0, min(right, size[1]) - max(left, 0.0))
    inner_h = max(0.0, min(bottom, size[0]) - max(top, 0.0))
    share = inner_w * inner_h / ((right - left) * (bottom - top))
    if share < LEAST_COVERED:
        raise InvalidInputError(
            f"{frame.name} shows {share:.0%} of what the painter's camera sees: at least "
            f"{LEAST_COVERED:.0%} are needed; give wider pictures, or check the intrinsics"
        )
    before = [int(np.ceil(max(0.0, -edge))) for edge in (top, left)]
    after = [
        int(np.ceil(max(0.0, edge - end))) for edge, end in ((bottom, size[0]), (right, size[1]))
    ]
    pad = tuple(zip(before, after, strict=True))
    whole = np.pad(rgb, (*pad, (0, 0)), mode="edge")
    shown = np.pad(np.full_like(rgb, 255), (*pad, (0, 0)))
    lens = np.array([fx, fy, cx + before[1], cy + before[0]])
    height, width = whole.shape[:2]
    nothing = np.full((1, 1), np.nan, np.float32)

    def small(picture: Array) -> Array:
        padded = CapturedFrame(
            frame.name, frame.pose, lens, height, width, lambda: (picture, nothing)
        )
        return resample(padded, spec.height, spec.width, np.array(spec.intrinsics))[0]

    return small(whole), small(shown).min(-1) >= COVERED


def _shrunk(rgb: Array, intrinsics: Array) -> tuple[Array, Array]:
    """Return a picture of at most :data:`MOST_SIDE` pixels a side, and its intrinsics."""
    height, width = rgb.shape[:2]
    if max(height, width) <= MOST_SIDE:
        return rgb, intrinsics
    share = MOST_SIDE / max(height, width)
    small = max(1, round(width * share)), max(1, round(height * share))
    smaller = np.array(Image.fromarray(rgb).resize(small, Image.Resampling.BOX))
    ratio = np.array([small[0] / width, small[1] / height] * 2)
    return smaller, intrinsics * ratio
