"""Corruption of the memory's input while training views are rendered.

Frames are left out, degraded, or replaced by the network's own. In use, the memory ingests
generated frames; a network trained only on views of true frames generalises poorly to views of its
own.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

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
    """How frames are corrupted before the memory ingests them for training views.

    Shares are shares of episodes.
    """

    sparse: Share = 0.4
    """Share of episodes in which random frames are not ingested by the memory."""
    blurred: Share = 0.3
    """Share of episodes in which some frames are blurred and noisy before the memory ingests them,
    as generated frames are."""
    depth_noise: Share = 0.3
    """Share of episodes whose depth has an error of a few per cent before the memory ingests it."""
    own: Share = 0.0
    """Share of the batches of episodes in which the network generates parts of the walk at the true
    poses; memory and context then hold generated frames. Use it with a trained network: see
    ``--init-from``."""
    own_frames: tuple[float, float] = (4.0, 128.0)
    """Range of the mean length, in frames, of a generated part; sampled log-uniformly per walk.
    Long parts train the network to return to realistic frames, short parts to use a memory that is
    mostly true."""

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
    """How one frame of every row is degraded.

    keep: (b,) bool, whether the memory ingests it at all.
    strength: (b,) in [0, 1], strength of blur and noise.
    noise: (b, 3, h, w) standard normal.
    depth: (b,) relative error of depth.
    """

    keep: Tensor
    strength: Tensor
    noise: Tensor
    depth: Tensor


class Degradation:
    """Samples how frames are degraded before the memory ingests them.

    The strengths are sampled once per row.
    """

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
        """Sample the degradation of the next frame of every row."""
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
    """Return the frame (b, ...) as the memory ingests it. Needs depth."""
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
    """Random numbers for a frame that may be generated.

    chance: (b,) uniform in [0, 1); a small value starts or ends a generated part.
    ending: (b,) probability that a generated part ends.
    allowed: (b,) bool, whether the frame may be generated.
    noise: (2, b, c, h, w) of the prediction and of the context.
    """

    chance: Tensor
    ending: Tensor
    allowed: Tensor
    noise: Tensor


class OwnFrames:
    """Generates parts of recorded walks with a copy of the network in training.

    engine: how that copy is run. Its weights are overwritten in place, so that compiled code stays
        valid. On a GPU it always computes in bfloat16.
    dynamics: how frames are sampled.
    """

    def __init__(
        self,
        network: SpaceTimeTransformer,
        engine: EngineConfig = PLAIN,
        dynamics: DynamicsConfig | None = None,
    ) -> None:
        twin = prepare_network(copy.deepcopy(network).eval().requires_grad_(False), engine)
        self.network = twin
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
        """Copy a network's weights, by name, in place, in this copy's dtype."""
        for name, held in self.network.state_dict().items():
            held.copy_(weights[name])

    def walk(self, rows: int, generator: torch.Generator, frames: tuple[float, float]) -> OwnWalk:
        """Start ``rows`` walks.

        frames: see :attr:`PerturbConfig.own_frames`.
        """
        return OwnWalk(self.network, rows, generator, frames)

    def dream(
        self, context: Context, dreaming: Tensor, frame: Frame, act: Tensor, motion: Tensor,
        view: MemoryView | LastFrames | None, intrinsics: Tensor, draft: Draft,
    ) -> tuple[Frame, Tensor, Context]:  # fmt: skip
        """Return the next frames of the walks, a mask of generated ones (b,), and the next context.

        dreaming: (b,) bool, whether the frames before are generated.
        frame: the true frames.
        act, motion: (b, ...), (b, 6), the actions and motions that lead to them.
        view: the memory at their cameras, or the frames before.
        intrinsics: (b, 4) pixels.
        """
        change = draft.chance < torch.where(dreaming, draft.ending, ON)
        dreaming = (dreaming ^ change) & draft.allowed
        with torch.autocast(frame.rgb.device.type, torch.bfloat16, enabled=self.casts):
            condition = self.dynamics.condition(act, motion, view, intrinsics)
            x, _, context = self.dynamics.sample(context, condition, draft.noise[0])
        own = channels_to_frame(x.float(), frame.pose)
        mixed = map_tensors(partial(where_rows, dreaming), own, frame)
        return mixed, dreaming, self.dynamics.hold(context, mixed, condition, draft.noise[1])


class OwnWalk:
    """Samples which frames of a batch of walks are generated, and their noise.

    Call :meth:`draw` for each frame in turn.
    """

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
        """Sample the random numbers of the next frame of every walk."""
        device = self.generator.device
        chance = torch.rand(self.shape[1], generator=self.generator, device=device)
        noise = torch.randn(self.shape, generator=self.generator, device=device)
        allowed = torch.full_like(chance, float(self.taken >= FIRST), dtype=torch.bool)
        self.taken += 1
        return Draft(chance, self.ending, allowed, noise)
