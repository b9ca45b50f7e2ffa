"""The world that tests of the evaluation measure."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.heads import EgoMotionHead

SIZE, WINDOW = 16, 3


def tiny_world(kind: type[World] = World, **changes: Any) -> World:
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=SIZE, width=SIZE, dim=16, depth=1, heads=2, levels=(8, 8), window=WINDOW
    )
    # The last layer starts at zero: without this, every dream would be its memory view.
    torch.nn.init.normal_(network.out.weight, std=0.05)
    torch.nn.init.normal_(network.action.weight, std=5.0)
    config = WorldConfig(
        env_id="worldsim/TinyRoom-v0", env_kwargs={"size": SIZE}, intrinsics=(8.0, 8.0, 8.0, 8.0)
    )
    return kind(network, dataclasses.replace(config, **changes), EgoMotionHead())
