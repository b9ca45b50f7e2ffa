"""Sampling: a sampler only calls ``denoise(x, sigma) -> clean``, and the noise schedule is data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from worldsim.errors import InvalidInputError


@cache
def schedule(num_inference_steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """Return the noise levels of diffusers' flow-matching Euler schedule, from 1 down to 0.

    Returns ``num_inference_steps + 1`` values.
    """
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
    """Integrate the flow from ``noise`` with Euler steps.

    denoise: predicts the clean frame for x at a noise level.
    sigmas: noise levels in descending order.
    """
    x = noise
    for sigma, following in itertools.pairwise(sigmas):
        clean = denoise(x, sigma)
        x = clean if following == 0.0 else clean + (following / sigma) * (x - clean)
    return x
