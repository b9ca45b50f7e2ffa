"""Holes of partial views: the nearest known pixel, and views one before the other.

Narrow holes are closed by :mod:`worldsim.memory.gaps`.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.runtime.types import Array
from worldsim.state import MemoryView

EMPTY_COLOUR = 127
"""Grey level of a picture of which no pixel is known."""


def nearest_known(mask: Array) -> tuple[Array, Array]:
    """Find the nearest known pixel of every pixel.

    mask: (h, w) bool with at least one True.

    Returns distances (h, w) float32 in pixels, and indices (h, w) int64 into the flat picture.
    """
    distance, label = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    index = np.zeros(int(label.max()) + 1, dtype=np.int64)
    index[label[mask]] = np.flatnonzero(mask)
    return distance, index[label]


def fill_holes(rgb: Tensor, mask: Tensor) -> Tensor:
    """Return a picture (3, h, w) whose holes have the colour of the nearest known pixel.

    Autoencoders mix neighbouring pixels, so black holes would darken what is known around them.

    rgb: (3, h, w) uint8.
    mask: (h, w) bool, True where the colour is known. Without any known pixel, the picture is grey.
    """
    if not bool(mask.any()):
        return torch.full_like(rgb, EMPTY_COLOUR)
    _, index = nearest_known(mask.cpu().numpy())
    return rgb.flatten(1)[:, torch.from_numpy(index).to(rgb.device)]


def over(front: MemoryView, behind: MemoryView) -> MemoryView:
    """Return ``front`` where it is known, and ``behind`` elsewhere."""
    mask = front.mask

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask if a.ndim == 3 else mask[:, None], a, b)

    return MemoryView(
        rgb=choose(front.rgb, behind.rgb),
        inverse_depth=choose(front.inverse_depth, behind.inverse_depth),
        mask=mask | behind.mask,
        offset=choose(front.offset, behind.offset),
        source=choose(front.source, behind.source),
    )


def inner(mask: Tensor) -> Tensor:
    """Return the known pixels (h, w) bool whose 3x3 neighbourhood is known."""
    return -F.max_pool2d(-mask[None, None].float(), 3, 1, 1)[0, 0] > 0.5
