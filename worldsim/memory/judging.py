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

    def at_points(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, points.pixel)

    depth = at_points(dequantise_depth(code))
    lower, upper = agreeing(config, depth)
    # At infinity all bounds are infinite: directions agree with sky alone, and no point ever does.
    agrees = points.visible & (points.z >= lower) & (points.z <= upper)
    # source / 255 = s / (s + captured depth), solved for captured depth <= ratio * depth; NaN (sky) counts as fine.
    coarse = memory.source * (DEPTH_CHANNEL_SCALE + config.replace_ratio * depth) < 255.0 * DEPTH_CHANNEL_SCALE
    drop = agrees & coarse
    if config.carve:
        drop = drop | (points.visible & (points.z < at_points(free_depth(config, code))))
    if config.colour_tolerance is not None:
        other = agrees & other_colours(memory.colour, points, frame.rgb, config.colour_tolerance)
        agrees, drop = agrees & ~other, drop | other
    return agrees, ~coarse, drop


def agreeing(config: PointMemoryConfig, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest depth (metres) that agree with a depth that a frame shows."""
    lower = torch.minimum(depth - config.tolerance_m, depth * (1.0 - config.tolerance_share))
    return lower, torch.maximum(depth + config.tolerance_m, depth * (1.0 + config.tolerance_share))


def free_depth(config: PointMemoryConfig, code: Tensor) -> Tensor:
    """Up to where (metres) a frame of depth codes (b, h, w) sees through, (b, h, w): short of the nearest of 3x3 pixels."""
    nearest_code = F.max_pool2d(code.to(torch.float32)[:, None], 3, stride=1, padding=1)[:, 0]
    return agreeing(config, dequantise_depth(nearest_code))[0]


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
