"""The re-observation gate: which pixels show something that the camera really looked away from.

A memory is tested by what was in sight, out of sight, and in sight again. Poses do not say that: a
camera that walks forward and back may see the same wall all the time. So each pixel is followed by
its 3D point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.evaluation.metrics import sighted

GAP = 12
"""Frames in a row, up to the one judged, that must not have seen a pixel's point: more than the
attention windows of the shipped worlds, which are 8 frames."""
LEAST_SHARE = 0.05
"""A frame is scored if at least this share of its pixels pass the gate."""


@dataclass(frozen=True)
class Shown:
    """What was in sight along several ways of t frames: true frames, or dreamed ones.

    rgb: (e, t, 3, h, w) uint8.
    depth: (e, t, h, w) float32 metres along the optical axis, ``inf`` where nothing is hit.
    pose: (e, t, 4, 4) float32 camera-to-world.
    intrinsics: (e, 4) float32 pixels.
    """

    rgb: Tensor
    depth: Tensor
    pose: Tensor
    intrinsics: Tensor

    def camera(self, t: int) -> Camera:
        """Return the cameras (e) of frame ``t``."""
        return Camera(self.pose[:, t], self.intrinsics, *self.rgb.shape[-2:])

    def sighted(self, t: int, other: int) -> tuple[Tensor, Tensor]:
        """Return which pixels of frame ``t`` frame ``other`` saw, and where (e, h, w)."""
        return sighted(self.depth[:, t], self.camera(t), self.depth[:, other], self.camera(other))

    def colours(self, t: int, pixel: Tensor) -> Tensor:
        """Return the colours (e, 3, h, w) uint8 of pixels (e, h, w) of frame ``t``."""
        e, h, w = pixel.shape
        index = pixel.reshape(e, 1, h * w).expand(e, 3, h * w)
        return self.rgb[:, t].reshape(e, 3, -1).gather(2, index).reshape(e, 3, h, w)


@dataclass(frozen=True)
class Returned:
    """Pixels of a frame that came back into sight.

    input: (e, h, w) bool, seen in the true input frames and in none of the last :data:`GAP`.
    generated: (e, h, w) bool, never seen in them, seen later, and in none of the last ``GAP``.
    colour: (e, 3, h, w) uint8, of ``generated`` pixels where they were last seen before.
    """

    input: Tensor
    generated: Tensor
    colour: Tensor


def returned(shown: Shown, t: int, history: int, gap: int = GAP) -> Returned:
    """Return which pixels of frame ``t`` pass the gate.

    history: number of input frames.
    gap: frames in a row that must not have seen them.
    """
    none = torch.zeros_like(shown.depth[:, t], dtype=torch.bool)
    recent, in_input, later = none.clone(), none.clone(), none.clone()
    colour = torch.zeros_like(shown.rgb[:, t])
    for i in range(t):
        seen, pixel = shown.sighted(t, i)
        if i >= t - gap:
            recent |= seen
        elif i < history:
            in_input |= seen
        else:
            later |= seen
            colour = torch.where(seen[:, None], shown.colours(i, pixel), colour)
    # An input frame may be among the last ones.
    return Returned(in_input & ~recent, later & ~in_input & ~recent, colour)
