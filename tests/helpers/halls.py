"""A painter without weights: it draws a pillared hall exactly, wherever its cameras stand."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.camera import Camera, pixel_rays, quantise_depth
from worldsim.painting.painter import check_inputs, keep_known
from worldsim.protocols import PainterSpec, PaintInputs
from worldsim.runtime.rng import Purpose, uniform
from worldsim.state import Frame

SIZE = 32
INTRINSICS = (21.3, 25.6, 16.0, 16.0)
CEILING, SIDE, PILLAR, SPACING = 3.0, 30.0, 0.5, 8.0
"""Metres: height, half the hall's side, half a pillar's side, and between pillars."""


class HallPainter:
    """Paints a square hall around the world's origin, with pillars between its places.

    Colours depend on the position, the seed and the step. wrong: the depth is multiplied by it.
    """

    def __init__(self, views: int = 4, wrong: float = 1.0, metres: float | None = None) -> None:
        self.spec = PainterSpec(SIZE, SIZE, INTRINSICS, views)
        self.wrong, self.metres, self.calls = wrong, metres, 0

    def paint(self, inputs: PaintInputs) -> Frame:
        check_inputs(inputs, self.spec)
        self.calls += 1
        b, n = inputs.pose.shape[:2]
        pose = inputs.pose.flatten(0, 1)
        lens = torch.tensor(INTRINSICS).expand(b * n, 4)
        depth, place = cast(Camera(pose, lens, SIZE, SIZE))
        if self.metres is not None:
            depth = torch.full_like(depth, self.metres)
        tint = uniform(inputs.seed, inputs.step, Purpose.PAINT, (3,)).repeat_interleave(n, 0)
        cells = torch.floor(place * 2.0).long()
        key = (cells[:, 0] * 73856093) ^ (cells[:, 1] * 19349663) ^ (cells[:, 2] * 83492791)
        grey = 60.0 + (key % 97).float() + 40.0 * ((cells.sum(1) % 2) == 0)
        rgb = (grey[:, None] * (0.6 + 0.4 * tint[..., None, None])).clamp(0, 255)
        frame = Frame(rgb.round().to(torch.uint8), quantise_depth(depth * self.wrong), pose)
        return keep_known(frame, inputs, n)


def cast(camera: Camera) -> tuple[Tensor, Tensor]:
    """Depth (n, h, w) in metres, and where the rays end (n, 3, h, w)."""
    rays = pixel_rays(camera.intrinsics, camera.height, camera.width)
    way = torch.einsum("nij,njhw->nihw", camera.pose[:, :3, :3].float(), rays)
    eye = camera.pose[:, :3, 3].float()[..., None, None]
    low, high = torch.tensor([-SIDE, -SIDE, 0.0]), torch.tensor([SIDE, SIDE, CEILING])
    bounds = torch.where(way > 0, high[:, None, None], low[:, None, None])
    far = (bounds - eye) / torch.where(way.abs() < 1e-6, torch.full_like(way, 1e-6), way)
    depth = far.clamp(min=0.0).amin(1)
    for x in torch.arange(-SIDE + 2.0, SIDE, SPACING).tolist():
        for y in torch.arange(-SIDE + 2.0, SIDE, SPACING).tolist():
            depth = torch.minimum(depth, _pillar(eye, way, x, y))
    return depth, eye + way * depth[:, None]


def _pillar(eye: Tensor, way: Tensor, x: float, y: float) -> Tensor:
    centre = torch.tensor([x, y])[:, None, None]
    safe = torch.where(way[:, :2].abs() < 1e-6, torch.full_like(way[:, :2], 1e-6), way[:, :2])
    a, b = ((centre + sign * PILLAR - eye[:, :2]) / safe for sign in (-1.0, 1.0))
    enter, leave = torch.minimum(a, b).amax(1), torch.maximum(a, b).amin(1)
    hit = (enter < leave) & (enter > 0.05)
    return torch.where(hit, enter, torch.inf)
