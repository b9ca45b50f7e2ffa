"""Heads: the pose that an action leads to (ego-motion), reward and termination."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.module import Module, register_to_config
from worldsim.memory.splat import MAP_CELL, MAP_CELLS
from worldsim.state import where_rows

HISTORY = 8
"""Past motions and actions that the ego-motion head sees: enough for momentum and for turns that
speed up."""
ALONG = (0.25, 0.5, 0.75, 1.0)
"""Shares of the unhindered way at which the ego-motion head looks for what stops it: all of the way
in equal parts."""
MIRRORED_MOTION = (-1.0, 1.0, 1.0, 1.0, -1.0, -1.0)
"""Signs of a motion's mirror image, x turned round: those of a camera's motion and of one in world
axes are alike."""
CROP_CELLS = 16
"""Cells a side of what it looks at there: 1.28 m, a person's width and a margin."""


def to_world_axes(motion: Tensor, pose: Tensor) -> Tensor:
    """Rotate motions (..., 6) from the axes of their first camera to world axes.

    pose: (..., 4, 4) of that camera.
    """
    return _turn(motion, pose[..., :3, :3])


def to_camera_axes(motion: Tensor, pose: Tensor) -> Tensor:
    """Inverse of :func:`to_world_axes`."""
    return _turn(motion, pose[..., :3, :3].transpose(-1, -2))


def _turn(motion: Tensor, rotation: Tensor) -> Tensor:
    rotation = rotation.to(motion.dtype)
    return torch.cat([(rotation * part[..., None, :]).sum(-1) for part in motion.split(3, -1)], -1)


class EgoMotionHead(Module):
    """The relative camera pose that an action leads to, walls and momentum included.

    It works in world axes (z up) on a map of the surroundings that the scene memory draws: what is
    behind and beside the camera stops it as well, and the collision boxes of many engines are
    aligned with the axes. Momentum is in the last motions and the actions that caused them; from
    these it first tells where nothing in the way would lead, then looks at the map along that way
    and corrects itself. Motions are (b, ..., 6), metres and radians, in world axes.
    """

    config: Any
    half_precision = ("unhindered.0.",)
    """Not stored at 8 bits: rounding what past turns say of the next one, each step alike, would
    add up."""

    @register_to_config
    def __init__(
        self, actions: int = 7, action_dim: int = 0, hidden: int = 512, rank: int = 64
    ) -> None:
        """Create the head.

        hidden: width of the layers.
        rank: rank of each wide layer, a product of two matrices; 0 for full matrices.
        """
        super().__init__()
        self.width = actions or action_dim
        told = HISTORY * (6 + self.width) + 6 + 7 * self.width
        self.unhindered = _mlp(told, hidden // 2, 2, rank)
        self.overview = nn.Sequential(
            nn.Conv2d(2, 16, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), _linear(32 * (MAP_CELLS // 8) ** 2, 128, rank),
        )  # fmt: skip
        self.contact = nn.Sequential(
            nn.Conv2d(2, 24, 3, padding=1), nn.SiLU(),
            nn.Conv2d(24, 48, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(48, 48, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), _linear(48 * (CROP_CELLS // 4) ** 2, 96, rank),
        )  # fmt: skip
        self.correction = _mlp(128 + 96 * len(ALONG) + told + 6, hidden, 3, rank)
        # Motions of a step have very different sizes along the six axes: the network works in these
        # units.
        self.register_buffer("scale", torch.full((6,), 0.1))
        self.scale: Tensor

    def _encode(self, act: Tensor) -> Tensor:
        if not self.config.actions:
            return act.float()
        return (act[..., None] == torch.arange(self.width, device=act.device)).float()

    def normalise(
        self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the prediction and the one without obstacles, in units of ``scale``, each (b, 6).

        For the arguments see :meth:`forward`.
        """
        history = torch.cat([motion / self.scale, self._encode(acts)], -1).flatten(1)
        # Which way the camera looks and which way is right; an action pushes along one of these.
        directions = torch.cat([pose[:, :3, 2], pose[:, :3, 0]], -1).float()
        now = self._encode(act)
        push = (now[:, :, None] * directions[:, None]).flatten(1)
        told = torch.cat([history, directions, now, push], -1)
        unhindered = self.unhindered(told)
        seen = around.to(self.scale.dtype) * (1.0 / 255.0)
        crops = along_the_way(seen, (unhindered.detach().float() * self.scale)[:, :2])
        contact = self.contact(crops.flatten(0, 1)).view(len(around), -1)
        correction = self.correction(
            torch.cat([self.overview(seen), contact, told, unhindered], -1)
        )
        return unhindered + correction, unhindered

    def forward(
        self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor
    ) -> Tensor:
        """Return the motion (b, 6) that ``act`` leads to.

        around: (b, 2, 48, 48) uint8 (:meth:`worldsim.protocols.SceneMemory.surroundings`).
        pose: (b, 4, 4) of the camera.
        motion, acts: (b, 8, 6), (b, 8, ...), the past, oldest first.
        act: (b, ...), the current action.
        """
        return self.normalise(around, pose, motion, acts, act)[0] * self.scale


def _linear(inputs: int, outputs: int, rank: int) -> nn.Module:
    if not rank:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


def _mlp(inputs: int, hidden: int, depth: int, rank: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in [inputs] + [hidden] * (depth - 1):
        layers += [_linear(width, hidden, rank), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, 6))


def along_the_way(around: Tensor, way: Tensor) -> Tensor:
    """Squares of a map around places on a straight way from its centre.

    around: (b, c, 48, 48) float, rows from north to south. way: (b, 2) metres east and north.
    Returns (b, k, c, 16, 16), one for each share of the way in :data:`ALONG`, bilinear; beyond the
    map's edge there is nothing.
    """
    b, c = around.shape[:2]
    half = MAP_CELLS * MAP_CELL / 2
    offset = (torch.arange(CROP_CELLS, device=around.device) + 0.5 - CROP_CELLS / 2) * MAP_CELL
    # Made on the device: copying them from the host would make a GPU wait.
    along = (torch.arange(len(ALONG), device=around.device) + 1) * (1.0 / len(ALONG))
    # Sampling coordinates are in [-1, 1] from edge to edge, down the rows: south is positive.
    place = way.clamp(-half, half)[:, None] * along[:, None]
    x = place[..., 0, None, None] + offset[None, None, None, :]
    y = -place[..., 1, None, None] + offset[None, None, :, None]
    x, y = torch.broadcast_tensors(x, y)
    grid = (torch.stack([x, y], -1) / half).reshape(b, -1, CROP_CELLS, 2).to(around.dtype)
    crops = F.grid_sample(around, grid, align_corners=False)
    return crops.view(b, c, len(ALONG), CROP_CELLS, CROP_CELLS).transpose(1, 2)


def quarter_turns(
    around: Tensor, pose: Tensor, motions: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Turn the second, third and last quarter of a batch by 90, 180 and 270 degrees.

    Turns are about the vertical. A turned world is a valid world: collision boxes stay aligned with
    the axes.

    around: (b, 2, n, n).
    pose: (b, 4, 4).
    motions: each (b, ..., 6) in world axes.
    """
    size = -(-len(pose) // 4)
    quarter = torch.arange(len(pose), device=pose.device) // size
    cosine = torch.tensor([1.0, 0.0, -1.0, 0.0], device=pose.device)[quarter]
    sine = torch.tensor([0.0, 1.0, 0.0, -1.0], device=pose.device)[quarter]

    def turn_vector(vector: Tensor) -> Tensor:
        shape = (-1, *[1] * (vector.dim() - 2))
        c, s = cosine.reshape(shape), sine.reshape(shape)
        x, y, z = vector.unbind(-1)
        return torch.stack([c * x - s * y, s * x + c * y, z], -1)

    maps = torch.cat([part.rot90(k, (2, 3)) for k, part in enumerate(around.split(size))])
    columns = turn_vector(pose[:, :3].transpose(1, 2)).transpose(1, 2)
    pose = torch.cat([columns, pose[:, 3:]], 1)
    return (
        maps,
        pose,
        tuple(torch.cat([turn_vector(m[..., :3]), turn_vector(m[..., 3:])], -1) for m in motions),
    )


@dataclass(frozen=True)
class Motions:
    """Moments of recorded walks, to train the ego-motion head.

    around: (b, 2, 48, 48) uint8.
    pose: (b, 4, 4).
    motion, acts, act: (b, 8, 6), (b, 8, ...), (b, ...), as in the head's ``forward``.
    target: (b, 6), the motion that ``act`` led to.

    Motions are in world axes.
    """

    around: Tensor
    pose: Tensor
    motion: Tensor
    acts: Tensor
    act: Tensor
    target: Tensor


def vary(
    motions: Motions,
    generator: torch.Generator,
    mirror: tuple[int, ...] | None,
    forget: float = 0.1,
) -> Motions:
    """Mirror half of the moments and turn three quarters of them.

    mirror: for discrete actions, the mirror image of each.
    forget: share of moments whose older half of the past is hidden, as after a reset.
    """
    b, device = len(motions.pose), motions.pose.device
    if mirror is not None:
        flip = torch.rand(b, generator=generator, device=device) < 0.5
        motions = _mirror(motions, flip, torch.tensor(mirror, device=device))
    around, pose, (motion, target) = quarter_turns(
        motions.around, motions.pose, (motions.motion, motions.target)
    )
    hidden = (
        (torch.rand(b, generator=generator, device=device) < forget)[:, None]
        .expand(b, HISTORY)
        .clone()
    )
    hidden[:, HISTORY // 2 :] = False
    acts = motions.acts.masked_fill(hidden.reshape(b, HISTORY, *[1] * (motions.acts.dim() - 2)), 0)
    motion = motion.masked_fill(hidden[..., None], 0.0)
    return dataclasses.replace(
        motions, around=around, pose=pose, motion=motion, acts=acts, target=target
    )


def _mirror(motions: Motions, flip: Tensor, mirror: Tensor) -> Motions:
    """The world's mirror image has its x turned round, as the camera's has."""
    device = flip.device
    pose_sign = torch.tensor([-1.0, 1, 1, 1], device=device)
    sign = torch.tensor(MIRRORED_MOTION, device=device)
    choose = partial(where_rows, flip)
    return Motions(
        around=choose(motions.around.flip(-1), motions.around),
        pose=choose(pose_sign[:, None] * motions.pose * pose_sign, motions.pose),
        motion=choose(motions.motion * sign, motions.motion),
        acts=choose(mirror[motions.acts], motions.acts),
        act=choose(mirror[motions.act], motions.act),
        target=choose(motions.target * sign, motions.target),
    )


def usual_size(motion: Tensor) -> Tensor:
    """How large motions usually are, (n, 6) to (6,): the ego-motion head's scale."""
    far = motion[:, :3].norm(dim=1)
    # Without the few longest, teleports among them.
    size = motion[far <= far.quantile(0.995)].std(0)
    # The horizontal axes are alike; what hardly moves must not be blown up.
    return torch.cat([size[:2].mean().expand(2), size[2:]]).clamp(min=1e-2)


class OutcomeHead(Module):
    """Predicts rewards and termination of a transition from the dynamics' features (..., d).

    The features are of the frame after it. A termination may be random, and the reward depends on
    it (a penalty for dying), so there are two rewards, of continuing and of ending.
    """

    config: Any

    @register_to_config
    def __init__(self, dim: int = 256, hidden: int = 64, on_end: bool = False) -> None:
        """Create the head.

        on_end: predict a separate reward for endings, in units measured on the recording; older
            worlds have neither.
        """
        super().__init__()
        last = nn.Linear(hidden, 3 if on_end else 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.SiLU(), last)
        if on_end:
            # Rewards of going on and of ending in the environment's units, and the logit of the
            # recording's share of endings.
            self.register_buffer("offset", torch.zeros(2))
            self.register_buffer("scale", torch.ones(2))
            self.register_buffer("prior", torch.zeros(()))
            self.offset: Tensor
            self.scale: Tensor
            self.prior: Tensor

    def normalise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rewards of continuing and of ending (..., 2), and the logit of termination.

        Rewards are in units of ``scale`` from ``offset``.
        """
        out = self.mlp(features)
        if not self.config.on_end:
            return out[..., :1].expand(*out.shape[:-1], 2), out[..., 1]
        return out[..., :2], out[..., 2] + self.prior

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rewards of continuing and of ending (b, 2), and the logit of termination (b,).

        Rewards are in the environment's units.
        """
        rewards, logit = self.normalise(features)
        return (self.offset + self.scale * rewards if self.config.on_end else rewards), logit
