"""What enters the memory while training views are made: true frames left out and degraded, and the
network's own frames.

A dream's memory is fed with generated frames, so a network that has only seen views of true ones is
at a loss in its own world.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import dequantise_depth, quantise_depth
from worldsim.diffusion.denoiser import channels_to_frame
from worldsim.diffusion.dynamics import Context, DiffusionDynamics, DynamicsConfig
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Share
from worldsim.state import Frame, LastFrames, MemoryView, map_tensors, where_rows
from worldsim.world.engine import PLAIN, Compiled, EngineConfig, prepare_network

FIRST = 8
"""True frames at the beginning of every episode: a dream starts from some."""
ON = 1 / 12
"""Chance that a dream begins with a frame, where none is going on."""


@dataclass(frozen=True)
class PerturbConfig:
    """How the memory's sources are degraded while training views are rendered; shares are of
    episodes."""

    sparse: Share = 0.4
    """Share of episodes in which frames are left out of the memory at random."""
    blurred: Share = 0.3
    """Share of episodes in which some frames enter the memory blurred and noisy, as generated ones
    are."""
    depth_noise: Share = 0.3
    """Share of episodes in which frames enter the memory with their depth off by some per cent."""
    own: Share = 0.0
    """Share of the batches of episodes in which the network dreams parts of the walk at the true
    poses: memory and context then hold what it dreamed. For a network that has learned to draw: see
    ``--init-from``."""
    own_frames: tuple[float, float] = (4.0, 128.0)
    """Shortest and longest mean length, in frames, of such a part; drawn for each walk, its
    logarithm uniformly. From long ones the network learns the way back to what real frames look
    like, from short ones what to do with a memory that is mostly true."""

    def __post_init__(self) -> None:
        check_ranges(self)
        low, high = self.own_frames
        if not 1.0 <= low <= high:
            raise InvalidInputError(
                f"PerturbConfig.own_frames = {self.own_frames!r}: two lengths of at least 1, "
                f"shorter one first"
            )


@dataclass(frozen=True)
class Damage:
    """How a frame of every row is degraded. keep: (b,) bool, whether it enters the memory at all.
    strength: (b,) in [0, 1] of blur and noise. noise: (b, 3, h, w) standard normal. depth: (b,) the
    share by which depth is off."""

    keep: Tensor
    strength: Tensor
    noise: Tensor
    depth: Tensor


class Degradation:
    """Draws how frames are degraded before they enter the memory; how much is drawn once for each
    row."""

    def __init__(self, config: PerturbConfig, rows: int, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator
        none = torch.zeros(rows, device=generator.device)
        self.keep_share = torch.where(
            self._chance(config.sparse), self._uniform(0.1, 0.9), none + 1.0
        )
        self.blur_share = torch.where(self._chance(config.blurred), self._uniform(0.2, 1.0), none)
        self.depth_scale = torch.where(
            self._chance(config.depth_noise), self._uniform(0.0, 0.03), none
        )

    def draw(self, height: int, width: int) -> Damage:
        """For the next frame of every row."""
        keep = self._uniform(0.0, 1.0) < self.keep_share
        strength = self._uniform(0.0, 1.0) * (self._uniform(0.0, 1.0) < self.blur_share)
        noise = self._normal(self.rows, 3, height, width)
        return Damage(keep, strength, noise, self._normal(self.rows) * self.depth_scale)

    def _chance(self, share: float) -> Tensor:
        return self._uniform(0.0, 1.0) < share

    def _uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(
            self.rows, generator=self.generator, device=self.generator.device
        )

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)


def degrade(frame: Frame, damage: Damage) -> Frame:
    """The frame (b, ...) as it enters the memory, where it does. It needs depth."""
    rgb = frame.rgb.float()
    blurred = F.avg_pool2d(F.pad(rgb, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    strength = damage.strength[:, None, None, None]
    rgb = torch.lerp(rgb, blurred, strength) + 6.0 * strength * damage.noise
    assert frame.inverse_depth is not None
    code = quantise_depth(
        dequantise_depth(frame.inverse_depth) * (1.0 + damage.depth[:, None, None])
    )
    return dataclasses.replace(
        frame, rgb=rgb.round().clamp(0, 255).to(torch.uint8), inverse_depth=code
    )


@dataclass(frozen=True)
class Draft:
    """What is drawn for a frame that may be dreamed. chance: (b,) in [0, 1): a dream begins or ends
    where it is small. ending: (b,) chance that one that is going on ends. allowed: (b,) bool.
    noise: (2, b, c, h, w) of the prediction and of the context."""

    chance: Tensor
    ending: Tensor
    allowed: Tensor
    noise: Tensor


class OwnFrames:
    """Dreams parts of recorded walks with a copy of the network that is being trained.

    engine: how that copy is run; its weights are overwritten in place, so that what is compiled for
    them stays. On a GPU it computes in bfloat16 in any case. dynamics: how frames are sampled.
    """

    def __init__(
        self,
        network: SpaceTimeTransformer,
        engine: EngineConfig = PLAIN,
        dynamics: DynamicsConfig | None = None,
    ) -> None:
        twin: Any = prepare_network(copy.deepcopy(network).eval().requires_grad_(False), engine)
        self.network: SpaceTimeTransformer = twin
        device = next(network.parameters()).device
        forward = (
            Compiled(twin.forward, engine.compile, device, constant=False)
            if engine.compile
            else None
        )
        self.dynamics = DiffusionDynamics(twin, dynamics, forward)
        self.casts = device.type == "cuda" and engine.precision == "float32"

    @torch.no_grad()
    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a network's weights, by name, copied in place, in this one's number format."""
        for name, held in self.network.state_dict().items():
            held.copy_(weights[name])

    def walk(self, rows: int, generator: torch.Generator, frames: tuple[float, float]) -> OwnWalk:
        """Begin ``rows`` walks. frames: as :attr:`PerturbConfig.own_frames`."""
        return OwnWalk(self.network, rows, generator, frames)

    def dream(
        self, context: Context, dreaming: Tensor, frame: Frame, act: Tensor, motion: Tensor,
        view: MemoryView | LastFrames | None, intrinsics: Tensor, draft: Draft,
    ) -> tuple[Frame, Tensor, Context]:  # fmt: skip
        """The frames that walks go on from, which of them are dreamed (b,) bool, and the context
        after them.

        dreaming: (b,) bool of the frames before. frame: the true ones. act (b, ...), motion (b, 6):
        what led to them. view: the memory at their cameras, or the frames before. intrinsics: (b,
        4).
        """
        change = draft.chance < torch.where(dreaming, draft.ending, ON)
        dreaming = (dreaming ^ change) & draft.allowed
        with torch.autocast(frame.rgb.device.type, torch.bfloat16, enabled=self.casts):
            condition = self.dynamics.condition(act, motion, view, intrinsics)
            x, _, context = self.dynamics.sample(context, condition, draft.noise[0])
        own = channels_to_frame(x.float(), frame.pose)
        mixed = map_tensors(partial(where_rows, dreaming), own, frame)
        return mixed, dreaming, self.dynamics.commit(context, mixed, condition, draft.noise[1])


class OwnWalk:
    """Draws where a batch of walks is dreamed, and from what noise: :meth:`draw` for each frame in
    turn."""

    def __init__(
        self,
        network: SpaceTimeTransformer,
        rows: int,
        generator: torch.Generator,
        frames: tuple[float, float],
    ) -> None:
        self.generator, n = generator, network.config
        self.shape = (2, rows, n.channels, n.height, n.width)
        shortest, longest = map(math.log, frames)
        drawn = torch.rand(rows, generator=generator, device=generator.device)
        self.ending = torch.exp(-(shortest + (longest - shortest) * drawn))
        self.taken = 0

    def draw(self) -> Draft:
        """For the next frame of every walk."""
        device = self.generator.device
        chance = torch.rand(self.shape[1], generator=self.generator, device=device)
        noise = torch.randn(self.shape, generator=self.generator, device=device)
        allowed = torch.full_like(chance, float(self.taken >= FIRST), dtype=torch.bool)
        self.taken += 1
        return Draft(chance, self.ending, allowed, noise)
