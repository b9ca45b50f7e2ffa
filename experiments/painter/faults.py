"""Faults that are planted in real views, in ladders of severity.

The checks and their quantile were chosen with the severities ``tried``. Measurements use those of
``ladder`` alone, with other random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, pixel_rays, quantise_depth
from worldsim.state import Frame

EYE = 1.28
"""Metres of the eye over the floor."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    plant: Callable[[Frame, Camera, float, np.random.Generator], Frame]
    """Plants it in views (n, ...), with a severity."""
    unit: str
    """What the severity says."""
    tried: tuple[float, ...]
    """Severities that the checks were developed with, from weak to strong."""
    ladder: tuple[float, ...]
    """Severities that are measured, from weak to strong."""
    required: float
    """The severity of ``ladder`` from which on the fault must be caught."""
    place: bool = False
    """Whether it is a fault of a whole place, which the checks of places shall catch."""


def _colour(function: Callable[[Tensor, float, np.random.Generator], Tensor]):
    def plant(frame: Frame, camera: Camera, severity: float, rng: np.random.Generator) -> Frame:
        rgb = function(frame.rgb.float(), severity, rng)
        return Frame(rgb.round().clamp(0, 255).to(torch.uint8), frame.inverse_depth, frame.pose)

    return plant


def _with_depth(frame: Frame, depth: Tensor, rgb: Tensor | None = None) -> Frame:
    return Frame(frame.rgb if rgb is None else rgb, quantise_depth(depth), frame.pose)


def blur(x: Tensor, sigma: float, rng: np.random.Generator) -> Tensor:
    """Gaussian blur of so many pixels."""
    at = torch.arange(-12, 13).float()
    kernel = torch.exp(-0.5 * (at / sigma).square())
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    x = F.conv2d(F.pad(x, (12,) * 4, mode="reflect"), kernel[:, :, None], groups=3)
    return F.conv2d(x, kernel[..., None], groups=3)


def grain(x: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """Normal noise of this deviation, in 1/255."""
    return x + deviation * torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))


def shuffle(size: int) -> Callable[[Tensor, float, np.random.Generator], Tensor]:
    """A share of the patches of ``size`` pixels changes places."""

    def apply(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
        n, _, h, w = x.shape
        rows, columns = h // size, w // size
        out = x.clone()
        for i in range(n):
            moved = rng.permutation(rows * columns)[: max(2, round(share * rows * columns))]
            for to, source in zip(moved, np.roll(moved, 1), strict=True):
                (a, b), (c, d) = divmod(int(to), columns), divmod(int(source), columns)
                out[i, :, a * size : (a + 1) * size, b * size : (b + 1) * size] = x[
                    i, :, c * size : (c + 1) * size, d * size : (d + 1) * size
                ]
        return out

    return apply


def pasted(frame: Frame, camera: Camera, covered: float, rng: np.random.Generator) -> Frame:
    """Another view with its depth, reduced, in each view; ``covered`` is its share of the side."""
    assert frame.inverse_depth is not None
    x = torch.cat([frame.rgb.float(), frame.inverse_depth[:, None].float()], 1)
    n, _, h, w = x.shape
    out = x.clone()
    tall, wide = (round(size * covered) for size in (h, w))
    for i in range(n):
        small = F.interpolate(x[(i + 3) % n][None], (tall, wide), mode="bilinear", antialias=True)
        top, left = (int(rng.integers(3, size - part - 2)) for size, part in ((h, tall), (w, wide)))
        out[i, :, top : top + tall, left : left + wide] = small[0]
    rgb = out[:, :3].round().clamp(0, 255).to(torch.uint8)
    return Frame(rgb, out[:, 3].round().int(), frame.pose)


def flat(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Colours move this share of the way to the view's mean."""
    return x + share * (x.mean((2, 3), keepdim=True) - x)


def tiled(x: Tensor, period: float, rng: np.random.Generator) -> Tensor:
    """One patch of ``period`` pixels fills the view."""
    n, _, h, w = x.shape
    p = round(period)
    out = []
    for i in range(n):
        top, left = int(rng.integers(h - p + 1)), int(rng.integers(w - p + 1))
        patch = x[i, :, top : top + p, left : left + p]
        out.append(patch.repeat(1, -(-h // p), -(-w // p))[:, :h, :w])
    return torch.stack(out)


def wrong_scale(frame: Frame, camera: Camera, factor: float, rng: np.random.Generator) -> Frame:
    """All depths are multiplied by ``factor`` or divided by it, view by view."""
    depth = frame.depth
    assert depth is not None
    power = torch.from_numpy(rng.choice([-1.0, 1.0], len(depth))).float()
    return _with_depth(frame, depth * factor ** power[:, None, None])


def in_a_wall(frame: Frame, camera: Camera, share: float, rng: np.random.Generator) -> Frame:
    """A surface 0.13 to 0.3 m ahead covers this share of the columns, with an enlarged texture."""
    depth, rgb = frame.depth, frame.rgb.clone()
    assert depth is not None
    depth = depth.clone()
    w = depth.shape[2]
    wide = max(1, round(share * w))
    for i in range(len(depth)):
        left = 0 if rng.random() < 0.5 else w - wide
        depth[i, :, left : left + wide] = float(rng.uniform(0.13, 0.3))
        patch = rgb[i, :, 24:32, 24:32].float()[None]
        big = F.interpolate(patch, rgb.shape[2:], mode="bilinear")[0].to(torch.uint8)
        rgb[i, :, :, left : left + wide] = big[:, :, left : left + wide]
    return _with_depth(frame, depth, rgb)


def no_floor(frame: Frame, camera: Camera, share: float, rng: np.random.Generator) -> Frame:
    """In this share of the columns the floor lies 3 m lower than it did."""
    depth, (h, w) = frame.depth, (camera.height, camera.width)
    assert depth is not None
    rays = pixel_rays(camera.intrinsics, h, w)
    up = camera.pose[:, 2, :3].float()
    slope = (up[:, :, None, None] * rays).sum(1)
    height = slope * depth.clamp(max=1e6)
    deeper = depth * (1.0 + 3.0 / EYE)
    columns = torch.from_numpy(rng.random((len(depth), 1, w)) < share)
    is_floor = (slope < 0) & (height < -0.5) & depth.isfinite()
    return _with_depth(frame, torch.where(is_floor & columns, deeper, depth))


def walled_in(frame: Frame, camera: Camera, metres: float, rng: np.random.Generator) -> Frame:
    """Walls stand all around, so many metres away."""
    depth = frame.depth
    assert depth is not None
    return _with_depth(frame, depth.clamp(max=metres))


FAULTS = {
    "blur": Fault(_colour(blur), "sigma, pixels", (0.8, 1.6, 3.0), (0.6, 1.0, 2.0), 1.0),
    "noise": Fault(_colour(grain), "deviation of 255", (8, 24, 48), (5, 10, 20), 10),
    "shuffled": Fault(
        _colour(shuffle(8)), "share of 8x8 patches", (0.3, 0.6, 1.0), (0.15, 0.4, 0.8), 0.4
    ),
    "shuffled_10": Fault(_colour(shuffle(10)), "share of 10x10 patches", (), (0.25, 0.5, 1.0), 0.5),
    "pasted": Fault(pasted, "share of the side", (0.8, 0.6), (0.85, 0.75, 0.65), 0.75),
    "flat": Fault(_colour(flat), "share", (0.9, 1.0), (0.6, 0.8, 0.95), 0.95),
    "tiled": Fault(_colour(tiled), "period, pixels", (32, 16, 8), (28, 20, 12), 20),
    "scale": Fault(wrong_scale, "factor", (1.3, 2.0), (1.15, 1.4, 1.7), 1.4),
    "wall": Fault(in_a_wall, "share of columns", (0.2, 0.5), (0.05, 0.1, 0.3), 0.1),
    "no_floor": Fault(no_floor, "share of columns", (0.5, 1.0), (0.3, 0.75, 0.95), 0.95, True),
    "walled_in": Fault(walled_in, "metres", (1.5, 0.5), (2.0, 1.0, 0.7), 0.7, True),
}
