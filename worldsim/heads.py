"""Heads: the pose that an action leads to (ego-motion), reward and termination."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from worldsim.memory.splat import MAP_CELLS

HISTORY = 8
"""Past motions and actions that the ego-motion head sees: enough for momentum and for turns that speed up."""


def to_world_axes(motion: Tensor, pose: Tensor) -> Tensor:
    """A motion (..., 6) in the axes of the camera that it starts from, in world axes. pose: (..., 4, 4) of that camera."""
    return _turned(motion, pose[..., :3, :3])


def to_camera_axes(motion: Tensor, pose: Tensor) -> Tensor:
    """Inverse of :func:`to_world_axes`."""
    return _turned(motion, pose[..., :3, :3].transpose(-1, -2))


def _turned(motion: Tensor, rotation: Tensor) -> Tensor:
    rotation = rotation.to(motion.dtype)
    return torch.cat([(rotation * part[..., None, :]).sum(-1) for part in motion.split(3, -1)], -1)


class EgoMotionHead(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The relative camera pose that an action leads to, walls and momentum included.

    It works in world axes (z up) on a map of the surroundings that the scene memory draws: what is behind and beside the
    camera stops it as well, and the collision boxes of many engines are aligned with the axes. Momentum is in the last
    motions and the actions that caused them. Motions are (b, ..., 6), metres and radians, in world axes.
    """

    config: Any

    @register_to_config
    def __init__(self, actions: int = 7, action_dim: int = 0, hidden: int = 256) -> None:
        super().__init__()
        self.width = actions or action_dim
        self.map = nn.Sequential(
            nn.Conv2d(2, 16, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(32 * (MAP_CELLS // 8) ** 2, 192),
        )  # fmt: skip
        inputs = 192 + HISTORY * (6 + self.width) + 6 + 7 * self.width
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 6),
        )  # fmt: skip
        # Motions of a step have very different sizes along the six axes: the network works in these units.
        self.register_buffer("scale", torch.full((6,), 0.1))
        self.scale: Tensor

    def _encode(self, act: Tensor) -> Tensor:
        return F.one_hot(act, self.width).float() if self.config.actions else act.float()

    def normalised(self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor) -> Tensor:
        """The prediction in units of ``scale``, (b, 6). Arguments as in :meth:`forward`."""
        history = torch.cat([motion / self.scale, self._encode(acts)], -1).flatten(1)
        # Which way the camera looks and which way is right; an action pushes along one of these.
        directions = torch.cat([pose[:, :3, 2], pose[:, :3, 0]], -1).float()
        now = self._encode(act)
        push = (now[:, :, None] * directions[:, None]).flatten(1)
        seen = self.map(around.to(self.scale.dtype) * (1.0 / 255.0))
        return self.mlp(torch.cat([seen, history, directions, now, push], -1))

    def forward(self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor) -> Tensor:
        """around: (b, 2, 48, 48) uint8 (:meth:`worldsim.protocols.SceneMemory.surroundings`); pose: (b, 4, 4) of the camera;
        motion: (b, 8, 6) and acts: (b, 8, ...) the past, oldest first; act: (b, ...) the action now.

        Returns the motion (b, 6) that ``act`` leads to.
        """
        return self.normalised(around, pose, motion, acts, act) * self.scale


def quarter_turns(around: Tensor, pose: Tensor, motions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Turn the second, third and last quarter of a batch by 90, 180 and 270 degrees about the vertical.

    A world turned by a quarter is as good a world: collision boxes that are aligned with the axes stay so.
    around: (b, 2, n, n); pose: (b, 4, 4); motions: each (b, ..., 6) in world axes.
    """
    size = -(-len(pose) // 4)
    quarter = torch.arange(len(pose), device=pose.device) // size
    cosine = torch.tensor([1.0, 0.0, -1.0, 0.0], device=pose.device)[quarter]
    sine = torch.tensor([0.0, 1.0, 0.0, -1.0], device=pose.device)[quarter]

    def turned(vector: Tensor) -> Tensor:
        shape = (-1, *[1] * (vector.dim() - 2))
        c, s = cosine.reshape(shape), sine.reshape(shape)
        x, y, z = vector.unbind(-1)
        return torch.stack([c * x - s * y, s * x + c * y, z], -1)

    maps = torch.cat([part.rot90(k, (2, 3)) for k, part in enumerate(around.split(size))])
    columns = turned(pose[:, :3].transpose(1, 2)).transpose(1, 2)
    pose = torch.cat([columns, pose[:, 3:]], 1)
    return maps, pose, tuple(torch.cat([turned(m[..., :3]), turned(m[..., 3:])], -1) for m in motions)


class OutcomeHead(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Reward and termination of the transition into a frame, from the dynamics' features (b, d) of that frame."""

    config: Any

    @register_to_config
    def __init__(self, dim: int = 256, hidden: int = 64) -> None:
        super().__init__()
        last = nn.Linear(hidden, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.SiLU(), last)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Reward (b,) and the termination's logit (b,)."""
        reward, logit = self.mlp(features).unbind(-1)
        return reward, logit
