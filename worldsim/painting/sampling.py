"""Painting: samples RGB-D views from noise with the steps of a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from worldsim.diffusion.denoiser import channels_to_frame
from worldsim.painting.channels import unscale
from worldsim.painting.levels import add_noise_to, per_channel, shift_for, shift_levels
from worldsim.painting.network import CHANNELS, PainterBatch
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, NotNegative, Number, Positive
from worldsim.state import Frame

Evaluate: TypeAlias = Callable[[PainterBatch], Tensor]
"""Returns clean channels, as :class:`worldsim.painting.network.PainterNetwork` does."""
NEAR_NOISE = 0.95
"""Noise level above which ``noise_guidance_scale`` guides."""


@dataclass(frozen=True)
class PaintConfig:
    """Sampling settings of the painter."""

    num_inference_steps: Count = 25
    """Steps of the solver. Each evaluates the network once, with guidance twice."""
    guidance_scale: NotNegative = 6.0
    """Scale of classifier-free guidance for places of which nothing is known; 1 disables it."""
    noise_guidance_scale: NotNegative | None = None
    """The same at noise levels above 0.95, by default equal. There the attributes decide light and
    openness, and a large scale overdoes them (Kynkaanniemi et al. 2024 limit guidance likewise)."""
    memory_guidance_scale: NotNegative = 1.0
    """The same for places of which a memory or a given view shows something. Their pictures become
    too sharp with scales above 1."""
    attribute_guidance_scale: NotNegative = 1.0
    """Scale of guidance by the attributes alone, for places of which a memory or a given view shows
    something: the memory is kept in both predictions, the attributes are dropped in one. 1 disables
    it."""
    contrast_scale: NotNegative = 1.0
    """Scale of guidance away from the attributes that :class:`Away` names, for places of which
    nothing is known; 1 disables it. It costs a second evaluation of the network."""
    contrast_steps: Number = 1000
    """First steps that are guided away. Layout and colours are settled in early steps."""
    solver: Literal["euler", "dpmsolver++"] = "dpmsolver++"
    """``euler``: Euler's method on the velocity. ``dpmsolver++``: the second-order multistep method
    2M of DPM-Solver++ (Lu et al. 2022)."""
    schedule_power: Positive = 1.5
    """Exponent of the noise levels before their shift. Above 1, more steps are at low noise, where
    textures are painted."""
    depth_samples: Count = 5
    """Samples of the depth of given pictures. Each pixel takes their median, so a near wall is sky
    only if most samples say so."""
    places: Count = 1
    """Places painted at once. More are faster on a GPU. Fewer are padded to this number, so that a
    place's frames do not depend on the others."""

    def __post_init__(self) -> None:
        check_ranges(self)


def sigmas_for(steps: int, noisy_views: int, power: float = 1.0) -> Tensor:
    """Return noise levels from 1 to 0, (steps + 1,) float32, shifted as in training.

    power: exponent of the evenly spaced levels before their shift.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=float(shift_for(noisy_views)))
    scheduler.set_timesteps(sigmas=[(1.0 - i / steps) ** power for i in range(steps)])
    return scheduler.sigmas.float()


def sigmas_from(level: Tensor, steps: int, noisy_views: int, power: float = 1.0) -> Tensor:
    """Return noise levels from ``level`` (b,) to 0, (steps + 1, b) float32.

    They are spaced as those of :func:`sigmas_for`, and equal them for level 1.
    """
    shift = shift_for(noisy_views).to(level.device)
    # The inverse of the shift is the shift by the inverse.
    start = shift_levels(level.float(), 1.0 / shift)
    share = torch.linspace(1.0, 0.0, steps + 1, device=level.device) ** power
    return shift_levels(share[:, None] * start, shift)


def extrapolate(clean: Tensor, before: Tensor, last: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Return the clean channels towards which a second-order step moves.

    It is the multistep method 2M of DPM-Solver++ (Lu et al. 2022, algorithm 2) for
    x_t = (1 - t) x + t noise.

    clean, before: predictions at the levels ``here`` and ``last``.
    last, here, there: previous, present and next noise level, in (0, 1], which broadcast.
    """
    a, b, c = (torch.log((1.0 - level) / level) for level in (last, here, there))
    return clean + 0.5 * (c - b) / (b - a) * (clean - before)


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


def without_attributes(batch: PainterBatch) -> PainterBatch:
    """Return the same views and memory without attributes."""
    return replace(batch, known=torch.zeros_like(batch.known))


@dataclass(frozen=True)
class Away:
    """Attributes of places that a painting shall not resemble, as a negative prompt.

    attributes, known: (b, a), as those of :class:`worldsim.painting.network.PainterBatch`.
    """

    attributes: Tensor
    known: Tensor


@dataclass(frozen=True)
class Guidance:
    """Scales of classifier-free guidance (Ho and Salimans 2022) of a batch of ``b`` sets.

    words: (b,) scale of guidance by attributes, or None if it is 1 in all sets. It is applied
        first.
    whole: (b,) scale of guidance by memory and attributes, or None if it is 1 in all sets.
    contrast: (b,) scale of guidance away from ``away``, or None if it is 1 in all sets.
    away: see :class:`Away`.
    near_noise: (b,) scale that takes the place of ``whole``, or of ``words`` if that is None, at
        levels above :data:`NEAR_NOISE`; NaN where it stays. None changes nothing.
    """

    words: Tensor | None
    whole: Tensor | None
    contrast: Tensor | None = None
    away: Away | None = None
    near_noise: Tensor | None = None

    def trim(self) -> Guidance:
        """Return the same without scales that are 1 in all sets, which cost evaluations."""
        words, whole, contrast = (
            None if x is None or bool((x == 1.0).all()) else x
            for x in (self.words, self.whole, self.contrast)
        )
        away = None if contrast is None else self.away
        return Guidance(words, whole, contrast, away, self.near_noise)

    def scales_at(self, level: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return ``words`` and ``whole`` of sets at noise levels (b, n, 2)."""
        if self.near_noise is None or (self.words is None and self.whole is None):
            return self.words, self.whole
        near = self.near_noise.to(level.device)
        replaced = (level.flatten(1).amax(1) > NEAR_NOISE) & ~near.isnan()
        scale = self.words if self.whole is None else self.whole
        assert scale is not None
        scale = torch.where(replaced, near, scale.to(level.device))
        return (scale, None) if self.whole is None else (self.words, scale)


def guidance_for(
    aided: Tensor, told: Tensor, config: PaintConfig, away: Away | None = None
) -> Guidance:
    """Return the guidance of sets that ``config`` asks for.

    aided: (b,) bool, whether a memory or a given view shows something of the place.
    told: (b,) bool, whether any attribute is given.
    away: attributes from which places are guided away.
    """
    whole = torch.where(aided, config.memory_guidance_scale, config.guidance_scale)
    contrast = None if away is None else torch.where(aided, 1.0, config.contrast_scale)
    near = config.noise_guidance_scale
    near_noise = None if near is None else torch.where(aided, torch.nan, near)
    if config.attribute_guidance_scale == 1.0:
        return Guidance(None, whole, contrast, away, near_noise)
    words = torch.where(aided & told, config.attribute_guidance_scale, 1.0)
    if config.memory_guidance_scale == 1.0:
        # Where nothing is known, attributes are all that guides: one evaluation serves both.
        words = torch.where(aided, words, config.guidance_scale)
        return Guidance(words, None, contrast, away, near_noise)
    return Guidance(words, whole, contrast, away, near_noise)


def is_aided(unknown: Tensor, memory: Tensor) -> Tensor:
    """Return (b,) bool: whether a memory or a given view shows something of each place.

    unknown, memory: see :func:`paint`.
    """
    return (memory != 0).flatten(1).any(1) | ~unknown.flatten(1).all(1)


def predict(network: Evaluate, batch: PainterBatch, guidance: Guidance) -> Tensor:
    """Return predicted clean channels (b, n, 5, h, w) with guidance."""
    words, whole = guidance.scales_at(batch.level)
    with torch.autocast(batch.noisy.device.type, torch.bfloat16, enabled=batch.noisy.is_cuda):
        if guidance.contrast is None or guidance.away is None:
            clean: Tensor = network(batch)
        else:
            clean = _contrast(network, batch, guidance.away, guidance.contrast)
        if words is not None:
            clean = _guide(clean, network(without_attributes(batch)), words)
        if whole is not None:
            clean = _guide(clean, network(unconditional(batch)), whole)
    return clean


def _contrast(network: Evaluate, batch: PainterBatch, away: Away, scale: Tensor) -> Tensor:
    """Return predictions guided away from ``away``. Both are evaluated as one batch."""
    other = replace(batch, attributes=away.attributes, known=away.known)
    both = PainterBatch(
        **{f.name: torch.cat([getattr(x, f.name) for x in (batch, other)]) for f in fields(batch)}
    )
    clean, free = network(both).chunk(2)
    return _guide(clean, free, scale)


def _guide(clean: Tensor, free: Tensor, scale: Tensor) -> Tensor:
    scale = scale.to(clean.device)[:, None, None, None, None]
    # Not rounded where nothing guides, so that sets do not depend on others of the batch.
    return torch.where(scale == 1.0, clean, free + scale * (clean - free))


def euler_step(x: Tensor, towards: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Move noisy channels from level ``here`` to ``there`` by Euler's method.

    The velocity is (x - towards) / here; the levels broadcast.
    """
    return torch.lerp(towards, x, there / here)


@torch.no_grad()
def paint(
    network: Evaluate,
    given: Tensor,
    unknown: Tensor,
    memory: Tensor,
    rays: Tensor,
    attributes: Tensor,
    known: Tensor,
    noise: Tensor,
    config: PaintConfig,
    level: Tensor | None = None,
    away: Away | None = None,
    stop_after: int | None = None,
) -> Tensor:
    """Sample the unknown channels of sets of views jointly.

    given: (b, n, 5, h, w) channels (:mod:`worldsim.painting.channels`), used where a view's colour
    or depth is known.
    unknown: (b, n, 2) bool, whether a view's colour, and its depth with sky, are sampled.
    memory: (b, n, 5, h, w).
    rays: (b, n, 6, h, w).
    attributes, known: (b, a).
    noise: (b, n, 5, h, w) standard normal.
    level: (b,) in (0, 1], noise level from which each place is sampled. The unknown channels start
    from ``given`` with that much noise, and keep its layout the better, the lower the level is
    (SDEdit, Meng et al. 2022). None starts from noise alone.
    away: attributes from which places are guided away, where nothing of them is known.
    stop_after: returns the clean channels that the network predicts in this step, from 1, instead
    of sampling to the end. They are blurred the more, the earlier the step is.

    Returns clean channels (b, n, 5, h, w) float32; known channels are returned as given.
    """
    assert given.shape[2] == CHANNELS
    if not bool(unknown.any()):
        return given
    channels = per_channel(unknown)[..., None, None]
    steps, power = config.num_inference_steps, config.schedule_power
    if level is None:
        counts = [max(1, n) for n in unknown.any(-1).sum(1).tolist()]
        by_count = {n: sigmas_for(steps, n, power) for n in sorted(set(counts))}
        sigmas = torch.stack([by_count[n] for n in counts], 1)
    else:
        sigmas = sigmas_from(level, steps, given.shape[1], power)
    levels = sigmas.to(given.device)[..., None, None]
    x = torch.where(channels, noise, given)
    if level is not None:
        x = add_noise_to(given, noise, unknown * levels[0])
    before = x
    aided = is_aided(unknown, memory)
    guidance = guidance_for(aided.cpu(), (known != 0).any(1).cpu(), config, away).trim()
    for i in range(steps):
        batch = PainterBatch(x, unknown * levels[i], memory, rays, attributes, known)
        if i == config.contrast_steps:
            guidance = replace(guidance, contrast=None)
        clean = predict(network, batch, guidance)
        if i + 1 == stop_after:
            return torch.where(channels, clean, given)
        here, there = (level[..., None, None] for level in levels[i : i + 2])
        towards = clean
        # Log-SNRs are infinite at levels 1 and 0, so those steps are of first order.
        if config.solver == "dpmsolver++" and 2 <= i < steps - 1:
            towards = extrapolate(clean, before, levels[i - 1][..., None, None], here, there)
        before = clean
        x = torch.where(channels, euler_step(x, towards, here, there), given)
    return x


def frames_of(channels: Tensor, pose: Tensor) -> Frame:
    """Convert painted channels (m, 5, h, w) to frames with poses (m, 4, 4).

    Sky has infinite depth.
    """
    frame = channels_to_frame(unscale(channels)[:, :4], pose)
    assert frame.inverse_depth is not None
    sky = channels[:, 4] > 0
    return Frame(frame.rgb, frame.inverse_depth.masked_fill(sky, 0), pose)
