"""A small start scene and a depth estimator for worlds of video models."""

from __future__ import annotations

import numpy as np
import torch

from worldsim.scenes.image import ImageScene

SIZE = 64
"""Height and width of frames in pixels."""
FORWARD, LEFT = 1, 3


class Brightness:
    """Takes bright pixels as near."""

    def estimate(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb.float().mean(1) / 255 + 0.1


def scene() -> ImageScene:
    """A wall of coloured squares at 3 m."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = noise.repeat(8, 0).repeat(8, 1)
    depth = np.full((SIZE, SIZE), 3.0, np.float32)
    return ImageScene(picture, depth=depth)
