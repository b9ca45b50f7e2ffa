"""A separate small network for rewards and terminations, which sees emitted frames.

The heads on the dynamics' features (:class:`worldsim.world.heads.OutcomeHead`) see a frame through
the tokens of a network that is trained to draw it. This one sees the pixels that the world emitted.
It shares no weights with the dynamics, so its batches can be balanced by events without changing
what the dynamics learns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.dataset import EpisodeDataset
from worldsim.diffusion.denoiser import rgb_to_channels
from worldsim.diffusion.module import Module, register_to_config
from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array
from worldsim.training.outcomes import shift_frames
from worldsim.training.tally import Tally

RARE = 4.0
"""A reward this many standard deviations from the mean is an event of its own when batches are
balanced."""


@dataclass(frozen=True)
class Seen:
    """The head's input for b transitions: k frames and actions, oldest first.

    rgb: (b, k, 3, h, w) uint8.
    present: (b, k) bool, frames of the same episode.
    act: (b, k, ...); the last one led into the frame that is judged.
    taken: (b, k) bool, actions of the same episode.
    """

    rgb: Tensor
    present: Tensor
    act: Tensor
    taken: Tensor


class FrameOutcomeHead(Module):
    """Predicts reward and termination of a transition from the last frames and actions.

    It is a convolutional network over pixels and their coordinates. Group norms reduce the effect
    of a frame's overall brightness, so that objects have to be located. Where an environment's
    terminal frame is synthetic (:func:`worldsim.training.buffer.is_synthetic_terminal`), do not
    show that frame to the head: call it before.

    frames: number of frames it sees.
    height, width: pixels, divisible by ``2 ** len(widths)``.
    actions, action_dim: see :class:`worldsim.diffusion.network.SpaceTimeTransformer`.
    widths: channels of the convolutions, each of stride 2.
    bins: the reward of continuing is a distribution over this many values (two-hot, Hafner et al.
        2023); 0 predicts its mean alone.
    """

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
        """Set the units and the range of rewards from the recording."""
        self.offset.copy_(recorded.units[:2])
        self.scale.copy_(recorded.units[2:4])
        self.prior.copy_(recorded.units[4])
        if self.config.bins:
            rew = recorded.rew[recorded.judged][~recorded.term[recorded.judged]]
            low, high = (float(_symlog(x)) for x in (rew.min(), rew.max()))
            even = torch.linspace(low, high, self.config.bins, device=rew.device)
            self.bin_values.copy_(torch.sign(even) * torch.expm1(even.abs()))

    def outputs(self, seen: Seen, shift: Tensor | None = None) -> Tensor:
        """Return (b, 3 + bins) float32 for :meth:`read`.

        These are both rewards, the logit of termination, and logits of the reward's values.

        shift: (b, 2) pixels down and right by which the pictures were moved (:func:`shift_frames`),
            or None.
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
        """Return the rewards of continuing and of ending (b, 2), and the logit of termination (b,).

        Rewards are in units of ``scale`` from ``offset``.
        """
        rewards = out[:, :2]
        if self.config.bins:
            mean = (out[:, 3:].softmax(1) * self.bin_values).sum(1)
            rewards = torch.stack([(mean - self.offset[0]) / self.scale[0], out[:, 1]], 1)
        return rewards, out[:, 2] + self.prior

    def median(self, out: Tensor) -> Tensor:
        """Return the median reward of continuing (b,) in the environment's units.

        Without bins it is the mean.
        """
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
        """Return the rewards of continuing and of ending (b, 2), and the logit of termination (b,).

        Rewards are in the environment's units.
        """
        rewards, logit = self.read(self.outputs(seen))
        return self.offset + self.scale * rewards, logit


def _symlog(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(x.abs())


def two_hot(x: Tensor, values: Tensor) -> Tensor:
    """Return shares (n, k) of the two neighbouring values whose mean is x (n,).

    values: (k,) ascending. Beyond them, the outermost value has the whole share.
    """
    right = torch.searchsorted(values, x.contiguous()).clamp(1, len(values) - 1)
    low, high = values[right - 1], values[right]
    way = ((x - low) / (high - low)).clamp(0.0, 1.0)
    shares = torch.zeros(len(x), len(values), device=x.device)
    shares.scatter_(1, (right - 1)[:, None], (1.0 - way)[:, None])
    return shares.scatter_(1, right[:, None], way[:, None])


@dataclass(frozen=True)
class Recorded:
    """Transitions of a recording, on a device: n frames of its episodes one after the other.

    rgb: (n, 3, h, w) uint8.
    act, rew, term: (n, ...), (n,) float32, (n,) bool, of the transition *into* each frame; zeros
        for an episode's first frame.
    first: (n,) int64, the first frame of each one's episode.
    judged: (m,) int64, frames whose transition has a known outcome.
    units: (5,) of :class:`worldsim.training.tally.Tally`.
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
        """Return all transitions of recordings of one environment."""
        parts: dict[str, list[Array]] = {
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
        """Return the head's input for the transitions into the frames ``index`` (b,).

        after: whether the newest of the ``frames`` frames is the one after the transition, or the
            one before.
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
        """Return the recording with only the transitions into the frames ``judged``."""
        return Recorded(self.rgb, self.act, self.rew, self.term, self.first, judged, self.units)


@dataclass(frozen=True)
class BalanceConfig:
    """How batches are balanced by events; see :class:`Balanced`."""

    ends: float = 0.25
    """Share of terminations in a batch, if there are any."""
    rare: float = 0.25
    """Share of rare rewards in a batch (:data:`RARE`), if there are any."""
    shift: int = 2
    """Maximum shift of pictures in pixels, in both directions. A recording has few terminations,
    which are seen often."""

    def __post_init__(self) -> None:
        if not (0.0 < self.ends < 1.0 and 0.0 <= self.rare < 1.0 and self.ends + self.rare < 1.0):
            raise InvalidInputError(
                f"BalanceConfig: shares ends = {self.ends!r} and rare = {self.rare!r} "
                "must leave some for the rest"
            )


@dataclass
class Balanced:
    """Batches in which rare events are over-represented, and losses that correct for it.

    Terminations are over-represented: in training, the logit is shifted by the difference of log
    odds between batch and recording (case-control sampling, Prentice and Pyke 1979), so that the
    head itself gives the recording's probabilities. Rare rewards are, too: continuing transitions
    are weighted by their share in the recording over that in the batch.
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
        """Sample transitions: the frames they lead to (b,) int64, and their weights (b,)."""
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
        """Return the losses of one batch, of reward (squared error) and termination (log loss)."""
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
    """Return the losses of b transitions for reward and termination.

    The former is half the squared error of the reward that occurred, the latter the cross-entropy.

    rewards, rew: (b, 2) predicted and (b,) true, in units of continuing and of ending.
    logit, term, weight: (b,).
    """
    error = 0.5 * (rewards - rew).square()
    reward = torch.where(term, error[:, 1], error[:, 0])
    ended = F.binary_cross_entropy_with_logits(logit, term.float(), reduction="none")
    return {"reward_loss": (weight * reward).mean(), "termination_loss": (weight * ended).mean()}
