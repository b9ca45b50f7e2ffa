"""Training of a head that reads frames: transitions drawn by class, and its loss.

Terminations and rewards may be rare: one transition in a hundred, or in a thousand. Drawn as often
as they occur, they would hardly change the weights for hundreds of steps. So transitions are drawn
by their class, and the drawing is corrected for. With class c drawn ``e[c]`` times as often as it
occurs, its probability in the batches is proportional to ``e[c] P(c | x)``. Logits to which
``log e`` is added in training alone therefore learn P(c | x) itself (case-control sampling,
Prentice and Pyke 1979; logit adjustment, Menon et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Batch, Number, Rate, Share
from worldsim.training.buffer import FrameBuffer, Windows
from worldsim.world.frame_outcome import END, FrameOutcomeHead


@dataclass(frozen=True)
class OutcomeConfig:
    """How a head that reads frames is trained (:class:`FrameOutcomeHead`)."""

    transitions: Batch = 32
    """Recorded transitions per step and window of the dynamics' batch. They are drawn by class from
    the whole recording. Each costs the training of 25 MFLOP at 64x64 pixels."""
    ends: Share = 0.25
    """Share of terminations among the transitions that are drawn, if there are any. Rewards are
    drawn in proportion to the square root of their share in the recording."""
    dreamed: Share = 0.5
    """Weight of the loss on the dynamics' own windows, whose newest frame is the dynamics'
    prediction from pure noise, beside that on recorded transitions. In dreams the head sees no
    other frames. 0 if the head does not see the newest frame."""
    forget: Share = 0.1
    """Share of recorded transitions whose past is hidden up to a random frame, as at the start of a
    dream."""
    shift: Number = 2
    """Largest shift of pictures in pixels, in both directions. Rare transitions are seen often."""
    learning_rate: Rate = 1e-3
    """Peak learning rate of AdamW."""
    standardised: bool = False
    """Whether a new head sees pictures shifted and scaled by the recording's brightness and
    contrast. It then finds small objects on an even background in far fewer steps."""

    def __post_init__(self) -> None:
        check_ranges(self)


def sampling_factors(counts: Tensor, ends: float) -> Tensor:
    """Return how many times more often each class is drawn than it occurs, (c,) float32.

    Drawn are terminations with probability ``ends`` and each reward with a probability
    proportional to the square root of its share. Rewards that occur less than once count as if they
    occurred once. Without terminations, or with nothing else, all of the draws are of the rest.

    counts: (c,) float, occurrences of each class.
    """
    total = counts.sum().clamp(min=1.0)
    share = counts.clamp(min=1.0) / total
    factor = share.rsqrt()
    rest = counts.clone()
    rest[END] = 0.0
    ended, going_on = counts[END] / total, rest.sum() / total
    if ended <= 0 or going_on <= 0:
        ends = 1.0 if going_on <= 0 else 0.0
    drawn = (rest / total * factor).sum().clamp(min=1e-9)
    factor = factor * (1.0 - ends) / drawn
    factor[END] = ends / ended if ended > 0 else 1.0
    return factor.clamp(min=1e-9).float()


def count_classes(head: FrameOutcomeHead, rew: Tensor, term: Tensor) -> Tensor:
    """Return how often each class occurs in n transitions, (1 + bins,) float64."""
    classes, shares = head.locate(rew, term)
    counts = torch.zeros(len(head.prior), dtype=torch.float64, device=rew.device)
    return counts.scatter_add_(0, classes.flatten(), shares.double().flatten())


@torch.no_grad()
def set_prior(head: FrameOutcomeHead, counts: Tensor) -> None:
    """Let an untrained head predict the shares of a recording's classes.

    counts: (1 + bins,), see :func:`count_classes`. A class that never occurred counts a hundredth.
    """
    share = counts.clamp(min=0.01) / counts.clamp(min=0.01).sum()
    head.prior.copy_(share.log())


def draw_by_weight(total: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` indices, drawn in proportion to weights, (count,) int64.

    total: (n,) float64, cumulative sum of the weights. torch.multinomial accepts at most 2^24
        weights and sums them in each call.
    """
    place = torch.rand(count, generator=generator, device=total.device, dtype=torch.float64)
    return torch.searchsorted(total, place * total[-1], right=True).clamp(max=len(total) - 1)


def dreamed_transitions(windows: Windows, prediction: Tensor, frames: int) -> Windows:
    """Return every transition of training windows, the newest frame as the dynamics predict it.

    prediction: (b, t, c, h, w) in [-1, 1].
    frames: number of frames of the result; those before a window's first one repeat it.

    Returns b t windows, those of a window one after the other.
    """
    b, t = windows.rew.shape
    device = windows.rew.device
    last = torch.arange(t, device=device).repeat(b)
    row = torch.arange(b, device=device).repeat_interleave(t)[:, None]
    index = (last[:, None] + torch.arange(1 - frames, 1, device=device)).clamp(min=0)
    colours = ((prediction[:, :, :3].clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return Windows(
        rgb=torch.cat([windows.rgb[row, index[:, :-1]], colours.flatten(0, 1)[:, None]], 1),
        inverse_depth=None,
        act=windows.act[row, index],
        rew=windows.rew[row, index],
        term=windows.term[row, index],
        motion=windows.motion[row, index],
        view=None,
    )


@dataclass(frozen=True)
class Transitions:
    """Recorded transitions that were drawn by class.

    windows: n windows whose last frame the transition led to.
    factors: (1 + bins,) how often classes were drawn, see :func:`sampling_factors`.
    """

    windows: Windows
    factors: Tensor


class TransitionSampler:
    """Draws transitions of a buffer by class, for a head that reads frames.

    buffer: holds the recording. head: the trained head. config: see :class:`OutcomeConfig`.
    """

    def __init__(self, buffer: FrameBuffer, head: FrameOutcomeHead, config: OutcomeConfig) -> None:
        self.buffer, self.head, self.config = buffer, head, config

    def refresh(self) -> None:
        """Measure the transitions that the buffer holds by now."""
        self.index = self.buffer.transitions()
        rew, term = self.buffer.outcomes(self.index)
        self.counts = count_classes(self.head, rew, term)
        self.factors = sampling_factors(self.counts, self.config.ends)
        self.total = class_weights(self.head, self.factors, rew, term).double().cumsum(0)

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """Return ``count`` transitions."""
        last = self.index[draw_by_weight(self.total, count, generator)]
        frames, device = self.head.past + 1, last.device
        # What lies before this frame is hidden: a dream may begin anywhere.
        kept = torch.randint(1, frames, (count,), generator=generator, device=device)
        hidden = torch.rand(count, generator=generator, device=device) < self.config.forget
        since = torch.where(hidden, last - kept, torch.zeros_like(last))
        return Transitions(self.buffer.before(last, frames, since), self.factors)


def class_weights(head: FrameOutcomeHead, factors: Tensor, rew: Tensor, term: Tensor) -> Tensor:
    """Return how often each of n transitions is drawn, relative to a uniform draw, (n,) float32.

    factors: (1 + bins,), see :func:`sampling_factors`. rew, term: (n,).
    """
    classes, shares = head.locate(rew, term)
    return (factors[classes] * shares).sum(1)


def outcome_losses(
    head: FrameOutcomeHead,
    windows: Windows,
    factors: Tensor,
    most_shift: int,
    generator: torch.Generator,
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the losses of the last transition of each of n windows, see :func:`class_losses`.

    windows: as many frames as :attr:`FrameOutcomeHead.past`, and the new one.
    factors: how often classes count, see :func:`sampling_factors`.
    most_shift: largest shift of pictures in pixels.
    weight: (n,) weights of transitions; None where they were drawn by ``factors``.
    """
    rgb, shift, k = windows.rgb, None, head.config.frames
    if most_shift:
        shape = (len(rgb), 2)
        shift = torch.randint(
            -most_shift, most_shift + 1, shape, generator=generator, device=rgb.device
        )
        rgb = shift_frames(rgb, shift)
    out = head.classify(rgb[:, :k], windows.act[:, -k:], shift)
    return class_losses(head, out, windows.rew[:, -1].float(), windows.term[:, -1], factors, weight)


def class_losses(
    head: FrameOutcomeHead,
    out: Tensor,
    rew: Tensor,
    term: Tensor,
    factors: Tensor,
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the losses of n transitions whose classes count ``factors`` times.

    ``termination_loss`` is the cross-entropy of ending or not and ``reward_loss`` that of the
    reward's class if the transition continues; their sum is that of the joint distribution.
    ``end_reward_loss`` is half the squared error of the reward of terminations, in units of
    ``head.end_units``.

    out: (n, 2 + bins), see :meth:`FrameOutcomeHead.classify`. rew, term: (n,).
    weight: (n,) weights of transitions that were not drawn by ``factors``: :func:`class_weights`,
        or 0. None for those that were.
    """
    classes, shares = head.locate(rew, term)
    # A reward between two classes counts as often as both together.
    drawn = shares * factors[classes]
    drawn = drawn / drawn.sum(1, keepdim=True)
    logits = out[:, :-1] + factors.log()
    going_on = logits[:, END + 1 :]
    ended = F.binary_cross_entropy_with_logits(
        logits[:, END] - going_on.logsumexp(1), term.float(), reduction="none"
    )
    which = going_on.log_softmax(1).gather(1, (classes - 1).clamp(min=0))
    reward = -(drawn * which).sum(1).masked_fill(term, 0.0)
    offset, scale = head.end_units
    at_end = 0.5 * (out[:, -1] - (rew - offset) / scale).square() * term

    def mean(each: Tensor) -> Tensor:
        if weight is None:
            return each.mean()
        return (each * weight).sum() / (weight > 0).sum().clamp(min=1)

    return {
        "termination_loss": mean(ended),
        "reward_loss": mean(reward),
        "end_reward_loss": mean(at_end),
    }


def shift_frames(rgb: Tensor, shift: Tensor) -> Tensor:
    """Return pictures (b, k, c, h, w) moved by ``shift``; edges repeat.

    shift: (b, 2) int64, pixels down and right.
    """
    h, w = rgb.shape[-2:]
    rows = (torch.arange(h, device=rgb.device) - shift[:, :1]).clamp(0, h - 1)
    columns = (torch.arange(w, device=rgb.device) - shift[:, 1:]).clamp(0, w - 1)
    batch = torch.arange(len(rgb), device=rgb.device)[:, None, None]
    moved = rgb.permute(0, 3, 4, 1, 2)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 4, 1, 2)
