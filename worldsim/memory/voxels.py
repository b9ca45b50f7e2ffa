"""A dense voxel field: density and colour at the nodes of a grid, interpolated, and rendered along
rays.

Densities are kept before their activation (softplus) and activated after interpolation, so that a
surface may be sharper than a voxel (Sun, Sun and Chen, "Direct Voxel Grid Optimization", 2022).
Rays have z = 1 in the camera's axes: the length along them is depth. Everything here works on one
environment and is written without reductions over neighbours: rows of a batch are handled one by
one, so that none depends on another.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, pixel_rays
from worldsim.memory.sky import SKY_COLUMNS, SKY_ROWS, sky_at
from worldsim.memory.splat import NEAR_PLANE, POINT

EMPTY_DENSITY, SOLID_DENSITY = -6.0, 3.0
"""What voxels without and with points start from: softplus of them, per voxel passed, is a haze of
0.2% and 95%."""
VISIBLE_DENSITY = -4.0
"""Voxels below this (1.8% per voxel passed) are skipped when a view is rendered."""
AROUND_MEDIAN = 6
"""Samples to each side of the median that make up the expected depth."""
EXACT = 2.0**40
"""What the largest gradient of a fit is counted as where gradients are summed in whole numbers."""
RAYS_AT_ONCE = 16384
"""Rays rendered in one go: bounds the memory that a large view takes (16,384 x 240 samples, about
50 MB)."""


@dataclass(frozen=True)
class Voxels:
    """A batch of voxel fields. Axes x y z are the world's (z up).

    density: (b, nx, ny, nz) float16, before softplus; softplus of it is the optical thickness per
    voxel passed. colour: (b, 3, nx, ny, nz) uint8 rgb.
    source: (b, nx, ny, nz) uint8, 255 * depth channel of the nearest sight of what is there; 0
    where nothing was seen. sky: (b, 4, 64, 128) uint8 rgb, and 255 where the sky was seen; rows
    from down to up, columns by azimuth from -x over -y. low: (b, 3) float32 metres, the place of
    node (0, 0, 0). size: (b, 3) float32 metres from one node to the next.
    """

    density: Tensor
    colour: Tensor
    source: Tensor
    sky: Tensor
    low: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.density)


@dataclass(frozen=True)
class Grid:
    """The field of one environment while it is fitted or rendered: float32 values, (4, nx, ny, nz):
    raw density, rgb in [0, 1]."""

    values: Tensor
    low: Tensor
    size: Tensor

    @property
    def high(self) -> Tensor:
        """(3,) metres: the place of the last node."""
        shape = torch.tensor(self.values.shape[1:], device=self.low.device)
        return self.low + self.size * (shape - 1)


def empty_voxels(batch: int, shape: tuple[int, int, int], device: object = "cpu") -> Voxels:
    """Fields of nothing."""
    return Voxels(
        density=torch.full((batch, *shape), EMPTY_DENSITY, dtype=torch.float16, device=device),  # type: ignore[call-overload]
        colour=torch.zeros(batch, 3, *shape, dtype=torch.uint8, device=device),  # type: ignore[call-overload]
        source=torch.zeros(batch, *shape, dtype=torch.uint8, device=device),  # type: ignore[call-overload]
        sky=torch.zeros(batch, 4, SKY_ROWS, SKY_COLUMNS, dtype=torch.uint8, device=device),  # type: ignore[call-overload]
        low=torch.zeros(batch, 3, device=device),  # type: ignore[call-overload]
        size=torch.ones(batch, 3, device=device),  # type: ignore[call-overload]
    )


def sample(grid: Grid, place: Tensor, channels: slice = slice(None)) -> Tensor:
    """Trilinear interpolation at world places (..., 3) metres: (c, ...). Outside of the grid: the
    values at its border."""
    values = grid.values[channels]
    shape = torch.tensor(values.shape[1:], device=place.device, dtype=torch.float32)
    unit = (place - grid.low) / grid.size * (2.0 / (shape - 1.0)) - 1.0
    # grid_sample names coordinates from the last axis to the first.
    coordinates = unit.flip(-1).reshape(-1, 3)
    found = (
        interpolate_exactly(values, coordinates)
        if values.is_cuda
        else _interpolate(values, coordinates)
    )
    return found.reshape(len(values), *place.shape[:-1])


def _interpolate(values: Tensor, coordinates: Tensor) -> Tensor:
    """(c, nx, ny, nz) at (n, 3) places, z y x in [-1, 1]: (c, n)."""
    at = coordinates[None, :, None, None]
    return F.grid_sample(
        values[None], at, mode="bilinear", padding_mode="border", align_corners=True
    )[0, :, :, 0, 0]


class _ExactGradient(torch.autograd.Function):
    """Interpolation whose gradient is the same on every run: summed in whole numbers, which no
    order of adding changes.

    On a GPU, ``grid_sample`` adds floats in whatever order they come. There is no gradient for the
    places.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, coordinates: Tensor) -> Tensor:
        ctx.save_for_backward(coordinates)
        ctx.shape = values.shape
        return _interpolate(values, coordinates)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (coordinates,), gradient = ctx.saved_tensors, gradients[0]
        channels, *sizes = ctx.shape
        limit = torch.tensor(sizes, device=gradient.device, dtype=torch.float32) - 1.0
        unit = ((coordinates.flip(-1) + 1.0) * 0.5 * limit).clamp(min=0.0).minimum(limit)
        corner = torch.minimum(unit.floor(), (limit - 1.0).clamp(min=0.0))
        share = unit - corner
        scale = EXACT / gradient.abs().amax().clamp(min=1e-20)
        total = torch.zeros(
            channels, sizes[0] * sizes[1] * sizes[2], dtype=torch.int64, device=gradient.device
        )
        for step in itertools.product((0, 1), repeat=3):
            side = torch.tensor(step, device=gradient.device)
            weight = (share * side + (1.0 - share) * (1 - side)).prod(1)
            x, y, z = torch.minimum(corner + side, limit).long().unbind(1)
            total.index_add_(
                1, (x * sizes[1] + y) * sizes[2] + z, (gradient * weight * scale).round().long()
            )
        return (total.to(torch.float32) / scale).view(ctx.shape), None


def interpolate_exactly(values: Tensor, coordinates: Tensor) -> Tensor:
    """Trilinear interpolation with a reproducible gradient. values: (c, nx, ny, nz). coordinates:
    (n, 3), z y x in [-1, 1]."""
    found: Tensor = _ExactGradient.apply(values, coordinates)
    return found


def world_rays(camera: Camera) -> tuple[Tensor, Tensor]:
    """Origins (b, 3) and directions (b, h * w, 3) of all pixels in world axes; a step of 1 along
    them is 1 m of depth."""
    local = pixel_rays(camera.intrinsics, camera.height, camera.width).flatten(2)
    rotation = camera.pose[:, :3, :3].float()
    x, y, z = local.unbind(1)
    r = rotation[..., None]
    world = torch.stack([r[:, i, 0] * x + r[:, i, 1] * y + r[:, i, 2] * z for i in range(3)], -1)
    return camera.pose[:, :3, 3].float(), world


def span(grid: Grid, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Depths (n,) at which rays enter and leave the grid; leave <= enter for those that miss it.
    origin, ray: (n, 3)."""
    safe = torch.where(ray.abs() < 1e-9, 1e-9, ray)
    first, second = (grid.low - origin) / safe, (grid.high - origin) / safe
    enter = torch.minimum(first, second).amax(-1).clamp(min=NEAR_PLANE)
    return enter, torch.maximum(first, second).amin(-1)


def thickness(grid: Grid, raw: Tensor, ray: Tensor, step: Tensor) -> Tensor:
    """Optical thickness of stretches of rays. raw: densities (n, s). ray: (n, 3). step: (n, s)
    metres of depth."""
    # Counted in voxels, each axis by its own edge, so that densities mean the same whatever the
    # grid's proportions.
    voxels = (ray / grid.size).norm(dim=-1, keepdim=True) * step
    return F.softplus(raw) * voxels


def weights(thick: Tensor) -> Tensor:
    """What each stretch (n, s) contributes to its ray: its opacity times what all before it let
    through."""
    before = F.pad(thick.cumsum(1)[:, :-1], (1, 0))
    return torch.exp(-before) - torch.exp(-before - thick)


def render_rays(grid: Grid, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Opacity (n,), colour (n, 3) in [0, 1] times opacity, and expected depth (n,) metres of rays.
    origin, ray: (n, 3).

    Samples are about a voxel apart; stretches without visible density are skipped.
    """
    skippable = _skippable(grid)
    chunks = zip(origin.split(RAYS_AT_ONCE), ray.split(RAYS_AT_ONCE), strict=True)
    opacity, colour, depth = zip(
        *(_render_chunk(grid, skippable, *chunk) for chunk in chunks), strict=True
    )
    return torch.cat(opacity), torch.cat(colour), torch.cat(depth)


def _skippable(grid: Grid) -> Tensor:
    """(nx, ny, nz) bool: where neither a node nor its neighbours, which interpolation would mix in,
    are visible."""
    visible = (grid.values[:1] > VISIBLE_DENSITY).to(torch.float32)
    return F.max_pool3d(visible[None], 3, stride=1, padding=1)[0, 0] == 0


def _render_chunk(
    grid: Grid, skippable: Tensor, origin: Tensor, ray: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, count = len(ray), sum(grid.values.shape[1:])
    enter, leave = span(grid, origin, ray)
    step = ((leave - enter) / count).clamp(min=0.0)[:, None].expand(n, count)
    depth = enter[:, None] + step * (torch.arange(count, device=ray.device) + 0.5)
    place = origin[:, None] + depth[..., None] * ray[:, None]
    shape = torch.tensor(skippable.shape, device=ray.device)
    node = torch.minimum(((place - grid.low) / grid.size).round().long().clamp(min=0), shape - 1)
    needed = ~skippable[node[..., 0], node[..., 1], node[..., 2]] & (step > 0)
    raw = torch.full((n, count), -torch.inf, device=ray.device)
    raw[needed] = sample(grid, place[needed], slice(0, 1))[0]
    weight = weights(thickness(grid, raw, ray, step))
    opacity = weight.sum(1)
    seen = weight > 1e-4
    colour = torch.zeros(n, count, 3, device=ray.device)
    colour[seen] = sample(grid, place[seen], slice(1, 4)).T
    shade = (weight[..., None] * colour.clamp(0.0, 1.0)).sum(1)
    # Expected depth around the median: at an edge, the mean of all would lie between the two
    # surfaces, where nothing is.
    median = depth.gather(
        1, (weight.cumsum(1) < 0.5 * opacity[:, None]).sum(1, keepdim=True).clamp(max=count - 1)
    )
    near = weight * ((depth - median).abs() <= AROUND_MEDIAN * step)
    return opacity, shade, (near * depth).sum(1) / near.sum(1).clamp(min=1e-6)


@dataclass(frozen=True)
class RowView:
    """What a field shows along ``n`` rays. solid: (n,) bool, a surface that was seen. colour: (n,
    3) float in [0, 1] and depth: (n,) metres and source: (n,) uint8 of it. sky: (n,) bool, nothing
    in the way and sky seen there; sky_colour: (n, 3)."""

    solid: Tensor
    colour: Tensor
    depth: Tensor
    source: Tensor
    sky: Tensor
    sky_colour: Tensor


def render_row(voxels: Voxels, row: int, origin: Tensor, ray: Tensor) -> RowView:
    """Render environment ``row`` along rays (n, 3) from ``origin`` (3,)."""
    grid = grid_of(voxels, row)
    opacity, shade, depth = render_rays(grid, origin.expand_as(ray), ray)
    source = _at_nearest(voxels.source[row], grid, origin + depth[:, None] * ray)
    sky_colour, sky_known = sky_at(voxels.sky[row], ray)
    opaque = opacity >= 0.5
    # An edge against the sky is a mixture with it; what little shines through elsewhere is not
    # known and left out.
    mixed = shade + (1.0 - opacity)[:, None] * sky_colour
    colour = torch.where(sky_known[:, None], mixed, shade / opacity.clamp(min=0.5)[:, None])
    return RowView(opaque & (source > 0), colour, depth, source, ~opaque & sky_known, sky_colour)


def grid_of(voxels: Voxels, row: int) -> Grid:
    """The field of environment ``row``, to sample."""
    values = torch.cat([voxels.density[row, None].float(), voxels.colour[row].float() / 255.0])
    return Grid(values, voxels.low[row], voxels.size[row])


def voxels_of(grid: Grid, source: Tensor, sky: Tensor) -> Voxels:
    """A batch of one to keep."""
    density = grid.values[None, 0].clamp(-30.0, 30.0).to(torch.float16)
    colour = (grid.values[None, 1:].clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return Voxels(density, colour, source[None], sky[None], grid.low[None], grid.size[None])


def density_at(grid: Grid, place: Tensor) -> Tensor:
    """Density (n,) per metre at world places (n, 3), 0 outside of the grid."""
    inside = ((place >= grid.low) & (place <= grid.high)).all(-1)
    return F.softplus(sample(grid, place, slice(0, 1))[0]) / grid.size.mean() * inside


def source_of(position: Tensor, source: Tensor, kind: Tensor, grid: Grid) -> Tensor:
    """How finely each voxel was seen, (nx, ny, nz) uint8: the best of the points within two voxels,
    0 without any.

    position: (3, n) metres. source, kind: (n,) uint8.
    """
    shape = torch.tensor(grid.values.shape[1:], device=position.device)[:, None]
    node = ((position - grid.low[:, None]) / grid.size[:, None]).round().long()
    inside = ((node >= 0) & (node < shape)).all(0) & (kind == POINT)
    x, y, z = node[:, inside]
    flat = torch.zeros(int(shape.prod()), dtype=torch.int32, device=position.device)
    best = flat.scatter_reduce_(0, (x * shape[1] + y) * shape[2] + z, source[inside].int(), "amax")
    return F.max_pool3d(best.view(1, 1, *grid.values.shape[1:]).float(), 5, stride=1, padding=2)[
        0, 0
    ].to(torch.uint8)


def _at_nearest(values: Tensor, grid: Grid, place: Tensor) -> Tensor:
    """Values (nx, ny, nz) at the nodes nearest to places (n, 3), 0 for places outside."""
    shape = torch.tensor(values.shape, device=place.device)
    node = ((place - grid.low) / grid.size).round().long()
    inside = ((node >= 0) & (node < shape)).all(-1)
    x, y, z = torch.minimum(node.clamp(min=0), shape - 1).unbind(-1)
    return values[x, y, z] * inside
