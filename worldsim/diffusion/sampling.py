"""Sampling: ``denoise(x, sigma) -> clean`` is the only thing a sampler knows of the network; the
schedule is data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from worldsim.errors import InvalidInputError


@cache
def schedule(num_inference_steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """Noise levels of diffusers' flow-matching Euler schedule, from 1 down to 0:
    ``num_inference_steps + 1`` values."""
    if num_inference_steps < 1:
        raise InvalidInputError(f"sampling steps must be at least 1, got {num_inference_steps}")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(
        sigmas=[1.0 - i / num_inference_steps for i in range(num_inference_steps)]
    )
    return tuple(float(s) for s in scheduler.sigmas)


def sample(
    denoise: Callable[[Tensor, float], Tensor], noise: Tensor, sigmas: tuple[float, ...]
) -> Tensor:
    """Follow the flow from ``noise`` with Euler steps. ``denoise`` predicts the clean frame for x
    at a noise level sigma."""
    x = noise
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        clean = denoise(x, sigma)
        x = clean if following == 0.0 else clean + (following / sigma) * (x - clean)
    return x
