"""Painters with random weights, small enough for tests."""

from __future__ import annotations

import torch

from worldsim.painting.network import PainterNetwork
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.sampling import PaintConfig
from worldsim.protocols import PainterSpec

SIZE = 32
INTRINSICS = (21.3, 25.6, 16.0, 16.0)
"""The field of view of Freedoom's cameras."""
ATTRIBUTES = ("brick", "water", "light")


def make_tiny_painter(views: int = 4, seed: int = 0, steps: int = 1) -> NetworkPainter:
    """32x32 views of three attributes. Layers that start at zero get random weights too, so that
    everything has an effect."""
    torch.manual_seed(seed)
    network = PainterNetwork(ATTRIBUTES, dim=32, depth=2, heads=2, pixel=8)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    spec = PainterSpec(SIZE, SIZE, INTRINSICS, views, ATTRIBUTES)
    return NetworkPainter(network, spec, PaintConfig(num_inference_steps=steps))
