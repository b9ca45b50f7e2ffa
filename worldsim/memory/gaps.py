"""Gaps of partial views: narrow holes between the splats of a surface.

A surface that is drawn from nearer than it was seen from, or that thin things stand before, has
holes of a few pixels. They belong to it. Wide holes are parts of the scene that no frame has shown.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.memory.splat import GAP
from worldsim.state import MemoryView, map_tensors


def close_mask(mask: Tensor) -> Tensor:
    """Return the known pixels and the gaps between them, (b, h, w) bool.

    It is the morphological closing with a square of 2 * ``GAP`` + 1 pixels: holes that are at most
    2 * ``GAP`` pixels wide in any direction are closed, and wider ones keep their size.

    mask: (b, h, w) bool, the known pixels.
    """
    side = 2 * GAP + 1
    grown = F.max_pool2d(mask[:, None].float(), side, 1, GAP)
    # Pixels beyond the border do not count, so closing does not shrink what is known.
    return -F.max_pool2d(-grown, side, 1, GAP)[:, 0] > 0.5


def close_gaps(view: MemoryView) -> MemoryView:
    """Return the views (b, ...) with their gaps (:func:`close_mask`) filled.

    Each pixel of a gap shows what the nearest known pixel shows.
    """
    closed = close_mask(view.mask)
    index = _nearest(view.mask).flatten(1)
    gap = closed & ~view.mask

    def fill(values: Tensor) -> Tensor:
        flat = values.flatten(2) if values.ndim == 4 else values.flatten(1)[:, None]
        there = flat.gather(2, index[:, None].expand_as(flat)).view_as(values)
        return torch.where(gap if values.ndim == 3 else gap[:, None], there, values)

    return map_tensors(fill, view)


def _nearest(mask: Tensor) -> Tensor:
    """Return the index of the nearest known pixel at most ``GAP`` rows and columns away.

    mask: (b, h, w) bool. Returns (b, h, w) int64, row * w + column; pixels without one have their
    own.
    """
    b, h, w = mask.shape
    own = torch.arange(h * w, device=mask.device).view(1, h, w).expand(b, h, w)
    index = torch.where(mask, own, -1)
    padded = F.pad(index, (GAP, GAP, GAP, GAP), value=-1)
    around = [(y, x) for y in range(-GAP, GAP + 1) for x in range(-GAP, GAP + 1)]
    for y, x in sorted(around, key=lambda yx: (yx[0] ** 2 + yx[1] ** 2, yx)):
        there = padded[:, GAP + y : GAP + y + h, GAP + x : GAP + x + w]
        index = torch.where(index < 0, there, index)
    return torch.where(index < 0, own, index)
