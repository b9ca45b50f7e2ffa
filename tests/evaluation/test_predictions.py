"""Figures of predicted frames: equal ones, blurred ones, and frames of another size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldsim.evaluation.predictions import prediction_measure


def test_equal_blurred_and_small_frames() -> None:
    """Equal frames: ratio 1 and distance 0. Blurred ones have less of the one and more of the
    other. The encoder looks at 64x64 pixels alone."""
    measure = prediction_measure()
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (70, 3, 64, 64), generator=generator).to(torch.uint8)
    same = measure(frames, frames)
    assert same["sharpness_ratio"] == pytest.approx(1.0)
    assert same["frechet_distance"] == pytest.approx(0.0, abs=1e-3)
    blurred = F.avg_pool2d(frames.float(), 3, stride=1, padding=1).to(torch.uint8)
    found = measure(blurred, frames)
    assert found["sharpness_ratio"] < 0.6 and found["frechet_distance"] > 1.0
    assert measure(frames[..., :32, :32], frames[..., :32, :32]).keys() == {"sharpness_ratio"}
