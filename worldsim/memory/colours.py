"""Comparing the colours of points with those of a frame that they are projected into."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.memory.splat import Splat


def other_colours(colour: Tensor, points: Splat, rgb: Tensor, tolerance: int) -> Tensor:
    """Which points, (b, c) bool, are of another colour than the 3x3 pixels around theirs; never the sky.

    That is, more than ``tolerance`` (of 255) outside of what red, green or blue is there. colour: (b, 3, c) uint8 of the points,
    splatted to ``points``. rgb: (b, 3, h, w) uint8, the frame. Where a point is not visible, the answer means nothing.
    """
    around = rgb.to(torch.float32)
    high = F.max_pool2d(around, 3, stride=1, padding=1) + tolerance
    low = -F.max_pool2d(-around, 3, stride=1, padding=1) - tolerance
    # All six limits of a pixel in one number: looking them up is what takes time.
    limits = torch.cat([low, high], 1).clamp_(0, 255).to(torch.int64).flatten(2)
    shift = torch.arange(0, 48, 8, device=limits.device)
    found = (limits << shift[:, None]).sum(1).gather(1, points.pixel)
    other = torch.zeros_like(points.visible)
    for channel in range(3):
        least, most = (found >> (8 * channel)) & 255, (found >> (8 * channel + 24)) & 255
        other |= (colour[:, channel] < least) | (colour[:, channel] > most)
    return other & torch.isfinite(points.z)
