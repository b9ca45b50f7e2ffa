"""Worlds with random weights, small enough for tests."""

from __future__ import annotations

from typing import Any

import torch

from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.memory.points import PointMemoryConfig
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.heads import EgoMotionHead, OutcomeHead

SIZE = 32
INTRINSICS = (16.0, 16.0, 16.0, 16.0)


def make_tiny_world(
    seed: int = 0,
    geometry: bool = True,
    rewards: bool = False,
    action_dim: int = 0,
    fold: int = 1,
    depth: int = 2,
    **config: Any,
) -> World:
    """32x32 frames, window 4. Layers that start at zero get random weights too, so that everything
    has an effect.

    rewards: rewards and terminations are on; the termination's logit is about zero-mean, so that
    episodes end.
    """
    torch.manual_seed(seed)
    actions = 0 if action_dim else 7
    channels, view_channels = (4, 8) if geometry else (3, 0)
    network = SpaceTimeTransformer(
        height=SIZE,
        width=SIZE,
        channels=channels,
        view_channels=view_channels,
        actions=actions,
        action_dim=action_dim,
        dim=32,
        depth=depth,
        heads=2,
        levels=(8, 8, 16) if fold == 1 else (8, 16),
        window=4,
        fold=fold,
    )
    ego_motion = (
        EgoMotionHead(actions=actions, action_dim=action_dim, hidden=32) if geometry else None
    )
    outcome = OutcomeHead(dim=32, hidden=8)
    # Again, so that the network's random weights do not depend on how many numbers a head takes to
    # begin with.
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for module in (network, outcome):
            for weight in module.parameters():
                if not weight.any():
                    weight.normal_(0.0, 0.05)
        if ego_motion is not None:
            # World axes: it walks on the floor and turns about the vertical.
            ego_motion.scale.copy_(torch.tensor([0.3, 0.3, 0.01, 0.01, 0.01, 0.2]))
        if rewards:
            outcome.mlp[-1].weight.normal_(0.0, 1.0)
    settings: dict[str, Any] = {
        "env_id": "worldsim/TinyRoom-v0",
        "env_kwargs": {"size": SIZE},
        "intrinsics": INTRINSICS if geometry else None,
        "memory": PointMemoryConfig(capacity=4096) if geometry else None,
        "has_rewards": rewards,
        "has_terminations": rewards,
    }
    return World(network, WorldConfig(**{**settings, **config}), ego_motion, outcome)
