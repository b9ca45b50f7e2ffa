"""The painter's channels: what is noised and predicted, scaled so that noise hides all of it alike.

Freedoom is dark: its colours in [-1, 1] have mean -0.67 and standard deviation 0.27. Unscaled,
the noise of one level hides colours long before it hides depth, and few sampling steps are left in
which textures form. Scaled channels have standard deviations of about 0.8.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from worldsim.diffusion.denoiser import frame_to_channels, view_to_channels
from worldsim.state import MemoryView

MEAN = (-0.67, -0.67, -0.67, 0.0, 0.0)
"""Subtracted from rgb, depth channel and sky in [-1, 1]."""
SCALE = (3.0, 3.0, 3.0, 2.0, 1.0)
"""What they are multiplied by afterwards."""


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers as a tensor on a device, copied there once. Do not write into it.

    Each copy waits for all work that a GPU has queued.
    """
    return torch.tensor(values, device=device)


def _columns(values: tuple[float, ...], like: Tensor) -> Tensor:
    return constant(values, like.device)[:, None, None]


def scale(plain: Tensor) -> Tensor:
    """Channels (..., c, h, w) in [-1, 1], c at most 5, as the painter's."""
    c = plain.shape[-3]
    return (plain - _columns(MEAN[:c], plain)) * _columns(SCALE[:c], plain)


def unscale(channels: Tensor) -> Tensor:
    """Inverse of :func:`scale`."""
    c = channels.shape[-3]
    return channels / _columns(SCALE[:c], channels) + _columns(MEAN[:c], channels)


def clean_channels(rgb: Tensor, code: Tensor) -> Tensor:
    """Views as the painter's channels. rgb (..., 3, h, w) uint8, code (..., h, w) int32.

    Returns (..., 5, h, w) float32: rgb, depth channel and sky (-1 or 1), scaled.
    """
    sky = torch.where(code == 0, 1.0, -1.0).unsqueeze(-3)
    return scale(torch.cat([frame_to_channels(rgb, code), sky], -3))


def memory_view_channels(view: MemoryView) -> Tensor:
    """A memory view as (m, 5, h, w) float32: rgb and depth, scaled, and the mask; 0 in holes."""
    plain = view_to_channels(view)[:, :5]
    mask = plain[:, 4:]
    return torch.cat([scale(plain[:, :4]) * mask, mask], 1)
