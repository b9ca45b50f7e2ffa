"""Posed RGB-D captures from a phone, a robot, another renderer or a trajectory.

Depth is along the optical axis; the centre of the top-left pixel is (0.5, 0.5).
:mod:`worldsim.io.nerfstudio` reads captures from nerfstudio datasets;
:class:`worldsim.scenes.capture.CaptureScene` starts a dream from one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from worldsim.camera import quantise_depth
from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import whole
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.types import Array
from worldsim.state import Trajectory

BOX_STEP = 2.0**-10
"""Crops are rounded to this many pixels, so that a frame which fits already is copied as it is."""
SURFACE = 1.1
"""Neighbouring pixels whose depths differ by at most this factor are taken as of one surface."""

MOST_SIDE = 16_384
"""Pixels of a picture's side."""
FARTHEST_PLACE = 1e6
"""Metres from the origin: float32 tells places further off apart by 6 cm and more."""
LEAST_FOCAL, MOST_FOCAL = 1e-2, 1e6
"""Pixels. The principal point lies within as many as the latter."""


@dataclass(frozen=True)
class CapturedFrame:
    """One picture of a capture with its camera.

    Frames may differ in size and camera. Pictures are read on demand.

    pose: (4, 4) float64 camera-to-world, OpenCV axes, metres, z up.
    intrinsics: (4,) float64 ``fx fy cx cy`` in pixels.
    read: returns rgb (h, w, 3) uint8 and depth (h', w') float32 metres, ``inf`` for infinitely far
        and ``nan`` for unknown. Depth may have another resolution but covers the same view.
    """

    name: str
    pose: Array
    intrinsics: Array
    height: int
    width: int
    read: Callable[[], tuple[Array, Array]]

    def __post_init__(self) -> None:
        whole(f"{self.name}: height", self.height, 1, MOST_SIDE, "pixels")
        whole(f"{self.name}: width", self.width, 1, MOST_SIDE, "pixels")
        pose = _numbers(self.pose, (4, 4))
        rotation = np.zeros((3, 3)) if pose is None else pose[:3, :3]
        # Bounded before it is multiplied: 1e200 squared is infinite.
        if (
            pose is None
            or np.abs(rotation).max() > 2
            or not np.allclose(rotation.T @ rotation, np.eye(3), atol=2e-3)
        ):
            raise InvalidInputError(
                f"{self.name}: the pose is no 4x4 camera-to-world matrix with an orthonormal "
                f"rotation"
            )
        if np.linalg.det(rotation) < 0:
            raise InvalidInputError(
                f"{self.name}: the pose mirrors the world; its axes are not a right-handed rotation"
            )
        if np.abs(pose[:3, 3]).max() > FARTHEST_PLACE or not np.allclose(pose[3], (0, 0, 0, 1)):
            raise InvalidInputError(
                f"{self.name}: the pose's place is {pose[:3, 3].tolist()} and its last row "
                f"{pose[3].tolist()}: places lie within "
                f"{FARTHEST_PLACE:,.0f} m of the origin, and the last row is 0 0 0 1; for other "
                f"units give pose_scale"
            )
        pixels = _numbers(self.intrinsics, (4,))
        if pixels is None or not (
            pixels[:2].min() >= LEAST_FOCAL and np.abs(pixels).max() <= MOST_FOCAL
        ):
            raise InvalidInputError(
                f"{self.name}: intrinsics must be fx fy cx cy in pixels, got {self.intrinsics}"
            )

    @property
    def view(self) -> tuple[float, float, float, float]:
        """Return the extent of the picture on the plane at depth 1 m.

        Left, top, right and bottom, in metres from the optical axis.
        """
        fx, fy, cx, cy = self.intrinsics
        return -cx / fx, -cy / fy, (self.width - cx) / fx, (self.height - cy) / fy


def _numbers(values: object, shape: tuple[int, ...]) -> Array | None:
    """Return ``values`` as a float64 array of that shape; None if invalid or not finite."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.shape == shape and bool(np.isfinite(array).all()) else None


def captured_frames(
    rgb: Array, depth: Array, pose: Array, intrinsics: Array, name: str = "frame"
) -> list[CapturedFrame]:
    """Create a capture from arrays.

    rgb: (t, h, w, 3) uint8.
    depth: (t, h, w) metres along the optical axis, ``inf`` for sky, ``nan`` or 0 for unknown.
    pose: (t, 4, 4) camera-to-world, OpenCV axes, metres, z up.
    intrinsics: (4,) or (t, 4) ``fx fy cx cy`` in pixels.
    """
    if (
        not all(isinstance(array, np.ndarray) for array in (rgb, depth, pose))
        or depth.dtype.kind not in "uif"
    ):
        kinds = ", ".join(type(array).__name__ for array in (rgb, depth, pose))
        raise InvalidInputError(
            f"a capture needs rgb, depth and pose as NumPy arrays of numbers, got {kinds}"
        )
    t = len(rgb) if rgb.ndim else 0
    pictures = rgb.ndim == 4 and rgb.shape[3] == 3 and rgb.dtype == np.uint8
    if not t or not pictures or depth.shape != rgb.shape[:3] or pose.shape != (t, 4, 4):
        found = f"{rgb.dtype} {rgb.shape}, {depth.shape} and {pose.shape}"
        raise InvalidInputError(
            f"a capture needs rgb (t, h, w, 3) uint8, depth (t, h, w) and pose (t, 4, 4), got "
            f"{found}"
        )
    if np.shape(intrinsics) not in ((4,), (t, 4)):
        raise InvalidInputError(f"intrinsics must be (4,) or ({t}, 4), got {np.shape(intrinsics)}")
    height, width = rgb.shape[1:3]
    try:
        cameras = np.broadcast_to(np.asarray(intrinsics, np.float64), (t, 4))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"intrinsics must be numbers, got {intrinsics!r} ({error})"
        ) from None
    known = np.where(depth > 0, depth, np.nan).astype(np.float32)

    def frame(i: int) -> CapturedFrame:
        to_world = np.asarray(pose[i], np.float64)
        return CapturedFrame(
            f"{name} {i}", to_world, cameras[i], height, width, lambda: (rgb[i], known[i])
        )

    return [frame(i) for i in range(t)]


def frames_of(trajectory: Trajectory) -> list[CapturedFrame]:
    """Return the frames of a trajectory as a capture."""
    rgb = trajectory.rgb.permute(0, 2, 3, 1).contiguous().numpy()
    return captured_frames(
        rgb, trajectory.depth.numpy(), trajectory.pose.numpy(), trajectory.intrinsics.numpy()
    )


def common_camera(
    frames: Sequence[CapturedFrame], height: int, width: int, intrinsics: ArrayLike | None = None
) -> Array:
    """Return the camera of ``height`` x ``width`` pixels whose view lies within every frame's view.

    intrinsics: the desired camera for that size, such as the world's. It is the result if all
        frames cover its view; otherwise the result keeps its pixel aspect ratio and covers as much
        as possible. By default, pixels are square.

    Returns (4,) ``fx fy cx cy`` in pixels.
    """
    views = [frame.view for frame in frames]
    proportion = width / height
    if intrinsics is not None:
        pixels = _numbers(intrinsics, (4,))
        if pixels is None or not (
            pixels[:2].min() >= LEAST_FOCAL and np.abs(pixels).max() <= MOST_FOCAL
        ):
            raise InvalidInputError(f"intrinsics must be fx fy cx cy in pixels, got {intrinsics!r}")
        fx, fy, cx, cy = pixels.tolist()
        views.append((-cx / fx, -cy / fy, (width - cx) / fx, (height - cy) / fy))
        proportion *= fy / fx
    left, top = (max(view[i] for view in views) for i in (0, 1))
    right, bottom = (min(view[i] for view in views) for i in (2, 3))
    if not (right > left and bottom > top):
        raise InvalidInputError(
            "this capture's frames have no field of view in common: their intrinsics do not fit "
            "their sizes"
        )
    wide, high = (
        min(right - left, (bottom - top) * proportion),
        min(bottom - top, (right - left) / proportion),
    )
    left, top = 0.5 * (left + right - wide), 0.5 * (top + bottom - high)
    return np.array([width / wide, height / high, -left * width / wide, -top * height / high])


def resample(
    frame: CapturedFrame, height: int, width: int, intrinsics: Array
) -> tuple[Array, Array]:
    """Resample a frame for a camera at the same pose with other ``intrinsics``.

    See :func:`common_camera`. Returns rgb (height, width, 3) uint8, averaged over each pixel's
    area, and depth (height, width) float32 metres at each pixel's centre: ``inf`` infinitely far,
    ``nan`` unknown.
    """
    rgb, depth = frame.read()
    fx, fy, cx, cy = frame.intrinsics
    gx, gy, hx, hy = intrinsics
    box = np.array(
        [
            cx - hx * fx / gx,
            cy - hy * fy / gy,
            cx + (width - hx) * fx / gx,
            cy + (height - hy) * fy / gy,
        ]
    )
    box = np.clip(np.round(box / BOX_STEP) * BOX_STEP, 0.0, [frame.width, frame.height] * 2)
    left, top, right, bottom = map(float, box)
    small = Image.fromarray(rgb).resize(
        (width, height), Image.Resampling.BOX, (left, top, right, bottom)
    )
    rows = (
        (top + (np.arange(height) + 0.5) * (bottom - top) / height) * depth.shape[0] / frame.height
    )
    columns = (
        (left + (np.arange(width) + 0.5) * (right - left) / width) * depth.shape[1] / frame.width
    )
    return np.array(small), _depth_at(depth, rows, columns)


def _depth_at(depth: Array, rows: Array, columns: Array) -> Array:
    """Sample depth (h', w') at image coordinates; returns (len(rows), len(columns)) float32.

    On a surface, inverse depth is interpolated, which is exact on planes. Across an edge the
    nearest pixel is taken, since a mean would be a surface that does not exist.
    """
    limit = np.array(depth.shape)[:, None] - 1
    low = [np.floor(place - 0.5).astype(np.int64) for place in (rows, columns)]
    down, right = (
        np.clip(place - 0.5 - first, 0.0, 1.0)
        for place, first in zip((rows, columns), low, strict=True)
    )
    corners = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for row in (0, 1):
            for column in (0, 1):
                r, c = (low[0] + row).clip(0, limit[0]), (low[1] + column).clip(0, limit[1])
                weight = np.outer(down if row else 1.0 - down, right if column else 1.0 - right)
                corners.append((1.0 / depth[r][:, c].astype(np.float64), weight))
        inverse = np.stack([corner for corner, _ in corners])
        smooth = inverse.max(0) <= SURFACE * inverse.min(0)
        between = 1.0 / sum(corner * weight for corner, weight in corners)
    nearest = depth[rows.astype(np.int64).clip(0, limit[0])][
        :, columns.astype(np.int64).clip(0, limit[1])
    ]
    return np.where(smooth, between, nearest).astype(np.float32)


def trajectory_of(
    frames: Sequence[CapturedFrame],
    height: int | None = None,
    width: int | None = None,
    intrinsics: ArrayLike | None = None,
) -> tuple[Trajectory, Tensor]:
    """Resample all frames to one size and camera and return them as a trajectory.

    intrinsics: the camera; by default that of :func:`common_camera`.

    Returns a trajectory of t frames, in which unknown depth is infinitely far, and a mask (t, h, w)
    bool of known depth.
    """
    if not frames:
        raise InvalidInputError("this capture has no frames")
    height = whole("height", frames[0].height if height is None else height, 1, MOST_SIDE, "pixels")
    width = whole("width", frames[0].width if width is None else width, 1, MOST_SIDE, "pixels")
    # Colours, depth as float32 and as codes, what is known; and a frame while it is resampled.
    require_memory_for(
        (len(frames) * 16 + 100) * height * width,
        f"{len(frames)} frames of {height}x{width} pixels",
    )
    camera = common_camera(frames, height, width, intrinsics)
    pictures = [resample(frame, height, width, camera) for frame in frames]
    depth = torch.from_numpy(np.stack([depth for _, depth in pictures]))
    known = ~depth.isnan()
    return Trajectory(
        rgb=torch.from_numpy(np.stack([rgb for rgb, _ in pictures]))
        .permute(0, 3, 1, 2)
        .contiguous(),
        inverse_depth=quantise_depth(depth.masked_fill(~known, torch.inf)),
        pose=torch.from_numpy(np.stack([frame.pose for frame in frames])).float(),
        intrinsics=torch.from_numpy(camera).float(),
    ), known
