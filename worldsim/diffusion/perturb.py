"""What enters the memory while training views are made: true frames left out and degraded, and the network's own frames.

A dream's memory is fed with generated frames, so a network that has only seen views of true ones is at a loss in its own world.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import dequantise_depth, quantise_depth
from worldsim.diffusion.denoiser import channels_to_frame, view_to_channels
from worldsim.diffusion.dynamics import Context, DiffusionDynamics
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import InvalidInputError
from worldsim.state import Frame, MemoryView, map_tensors, where_rows

FIRST = 8
"""True frames at the beginning of every episode: a dream starts from some."""
ON = 1 / 12
"""Chance that a dream begins with a frame, where none is going on."""


@dataclass(frozen=True)
class PerturbConfig:
    """How the memory's sources are degraded while training views are rendered; shares are of episodes."""

    sparse: float = 0.4
    """Share of episodes in which frames are left out of the memory at random."""
    blurred: float = 0.3
    """Share of episodes in which some frames enter the memory blurred and noisy, as generated ones are."""
    depth_noise: float = 0.3
    """Share of episodes in which frames enter the memory with their depth off by some per cent."""
    own: float = 0.0
    """Share of the batches of episodes in which the network dreams parts of the walk at the true poses: memory and context then
    hold what it dreamed. For a network that has learned to draw: see ``--init-from``."""
    own_frames: tuple[float, float] = (4.0, 128.0)
    """Shortest and longest mean length, in frames, of such a part; drawn for each walk, its logarithm uniformly. From long ones the
    network learns the way back to what real frames look like, from short ones what to do with a memory that is mostly true."""

    def __post_init__(self) -> None:
        for name in ("sparse", "blurred", "depth_noise", "own"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInputError(f"PerturbConfig.{name} = {getattr(self, name)!r}: a share is in [0, 1]")
        low, high = self.own_frames
        if not 1.0 <= low <= high:
            raise InvalidInputError(f"PerturbConfig.own_frames = {self.own_frames!r}: two lengths of at least 1, shorter one first")


class Degradation:
    """Degrades frames (b, ...) before they enter the memory; how much is drawn once for each row."""

    def __init__(self, config: PerturbConfig, rows: int, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator
        none = torch.zeros(rows, device=generator.device)
        self.keep_share = torch.where(self._chance(config.sparse), self._uniform(0.1, 0.9), none + 1.0)
        self.blur_share = torch.where(self._chance(config.blurred), self._uniform(0.2, 1.0), none)
        self.depth_scale = torch.where(self._chance(config.depth_noise), self._uniform(0.0, 0.03), none)

    def __call__(self, frame: Frame) -> tuple[Frame, Tensor]:
        """The degraded frame, and which rows enter the memory at all (b,) bool."""
        keep = self._uniform(0.0, 1.0) < self.keep_share
        rgb = frame.rgb.float()
        blurred = F.avg_pool2d(F.pad(rgb, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        strength = (self._uniform(0.0, 1.0) * (self._uniform(0.0, 1.0) < self.blur_share))[:, None, None, None]
        rgb = torch.lerp(rgb, blurred, strength) + 6.0 * strength * self._normal(*rgb.shape)
        assert frame.inverse_depth is not None
        off = self._normal(self.rows)[:, None, None] * self.depth_scale[:, None, None]
        code = quantise_depth(dequantise_depth(frame.inverse_depth) * (1.0 + off))
        return dataclasses.replace(frame, rgb=rgb.round().clamp(0, 255).to(torch.uint8), inverse_depth=code), keep

    def _chance(self, share: float) -> Tensor:
        return self._uniform(0.0, 1.0) < share

    def _uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.rows, generator=self.generator, device=self.generator.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)


class OwnFrames:
    """Dreams parts of recorded walks with a copy of the network that is being trained.

    The copy is not compiled: compiled code would be made anew for each of its shapes.
    """

    def __init__(self, network: SpaceTimeTransformer) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.dynamics = DiffusionDynamics(self.network)

    def walk(self, rows: int, generator: torch.Generator, frames: tuple[float, float]) -> OwnWalk:
        """Begin ``rows`` walks. frames: as :attr:`PerturbConfig.own_frames`."""
        return OwnWalk(self.dynamics, rows, generator, frames)


class OwnWalk:
    """A batch of walks, partly dreamed; call :meth:`take` with each true frame in turn."""

    def __init__(
        self, dynamics: DiffusionDynamics, rows: int, generator: torch.Generator, frames: tuple[float, float]
    ) -> None:
        self.dynamics, self.generator = dynamics, generator
        shortest, longest = map(math.log, frames)
        drawn = torch.rand(rows, generator=generator, device=generator.device)
        self.ending = torch.exp(-(shortest + (longest - shortest) * drawn))
        self.context: Context = dynamics.empty(rows, generator.device)
        self.dreaming = torch.zeros(rows, dtype=torch.bool, device=generator.device)
        self.taken = 0

    def take(
        self, frame: Frame, act: Tensor, motion: Tensor, view: MemoryView | None, intrinsics: Tensor
    ) -> tuple[Frame, Tensor]:
        """The frame that the walk goes on from, and which rows of it are dreamed (b,) bool.

        frame: the true one. act (b, ...), motion (b, 6): what led to it. view: the memory at its camera. intrinsics: (b, 4).
        """
        b, device = len(frame.rgb), frame.rgb.device
        n = self.dynamics.network.config
        change = torch.rand(b, generator=self.generator, device=device) < torch.where(self.dreaming, self.ending, ON)
        self.dreaming = (self.dreaming ^ change) & (self.taken >= FIRST)
        self.taken += 1
        noise = torch.randn(2, b, n.channels, n.height, n.width, generator=self.generator, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            channels = view_to_channels(view) if view is not None else noise.new_zeros(b, 1, n.height, n.width)
            condition = self.dynamics.condition(act, motion, channels, intrinsics)
            prediction, context = self.dynamics.predict(self.context, condition, noise[0])
        own = channels_to_frame(prediction.x.float(), frame.pose)
        mixed = map_tensors(partial(where_rows, self.dreaming), own, frame)
        self.context = self.dynamics.commit(context, mixed, condition, noise[1])
        return mixed, self.dreaming
