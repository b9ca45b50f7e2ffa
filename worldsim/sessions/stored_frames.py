"""Frames of a walk in as few bytes as possible: what a session keeps and shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worldsim.runtime.types import Array
from worldsim.state import Frame


@dataclass(frozen=True)
class StoredFrame:
    """One frame.

    rgb: (h, w, 3) uint8.
    code: (h, w) uint16 inverse-depth code, or None.
    pose: (4, 4) float32 camera-to-world, or None.
    """

    rgb: Array
    code: Array | None
    pose: Array | None

    @classmethod
    def rows_of(cls, frames: Frame, rows: int) -> list[StoredFrame]:
        """Copy the first ``rows`` frames of a batch, so that none of them keeps the batch."""
        rgb = as_picture(frames.rgb[:rows])
        pose = None if frames.pose is None else frames.pose[:rows].detach().cpu().numpy()
        code = None
        if frames.inverse_depth is not None:
            code = frames.inverse_depth[:rows].cpu().numpy().astype(np.uint16)
        return [
            cls(
                rgb[i].copy(),
                None if code is None else code[i].copy(),
                None if pose is None else pose[i].copy(),
            )
            for i in range(rows)
        ]

    @classmethod
    def each_of(cls, frames: Sequence[Frame]) -> list[StoredFrame]:
        """Copy frames, each a batch of one."""
        return [cls.rows_of(frame, 1)[0] for frame in frames]

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(x.nbytes for x in (self.rgb, self.code, self.pose) if x is not None)

    def frame(self) -> Frame:
        """Return the frame, a batch of one on the CPU."""
        rgb = torch.from_numpy(self.rgb).permute(2, 0, 1)[None].contiguous()
        code = None if self.code is None else torch.from_numpy(self.code.astype(np.int32))[None]
        return Frame(rgb, code, None if self.pose is None else torch.from_numpy(self.pose)[None])


def as_picture(rgb: torch.Tensor) -> Array:
    """Return (..., 3, h, w) uint8 as an array (..., h, w, 3)."""
    picture: Array = rgb.detach().movedim(-3, -1).contiguous().cpu().numpy()
    return picture
