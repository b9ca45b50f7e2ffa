"""Solvers, schedules and guidance of the painter's sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.painting.network import PainterBatch
from worldsim.painting.sampling import (
    Away,
    PaintConfig,
    extrapolate,
    guidance_for,
    paint,
    sigmas_for,
)

VIEWS = 4
DETAIL = 0.1
"""Standard deviation of a detail in the painter's channels."""


class Shrink(nn.Module):
    """Predicts clean channels as a share of the noisy ones that depends on the level."""

    def forward(self, batch: PainterBatch) -> Tensor:
        told = batch.known.mean(1)[:, None, None, None, None]
        level = batch.level[..., :1, None, None]
        return batch.noisy * (1 - level) * 0.7 + 0.1 * told


def painted(
    noise: Tensor,
    network: nn.Module | None = None,
    memory: Tensor | None = None,
    known: float = 1.0,
    **settings: Any,
) -> Tensor:
    b, n, _, h, w = noise.shape
    plain = {"guidance_scale": 1.0, "solver": "euler", "schedule_power": 1.0}
    return paint(
        network or Shrink(),  # type: ignore[arg-type]
        given=torch.zeros_like(noise),
        unknown=torch.ones(b, n, 2, dtype=torch.bool),
        memory=torch.zeros_like(noise) if memory is None else memory,
        rays=torch.zeros(b, n, 6, h, w),
        attributes=torch.ones(b, 1),
        known=torch.full((b, 1), known),
        noise=noise,
        config=PaintConfig(**{**plain, **settings}),
    )


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(2, VIEWS, 5, 4, 4, generator=torch.Generator().manual_seed(0))


def test_guidance_near_noise_has_a_scale_of_its_own():
    level = torch.tensor([0.96, 0.94, 0.96])[:, None, None].expand(3, 2, 2)
    aided = torch.tensor([False, False, True])
    told = torch.ones(3, dtype=torch.bool)
    config = PaintConfig(guidance_scale=6.0, noise_guidance_scale=1.5)
    words, whole = guidance_for(aided, told, config).scales_at(level)
    assert words is None and whole is not None and whole.tolist() == [1.5, 6.0, 1.0]
    both = replace(config, attribute_guidance_scale=2.0)
    words, whole = guidance_for(aided, told, both).scales_at(level)
    assert whole is None and words is not None and words.tolist() == [1.5, 6.0, 2.0]
    plain = guidance_for(aided, told, replace(config, noise_guidance_scale=None))
    assert plain.scales_at(level)[1] is plain.whole


def test_the_second_order_solver_is_that_of_diffusers(noise: Tensor):
    from diffusers import DPMSolverMultistepScheduler

    steps = 20
    scheduler: Any = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="sample", solver_order=2
    )
    scheduler.set_timesteps(steps)
    # The same levels, the first of which diffusers cannot take as 1.
    sigmas = sigmas_for(steps, VIEWS)
    scheduler.sigmas = torch.cat([torch.tensor([1 - 1e-6]), sigmas[1:]])
    x, network = noise, Shrink()
    for i, timestep in enumerate(scheduler.timesteps):
        level = torch.full((2, VIEWS, 2), float(scheduler.sigmas[i]))
        batch = PainterBatch(x, level, x, x, torch.ones(2, 1), torch.ones(2, 1))
        x = scheduler.step(network(batch), timestep, x).prev_sample
    found = painted(noise, num_inference_steps=steps, solver="dpmsolver++")
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


class Posterior(nn.Module):
    """Knows that clean channels are normal with mean 0 and a small standard deviation."""

    def forward(self, batch: PainterBatch) -> Tensor:
        level = batch.level[..., :1, None, None]
        signal = (1 - level) * DETAIL**2
        return batch.noisy * signal / ((1 - level) * signal + level**2)


def test_the_second_order_solver_keeps_faint_detail(noise: Tensor):
    # The exact solution is the noise scaled to the standard deviation of the data.
    def kept(**settings: Any) -> float:
        found = painted(noise, Posterior(), num_inference_steps=25, **settings)
        return float(found.std() / (DETAIL * noise).std())

    assert kept() < 0.8
    assert kept(solver="dpmsolver++", schedule_power=1.5) == pytest.approx(1.0, abs=0.06)


def test_extrapolation_of_a_prediction_that_does_not_change():
    clean = torch.tensor([1.0, -2.0])
    levels = torch.tensor(0.8), torch.tensor(0.5), torch.tensor(0.2)
    torch.testing.assert_close(extrapolate(clean, clean, *levels), clean)
    # Half log-SNRs -ln 4, 0 and ln 4: both steps are as long, so half the change is added.
    torch.testing.assert_close(extrapolate(clean, clean - 1.0, *levels), clean + 0.5)


def test_a_schedule_with_a_power_has_lower_last_levels():
    even, curved = sigmas_for(4, 4), sigmas_for(4, 4, 2.0)
    assert curved[0] == 1.0 and curved[-1] == 0.0
    # (1/4)^2 shifted by a factor of 2: 2/16 / (1 + 1/16).
    assert float(curved[3]) == pytest.approx(2 / 17)
    assert bool((curved[1:4] < even[1:4]).all())


def test_guidance_of_places_with_and_without_a_memory(noise: Tensor):
    known = torch.zeros_like(noise)
    known[1, 0, :, 0, 0] = 1.0
    plain = painted(noise, guidance_scale=1.0)
    guided = painted(noise, guidance_scale=3.0, memory=known)
    assert not torch.equal(guided[0], plain[0]) and torch.equal(guided[1], plain[1])
    guided = painted(noise, guidance_scale=1.0, memory_guidance_scale=3.0, memory=known)
    assert torch.equal(guided[0], plain[0]) and not torch.equal(guided[1], plain[1])


class Words(nn.Module):
    """Predicts what the memory shows, and more where attributes are given."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluations = 0

    def forward(self, batch: PainterBatch) -> Tensor:
        self.evaluations += 1
        told = batch.known.mean(1)[:, None, None, None, None]
        return batch.memory + 0.1 * told + 0.0 * batch.noisy


def test_guidance_by_attributes_of_places_with_a_memory(noise: Tensor):
    memory = torch.zeros_like(noise)
    memory[1] = 0.5
    # The last step lands on the prediction. Attributes add 0.1, times the scale.
    guided = painted(
        noise,
        Words(),
        memory,
        num_inference_steps=2,
        guidance_scale=4.0,
        attribute_guidance_scale=3.0,
    )
    torch.testing.assert_close(guided[0], torch.full_like(guided[0], 0.4))
    torch.testing.assert_close(guided[1], torch.full_like(guided[1], 0.5 + 0.3))
    both = painted(
        noise,
        Words(),
        memory,
        num_inference_steps=2,
        memory_guidance_scale=2.0,
        attribute_guidance_scale=3.0,
    )
    torch.testing.assert_close(both[0], torch.full_like(both[0], 0.1))
    # Nothing, and twice the way from there to memory and guided attributes.
    torch.testing.assert_close(both[1], torch.full_like(both[1], 2 * (0.5 + 0.3)))


@pytest.mark.parametrize(
    ("scale", "known", "evaluations"), [(1.0, 1.0, 2), (3.0, 0.0, 2), (3.0, 1.0, 4)]
)
def test_guidance_that_changes_nothing_costs_nothing(
    noise: Tensor, scale: float, known: float, evaluations: int
):
    network = Words()
    painted(
        noise,
        network,
        torch.ones_like(noise),
        known,
        num_inference_steps=2,
        attribute_guidance_scale=scale,
    )
    assert network.evaluations == evaluations


def test_an_unknown_solver_is_an_error():
    with pytest.raises(InvalidInputError, match="solver"):
        PaintConfig(solver="heun")  # type: ignore[arg-type]


class Tells(nn.Module):
    """Predicts the attribute itself, everywhere."""

    runs = 0

    def forward(self, batch: PainterBatch) -> Tensor:
        self.runs += 1
        told = (batch.attributes * batch.known)[:, :1, None, None, None]
        return told.expand_as(batch.noisy)


def contrast(noise: Tensor, network: nn.Module, stop_after: int | None = None, **settings: Any):
    b, n, _, h, w = noise.shape
    memory = torch.zeros_like(noise)
    memory[1] = 1.0
    return paint(
        network,  # type: ignore[arg-type]
        given=torch.zeros_like(noise),
        unknown=torch.ones(b, n, 2, dtype=torch.bool),
        memory=memory,
        rays=torch.zeros(b, n, 6, h, w),
        attributes=torch.full((b, 1), 0.5),
        known=torch.ones(b, 1),
        noise=noise,
        config=PaintConfig(guidance_scale=1.0, solver="euler", **settings),
        away=Away(torch.full((b, 1), 0.2), torch.ones(b, 1)),
        stop_after=stop_after,
    )


def test_guidance_leads_away_from_attributes_where_nothing_is_known(noise: Tensor):
    """0.2 + 3 (0.5 - 0.2) = 1.1 in the first place. The second has a memory."""
    network = Tells()
    found = contrast(noise, network, num_inference_steps=2, contrast_scale=3.0)
    torch.testing.assert_close(found[0], torch.full_like(found[0], 1.1))
    torch.testing.assert_close(found[1], torch.full_like(found[1], 0.5))
    assert network.runs == 2
    plain = contrast(noise, network, num_inference_steps=2)
    torch.testing.assert_close(plain, torch.full_like(plain, 0.5))


def test_guidance_away_ends_after_its_steps(noise: Tensor):
    settings = {"num_inference_steps": 2, "contrast_scale": 3.0, "contrast_steps": 1}
    first = contrast(noise, Tells(), stop_after=1, **settings)
    torch.testing.assert_close(first[0], torch.full_like(first[0], 1.1))
    last = contrast(noise, Tells(), **settings)
    torch.testing.assert_close(last[0], torch.full_like(last[0], 0.5))


def test_a_preview_is_the_prediction_of_an_early_step(noise: Tensor):
    steps = 4
    early = contrast(noise, Shrink(), stop_after=1, num_inference_steps=steps)
    # At level 1 nothing of the noise is left in the prediction of Shrink.
    torch.testing.assert_close(early, torch.full_like(early, 0.1))
    last = contrast(noise, Shrink(), stop_after=steps, num_inference_steps=steps)
    whole = contrast(noise, Shrink(), num_inference_steps=steps)
    torch.testing.assert_close(last, whole)
