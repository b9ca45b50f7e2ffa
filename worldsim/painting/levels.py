"""Noise levels of the painter: the same shift, noising and weights in training and in sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.diffusion.denoiser import add_noise

LEAST_LEVEL = 0.05
"""Noise level below which the loss's weight no longer grows."""


def shift_for(views: Tensor | int) -> Tensor:
    """Factor by which level / (1 - level) is shifted for sets of so many noisy views: its root.

    Many views of one place tell of each other, so the same noise hides less (CAT3D shifts the
    log-SNR by log N; simple diffusion, Hoogeboom et al. 2023, does so for larger pictures).
    """
    return torch.as_tensor(views).float().clamp(min=1.0).sqrt()


def shift_levels(level: Tensor, shift: Tensor) -> Tensor:
    """Levels in [0, 1] moved towards noise: s t / (1 + (s - 1) t). level and shift broadcast."""
    return shift * level / (1.0 + (shift - 1.0) * level)


def draw_levels(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Levels in (0, 1): logit-normal (Esser et al. 2024), a tenth uniform."""
    normal = torch.randn(shape, generator=generator, device=device).sigmoid()
    uniform = torch.rand(shape, generator=generator, device=device)
    flat = torch.rand(shape, generator=generator, device=device) < 0.1
    return torch.where(flat, uniform, normal).clamp(1e-3, 1.0)


def per_channel(level: Tensor) -> Tensor:
    """Levels of colour and depth (..., 2) as those of the five channels (..., 5)."""
    return level[..., [0, 0, 0, 1, 1]]


def add_noise_to(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Views (b, n, 5, h, w) at the levels (b, n, 2), on the straight line from data to noise."""
    return add_noise(clean, noise, per_channel(level))


def loss_of(predicted: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """Mean squared error of the velocity that a prediction of clean views implies.

    v = (x_t - x) / t, so errors of x weigh 1 / t^2, from ``LEAST_LEVEL`` on. Channels at level 0
    are given and count nothing. predicted, clean: (b, n, 5, h, w). level: (b, n, 2). Returns a
    scalar.
    """
    t = per_channel(level)[..., None, None]
    weight = (t > 0) / t.clamp(min=LEAST_LEVEL).square()
    error = (predicted - clean).square() * weight
    noisy = (t > 0).float().sum() * clean.shape[-1] * clean.shape[-2]
    return error.sum() / noisy.clamp(min=1.0)
