"""Heads: ego-motion (the camera pose after an action), reward and termination."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.module import Module, register_to_config
from worldsim.memory.splat import MAP_CELL, MAP_CELLS
from worldsim.state import where_rows

HISTORY = 8
"""Past motions and actions that the ego-motion head receives: enough for momentum and accelerating
turns."""
ALONG = (0.25, 0.5, 0.75, 1.0)
"""Shares of the unobstructed motion at which the ego-motion head crops the map."""
MIRRORED_MOTION = (-1.0, 1.0, 1.0, 1.0, -1.0, -1.0)
"""Signs of a motion mirrored in x. They are the same in camera axes and in world axes."""
CROP_CELLS = 16
"""Side length of a crop in cells: 1.28 m, a person's width and a margin."""


def to_world_axes(motion: Tensor, pose: Tensor) -> Tensor:
    """Convert a motion (..., 6) from the axes of its start camera to world axes.

    pose: (..., 4, 4) camera-to-world of the start camera.
    """
    return _turn(motion, pose[..., :3, :3])


def to_camera_axes(motion: Tensor, pose: Tensor) -> Tensor:
    """Invert :func:`to_world_axes`."""
    return _turn(motion, pose[..., :3, :3].transpose(-1, -2))


def _turn(motion: Tensor, rotation: Tensor) -> Tensor:
    rotation = rotation.to(motion.dtype)
    return torch.cat([(rotation * part[..., None, :]).sum(-1) for part in motion.split(3, -1)], -1)


def encode_actions(act: Tensor, actions: int) -> Tensor:
    """Return actions as numbers (..., n) float32: discrete ones one-hot, vectors as they are.

    actions: number of discrete actions; 0 for action vectors.
    """
    if not actions:
        return act.float()
    return (act[..., None] == torch.arange(actions, device=act.device)).float()


class EgoMotionHead(Module):
    """Predicts the camera motion of an action, with collisions and momentum.

    It works in world axes (z up) on a top-down map of the surroundings from the scene memory,
    because obstacles behind and beside the camera also block it, and the collision boxes of many
    engines are aligned with the axes. Momentum is inferred from the last motions and actions. The
    head first predicts the unobstructed motion, then crops the map along that motion and adds a
    correction. Motions are (b, ..., 6) in metres and radians, in world axes.

    actions: number of discrete actions; 0 for action vectors.
    action_dim: size of an action vector.
    hidden: width of the layers.
    rank: inner size of wide layers, which are low-rank products of two matrices. 0 gives full
    layers.
    """

    half_precision = ("unhindered.0.",)
    """Weights that are not stored at 8 bits: rounding errors in the effect of past turns on the
    next turn would accumulate."""

    @register_to_config
    def __init__(
        self, actions: int = 7, action_dim: int = 0, hidden: int = 512, rank: int = 64
    ) -> None:
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
        # Motions differ in size between the six axes, so the network works in these units.
        self.register_buffer("scale", torch.full((6,), 0.1))
        self.scale: Tensor

    def _encode(self, act: Tensor) -> Tensor:
        return encode_actions(act, self.config.actions)

    def normalise(
        self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the motion and the unobstructed motion, in units of ``scale``, each (b, 6).

        For the arguments see :meth:`forward`.
        """
        history = torch.cat([motion / self.scale, self._encode(acts)], -1).flatten(1)
        # The camera's forward and right directions; actions push along one of these.
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
        """Predict the motion (b, 6) of ``act``, in metres and radians, in world axes.

        around: (b, 2, 48, 48) uint8, see :meth:`worldsim.protocols.SceneMemory.surroundings`.
        pose: (b, 4, 4) camera-to-world of the current camera.
        motion: (b, 8, 6) past motions in world axes, oldest first.
        acts: (b, 8, ...) past actions, oldest first.
        act: (b, ...) the current action.
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
    """Crop squares of a map at points on a straight line from its centre.

    around: (b, c, 48, 48) float, rows from north to south.
    way: (b, 2) metres east and north.

    Returns (b, k, c, 16, 16), one crop for each share in :data:`ALONG`, sampled bilinearly. Cells
    outside the map are 0.
    """
    b, c = around.shape[:2]
    half = MAP_CELLS * MAP_CELL / 2
    offset = (torch.arange(CROP_CELLS, device=around.device) + 0.5 - CROP_CELLS / 2) * MAP_CELL
    # Created on the device: a copy from the host would synchronise the GPU.
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
    """Rotate the second, third and last quarter of a batch by 90, 180 and 270 degrees.

    The axis is the vertical. Rotated worlds are valid training data, because collision boxes stay
    aligned with the axes.

    around: (b, 2, n, n) maps.
    pose: (b, 4, 4) camera-to-world.
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
    """Training data of the ego-motion head: steps of recorded episodes.

    The first five fields are the arguments of its ``forward``. Motions are in world axes, metres
    and radians.

    around: (b, 2, 48, 48) uint8.
    pose: (b, 4, 4) camera-to-world.
    motion: (b, 8, 6).
    acts: (b, 8, ...).
    act: (b, ...).
    target: (b, 6), the motion of ``act``.
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
    """Augment training data by mirroring half of it and rotating three quarters of it.

    mirror: the mirror image of each discrete action; None disables mirroring.
    forget: share of rows whose older half of the past is hidden, as after a reset.
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
    """Mirror the rows where ``flip`` is True: x changes its sign in world and camera axes."""
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
    """Return the typical size (6,) of motions (n, 6): the ego-motion head's scale."""
    far = motion[:, :3].norm(dim=1)
    # Excludes the longest motions, such as teleports.
    size = motion[far <= far.quantile(0.995)].std(0)
    # Both horizontal axes share one scale; a minimum avoids amplifying axes without motion.
    return torch.cat([size[:2].mean().expand(2), size[2:]]).clamp(min=1e-2)


def change_units(weight: Tensor, bias: Tensor, old: Tensor, new: Tensor) -> None:
    """Express a linear layer's output in other units, in place.

    weight, bias: (1, n) and (1,) of the layer. old, new: (2,) offset and scale: what is predicted
    is offset + scale * output.
    """
    if torch.equal(old, new):
        return
    weight *= old[1] / new[1]
    bias.copy_((old[0] + old[1] * bias - new[0]) / new[1])


class OutcomeHead(Module):
    """Predicts reward and termination of a transition from the features of its frame.

    A transition may end the episode by a random draw, and its reward may depend on the result (a
    penalty for dying). So the head predicts two rewards: if the episode continues and if it ends.

    dim: d, the number of features.
    hidden: width of the hidden layer.
    on_end: whether endings have their own reward, and whether units are learned from the recording.
    Older worlds have neither.
    """

    @register_to_config
    def __init__(self, dim: int = 256, hidden: int = 64, on_end: bool = False) -> None:
        super().__init__()
        last = nn.Linear(hidden, 3 if on_end else 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.SiLU(), last)
        if on_end:
            # Rewards of continuing and of ending in the environment's units, and the logit of the
            # recording's share of terminations.
            self.register_buffer("offset", torch.zeros(2))
            self.register_buffer("scale", torch.ones(2))
            self.register_buffer("prior", torch.zeros(()))
            self.offset: Tensor
            self.scale: Tensor
            self.prior: Tensor

    @torch.no_grad()
    def set_units(
        self, units: Sequence[float], layers: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> None:
        """Set the units of rewards, and the share of terminations.

        units: see :meth:`worldsim.training.tally.Tally.units`.
        layers: weight and bias of the last layer, and of copies of it, which are expressed in the
            new units: predictions stay.
        """
        new = torch.tensor(units).to(self.offset)
        for weight, bias in layers:
            for i in range(2):
                old = torch.stack([self.offset[i], self.scale[i]])
                change_units(weight[i : i + 1], bias[i : i + 1], old, new[[i, 2 + i]])
            bias[2] += self.prior - new[4]
        self.offset.copy_(new[:2])
        self.scale.copy_(new[2:4])
        self.prior.copy_(new[4])

    def normalise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two rewards in units of ``scale`` from ``offset``, and the termination logit.

        features: (..., d).

        Returns (..., 2), if the episode continues and if it ends, and (...).
        """
        out = self.mlp(features)
        if not self.config.on_end:
            return out[..., :1].expand(*out.shape[:-1], 2), out[..., 1]
        return out[..., :2], out[..., 2] + self.prior

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two rewards in the environment's units, and the termination logit.

        features: (b, d).

        Returns (b, 2), if the episode continues and if it ends, and (b,).
        """
        rewards, logit = self.normalise(features)
        return (self.offset + self.scale * rewards if self.config.on_end else rewards), logit
