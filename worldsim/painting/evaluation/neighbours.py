"""How well overlapping views of a place agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.painting.channels import unscale
from worldsim.painting.evaluation.places import HEADINGS, Places
from worldsim.painting.training.batches import memory_channels

LEAST_ERROR = 6.5
"""Smallest mean squared error, of 255^2, so that a pair counts as at most 40 dB."""
ALL_PAIRS = tuple((i, (i + 1) % HEADINGS) for i in range(HEADINGS))
"""All pairs of neighbouring headings."""


def agreement(
    rgb: Tensor, code: Tensor, at: Places, pairs: Sequence[tuple[int, int]] = ALL_PAIRS
) -> tuple[Tensor, Tensor]:
    """Splat one view into another and compare the pixels that both see.

    The score of a pair is 10 log10(255^2 / e), with the mean squared error e over the pixels of the
    second view that the first one's points cover; at most 40 dB.

    rgb: (s, 8, 3, h, w) uint8.
    code: (s, 8, h, w) int32.
    at: the places, for their cameras.
    pairs: first and second heading of each pair.

    Returns scores in dB and the share of pixels covered, both (s, p) float32.
    """
    keep = torch.ones_like(code[:, :1], dtype=torch.bool)
    scores, covered = [], []
    for i, j in pairs:
        pose = at.pose[:, i : i + 1], at.pose[:, j : j + 1]
        shown = memory_channels(
            rgb[:, i : i + 1], code[:, i : i + 1], pose[0], keep, pose[1], at.intrinsics
        )[:, 0]
        mask = shown[:, 4:5] > 0
        error = ((unscale(shown[:, :3]) - (rgb[:, j].float() / 127.5 - 1)) * 127.5).square() * mask
        mean = error.sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)).clamp(min=1))
        scores.append(10 * torch.log10(255.0**2 / mean.clamp(min=LEAST_ERROR)))
        covered.append(mask.float().mean((1, 2, 3)))
    return torch.stack(scores, 1), torch.stack(covered, 1)


def overlap(rgb: Tensor, code: Tensor, at: Places) -> dict[str, float]:
    """Return the means of :func:`agreement` over all pairs: ``psnr`` and ``covered``."""
    scores, covered = agreement(rgb, code, at)
    return {"psnr": float(scores.mean()), "covered": float(covered.mean())}
