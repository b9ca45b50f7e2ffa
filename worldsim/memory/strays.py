"""Painted pixels that hang in the air, which a memory must not take.

A painter's depth has soft edges, so pixels between a near and a far surface become points between
them. Seen from elsewhere they are dots in the air, large ones if a camera comes near.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, channel_to_code, dequantise_depth, project, unproject
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.state import Frame

SAME_SURFACE = 0.1
"""Largest relative difference of the inverse depths of neighbouring pixels of one surface."""
FLAT = 0.5
"""A step between two surfaces is that steep if what lies on both sides has at most this share of
its slope. Floors near the horizon have steep slopes everywhere."""
PASSED_SHARE, PASSED_METRES = 0.85, 0.2
"""A point lies in free space if a view sees further than its depth: beyond
depth / PASSED_SHARE + PASSED_METRES."""
NEAR_METRES = 0.3
"""Points nearer than this to a camera are not judged by its view."""
CHUNK = 2**22
"""Points that are projected at once."""
LEAST_RADIUS, MOST_RADIUS = 0.1, 12.8
"""Smallest and largest radius in which neighbours are counted, metres."""


def hang_alone(frame: Frame) -> Tensor:
    """Return the pixels that belong to no surface, (n, h, w) bool.

    These are pixels whose inverse depth agrees with at most one of their eight neighbours', and
    pixels of soft edges: single ones in the middle of a step from one surface to another, along a
    row or a column.
    """
    assert frame.inverse_depth is not None
    value = frame.inverse_depth.float()
    h, w = value.shape[-2:]
    padded = F.pad(value[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]

    def beside(y: int, x: int) -> Tensor:
        return padded[:, 2 + y : 2 + y + h, 2 + x : 2 + x + w]

    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    same = [(beside(y, x) - value).abs() <= SAME_SURFACE * value for y, x in around]
    alone = torch.stack(same).sum(0) < 2
    for y, x in ((0, 1), (1, 0)):
        before, after = value - beside(-y, -x), beside(y, x) - value
        steep = torch.minimum(before.abs(), after.abs()) > SAME_SURFACE * value
        outer = [
            (beside(i * y, i * x) - beside(2 * i * y, 2 * i * x)).abs() <= FLAT * step.abs()
            for i, step in ((-1, before), (1, after))
        ]
        alone |= steep & (before * after > 0) & outer[0] & outer[1]
    return alone


def in_free_space(frame: Frame, camera: Camera, seen: Frame, others: Camera) -> Tensor:
    """Return the pixels whose points lie in space that other views see through, (n, h, w) bool.

    frame, camera: the painted frames (n, ...) and their cameras.
    seen, others: other views (k, ...) and their cameras. The smallest depth of their 3x3
        neighbourhoods counts, because edges may be off by one pixel.
    """
    code, their = frame.inverse_depth, seen.inverse_depth
    assert code is not None and their is not None
    (n, h, w), (k, height, width) = code.shape, their.shape
    finite = (code > 0).flatten()
    points = unproject(dequantise_depth(code), camera).flatten(0, 2)
    around = F.max_pool2d(their[:, None].float(), 3, 1, 1).flatten(1)
    passed = torch.zeros_like(finite)
    size = max(1, CHUNK // len(points))
    for chosen in torch.arange(k, device=code.device).split(size):
        some = replace(others, pose=others.pose[chosen], intrinsics=others.intrinsics[chosen])
        here = points.expand(len(chosen), -1, 3)
        is_direction = torch.zeros(here.shape[:2], dtype=torch.bool, device=code.device)
        u, v, z = project(here, is_direction, some)
        inside = finite & (u >= 0) & (u < width) & (v >= 0) & (v < height) & (z > NEAR_METRES)
        pixel = v.clamp(0, height - 1).long() * width + u.clamp(0, width - 1).long()
        depth = dequantise_depth(around[chosen].gather(1, pixel))
        passed |= (inside & (z < PASSED_SHARE * (depth - PASSED_METRES))).any(0)
    return passed.view(n, h, w)


def stand_alone(data: Points, focal: float, pixels: float, least: int) -> Tensor:
    """Return the points that have few others around them, (b, c) bool.

    A surface that was seen from a distance has points one pixel apart, so the radius in which
    neighbours count grows with the distance from which a point was captured. Otherwise this is the
    radius outlier removal of point-cloud libraries (PCL, Open3D).

    data: (b, ...), any slots of which may be empty. Directions never stand alone.
    focal: the cameras' focal length in pixels.
    pixels: radius in pixels.
    least: points with fewer others in their neighbourhood stand alone.
    """
    found = torch.zeros_like(data.kind, dtype=torch.bool)
    for row in range(len(data)):
        index = (data.kind[row] == POINT).nonzero()[:, 0]
        if not len(index):
            continue
        source = data.source[row, index].float() / 255.0
        radius = pixels * dequantise_depth(channel_to_code(source)) / focal
        radius = radius.clamp(LEAST_RADIUS, MOST_RADIUS)
        # The points of one level share a grid.
        level = (2.0 * (radius / LEAST_RADIUS).log2()).ceil().long()
        position = data.position[row][:, index].T.double()
        for one in level.unique().tolist():
            chosen = level == one
            count = _around(position, chosen, LEAST_RADIUS * math.sqrt(2.0) ** one)
            # The point itself is one of them.
            found[row, index[chosen]] = count <= least
    return found


def _around(position: Tensor, chosen: Tensor, radius: float) -> Tensor:
    """Return how many of all positions (n, 3) lie within ``radius`` of each chosen one.

    Cells of half the radius are counted whole, so the ball is a rough one.
    """
    cell = torch.floor(position / (0.5 * radius)).long()
    cell = cell - cell.amin(0) + 2
    size = cell.amax(0) + 3
    stride = torch.stack([size[1] * size[2], size[2], torch.ones_like(size[0])])
    keys, counts = (cell * stride).sum(1).unique(return_counts=True)
    axis = torch.arange(-2, 3, device=cell.device)
    ball = torch.cartesian_prod(axis, axis, axis)
    ball = ball[ball.square().sum(1) <= 4]
    wanted = ((cell[chosen][:, None] + ball) * stride).sum(-1)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, counts[place], 0).sum(1)
