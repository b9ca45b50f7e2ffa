"""The training loss: denoising of every frame given its past, and losses of the heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from worldsim.camera import pluecker_rays
from worldsim.diffusion.denoiser import MASK_CHANNEL, add_noise, shown_last
from worldsim.diffusion.network import Condition, SpaceTimeTransformer, stream_mask
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.ranges import NotNegative, Share
from worldsim.state import map_tensors
from worldsim.training.buffer import Windows
from worldsim.training.outcomes import (
    OutcomeConfig,
    Transitions,
    class_weights,
    dreamed_transitions,
    outcome_losses,
)
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import EgoMotionHead, Motions, OutcomeHead

SCALES = 4
"""Scales of the energy score: bands of 1, 2 and 4 pixels and what is left, means of 8x8 pixels."""
SQUARE = 8
"""Pixels a side of the squares of the energy score."""
OTHER_COLOUR, OTHER_DEPTH = 0.3, 0.1
"""Differences of channels, each in [-1, 1], from which on a remembered point is something else than
what was there."""
RIGHT_COLOUR = 0.15
"""Largest difference of a remembered point from what was there, to count as right: 2 to 3 times the
usual one, which comes from sampling a texture at other points."""
TELEPORT = 20.0
"""Motions of more than this many times the usual one are left out of the ego-motion loss."""
NEAR_LEVEL = 0.08
"""Noise levels so far apart share an error by a factor of e less: see :func:`errors_by_sigma`."""


class Balance(StrEnum):
    """Reference against which a frame's error is normalised.

    With it, small errors count beside large ones, as in PSNR.
    """

    FRAME = "frame"
    """Itself: the loss is the mean of logarithms. Frames of places that were never seen count as
    little as they can be known; so does, frame by frame, what happens seldom and without notice."""
    LEVEL = "level"
    """What frames of its noise level have on average, as in EDM2 (Karras et al. 2024): the loss is
    the logarithm of means. What happens seldom counts as often as it happens, so that the mean, or
    the energy score's samples, are the true ones."""
    CONTEXT = "context"
    """As ``LEVEL``, with separate averages for frames that see the frame before and for those whose
    context is hidden (a window's first frame, and windows cut by ``context_drop``). Errors without
    context are many times larger: in a common average they decide how little every other frame
    counts."""


@old_fields(context_level="context_sigma", last_frame_level="last_frame_sigma")
@dataclass(frozen=True)
class LossConfig:
    """Noise levels, dropouts and weights of the training loss."""

    pure_noise: Share = 0.5
    """Share of target frames at noise level 1, which one-step sampling uses; the rest is uniform in
    [0, 1]."""
    context_sigma: Share = 0.15
    """Maximum noise level of context frames; levels are uniform in [0, this]..."""
    context_any: Share = 0.15
    """...except this share of them, uniform in [0, 1]."""
    context_drop: Share = 0.2
    """Share of windows in which the frames before a random moment are hidden, as after a reset."""
    energy: Share = 0.0
    """Weight in [0, 1] of the energy score, beside the squared error, at noise level 1. With the
    squared error alone, the one-step prediction is the mean of all outcomes, which is blurred; the
    score rewards samples. Adds half the cost."""
    last_frame_sigma: Share = 0.1
    """For networks that see previous frames (worlds without memory): half of these frames have a
    noise level uniform in [0, this], since generated frames have errors, too; the others have
    none."""
    own_context: Share = 0.0
    """Share of context frames that are the model's own predictions, against drift. Costs a second
    forward pass."""
    own_context_from: Share = 0.6
    """Fraction of the training after which ``own_context`` begins."""
    known: NotNegative = 0.0
    """Weight of the squared error of pixels where the memory shows the right colour, beside the
    energy score. There the frame is determined, and noise in it is flicker. Needs the memory."""
    detail: Share = 0.0
    """In [0, 1]: how much the weight of a pixel grows with the detail of the previous frame there.
    A distant shot of one pixel is a thousandth of the error of floor and walls, and would be
    learned last. Since the weights depend on the past alone, the energy score stays proper."""
    motion: Share = 0.0
    """In [0, 1]: how much the weight of a pixel grows with the change there between the two
    previous frames, beside ``detail``. A walker of three pixels then counts as much as what it
    covers of all that moves, not of all that has detail. It depends on the past alone, too."""
    balance: Balance = Balance.FRAME
    """Reference against which errors are normalised: each frame's own error, or the mean of its
    noise level, over all frames or over those that see as much of the past (``context``)."""
    depth_weight: NotNegative = 0.5
    """Weight of the depth channel's loss relative to colour."""
    outcome_weight: NotNegative = 1.0
    """Weight of the losses of reward and termination relative to colour. It changes how much of the
    network serves them, but not their optimum: probabilities stay calibrated."""
    end_emphasis: Annotated[float, Ge(1.0), Le(1e6)] = 1.0
    """Weight of a termination relative to a transition that continues. In training, the logit is
    shifted by its logarithm, so that the head still returns the true probability (case-control
    weighting, Prentice and Pyke 1979). If one transition in a hundred terminates, the loss of an
    uninformed head is a tenth of a balanced one's, and what a few pixels decide is learned late or
    never."""
    forgive_dreamed: bool = True
    """Mask the loss where a memory with generated frames differs from the truth: there the dream
    should stay as it is. Otherwise the network learns to distrust the memory of its own frames."""

    def __post_init__(self) -> None:
        check_ranges(self)


def detail_weights(x: Tensor, detail: float) -> Tensor:
    """Return the weight of each pixel in the loss (b, t, h, w), with mean 1 per frame.

    It grows with the spread of colours within 5x5 pixels of the *previous* frame, maximised over
    9x9 pixels, since objects move. A window's first frame has no previous one: its weights are 1.

    x: (b, t, c, h, w) in [-1, 1].
    """
    before = x[:, :-1, :3].flatten(0, 1)
    mean, square = (
        F.avg_pool2d(y, 5, stride=1, padding=2, count_include_pad=False)
        for y in (before, before.square())
    )
    spread = (square - mean.square()).clamp(min=0.0).mean(1).sqrt()
    return _weights_near(spread.unflatten(0, (len(x), x.shape[1] - 1)), detail, missing=1)


def motion_weights(x: Tensor, motion: float) -> Tensor:
    """Return the weight of each pixel in the loss (b, t, h, w), with mean 1 per frame.

    It grows with the change of a pixel between the *two previous* frames, maximised over 9x9
    pixels, since objects move on. The first two frames of a window have weights of 1, and so have
    frames before which nothing moved.

    x: (b, t, c, h, w) in [-1, 1].
    """
    change = (x[:, 1:-1, :3] - x[:, :-2, :3]).square().mean(2).sqrt()
    return _weights_near(change, motion, missing=2)


def _weights_near(amount: Tensor, share: float, missing: int) -> Tensor:
    """Return weights (b, t + missing, h, w) that grow with the largest amount within 9x9 pixels.

    amount: (b, t, h, w). share: weight in [0, 1] of what grows. missing: number of first frames,
        whose weights are 1.
    """
    near = F.max_pool2d(amount, 9, stride=1, padding=4) + 1e-3
    weights = (1.0 - share) + share * near / near.mean((2, 3), keepdim=True)
    first = torch.ones_like(weights[:, :1]).expand(-1, missing, -1, -1)
    return torch.cat([first, weights], 1)


def energy_score(
    one: Tensor, other: Tensor, truth: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return the energy score of two samples of frames, (b, t) for (b, t, c, h, w).

    It is the mean distance to the truth less half the distance of the samples. On average it is
    minimal for samples of the true distribution (Gneiting and Raftery 2007), for any weights of
    pixels that do not depend on the truth. Distances are taken in the bands of a Haar pyramid of
    four scales, of each pixel's colours and of squares of 8x8 pixels as a whole: the latter are
    minimal only if the pixels of a square vary together as those of the truth do.

    weights: (b, t, h, w). h and w are divisible by 8.
    """
    total: Tensor | float = 0.0
    images = [one, other, truth]
    for scale in range(SCALES):
        if scale < SCALES - 1:
            low = [F.avg_pool2d(x.flatten(0, 1), 2) for x in images]
            bands = [
                x - F.interpolate(y, scale_factor=2.0).unflatten(0, x.shape[:2])
                for x, y in zip(images, low, strict=True)
            ]
            images = [y.unflatten(0, x.shape[:2]) for x, y in zip(images, low, strict=True)]
        else:
            bands = images
        a, b, y = bands
        total = total + 0.5 * (
            _distance(a, y, weights) + _distance(b, y, weights) - _distance(a, b, weights)
        )
        weights = (
            F.avg_pool2d(weights, 2) if weights is not None and scale < SCALES - 1 else weights
        )
    assert isinstance(total, Tensor)
    return total


def _distance(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean distance (b, t) of two (b, t, c, h, w).

    It is the mean of the distance of pixel colours and the distance of square averages.
    """
    apart = (a - b).square().sum(2)
    # The square root's slope at zero is infinite.
    pixels = (apart + 1e-6).sqrt()
    if weights is not None:
        apart, pixels = apart * weights, pixels * weights
    squares = (F.avg_pool2d(apart, SQUARE, ceil_mode=True) + 1e-6).sqrt()
    return 0.5 * (pixels.mean((2, 3)) + squares.mean((2, 3)))


def known_loss(
    predictions: list[Tensor], x: Tensor, windows: Windows, weight: float, apart: float = math.inf
) -> dict[str, Tensor]:
    """Return the loss of pixels that the memory knows: the logarithm of their squared error.

    Where a memory holds dreamed frames, it may be wrong, and squared error would ask for the mean
    of what may be there. ``apart`` leaves such pixels out.

    predictions: (b, t, c, h, w) each, the truth where the loss is masked.
    x: (b, t, c, h, w), the true frames.
    weight: of ``known_loss``; ``known_mse`` is for the log.
    apart: largest difference from the true colour, in [-1, 1], of pixels that count.
    """
    assert windows.view is not None
    known, drawn = windows.view[:, :, MASK_CHANNEL], windows.drawn
    known = known * ((windows.view[:, :, :3] - x[:, :, :3]).abs().amax(2) <= apart)
    counted = known.sum((2, 3)) > 0
    if drawn is not None:
        counted = counted & drawn
    errors = torch.stack([(p[:, :, :3] - x[:, :, :3]).square().mean(2) for p in predictions])
    errors = (errors * known).sum((3, 4)) / known.sum((2, 3)).clamp(min=1.0)
    loss = torch.log(errors + 1e-3).mean(0)
    share = counted.float()
    mean = (loss * share).sum() / share.sum().clamp(min=1.0)
    mse = (errors.mean(0) * share).sum() / share.sum().clamp(min=1.0)
    return {"known_loss": weight * mean, "known_mse": mse.detach()}


def errors_by_sigma(
    errors: Tensor, sigma: Tensor, counted: Tensor, group: Tensor | None = None
) -> Tensor:
    """Return the mean error of frames at the same noise level, (..., b, t) for errors (..., b, t).

    sigma: (b, t) in [0, 1]; frames at exactly 1 form a bin of their own.
    counted: (b, t), 1 for frames that count, else 0.
    group: (b, t) bool; only frames with the same value are averaged together. None for one group.
    """
    flat = sigma.flatten()
    share = (
        torch.exp(-(((flat[:, None] - flat) / NEAR_LEVEL) ** 2))
        * ((flat[:, None] == 1.0) == (flat == 1.0))
        * counted.flatten()
    )
    if group is not None:
        share = share * (group.flatten()[:, None] == group.flatten())
    share = share / share.sum(1, keepdim=True).clamp(min=1e-6)
    # Not as a matrix product: autocast would round it.
    return (errors.flatten(-2)[..., None, :] * share).sum(-1).unflatten(-1, sigma.shape)


def sees_last(frames: int, hidden_before: Tensor) -> Tensor:
    """Return whether each frame of a window sees the previous one, (b, t) bool.

    False for the first frame and for those up to the moment of reset.

    hidden_before: (b,) int64, the first frame of each window that later frames see.
    """
    return torch.arange(frames, device=hidden_before.device) > hidden_before[:, None]


class TrainingLoss(nn.Module):
    """The trained modules and their loss. Call it with windows and random numbers from outside."""

    _no_split_modules = ["Block"]
    """What accelerate shards as one piece each, where weights are sharded."""

    def __init__(
        self,
        network: SpaceTimeTransformer,
        ego_motion: EgoMotionHead | None,
        outcome: OutcomeHead | FrameOutcomeHead,
        config: LossConfig,
        outcome_config: OutcomeConfig | None = None,
    ) -> None:
        super().__init__()
        self.network, self.outcome, self.config = network, outcome, config
        self.ego_motion = ego_motion
        self.outcome_config = outcome_config or OutcomeConfig()

    def forward(
        self,
        windows: Windows,
        motions: Motions | None,
        intrinsics: Tensor | None,
        generator: torch.Generator,
        progress: float = 0.0,
        transitions: Transitions | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses by name, and ``prediction`` (b, t, c, h, w).

        ``loss`` is their sum. The prediction is at the targets' noise levels.

        motions: input of the ego-motion head, if there is one.
        progress: fraction of the training that is done, in [0, 1].
        transitions: of a head that reads frames.
        """
        c = self.config
        x = windows.x
        b, t = x.shape[:2]
        device = x.device
        # The energy score compares two predictions of a frame, from different noise.
        targets = 2 if c.energy > 0 else 1

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=device)

        sigma = torch.where(
            uniform(b, t) < c.pure_noise, torch.ones(b, t, device=device), uniform(b, t)
        )
        if windows.synthetic_terminal is not None:
            # Less noise would show what no dream shows, and the heads would wait for it.
            sigma = torch.where(windows.synthetic_terminal, torch.ones_like(sigma), sigma)
        context_sigma = torch.where(
            uniform(b, t) < c.context_any, uniform(b, t), c.context_sigma * uniform(b, t)
        )
        hidden_before = (uniform(b) * t).long() * (uniform(b) < c.context_drop)
        noise = torch.randn(1 + targets, *x.shape, generator=generator, device=device)
        source = windows.context
        if c.own_context > 0 and progress >= c.own_context_from:
            # Not under no_grad: the compiled network would be compiled once more for it.
            both = torch.cat([add_noise(source, noise[0], context_sigma), noise[1]], 1)
            last = self._last(source, hidden_before, generator)
            own, _ = self._predict(
                both,
                [context_sigma, torch.ones_like(sigma)],
                windows,
                intrinsics,
                hidden_before,
                last,
            )
            source = torch.where(
                (uniform(b, t) < c.own_context)[:, :, None, None, None],
                own[0].detach().float(),
                source,
            )
        noisy = [
            add_noise(source, noise[0], context_sigma),
            *(add_noise(x, n, sigma) for n in noise[1:]),
        ]
        predictions, features = self._predict(
            torch.cat(noisy, 1),
            [context_sigma, *[sigma] * targets],
            windows,
            intrinsics,
            hidden_before,
            self._last(source, hidden_before, generator),
        )
        follows = sees_last(t, hidden_before)
        forgiven = self._forgiven(predictions, x, windows)
        losses = self._denoising(forgiven, x, sigma, windows.drawn, follows)
        if c.known > 0 and windows.view is not None:
            losses |= known_loss(forgiven, x, windows, c.known, RIGHT_COLOUR)
        if transitions is None:
            losses.update(self._outcomes(features, windows, sigma, c.pure_noise))
        else:
            dreamed = predictions[0].detach()
            usable = (sigma == 1.0) & follows
            # In full precision: rewards depend on motions of a fraction of a pixel.
            with torch.autocast(x.device.type, enabled=False):
                losses.update(
                    self._frame_outcomes(transitions, windows, dreamed, usable, generator)
                )
        if self.ego_motion is not None and motions is not None:
            losses.update(self._motions(motions))
        losses["loss"] = torch.stack([v for k, v in losses.items() if k.endswith("_loss")]).sum()
        losses["prediction"] = predictions[0].detach()
        return losses

    def _predict(
        self,
        noisy: Tensor,
        sigmas: list[Tensor],
        windows: Windows,
        intrinsics: Tensor | None,
        hidden_before: Tensor,
        last: Tensor | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the predictions of each target stream, and the features of the first.

        They are (b, t, c, h, w) float32 and (b, t, d).

        noisy: (b, s t, c, h, w), the context stream and then the target streams.
        sigmas: noise levels of each stream.
        last: see :meth:`_last`.
        """
        t, streams = windows.rgb.shape[1], len(sigmas)
        mask = self._mask(t, hidden_before, streams - 1)
        condition = self._condition(windows, intrinsics, streams, last)
        time = torch.arange(t, device=noisy.device).repeat(streams)
        out, features, _ = self.network(
            noisy, torch.cat(sigmas, 1), condition, mask, time, outputs=(streams - 1) * t
        )
        return [p.float() for p in out.split(t, 1)], features[:, :t]

    def _mask(self, t: int, hidden_before: Tensor, targets: int = 1) -> Tensor:
        """Return the streams' mask (b, n, n); it hides context frames before each reset."""
        device = hidden_before.device
        mask = stream_mask(t, self.network.config.window, targets, device)[None]
        frame = torch.arange(t, device=device)
        hidden = frame[None, :] < hidden_before[:, None]
        hidden = torch.cat([hidden, *[torch.zeros_like(hidden)] * targets], 1)
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=device)[None]
        return (mask & ~hidden[:, None, :]) | itself

    def _last(
        self, source: Tensor, hidden_before: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """Return the k frames before each frame (b, t, k (c + 1), h, w); None for k = 0.

        A window's first frame has none, and neither has the first frame after a reset.
        """
        count = self.network.config.last_frames
        if not count:
            return None
        b, t = source.shape[:2]
        share = torch.rand(2, b, t, generator=generator, device=source.device)
        sigma = self.config.last_frame_sigma * share[0] * (share[1] < 0.5)
        seen = add_noise(
            source, torch.randn(source.shape, generator=generator, device=source.device), sigma
        )
        present = torch.arange(t, device=source.device) >= hidden_before[:, None]
        shown = shown_last(seen, present)
        longer = torch.cat([torch.zeros_like(shown[:, :1]).expand(-1, count, -1, -1, -1), shown], 1)
        return torch.cat(
            [longer[:, count - back : count - back + t] for back in range(1, count + 1)], 2
        )

    def _condition(
        self, windows: Windows, intrinsics: Tensor | None, streams: int, last: Tensor | None = None
    ) -> Condition:
        """Return the windows' conditions, repeated for each stream.

        last: see :meth:`_last`.
        """
        n = self.network.config
        b, t = windows.rgb.shape[:2]
        flat = windows.motion.flatten(0, 1)
        k = (
            intrinsics
            if intrinsics is not None
            else torch.tensor([1.0, 1.0, 0.0, 0.0], device=flat.device)
        )
        rays = pluecker_rays(
            flat, k.expand(b * t, 4), n.height, n.width, self.network.patch
        ).unflatten(0, (b, t))
        view = windows.view if last is None else last
        if view is None:
            view = torch.zeros(b, t, max(n.view_channels, 1), n.height, n.width, device=flat.device)
        one = Condition(act=windows.act, motion=windows.motion, rays=rays, view=view)
        return map_tensors(lambda x: torch.cat([x] * streams, 1), one)

    def _forgiven(self, predictions: list[Tensor], x: Tensor, windows: Windows) -> list[Tensor]:
        """Return the predictions with the target substituted where the loss is masked."""
        if windows.view is None:
            return predictions
        known = windows.view[:, :, 4]
        # Pixels whose points may be wrong.
        doubtful = windows.invented
        if self.config.forgive_dreamed and windows.dreamed is not None:
            whole = windows.dreamed[:, :, None, None].expand(known.shape)
            doubtful = whole if doubtful is None else whole | doubtful
        if doubtful is None:
            return predictions
        known = known * doubtful
        apart = (windows.view[:, :, : x.shape[2]] - x).abs()
        other = apart[:, :, :3].amax(2) > OTHER_COLOUR
        if x.shape[2] > 3:
            other = other | (apart[:, :, 3] > OTHER_DEPTH)
        # By majority of the points nearby: single ones beside edges are off in any memory, and
        # between points there are holes.
        both = torch.stack([other * known, known], 2).flatten(0, 1)
        others, all_known = (
            F.avg_pool2d(both, 5, stride=1, padding=2).unflatten(0, x.shape[:2]).unbind(2)
        )
        disputed = others > 0.5 * all_known
        return [torch.where(disputed[:, :, None], x, p) for p in predictions]

    def _denoising(
        self,
        predictions: list[Tensor],
        x: Tensor,
        sigma: Tensor,
        drawn: Tensor | None = None,
        follows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean logarithm of the errors.

        All noise levels, and with :class:`Balance` all frames, then count by ratio, as in PSNR.

        drawn: (b, t) bool, frames that count; None for all.
        follows: (b, t) bool, frames that see the previous one, for ``Balance.CONTEXT``.
        """
        counted = torch.ones_like(sigma) if drawn is None else drawn.float()

        def mean(each: Tensor) -> Tensor:
            # Not each[drawn].mean(): picking waits for the device.
            return (
                each.mean()
                if drawn is None
                else (each * counted).sum() / counted.sum().clamp(min=1.0)
            )

        def usual(each: Tensor) -> Tensor:
            if self.config.balance is Balance.FRAME:
                return each
            return errors_by_sigma(
                each, sigma, counted, follows if self.config.balance is Balance.CONTEXT else None
            )

        colours, truth = [p[:, :, :3] for p in predictions], x[:, :, :3]
        weights = self._pixel_weights(x)
        squared = torch.stack([(colour - truth).square().mean(2) for colour in colours])
        errors = (squared if weights is None else squared * weights).mean((3, 4))
        loss = torch.log(usual(errors) + 1e-3).mean(0)
        losses = {}
        if len(colours) > 1:
            score = energy_score(colours[0], colours[1], truth, weights)
            # Twice: a distance's logarithm, beside that of a squared distance.
            sampled = (
                2.0 * self.config.energy * torch.log(usual(score) + 1e-2)
                + (1.0 - self.config.energy) * loss
            )
            loss = torch.where(sigma == 1.0, sampled, loss)
            pure = (sigma == 1.0) * counted
            losses["energy_score"] = ((score * pure).sum() / pure.sum()).detach()
        losses |= {"rgb_loss": mean(loss), "rgb_mse": mean(errors.mean(0)).detach()}
        if x.shape[2] > 3:
            # Absolute error: its median keeps depth edges sharp, where a mean would float in
            # mid-air.
            depth = torch.stack([(p[:, :, 3] - x[:, :, 3]).abs().mean((2, 3)) for p in predictions])
            losses["depth_loss"] = self.config.depth_weight * mean(
                torch.log(usual(depth) + 1e-3).mean(0)
            )
            losses["depth_error"] = mean(depth.mean(0)).detach()
        return losses

    def _pixel_weights(self, x: Tensor) -> Tensor | None:
        """Return the weight of each pixel (b, t, h, w), mean 1 per frame; None if all are 1."""
        detail, motion = self.config.detail, self.config.motion
        parts = [detail_weights(x, detail)] if detail > 0 else []
        parts += [motion_weights(x, motion)] if motion > 0 else []
        return torch.stack(parts).mean(0) if parts else None

    def _outcomes(
        self, features: Tensor, windows: Windows, sigma: Tensor, share: float = 1.0
    ) -> dict[str, Tensor]:
        """Return the losses of reward (squared error) and termination (cross-entropy).

        Their minimisers are the mean reward and the true probability of termination. The first
        frame of a window has no transition inside it and does not count.

        features: (b, t, d) of frames at noise levels (b, t).
        share: probability that a synthetic terminal frame would have been assigned noise level 1.
        """
        if isinstance(self.outcome, FrameOutcomeHead):
            # It reads no features, and needs recorded transitions to learn.
            return {}
        rewards, logit = (o.float()[:, 1:] for o in self.outcome.normalise(features.float()))
        rew, term = windows.rew[:, 1:].float(), windows.term[:, 1:]
        counted = torch.ones_like(rew) if windows.judged is None else windows.judged[:, 1:].float()
        if windows.synthetic_terminal is not None:
            # All are asked where made-up frames can be: an end would else be rarer at other levels,
            # and there more frequent.
            counted = (
                counted
                * (sigma[:, 1:] == 1.0)
                * torch.where(windows.synthetic_terminal[:, 1:], share, 1.0)
            )

        def mean(each: Tensor) -> Tensor:
            return (each * counted).sum() / counted.sum().clamp(min=1e-6)

        head = self.outcome
        if head.config.on_end:
            error = (rewards - (rew[..., None] - head.offset) / head.scale).square() * 0.5
            error = torch.where(term, error[..., 1], error[..., 0])
        else:
            error = F.smooth_l1_loss(rewards[..., 0], rew, reduction="none")
        emphasis = self.config.end_emphasis
        if emphasis == 1.0:
            ended = F.binary_cross_entropy_with_logits(logit, term.float(), reduction="none")
        else:
            ended = F.binary_cross_entropy_with_logits(
                logit + math.log(emphasis), term.float(), reduction="none"
            )
            ends: Tensor | float = torch.sigmoid(head.prior) if head.config.on_end else 0.0
            # Weights of mean 1 over the recording.
            ended = ended * torch.where(term, emphasis, 1.0) / (1.0 + (emphasis - 1.0) * ends)
        weight = self.config.outcome_weight
        return {"reward_loss": weight * mean(error), "termination_loss": weight * mean(ended)}

    def _frame_outcomes(
        self,
        transitions: Transitions,
        windows: Windows,
        dreamed: Tensor,
        usable: Tensor,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Return the losses of a head that reads frames.

        dreamed: (b, t, c, h, w) predictions of the windows' frames.
        usable: (b, t) bool, predictions from pure noise of frames that see the one before.
        """
        head, c = self.outcome, self.outcome_config
        assert isinstance(head, FrameOutcomeHead)
        factors = transitions.factors
        losses = outcome_losses(head, transitions.windows, factors, c.shift, generator)
        if not c.dreamed or not head.config.sees_new:
            return losses
        if windows.judged is not None:
            usable = usable & windows.judged
        shown = dreamed_transitions(windows, dreamed, head.past + 1)
        rew, term = shown.rew[:, -1].float(), shown.term[:, -1]
        weight = class_weights(head, factors, rew, term) * usable.flatten()
        own = outcome_losses(head, shown, factors, c.shift, generator, weight)
        return {k: (1.0 - c.dreamed) * v + c.dreamed * own[k] for k, v in losses.items()}

    def _motions(self, motions: Motions) -> dict[str, Tensor]:
        """Return the losses of ego-motion, with and without the map of obstacles."""
        assert self.ego_motion is not None
        m, scale = motions, self.ego_motion.scale
        # In full precision: a turn is predicted to a few ten-thousandths of a radian.
        with torch.autocast(m.pose.device.type, enabled=False):
            predicted, unhindered = self.ego_motion.normalise(
                m.around, m.pose, m.motion, m.acts, m.act
            )
        # Beyond what any walk does in a step lie teleports: nothing to learn from.
        usual = (m.target.abs() < TELEPORT * scale).all(-1, keepdim=True)

        def loss(prediction: Tensor) -> Tensor:
            # The median of what happens, not its mean: beside a corner one either passes or stops.
            return (
                F.smooth_l1_loss(prediction, m.target / scale, beta=0.05, reduction="none") * usual
            ).mean()

        return {"motion_loss": loss(predicted), "unhindered_loss": 0.5 * loss(unhindered)}
