"""The sky of a voxel field: a map of colours by direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SKY_ROWS, SKY_COLUMNS = 64, 128
"""Cells of the sky's map by elevation and azimuth: 2.8 degrees, about the pixel of a 32-pixel
picture."""


def sky_of(ray: Tensor, colour: Tensor, is_sky: Tensor) -> Tensor:
    """The map of the sky (4, 64, 128) uint8 from what was seen along rays (n, 3): mean colours, and
    255 where any."""
    row, column = sky_cell(ray[is_sky])
    cell = row.long().clamp(0, SKY_ROWS - 1) * SKY_COLUMNS + column.long().clamp(0, SKY_COLUMNS - 1)
    value = torch.cat([torch.full_like(colour[is_sky][:, :1], 1.0), colour[is_sky]], 1)
    total = torch.zeros(4, SKY_ROWS * SKY_COLUMNS, dtype=torch.int64, device=ray.device)
    total.index_add_(1, cell, (value * 255.0).round().long().T)
    mean = (total[1:].double() * 255.0 / total[:1].clamp(min=1)).round()
    return torch.cat([mean, 255.0 * (total[:1] > 0)]).to(torch.uint8).view(4, SKY_ROWS, SKY_COLUMNS)


def sky_cell(ray: Tensor) -> tuple[Tensor, Tensor]:
    """Where directions (n, 3) fall in the map of the sky: rows and columns as float numbers of
    cells."""
    x, y, z = (ray / ray.norm(dim=-1, keepdim=True)).unbind(-1)
    row = (torch.asin(z.clamp(-1.0, 1.0)) / torch.pi + 0.5) * SKY_ROWS
    return row, (torch.atan2(y, x) / (2.0 * torch.pi) + 0.5) * SKY_COLUMNS


def sky_at(sky: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (n, 3) in [0, 1] of the sky along rays (n, 3), interpolated among the cells that were
    seen; bool (n,), if seen."""
    row, column = sky_cell(ray)
    weight = sky[3:].float() / 255.0
    values = torch.cat([sky[:3].float() / 255.0 * weight, weight])
    # East and west of the map meet: one more column to each side.
    values = torch.cat([values[..., -1:], values, values[..., :1]], -1)
    coordinates = torch.stack(
        [2.0 * (column + 1.0) / (SKY_COLUMNS + 2) - 1.0, 2.0 * row / SKY_ROWS - 1.0], -1
    )
    found = F.grid_sample(
        values[None], coordinates[None, None], padding_mode="border", align_corners=False
    )[0, :, 0]
    return (found[:3] / found[3:].clamp(min=1e-6)).T, found[3] > 0.5
