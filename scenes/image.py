"""Start scene from a single image, such as a photograph or a render.

For a world with a scene memory, a depth map is required::

    env = gym.make("worldsim/FreedoomDream-v0", scenes=ImageScene("photo.png", depth=metres))
    obs, info = env.reset(seed=0)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from worldsim.camera import check_poses, default_intrinsics, quantise_depth, snap_pose
from worldsim.errors import InvalidInputError
from worldsim.io.pictures import read_picture
from worldsim.io.rgbd import CapturedFrame, common_camera, resample
from worldsim.runtime.types import Array
from worldsim.state import SceneStart
from worldsim.world import World

LARGEST = 16_384
"""Largest height or width of a frame, in pixels."""
LEVEL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Default pose, (4, 4) camera-to-world: a level camera that looks along x, with z up."""


class ImageScene:
    """Scene that starts from one image.

    image: path of a PNG, WebP, JPEG, TIFF or BMP file, or an array (h, w, 3) uint8.
    size: (height, width) of the start frame in pixels. By default the world's frame size, or the
        image's own size without a world. The image is cropped around its centre, not stretched.
    depth: (h, w) float at the image's size, metres along the optical axis, ``inf`` for sky, or
        None.
    pose: (4, 4) camera-to-world in OpenCV axes, metres, z up. By default ``LEVEL`` with a world,
        the identity without one.
    intrinsics: ``fx fy cx cy`` in pixels of the given image. By default, the cropped image is
        assumed to have the field of view of the world's camera (73.7 by 64.0 degrees in
        ``freedoom-tiny``); without a world, the image is assumed to span 90 degrees horizontally.
    act: the action that led to the frame; the no-op 0, or zeros, by default.
    name: name of the start.
    world: the world whose frame size and camera the start has. Environments set it with
        :meth:`fit_to`.

    Raises NotFoundError or DamagedFileError for the file, and InvalidInputError for arguments of
    wrong shape, type or range.
    """

    def __init__(
        self,
        image: str | os.PathLike[str] | Array,
        size: tuple[int, int] | None = None,
        depth: Array | None = None,
        pose: Array | None = None,
        intrinsics: Array | tuple[float, float, float, float] | None = None,
        act: int | Array | None = None,
        name: str = "",
        world: World | None = None,
    ) -> None:
        self.rgb = image if isinstance(image, np.ndarray) else read_picture(image, mode="RGB")
        if (
            self.rgb.ndim != 3
            or self.rgb.shape[2] != 3
            or self.rgb.dtype != np.uint8
            or 0 in self.rgb.shape
        ):
            raise InvalidInputError(
                f"image must be (h, w, 3) uint8, got {self.rgb.shape} {self.rgb.dtype}"
            )
        height, width = self.rgb.shape[:2]
        if depth is not None and (
            np.shape(depth) != (height, width) or not (np.asarray(depth) > 0).all()
        ):
            raise InvalidInputError(
                f"depth must be ({height}, {width}) positive metres like the image, got "
                f"{np.shape(depth)}"
            )
        if size is not None and (
            len(size) != 2 or not all(isinstance(n, int) and 1 <= n <= LARGEST for n in size)
        ):
            raise InvalidInputError(
                f"size must be (height, width) of 1 to {LARGEST} pixels, got {size!r}"
            )
        if pose is not None:
            check_poses(np.asarray(pose)[None])
        given = None if intrinsics is None else np.asarray(intrinsics, np.float64)
        if given is not None and (
            given.shape != (4,) or not np.isfinite(given).all() or min(given[:2]) <= 0
        ):
            raise InvalidInputError(f"intrinsics must be fx fy cx cy, got {given.tolist()}")
        self.size, self.depth, self.pose, self.intrinsics = size, depth, pose, given
        self.act, self.name, self.world = act, name, world

    def fit_to(self, world: World) -> ImageScene:
        """Return the same scene with the frame size and camera of ``world``."""
        if world is self.world:
            return self
        return ImageScene(
            self.rgb, self.size, self.depth, self.pose, self.intrinsics, self.act, self.name, world
        )

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return the start. ``rng`` is not used: there is only one."""
        return self.scene

    @cached_property
    def scene(self) -> SceneStart:
        """The start, computed on first access.

        It is not computed in the constructor, because :meth:`fit_to` usually replaces this object.
        """
        world, (height, width) = self.world, self.rgb.shape[:2]
        size = self.size or (
            (height, width) if world is None else (world.spec.height, world.spec.width)
        )
        wanted = None if world is None else world.config.intrinsics
        depth = (
            np.full((height, width), np.nan, np.float32)
            if self.depth is None
            else np.asarray(self.depth, np.float32)
        )
        pose = np.asarray(
            self.pose if self.pose is not None else np.eye(4) if world is None else LEVEL,
            np.float64,
        )
        camera = self._camera(wanted, size)
        frame = CapturedFrame(self.name, pose, camera, height, width, lambda: (self.rgb, depth))
        seen = common_camera([frame], size[0], size[1], wanted)
        rgb, resized = resample(frame, size[0], size[1], seen)
        return SceneStart(
            rgb=torch.from_numpy(rgb).permute(2, 0, 1)[None].contiguous(),
            act=self._action()[None],
            inverse_depth=None
            if self.depth is None
            else quantise_depth(torch.from_numpy(resized))[None],
            pose=None if self.depth is None else snap_pose(torch.as_tensor(pose)[None]),
            intrinsics=torch.from_numpy(seen).float(),
            name=self.name,
        )

    def _camera(self, wanted: Sequence[float] | None, size: tuple[int, int]) -> Array:
        """Return the intrinsics of the given image, (4,) ``fx fy cx cy`` in pixels.

        wanted: intrinsics of the world's camera in frames of ``size`` (height, width), or None.
        """
        height, width = self.rgb.shape[:2]
        if self.intrinsics is not None:
            return self.intrinsics
        if wanted is None:
            return np.array(default_intrinsics(height, width))
        # The longest focal length at which the image still covers the world camera's view.
        focal = min(width * wanted[0] / size[1], height * wanted[1] / size[0])
        return np.array([focal, focal, 0.5 * width, 0.5 * height])

    def _action(self) -> torch.Tensor:
        if self.act is None and self.world is not None and not self.world.spec.actions:
            return torch.zeros(self.world.spec.action_dim)
        return torch.as_tensor(np.asarray(0 if self.act is None else self.act))
