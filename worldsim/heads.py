"""Heads: the pose that an action leads to (ego-motion), reward and termination."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

SCAN_BINS = 64
"""Bearings of the memory's free-distance scan that the ego-motion head sees."""
SCAN_RANGE = 8.0
"""Metres at which the scan is cut off."""
HISTORY = 8
"""Past motions and actions that the ego-motion head sees: enough for momentum and for turns that speed up."""


class EgoMotionHead(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The relative camera pose that an action leads to, walls and momentum included.

    It sees the newest frame (what is ahead), a scan of the memory's free distances all around (what is behind and beside),
    and the last motions with the actions that caused them (momentum). Output: motion (b, 6), metres and radians.
    """

    config: Any

    @register_to_config
    def __init__(self, channels: int = 4, actions: int = 7, action_dim: int = 0, hidden: int = 192) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * 16, 64),
        )  # fmt: skip
        self.scan = nn.Sequential(
            nn.Conv1d(1, 16, 5, padding=2, padding_mode="circular"), nn.SiLU(),
            nn.Conv1d(16, 16, 5, stride=2, padding=2, padding_mode="circular"), nn.SiLU(),
            nn.Flatten(), nn.Linear(8 * SCAN_BINS, 64),
        )  # fmt: skip
        self.width = actions or action_dim
        inputs = 64 + 64 + HISTORY * (6 + self.width) + self.width
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 6),
        )  # fmt: skip
        # Motions of a step have very different sizes along the six axes: the network works in standard deviations.
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("std", torch.full((6,), 0.1))
        self.mean: Tensor
        self.std: Tensor

    def _encode(self, act: Tensor) -> Tensor:
        return F.one_hot(act, self.width).float() if self.config.actions else act.float()

    def normalised(self, x: Tensor, scan: Tensor, motion: Tensor, acts: Tensor, act: Tensor) -> Tensor:
        """The prediction in standard deviations, (b, 6). Arguments as in :meth:`forward`."""
        history = torch.cat([(motion - self.mean) / self.std, self._encode(acts)], -1).flatten(1)
        near = (1.0 - scan / SCAN_RANGE)[:, None]
        return self.mlp(torch.cat([self.picture(x), self.scan(near), history, self._encode(act)], -1))

    def forward(self, x: Tensor, scan: Tensor, motion: Tensor, acts: Tensor, act: Tensor) -> Tensor:
        """x: (b, c, h, w) newest frame in [-1, 1]; scan: (b, 64) metres; motion: (b, 8, 6) and acts: (b, 8, ...) the past,
        oldest first; act: (b, ...) the action now. Returns motion (b, 6)."""
        return self.normalised(x, scan, motion, acts, act) * self.std + self.mean


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
