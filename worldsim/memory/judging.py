"""What a frame says of the points that are projected into it: which it bears out, and which must go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import DEPTH_CHANNEL_SCALE, dequantise_depth
from worldsim.memory.splat import Splat
from worldsim.state import Frame

if TYPE_CHECKING:
    from worldsim.memory.points import PointMemoryConfig, Points


def judge(config: PointMemoryConfig, memory: Points, points: Splat, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """Of each slot, splatted to ``points``, (b, c) bool: whether the frame agrees, the slot is fine enough, must go."""
    assert frame.inverse_depth is not None
    code = frame.inverse_depth

    def lower(depth: Tensor) -> Tensor:
        return torch.minimum(depth - config.tolerance_m, depth * (1.0 - config.tolerance_share))

    def at_points(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, points.pixel)

    depth = at_points(dequantise_depth(code))
    upper = torch.maximum(depth + config.tolerance_m, depth * (1.0 + config.tolerance_share))
    # At infinity all bounds are infinite: directions agree with sky alone, and no point ever does.
    agrees = points.visible & (points.z >= lower(depth)) & (points.z <= upper)
    # source / 255 = s / (s + captured depth), solved for captured depth <= ratio * depth; NaN (sky) counts as fine.
    coarse = memory.source * (DEPTH_CHANNEL_SCALE + config.replace_ratio * depth) < 255.0 * DEPTH_CHANNEL_SCALE
    drop = agrees & coarse
    if config.carve:
        nearest_code = F.max_pool2d(code.to(torch.float32)[:, None], 3, stride=1, padding=1)
        free = at_points(lower(dequantise_depth(nearest_code)))
        drop = drop | (points.visible & (points.z < free))
    if config.colour_tolerance is not None:
        other = agrees & other_colours(memory.colour, points, frame.rgb, config.colour_tolerance)
        agrees, drop = agrees & ~other, drop | other
    return agrees, ~coarse, drop


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
