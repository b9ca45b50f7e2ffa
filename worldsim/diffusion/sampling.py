"""Sampling: ``denoise(x, level) -> clean`` is the only thing a sampler knows of the network; the
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
def schedule(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """Noise levels of diffusers' flow-matching Euler schedule, from 1 down to 0: ``steps + 1``
    values."""
    if steps < 1:
        raise InvalidInputError(f"sampling steps must be at least 1, got {steps}")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1.0 - i / steps for i in range(steps)])
    return tuple(float(s) for s in scheduler.sigmas)


def sample(
    denoise: Callable[[Tensor, float], Tensor], noise: Tensor, levels: tuple[float, ...]
) -> Tensor:
    """Follow the flow from ``noise`` with Euler steps. ``denoise`` predicts the clean frame for x
    at a level."""
    x = noise
    for level, following in zip(levels[:-1], levels[1:], strict=True):
        clean = denoise(x, level)
        x = clean if following == 0.0 else clean + (following / level) * (x - clean)
    return x
