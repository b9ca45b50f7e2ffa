"""Painting: samples RGB-D views from noise with the steps of a diffusers scheduler."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldsim.diffusion.denoiser import channels_to_frame
from worldsim.painting.channels import unscale
from worldsim.painting.levels import LEAST_LEVEL, per_channel, shift_for
from worldsim.painting.network import CHANNELS, PainterBatch, PainterNetwork
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, NotNegative
from worldsim.state import Frame


@dataclass(frozen=True)
class PaintConfig:
    """Sampling settings of the painter."""

    num_inference_steps: Count = 25
    """Network evaluations; guidance doubles them."""
    guidance_scale: NotNegative = 1.0
    """Scale of classifier-free guidance on attributes and memory; 1 disables it."""
    places: Count = 1
    """Places painted at once. More are faster on a GPU and give the same frames up to rounding."""

    def __post_init__(self) -> None:
        check_ranges(self)


def sigmas_for(steps: int, noisy_views: int) -> Tensor:
    """Return noise levels from 1 to 0, (steps + 1,) float32, shifted as in training."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=float(shift_for(noisy_views)))
    scheduler.set_timesteps(sigmas=[1.0 - i / steps for i in range(steps)])
    return scheduler.sigmas.float()


def unconditional(batch: PainterBatch) -> PainterBatch:
    """Return the same views without memory and attributes."""
    return PainterBatch(
        noisy=batch.noisy,
        level=batch.level,
        memory=torch.zeros_like(batch.memory),
        rays=batch.rays,
        attributes=batch.attributes,
        known=torch.zeros_like(batch.known),
    )


@torch.no_grad()
def paint(
    network: PainterNetwork,
    given: Tensor,
    unknown: Tensor,
    memory: Tensor,
    rays: Tensor,
    attributes: Tensor,
    known: Tensor,
    noise: Tensor,
    config: PaintConfig,
) -> Tensor:
    """Sample the unknown channels of sets of views jointly.

    given: (b, n, 5, h, w) channels (:mod:`worldsim.painting.channels`), used where a view's colour
    or depth is known.
    unknown: (b, n, 2) bool, whether a view's colour, and its depth with sky, are sampled.
    memory: (b, n, 5, h, w).
    rays: (b, n, 6, h, w).
    attributes, known: (b, a).
    noise: (b, n, 5, h, w) standard normal.

    Returns clean channels (b, n, 5, h, w) float32; known channels are returned as given. The
    sampler is Euler's method on the velocity that the predicted clean views imply.
    """
    assert given.shape[2] == CHANNELS
    channels = per_channel(unknown)[..., None, None]
    counts = unknown.any(-1).sum(1).tolist()
    sigmas = torch.stack([sigmas_for(config.num_inference_steps, max(1, n)) for n in counts], 1)
    x = torch.where(channels, noise, given)
    for here, there in itertools.pairwise(sigmas.to(given.device)[..., None, None]):
        batch = PainterBatch(x, unknown * here, memory, rays, attributes, known)
        clean = _predict(network, batch, config.guidance_scale)
        level, towards = here[..., None, None], there[..., None, None]
        velocity = (x - clean) / level.clamp(min=LEAST_LEVEL)
        # The last step ends at the prediction itself.
        moved = torch.where(towards == 0, clean, x + (towards - level) * velocity)
        x = torch.where(channels, moved, given)
    return x


def _predict(network: PainterNetwork, batch: PainterBatch, guidance: float) -> Tensor:
    with torch.autocast(batch.noisy.device.type, torch.bfloat16, enabled=batch.noisy.is_cuda):
        clean: Tensor = network(batch)
        if guidance == 1.0:
            return clean
        free: Tensor = network(unconditional(batch))
    return free + guidance * (clean - free)


def frames_of(channels: Tensor, pose: Tensor) -> Frame:
    """Convert painted channels (m, 5, h, w) to frames with poses (m, 4, 4).

    Sky has infinite depth.
    """
    frame = channels_to_frame(unscale(channels)[:, :4], pose)
    assert frame.inverse_depth is not None
    sky = channels[:, 4] > 0
    return Frame(frame.rgb, frame.inverse_depth.masked_fill(sky, 0), pose)
