"""Rewards and ends read off emitted frames: a separate small network, and how it is trained.

The heads on the dynamics' features (:class:`worldsim.world.heads.OutcomeHead`) see a frame through
the tokens of a network that is trained to draw it. This one sees the pixels that the world emitted.
It shares no weights with the dynamics, so its batches can be balanced by events without changing
what the dynamics learns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.dataset import EpisodeDataset
from worldsim.diffusion.denoiser import rgb_to_channels
from worldsim.diffusion.module import Module, register_to_config
from worldsim.errors import InvalidInputError
from worldsim.training.tally import Tally

RARE = 4.0
"""A reward this many standard deviations from the mean is an event of its own when batches are
balanced."""


@dataclass(frozen=True)
class Seen:
    """What the head sees of b transitions. k frames and actions, oldest first.

    rgb: (b, k, 3, h, w) uint8. present: (b, k) bool, frames of the same episode. act: (b, k, ...),
    the last one led into the frame that is judged. taken: (b, k) bool, actions of the same episode.
    """

    rgb: Tensor
    present: Tensor
    act: Tensor
    taken: Tensor


class FrameOutcomeHead(Module):
    """Rewards and termination of a transition from the last frames and actions: convolutions over
    pixels and their coordinates.

    frames: how many it sees. height, width: in pixels, divisible by ``2 ** len(widths)``. actions,
    action_dim: as of :class:`worldsim.diffusion.network.SpaceTimeTransformer`. widths: channels of
    the convolutions, each of stride 2. bins: the reward of going on is a distribution over this
    many values (two-hot, Hafner et al. 2023), 0 for its mean alone.

    Group norms see to it that the brightness of whole frames hardly matters: things must have
    places. Where an environment makes up the frame at an episode's end
    (:func:`worldsim.training.buffer.is_synthetic_terminal`), a head must not see that frame: ask it
    before.
    """

    config: Any

    @register_to_config
    def __init__(
        self,
        frames: int = 4,
        height: int = 64,
        width: int = 64,
        actions: int = 7,
        action_dim: int = 0,
        widths: tuple[int, ...] = (32, 64, 64, 96),
        hidden: int = 256,
        bins: int = 0,
    ) -> None:
        super().__init__()
        step = 2 ** len(widths)
        if height % step or width % step:
            raise InvalidInputError(
                f"frames of {height}x{width} pixels: choose multiples of {step}, or fewer widths"
            )
        self.width = actions or action_dim
        layers: list[nn.Module] = []
        # Two channels of coordinates (Liu et al. 2018): whether something is over the edge is a
        # matter of where it is.
        for a, b in zip((3 * frames + 2, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU()]
        self.look = nn.Sequential(*layers, nn.Flatten())
        places = (height // step) * (width // step)
        last = nn.Linear(hidden, 3 + bins)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.judge = nn.Sequential(
            nn.Linear(widths[-1] * places + frames * self.width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            last,
        )
        # Rewards of going on and of ending in the environment's units, and the logit of the
        # recording's share of endings.
        self.register_buffer("offset", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("prior", torch.zeros(()))
        self.offset: Tensor
        self.scale: Tensor
        self.prior: Tensor
        if bins:
            self.register_buffer("bin_values", torch.zeros(bins))
            self.bin_values: Tensor

    def measure(self, recorded: Recorded) -> None:
        """Take the recording's units, and the range of its rewards."""
        self.offset.copy_(recorded.units[:2])
        self.scale.copy_(recorded.units[2:4])
        self.prior.copy_(recorded.units[4])
        if self.config.bins:
            rew = recorded.rew[recorded.judged][~recorded.term[recorded.judged]]
            low, high = (float(_symlog(x)) for x in (rew.min(), rew.max()))
            even = torch.linspace(low, high, self.config.bins, device=rew.device)
            self.bin_values.copy_(torch.sign(even) * torch.expm1(even.abs()))

    def outputs(self, seen: Seen, shift: Tensor | None = None) -> Tensor:
        """(b, 3 + bins) float32 for :meth:`read`: both rewards, the termination's logit, logits of
        the reward's values.

        shift: (b, 2) pixels down and to the right by which the pictures were moved
        (:func:`shift_frames`), or None.
        """
        b, _, _, h, w = seen.rgb.shape
        pictures = (rgb_to_channels(seen.rgb) * seen.present[:, :, None, None, None]).flatten(1, 2)
        rows = torch.linspace(-1.0, 1.0, h, device=pictures.device)[None, None, :, None].expand(
            b, 1, h, w
        )
        columns = torch.linspace(-1.0, 1.0, w, device=pictures.device)[None, None, None, :].expand(
            b, 1, h, w
        )
        where = torch.cat([rows, columns], 1)
        if shift is not None:
            where = (
                where
                - (2.0 * shift / torch.tensor([h - 1.0, w - 1.0], device=shift.device))[
                    :, :, None, None
                ]
            )
        features = self.look(torch.cat([pictures, where], 1))
        act = seen.act.float()
        if self.config.actions:
            act = (seen.act[..., None] == torch.arange(self.width, device=act.device)).float()
        return self.judge(
            torch.cat([features, (act * seen.taken[..., None]).flatten(1)], 1)
        ).float()

    def read(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards of going on and of ending (b, 2), in units of ``scale`` from ``offset``, and the
        termination's logit (b,)."""
        rewards = out[:, :2]
        if self.config.bins:
            mean = (out[:, 3:].softmax(1) * self.bin_values).sum(1)
            rewards = torch.stack([(mean - self.offset[0]) / self.scale[0], out[:, 1]], 1)
        return rewards, out[:, 2] + self.prior

    def median(self, out: Tensor) -> Tensor:
        """The median reward of going on (b,), in the environment's units; the mean where there are
        no bins."""
        if not self.config.bins:
            return self.offset[0] + self.scale[0] * out[:, 0]
        share = out[:, 3:].softmax(1)
        # Each value's share lies half below and half above it.
        below = share.cumsum(1) - 0.5 * share
        right = (below < 0.5).sum(1, keepdim=True).clamp(1, share.shape[1] - 1)
        low, high = below.gather(1, right - 1), below.gather(1, right)
        way = ((0.5 - low) / (high - low).clamp(min=1e-9)).clamp(0.0, 1.0)
        return (
            self.bin_values[right - 1] + way * (self.bin_values[right] - self.bin_values[right - 1])
        )[:, 0]

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """The rewards of going on and of ending (b, 2), in the environment's units, and the
        termination's logit (b,)."""
        rewards, logit = self.read(self.outputs(seen))
        return self.offset + self.scale * rewards, logit


def _symlog(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(x.abs())


def two_hot(x: Tensor, values: Tensor) -> Tensor:
    """Shares (n, k) of the two neighbouring ``values`` (k,), ascending, whose mean is x (n,); the
    outermost value beyond them."""
    right = torch.searchsorted(values, x.contiguous()).clamp(1, len(values) - 1)
    low, high = values[right - 1], values[right]
    way = ((x - low) / (high - low)).clamp(0.0, 1.0)
    shares = torch.zeros(len(x), len(values), device=x.device)
    shares.scatter_(1, (right - 1)[:, None], (1.0 - way)[:, None])
    return shares.scatter_(1, right[:, None], way[:, None])


def shift_frames(rgb: Tensor, shift: Tensor) -> Tensor:
    """Pictures (b, k, c, h, w) moved by ``shift`` (b, 2) int64 pixels down and to the right; edges
    are repeated."""
    h, w = rgb.shape[-2:]
    rows = (torch.arange(h, device=rgb.device)[None] - shift[:, :1]).clamp(0, h - 1)
    columns = (torch.arange(w, device=rgb.device)[None] - shift[:, 1:]).clamp(0, w - 1)
    batch = torch.arange(len(rgb), device=rgb.device)[:, None, None]
    return rgb.permute(0, 3, 4, 1, 2)[batch, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 4, 1, 2
    )


@dataclass(frozen=True)
class Recorded:
    """Transitions of a recording, on a device: n frames of its episodes one after the other.

    rgb: (n, 3, h, w) uint8. act: (n, ...), rew: (n,) float32, term: (n,) bool: of the transition
    *into* each frame; zeros for an episode's first frame. first: (n,) int64, the first frame of
    each one's episode. judged: (m,) int64, frames that a transition leads to whose outcome is
    known. units: (5,) of :class:`worldsim.training.tally.Tally`.
    """

    rgb: Tensor
    act: Tensor
    rew: Tensor
    term: Tensor
    first: Tensor
    judged: Tensor
    units: Tensor

    @staticmethod
    def of(datasets: Sequence[EpisodeDataset], device: torch.device | str) -> Recorded:
        """All transitions of recordings of one environment."""
        parts: dict[str, list[np.ndarray[Any, Any]]] = {
            name: [] for name in ("rgb", "act", "rew", "term", "first", "judged")
        }
        tally, count = Tally(), 0
        for dataset in datasets:
            for index in dataset.readable:
                arrays, _ = dataset.load_shard(index)
                starts, n = arrays["episode_start"], len(arrays["rgb"])
                tally.add(arrays)
                first = np.repeat(starts[:-1], np.diff(starts))
                later = first != np.arange(n)
                before = np.maximum(np.arange(n) - 1, 0)
                unsure = arrays["term"][before] & arrays["trunc"][before]
                for name in ("act", "rew", "term"):
                    values = np.array(arrays[name])[before]
                    values[~later] = 0
                    parts[name].append(values)
                parts["rgb"].append(np.array(arrays["rgb"]).transpose(0, 3, 1, 2))
                parts["first"].append(first + count)
                parts["judged"].append(np.flatnonzero(later & ~unsure) + count)
                count += n
        made = {
            name: torch.from_numpy(np.concatenate(values)).to(device)
            for name, values in parts.items()
        }
        return Recorded(**made, units=tally.units().to(device))

    def look(self, index: Tensor, frames: int, after: bool) -> Seen:
        """What is seen of the transitions into the frames ``index`` (b,).

        after: whether the newest of the ``frames`` frames is the one that the transition led into,
        or the one that it left.
        """
        back = torch.arange(1 - frames, 1, device=index.device)
        led = index[:, None] + back
        shown = led if after else led - 1
        start = self.first[index][:, None]
        return Seen(
            rgb=self.rgb[torch.maximum(shown, start)],
            present=shown >= start,
            act=self.act[torch.maximum(led, start)],
            # No action led to an episode's first frame.
            taken=led > start,
        )

    def only(self, judged: Tensor) -> Recorded:
        """The same recording, of which only the transitions into the frames ``judged`` count."""
        return Recorded(self.rgb, self.act, self.rew, self.term, self.first, judged, self.units)


@dataclass(frozen=True)
class BalanceConfig:
    """How batches are balanced by events. What is learned stays true: see :class:`Balanced`."""

    ends: float = 0.25
    """Share of a batch that are ends, where there are any."""
    rare: float = 0.25
    """Share that are rare rewards (:data:`RARE`), where there are any."""
    shift: int = 2
    """Pictures are moved by up to this many pixels, up, down and sideways: a recording holds few
    ends, which are seen often."""

    def __post_init__(self) -> None:
        if not (0.0 < self.ends < 1.0 and 0.0 <= self.rare < 1.0 and self.ends + self.rare < 1.0):
            raise InvalidInputError(
                f"BalanceConfig: shares ends = {self.ends!r} and rare = {self.rare!r} "
                "must leave some for the rest"
            )


@dataclass
class Balanced:
    """Batches of transitions in which events come often, and the losses that make up for it.

    Ends are over-represented: the logit is shifted in training by the difference of log odds
    between batch and recording (case-control sampling, Prentice and Pyke 1979), so that the head
    itself gives the recording's probabilities. Rare rewards are too: transitions that go on are
    weighted by their share in the recording over that in the batch.
    """

    recorded: Recorded
    config: BalanceConfig = field(default_factory=BalanceConfig)

    def __post_init__(self) -> None:
        r = self.recorded
        rew, term = r.rew[r.judged], r.term[r.judged]
        rare = ~term & ((rew - r.units[0]).abs() > RARE * r.units[2])
        self.kinds = [r.judged[kind] for kind in (term, rare, ~term & ~rare)]
        if not len(self.kinds[2]):
            raise InvalidInputError(
                "every transition of the recording is an end or a rare reward: nothing to balance"
            )
        wanted = [
            self.config.ends if len(self.kinds[0]) else 0.0,
            self.config.rare if len(self.kinds[1]) else 0.0,
        ]
        self.shares = [*wanted, 1.0 - sum(wanted)]
        self.log_odds = 0.0
        if len(self.kinds[0]):
            share = len(self.kinds[0]) / len(r.judged)
            drawn = self.shares[0]
            self.log_odds = math.log(drawn / (1.0 - drawn)) - math.log(share / (1.0 - share))
        going_on = len(self.kinds[1]) + len(self.kinds[2])
        drawn_on = self.shares[1] + self.shares[2]
        self.weights = [1.0] + [
            (len(kind) / going_on) / (share / drawn_on) if share else 0.0
            for kind, share in zip(self.kinds[1:], self.shares[1:], strict=True)
        ]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames that transitions lead to, (b,) int64, and their weights (b,)."""
        counts = [round(batch * share) for share in self.shares[:2]]
        counts.append(batch - sum(counts))
        device = self.recorded.judged.device
        index = [
            kind[torch.randint(len(kind), (n,), generator=generator, device=device)]
            for kind, n in zip(self.kinds, counts, strict=True) if n
        ]  # fmt: skip
        weight = [
            torch.full((n,), w, device=device)
            for w, n in zip(self.weights, counts, strict=True)
            if n
        ]
        return torch.cat(index), torch.cat(weight)

    def losses(
        self, head: FrameOutcomeHead, batch: int, after: bool, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses of one batch: of the mean reward (squared error) and of the probability of an
        end."""
        index, weight = self.draw(batch, generator)
        seen = self.recorded.look(index, head.config.frames, after)
        shift = None
        if self.config.shift:
            most = self.config.shift
            shift = torch.randint(
                -most, most + 1, (len(index), 2), generator=generator, device=index.device
            )
            seen = Seen(shift_frames(seen.rgb, shift), seen.present, seen.act, seen.taken)
        out = head.outputs(seen, shift)
        rewards, logit = head.read(out)
        rew, term = self.recorded.rew[index], self.recorded.term[index]
        found = outcome_losses(
            rewards, logit + self.log_odds, (rew[:, None] - head.offset) / head.scale, term, weight
        )
        if head.config.bins:
            entropy = -(two_hot(rew, head.bin_values) * out[:, 3:].log_softmax(1)).sum(1)
            ended = 0.5 * (rewards[:, 1] - (rew - head.offset[1]) / head.scale[1]).square()
            found["reward_loss"] = (weight * torch.where(term, ended, entropy)).mean()
        return found


def outcome_losses(
    rewards: Tensor, logit: Tensor, rew: Tensor, term: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Losses of b transitions: half the squared error of the reward of what happened, and the
    cross-entropy of ends.

    rewards, rew: (b, 2) predicted and true, in units of going on and of ending. logit, term,
    weight: (b,).
    """
    error = 0.5 * (rewards - rew).square()
    reward = torch.where(term, error[:, 1], error[:, 0])
    ended = F.binary_cross_entropy_with_logits(logit, term.float(), reduction="none")
    return {"reward_loss": (weight * reward).mean(), "termination_loss": (weight * ended).mean()}
