"""Fitting a voxel field to frames with known cameras and depth, by gradient descent on rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.memory.splat import POINT
from worldsim.memory.voxels import (
    EMPTY_DENSITY,
    SOLID_DENSITY,
    Grid,
    sample,
    span,
    thickness,
    weights,
)
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.ranges import NotNegative, Positive

_ONE = 256
"""Interpolation weights are summed as whole numbers of 1 / 256: sums that any order gives alike, on
a GPU too."""


@dataclass(frozen=True)
class FitConfig:
    """How a field is fitted."""

    rays: Annotated[int, Ge(1), Le(2**20)] = 2048
    """Rays an iteration. More are slower and smoother; 2,048 of 64x64 frames are half a frame."""
    free_samples: Annotated[int, Ge(1), Le(4096)] = 16
    """Samples a ray between the camera and its surface, at random depths: what clears the air."""
    surface_samples: Annotated[int, Ge(1), Le(4096)] = 16
    """Samples a ray around the surface that its depth names."""
    surface_voxels: Positive = 3.0
    """How far around it, in voxels to each side."""
    density_rate: Positive = 0.5
    """Adam's learning rate of densities (before softplus)."""
    colour_rate: Positive = 0.02
    """Adam's learning rate of colours in [0, 1]."""
    depth_weight: NotNegative = 0.1
    """Weight of the depth's error, as a share of the depth, beside the squared error of colours."""
    opacity_weight: NotNegative = 0.03
    """Weight of what is missing to full opacity where a surface was seen, and to none where the sky
    was."""
    variation: NotNegative = 0.0
    """Weight of the total variation of colours between neighbouring voxels, against learning the
    noise of frames: 0.01 is a beginning. Off: where colours are clean it changes nothing
    (docs/experiments/radiance.md) and takes a quarter of the time."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Rays:
    """Observations along ``n`` rays.

    origin, ray: (n, 3) world metres, ray with z = 1 in its camera's axes.
    colour: (n, 3) float in [0, 1].
    depth: (n,) metres, ``inf`` for sky.
    """

    origin: Tensor
    ray: Tensor
    colour: Tensor
    depth: Tensor


def grid_from_points(
    position: Tensor,
    colour: Tensor,
    kind: Tensor,
    low: Tensor,
    size: Tensor,
    shape: tuple[int, ...],
) -> Grid:
    """Return a field that is solid at the points, in their colours, and empty elsewhere.

    position, colour: (3, n).
    kind: (n,).
    """
    inside = kind == POINT
    unit = ((position - low[:, None]) / size[:, None])[:, inside]
    limit = torch.tensor(shape, device=low.device)[:, None]
    near = ((unit >= 0) & (unit <= limit - 1)).all(0)
    unit, rgb = unit[:, near], colour[:, inside][:, near].to(torch.int64)
    corner = torch.minimum(unit.floor().long(), limit - 2)
    share = unit - corner
    total = torch.zeros(4, shape[0] * shape[1] * shape[2], dtype=torch.int64, device=low.device)
    for dx, dy, dz in ((i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)):
        step = torch.tensor((dx, dy, dz), device=low.device)[:, None]
        weight = ((1 - step) + (2 * step - 1) * share).prod(0)
        whole = (weight * _ONE).round().long()
        x, y, z = corner + step
        node = (x * shape[1] + y) * shape[2] + z
        total.index_add_(1, node, torch.cat([whole[None], whole * rgb]))
    total = total.view(4, *shape)
    weight = total[0].float()
    known = weight > 0
    mean = torch.where(known, total[1:].float() / weight.clamp(min=1.0) / 255.0, 0.0)
    # Around the surface too: what is empty still lends its colour to interpolation.
    mean = _spread(mean, known)
    # A point amid eight nodes lends none of them much: the nearest is solid in any case.
    x, y, z = unit.round().long()
    nearest = torch.zeros(total[0].numel(), dtype=torch.bool, device=low.device)
    nearest[(x * shape[1] + y) * shape[2] + z] = True
    solid = (weight >= 0.25 * _ONE) | nearest.view(weight.shape)
    density = torch.where(solid, SOLID_DENSITY, EMPTY_DENSITY)
    return Grid(torch.cat([density[None], mean]), low, size)


def _spread(colour: Tensor, known: Tensor, rounds: int = 3) -> Tensor:
    """Colours (3, nx, ny, nz) where known, and their neighbours' means around that; grey beyond."""
    filled, weight = colour * known, known[None].float()
    for _ in range(rounds):
        total = F.avg_pool3d(torch.cat([filled, weight])[None], 3, stride=1, padding=1)[0]
        fresh = (weight == 0) & (total[3:] > 0)
        filled = torch.where(fresh, total[:3] / total[3:].clamp(min=1e-9), filled)
        weight = torch.maximum(weight, fresh.float())
    return torch.where(weight > 0, filled, 0.5)


def fit_grid(
    start: Grid, rays: Rays, iterations: int, config: FitConfig, generator: torch.Generator
) -> tuple[Grid, list[float]]:
    """``start`` fitted to ``rays``, and the loss at each iteration.

    Sky is whatever no density stops: rays that meet it ask for an empty way. generator: on the CPU,
    what all randomness is drawn from.
    """
    device = start.values.device
    # Of a sample: its place, what eight nodes lend it and their gradients; of a node: values,
    # gradients and two averages.
    samples = config.rays * (config.free_samples + config.surface_samples)
    if device.type == "cpu":
        what = f"fitting {config.rays} rays of {samples // config.rays} samples"
        require_memory_for(400 * samples + 5 * 4 * start.values.numel(), what)
    density = start.values[:1].clone().requires_grad_()
    colour = start.values[1:].clone().requires_grad_()
    optimiser = torch.optim.Adam(
        [{"params": [density]}, {"params": [colour]}], betas=(0.9, 0.99), fused=True
    )
    losses: list[Tensor] = []
    with torch.enable_grad():
        for iteration in range(iterations):
            for group, rate in zip(
                optimiser.param_groups, (config.density_rate, config.colour_rate), strict=True
            ):
                group["lr"] = rate * 0.1 ** (iteration / iterations)
            chosen = torch.randint(len(rays.depth), (config.rays,), generator=generator).to(device)
            jitter = torch.rand(
                config.rays, config.free_samples + config.surface_samples, generator=generator
            ).to(device)
            batch = Rays(
                rays.origin[chosen], rays.ray[chosen], rays.colour[chosen], rays.depth[chosen]
            )
            grid = Grid(torch.cat([density, colour]), start.low, start.size)
            loss = _loss(grid, batch, jitter, config)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            # Numbers at the end: reading one waits for the device.
            losses.append(loss.detach())
    return Grid(torch.cat([density, colour]).detach(), start.low, start.size), torch.stack(
        losses
    ).tolist()


def _loss(grid: Grid, rays: Rays, jitter: Tensor, config: FitConfig) -> Tensor:
    enter, leave = span(grid, rays.origin, rays.ray)
    free, surface = config.free_samples, config.surface_samples
    # How much depth it takes to pass a voxel.
    voxel = 1.0 / (rays.ray / grid.size).norm(dim=-1)
    band = config.surface_voxels * voxel
    solid = torch.isfinite(rays.depth) & (rays.depth < leave)
    # Where nothing is hit, the second stretch lies where rays leave the grid and has no thickness.
    surface_depth = torch.where(solid, rays.depth, leave)
    stop = torch.where(solid, rays.depth - band, leave)
    start = torch.minimum(enter, stop)
    edges = torch.arange(free, device=jitter.device) + jitter[:, :free]
    air_step = ((stop - start) / free).clamp(min=0.0)[:, None]
    air = start[:, None] + air_step * edges
    wall_step = (2.0 * band / surface)[:, None]
    wall = (surface_depth - band)[:, None] + wall_step * (
        torch.arange(surface, device=jitter.device) + jitter[:, free:]
    )
    depth = torch.cat([air, wall], 1)
    step = torch.cat(
        [
            air_step.expand(-1, free),
            torch.where(solid[:, None], wall_step, 0.0).expand(-1, surface),
        ],
        1,
    )
    values = sample(grid, rays.origin[:, None] + depth[..., None] * rays.ray[:, None])
    weight = weights(thickness(grid, values[0], rays.ray, step))
    opacity = weight.sum(1)
    colour = (weight[..., None] * values[1:].movedim(0, -1)).sum(1)
    # Colours of what is opaque so far: how opaque it shall be is a term of its own.
    wrong = (colour / opacity.clamp(min=0.05)[:, None] - rays.colour).square().mean(1)
    off = ((weight * depth).sum(1) - opacity * surface_depth).abs() / surface_depth.clamp(min=0.1)
    missing = config.opacity_weight * torch.where(solid, 1.0 - opacity, opacity)
    loss = (missing + torch.where(solid, wrong + config.depth_weight * off, 0.0)).mean()
    return loss + config.variation * variation(grid) if config.variation else loss


def variation(grid: Grid) -> Tensor:
    """Mean absolute difference of colours between neighbouring nodes."""
    c = grid.values[1:]
    return (
        (c[:, 1:] - c[:, :-1]).abs().mean()
        + (c[:, :, 1:] - c[:, :, :-1]).abs().mean()
        + (c[..., 1:] - c[..., :-1]).abs().mean()
    )
