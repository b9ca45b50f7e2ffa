"""Sampling: the schedule's values, and a flow that a perfect denoiser follows to the clean
frame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldsim.diffusion.denoiser import add_noise
from worldsim.diffusion.sampling import sample, schedule
from worldsim.errors import InvalidInputError

pytestmark = pytest.mark.fast


def test_schedule_by_hand() -> None:
    assert schedule(1) == (1.0, 0.0)
    assert schedule(2) == (1.0, 0.5, 0.0)
    assert schedule(4) == (1.0, 0.75, 0.5, 0.25, 0.0)


def test_shift_spends_more_steps_at_high_noise() -> None:
    """s * level / (1 + (s - 1) * level): 3 * 0.5 / (1 + 2 * 0.5) = 0.75. One step is one step
    whatever the shift."""
    assert schedule(2, 3.0) == (1.0, 0.75, 0.0)
    assert schedule(1, 3.0) == (1.0, 0.0)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_is_an_error(steps: int) -> None:
    with pytest.raises(InvalidInputError, match=f"at least 1, got {steps}"):
        schedule(steps)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_perfect_denoiser_gives_the_clean_frame(steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    seen: list[float] = []

    def denoise(x: Tensor, level: float) -> Tensor:
        # What it is given lies on the straight line between the frame and the noise.
        torch.testing.assert_close(x, add_noise(clean, noise, torch.full((2,), level)))
        seen.append(level)
        return clean

    assert torch.equal(sample(denoise, noise, schedule(steps)), clean)
    assert tuple(seen) == schedule(steps)[:-1]


def test_an_imperfect_denoiser_by_hand() -> None:
    """Clean 2 at level 1, then 4: x goes from 10 over 2 + 0.5 * (10 - 2) = 6 to the last
    prediction, 4."""
    given: list[float] = []

    def denoise(x: Tensor, level: float) -> Tensor:
        given.append(float(x))
        return torch.tensor([2.0 if level == 1.0 else 4.0])

    assert float(sample(denoise, torch.tensor([10.0]), (1.0, 0.5, 0.0))) == 4.0
    assert given == [10.0, 6.0]
