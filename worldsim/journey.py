"""What was seen on one walk, frame by frame: what viewers, exporters and radiance fields take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth, snap_pose
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.state import Frame


@dataclass(frozen=True)
class Journey:
    """The frames of one walk in order, CPU tensors without a batch axis.

    rgb: (t, 3, h, w) uint8. inverse_depth: (t, h, w) int32 code in [0, 65535], 0 = infinitely far
    (see :func:`worldsim.camera.quantise_depth`). pose: (t, 4, 4) float32 camera-to-world, OpenCV
    axes, metres. intrinsics: (4,) float32 ``fx fy cx cy`` in pixels.
    """

    rgb: Tensor
    inverse_depth: Tensor
    pose: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        t, _, h, w = self.rgb.shape
        if (
            self.inverse_depth.shape != (t, h, w)
            or self.pose.shape != (t, 4, 4)
            or self.intrinsics.shape != (4,)
        ):
            found = ", ".join(
                str(tuple(x.shape))
                for x in (self.rgb, self.inverse_depth, self.pose, self.intrinsics)
            )
            raise InvalidInputError(
                f"a journey's rgb, inverse_depth, pose and intrinsics do not fit one another: "
                f"{found}"
            )

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def depth(self) -> Tensor:
        """(t, h, w) float32 metres along the optical axis, ``inf`` where nothing is hit."""
        return dequantise_depth(self.inverse_depth)

    @property
    def cameras(self) -> Camera:
        """All cameras as a batch of ``t``."""
        return Camera(self.pose, self.intrinsics.expand(len(self), 4), *self.rgb.shape[-2:])

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The single frames, each a batch of one: the way back from :meth:`of`."""
        return tuple(
            Frame(self.rgb[t, None], self.inverse_depth[t, None], self.pose[t, None])
            for t in range(len(self))
        )

    @staticmethod
    def start(rgb: Tensor, inverse_depth: Tensor, pose: Tensor) -> tuple[Frame, ...]:
        """The frames that a start holds, (t, ...) each, as a world takes them in: with snapped
        poses."""
        snapped = snap_pose(pose)
        return tuple(
            Frame(rgb[t, None], inverse_depth[t, None], snapped[t, None]) for t in range(len(rgb))
        )

    @classmethod
    def of(cls, frames: Sequence[Frame], intrinsics: Tensor) -> Journey:
        """A journey of single frames, each a batch of one. Raises MissingGeometryError for frames
        without depth or pose."""
        if not frames:
            raise InvalidInputError("a journey needs at least one frame")
        depths, poses = [f.inverse_depth for f in frames], [f.pose for f in frames]
        if any(x is None for x in (*depths, *poses)):
            raise MissingGeometryError(
                "a journey needs frames with depth and pose, and these have none"
            )
        # One by one: start frames may be on another device than dreamed ones.
        rgb, depth, pose = (
            torch.cat([x.cpu() for x in column if x is not None])
            for column in ([f.rgb for f in frames], depths, poses)
        )
        return cls(rgb, depth, pose, intrinsics.reshape(4).float().cpu().clone())
