"""The channels that the painter denoises, scaled so that noise affects all of them alike.

Freedoom is dark: its colours in [-1, 1] have mean -0.67 and standard deviation 0.27. Without
scaling, noise at one level destroys colours long before it destroys depth, which leaves few
sampling steps for textures. Scaled channels have standard deviations of about 0.8.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from worldsim.camera import pluecker_rays, relative_motion
from worldsim.diffusion.denoiser import frame_to_channels, view_to_channels
from worldsim.state import MemoryView

MEAN = (-0.67, -0.67, -0.67, 0.0, 0.0)
"""Mean of rgb, depth channel and sky in [-1, 1], subtracted first."""
SCALE = (3.0, 3.0, 3.0, 2.0, 1.0)
"""Factors applied after the subtraction."""


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return ``values`` as a tensor on ``device``, copied there once.

    The tensor is cached because each copy waits for all work queued on a GPU. Do not write to it.
    """
    return torch.tensor(values, device=device)


def _columns(values: tuple[float, ...], like: Tensor) -> Tensor:
    return constant(values, like.device)[:, None, None]


def scale(plain: Tensor) -> Tensor:
    """Scale plain channels (..., c, h, w) in [-1, 1] to the painter's channels; c is at most 5."""
    c = plain.shape[-3]
    return (plain - _columns(MEAN[:c], plain)) * _columns(SCALE[:c], plain)


def unscale(channels: Tensor) -> Tensor:
    """Invert :func:`scale`."""
    c = channels.shape[-3]
    return channels / _columns(SCALE[:c], channels) + _columns(MEAN[:c], channels)


def clean_channels(rgb: Tensor, code: Tensor) -> Tensor:
    """Convert views to the painter's channels.

    rgb: (..., 3, h, w) uint8.
    code: (..., h, w) int32 inverse-depth codes.

    Returns (..., 5, h, w) float32: rgb, depth channel and sky (-1 or 1), scaled.
    """
    sky = torch.where(code == 0, 1.0, -1.0).unsqueeze(-3)
    return scale(torch.cat([frame_to_channels(rgb, code), sky], -3))


def memory_view_channels(view: MemoryView) -> Tensor:
    """Convert a memory view to channels (m, 5, h, w) float32.

    They are rgb and depth, scaled, and the mask. All are 0 in holes.
    """
    plain = view_to_channels(view)[:, :5]
    mask = plain[:, 4:]
    return torch.cat([scale(plain[:, :4]) * mask, mask], 1)


def rays_of(pose: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return Pluecker rays of sets of cameras, in the frame of each set's first camera.

    pose: (b, n, 4, 4) camera-to-world, metres.
    intrinsics: (4,) pixels.

    Returns (b, n, 6, height, width) float32, metres.
    """
    b, n = pose.shape[:2]
    motion = relative_motion(pose[:, :1].expand_as(pose).flatten(0, 1), pose.flatten(0, 1))
    rays = pluecker_rays(motion, intrinsics.expand(b * n, 4), height, width)
    return rays.unflatten(0, (b, n))
