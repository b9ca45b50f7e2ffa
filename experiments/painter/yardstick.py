"""The floor of the distances, and how they grow with damage of real places.

The distances are those of :mod:`worldsim.painting.evaluation.yardstick`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from encoder import gaussian_blur, shuffle_patches
from torch import Tensor

from worldsim.painting.evaluation.places import HEADINGS, Places, as_bytes, load, matching
from worldsim.painting.evaluation.yardstick import Yardstick

__all__ = ["HEADINGS", "Places", "Yardstick", "load", "matching", "yardstick"]


def yardstick(measure: Yardstick, train: Places, test: Places, pool: Places) -> dict[str, Any]:
    """The floor, and how distances grow with damage of one half of the test places."""
    real = measure.features(test.headings)
    matched = pool.part(matching(test.attributes, pool.attributes))
    half = len(test.rgb) // 2 * HEADINGS
    first, rest = test.headings[:half], real[half : 2 * half]
    clean = first.float() / 127.5 - 1.0
    torch.manual_seed(0)
    ladders: dict[str, Callable[[float], Tensor]] = {
        "blur_px": lambda s: gaussian_blur(clean, torch.full((half,), s, device=clean.device)),
        "noise": lambda s: clean + s * torch.randn_like(clean),
        "shuffled_share": lambda s: shuffle_patches(
            clean, torch.full((half,), s, device=clean.device)
        ),
    }
    steps = {
        "blur_px": (0.5, 1.0, 2.0, 4.0),
        "noise": (0.05, 0.1, 0.2, 0.4),
        "shuffled_share": (0.1, 0.25, 0.5, 1.0),
    }
    return {
        "floor_train_test": measure.between(measure.features(train.headings), real),
        "floor_train_test_matched": measure.between(measure.features(matched.headings), real),
        "halves_of_test": measure.between(real[:half], rest),
        "ladders": {
            name: {
                str(s): measure.between(measure.features(as_bytes(damaged(s))), rest)
                for s in steps[name]
            }
            for name, damaged in ladders.items()
        },
    }
