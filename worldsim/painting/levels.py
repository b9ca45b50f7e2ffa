"""Noise levels of the painter: shift, noising and loss weights for training and sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.diffusion.denoiser import add_noise

LEAST_LEVEL = 0.05
"""Noise level below which the loss weight is constant."""


def shift_for(views: Tensor | int) -> Tensor:
    """Return the shift factor of level / (1 - level) for sets of ``views`` noisy views.

    It is the square root of the number of views. Views of one place are redundant, so more views
    need more noise (CAT3D shifts the log-SNR by log N; simple diffusion, Hoogeboom et al. 2023,
    does the same for larger images).
    """
    return torch.as_tensor(views).float().clamp(min=1.0).sqrt()


def shift_levels(level: Tensor, shift: Tensor) -> Tensor:
    """Shift levels in [0, 1] towards noise: s t / (1 + (s - 1) t).

    level, shift: tensors that broadcast.
    """
    return shift * level / (1.0 + (shift - 1.0) * level)


def draw_levels(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw levels in (0, 1]: logit-normal (Esser et al. 2024), 10 % uniform."""
    normal = torch.randn(shape, generator=generator, device=device).sigmoid()
    uniform = torch.rand(shape, generator=generator, device=device)
    flat = torch.rand(shape, generator=generator, device=device) < 0.1
    return torch.where(flat, uniform, normal).clamp(1e-3, 1.0)


def per_channel(level: Tensor) -> Tensor:
    """Expand the levels of colour and depth (..., 2) to the five channels (..., 5)."""
    return level[..., [0, 0, 0, 1, 1]]


def add_noise_to(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Add noise to views (b, n, 5, h, w) by linear interpolation, at levels (b, n, 2)."""
    return add_noise(clean, noise, per_channel(level))


def loss_of(predicted: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """Return the mean squared velocity error that a prediction of clean views implies.

    The velocity is v = (x_t - x) / t, so errors of x have weight 1 / t^2, limited at
    ``LEAST_LEVEL``. Channels at level 0 are given and do not count.

    predicted, clean: (b, n, 5, h, w).
    level: (b, n, 2) in [0, 1].

    Returns a scalar.
    """
    error, noisy = _velocity_error(predicted, clean, level)
    return error.sum() / noisy.sum().clamp(min=1.0)


def losses_of(predicted: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """Return the same for each set, (b,)."""
    error, noisy = _velocity_error(predicted, clean, level)
    return error.flatten(1).sum(1) / noisy.flatten(1).sum(1).clamp(min=1.0)


def _velocity_error(predicted: Tensor, clean: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared errors (b, n, 5, h, w), 0 where given, and noisy pixels of each channel."""
    t = per_channel(level)[..., None, None]
    weight = (t > 0) / t.clamp(min=LEAST_LEVEL).square()
    noisy = (t > 0).float()[..., 0, 0] * (clean.shape[-1] * clean.shape[-2])
    return (predicted - clean).square() * weight, noisy
