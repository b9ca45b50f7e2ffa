"""Adversarial training of a student: a discriminator on features of a frozen world network.

The student's predictions and the true frames are re-noised to one random level and pass through the
frozen network (latent adversarial diffusion distillation, Sauer et al. 2024). Small heads judge
what its blocks and pixel levels say about them: single frames and clips of consecutive frames. The
loss is relativistic, with approximate gradient penalties on both sides (Lin et al. 2025, "Diffusion
adversarial post-training"; Huang et al. 2024, "The GAN is dead").
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import Tensor, nn

from worldsim.diffusion.denoiser import add_noise
from worldsim.diffusion.network import Condition, SpaceTimeTransformer
from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Batch, NotNegative, Number, Positive, Rate
from worldsim.state import map_tensors
from worldsim.training.buffer import Windows
from worldsim.training.sharding import part_of

Logits: TypeAlias = tuple[list[Tensor], list[Tensor]]
"""Of frames, (b, t, h, w) each, and of clips, (b, t - 3, h, w) each."""
CLIP = 4
"""Consecutive frames of a clip."""
SLOPE = 0.2
"""Of the heads' leaky rectifiers."""


@dataclass(frozen=True)
class AdversarialConfig:
    """The discriminator, its training and its weight in the student's loss."""

    weight: Positive = 0.5
    """Strength of the adversarial gradient at the predicted colours, relative to that of the other
    losses there. Both are measured in every step (the adaptive weight of Esser et al. 2021), so the
    number means the same for any discriminator and any loss."""
    most: Positive = 1.0
    """Largest factor of the adversarial loss that this may come to. Where the discriminator has
    little to say, its gradient is small, and a large factor would make noise of it. While it learns
    alone, factors of 0.4 to 1 give a weight of 1."""
    known: NotNegative = 0.25
    """Weight of the squared error on pixels that the memory knows. There the next frame is
    determined, and noise in it is flicker."""
    clips: NotNegative = 1.0
    """Weight of the heads that judge clips of four consecutive frames, relative to those that judge
    frames. They read all pixel levels but the finest, and penalise flicker. 0 leaves them out."""
    sigma: tuple[float, float] = (0.05, 0.7)
    """Range of the noise levels at which frames are judged, log-uniform, one per window. Low levels
    show detail."""
    blocks: tuple[int, ...] | None = None
    """Transformer blocks of the frozen network whose output is judged, from 0; every second one by
    default. All of its pixel levels are judged, too."""
    width: Batch = 48
    """Channels of the heads."""
    penalty: NotNegative = 20.0
    """Weight of the approximate gradient penalties: the squared change of the logits when noise is
    added to the true (R1) or the predicted (R2) frames of a window, one of them at random."""
    penalty_noise: Positive = 0.05
    """Standard deviation of that noise; colours are in [-1, 1]."""
    learning_rate: Rate = 2e-4
    """Learning rate of the discriminator (Adam with betas 0 and 0.99), constant."""
    discriminator_steps: Number = 200
    """First steps, in which the discriminator alone learns."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 0.0 < self.sigma[0] <= self.sigma[1] <= 1.0:
            raise InvalidInputError(
                f"AdversarialConfig.sigma = {self.sigma!r}: two noise levels in (0, 1], lower one "
                f"first"
            )


def relativistic_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Return softplus(worse - better), elementwise.

    The discriminator minimises it with the true frames as ``better``, the student with its
    predictions (Jolicoeur-Martineau 2019). It is log 2 where the logits are equal.
    """
    return F.softplus(worse - better)


def as_clips(x: Tensor) -> Tensor:
    """Stack every ``CLIP`` consecutive frames: (b, t, c, h, w) to (b, t - 3, 4 c, h, w)."""
    last = x.shape[1] - CLIP + 1
    return torch.cat([x[:, i : i + last] for i in range(CLIP)], 2)


class Head(nn.Module):
    """Three convolutions from standardised features to a map of logits, 0 at first.

    channels: of the features.
    width: of the hidden layers.
    stride: of the second convolution.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, stride=stride, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 1, 1),
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Set mean and standard deviation of each channel to those of features (m, c, h, w).

        Fixed values, since normalising each frame would hide its contrast.
        """
        x = x.float()
        self.mean.copy_(broadcast(x.mean((0, 2, 3))))
        self.scale.copy_(broadcast(x.std((0, 2, 3)).clamp(min=1e-3)))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (m, c, h, w) to float32 logits (m, h / stride, w / stride)."""
        x = (x - self.mean[:, None, None]) / self.scale[:, None, None]
        logits: Tensor = self.layers(x)[:, 0]
        return logits.float()


class Discriminator(nn.Module):
    """Heads on features of several depths.

    network: the frozen network that computes the features.

    Raises InvalidInputError for blocks that the network does not have.
    """

    measured: Tensor

    def __init__(self, network: SpaceTimeTransformer, config: AdversarialConfig) -> None:
        super().__init__()
        n = network.config
        blocks = config.blocks
        if blocks is None:
            blocks = tuple(range(1, n.depth, 2)) or (n.depth - 1,)
        if not all(0 <= i < n.depth for i in blocks):
            raise InvalidInputError(
                f"AdversarialConfig.blocks = {blocks!r}: the network has blocks 0 to {n.depth - 1}"
            )
        # Positions in SpaceTimeTransformer.levels_of; pixel levels come coarsest first.
        levels = [(n.depth + i, c) for i, c in enumerate(reversed(n.levels))]
        frames = [(i, n.dim, 1) for i in blocks] + [(i, c, 2) for i, c in levels]
        # The finest level would cost more than all others together.
        coarse = levels[:-1] or levels
        clips = [(i, CLIP * c, 2) for i, c in coarse] if config.clips > 0 else []
        self.of_frames = [i for i, _, _ in frames]
        self.of_clips = [i for i, _, _ in clips]
        self.frames, self.clips = (
            nn.ModuleList(Head(c, config.width, stride) for _, c, stride in some)
            for some in (frames, clips)
        )
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))
        # Reading the tensor in every step would wait for the device.
        self._measured = False

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights, and the channels' statistics if they were measured."""
        found = super().load_state_dict(*args, **kwargs)
        self._measured = bool(self.measured)
        return found

    def measure(self, levels: Sequence[Tensor]) -> None:
        """Standardise the features by those of these frames; only the first call has an effect.

        levels: (b, t, c, h, w) each, of true frames.
        """
        if self._measured:
            return
        frames = [(head, levels[i]) for head, i in zip(self.frames, self.of_frames, strict=True)]
        clips = [
            (head, as_clips(levels[i])) for head, i in zip(self.clips, self.of_clips, strict=True)
        ]
        for head, x in frames + clips:
            assert isinstance(head, Head)
            head.measure(x.flatten(0, 1))
        self.measured.fill_(True)
        self._measured = True

    def forward(self, levels: Sequence[Tensor]) -> Logits:
        """Return the logits of frames, (b, t, h, w) each, and those of clips, (b, t - 3, h, w).

        levels: (b, t, c, h, w) each, from :meth:`SpaceTimeTransformer.levels_of`.
        """
        frames = [
            head(levels[i].flatten(0, 1)).unflatten(0, levels[i].shape[:2])
            for head, i in zip(self.frames, self.of_frames, strict=True)
        ]
        clips = []
        for head, i in zip(self.clips, self.of_clips, strict=True):
            x = as_clips(levels[i])
            clips.append(head(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        return frames, clips


class Levels(nn.Module):
    """The frozen network as a module that returns its features, so that it can be compiled."""

    def __init__(self, network: SpaceTimeTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Tensor, sigma: Tensor, condition: Condition, mask: Tensor, time: Tensor, count: int
    ) -> list[Tensor]:
        """See :meth:`SpaceTimeTransformer.levels_of`."""
        return self.network.levels_of(x, sigma, condition, mask, time, count)


@dataclass(frozen=True)
class Judged:
    """What the discriminator says about predictions.

    loss: the discriminator's loss; its gradient reaches the heads alone.
    gradient: (b, t, c, h, w) gradient of the student's adversarial loss at the predictions.
    told: values to log, without gradients.
    """

    loss: Tensor
    gradient: Tensor
    told: dict[str, Tensor]


class Adversary:
    """The discriminator with its frozen network and its optimiser.

    It is no module, so that it is neither averaged nor exported with the student.

    network: the frozen network; its weights do not change.
    """

    def __init__(
        self, network: SpaceTimeTransformer, config: AdversarialConfig, device: torch.device
    ) -> None:
        self.config = config
        self.levels = Levels(network)
        self.discriminator = Discriminator(network, config).to(device)
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=config.learning_rate, betas=(0.0, 0.99)
        )

    def judge(
        self,
        context: Tensor,
        context_sigma: Tensor,
        condition: Condition,
        mask: Tensor,
        alone: Tensor,
        counted: Tensor,
        pair: tuple[Tensor, Tensor],
        generator: torch.Generator,
    ) -> Judged:
        """Compare true frames with predictions.

        Both sides have the same context, condition, noise level and noise.

        context, context_sigma: (b, t, c, h, w) and (b, t), the frames that both follow.
        condition: of one stream.
        mask: (b, 4 t, 4 t) bool, of the context stream and three target streams.
        alone: (b, t) bool, frames that are judged without context and memory.
        counted: (b, t) float, weights of the frames, 0 or 1.
        pair: the true frames and the predictions, (b, t, c, h, w).
        """
        c, real = self.config, pair[0]
        fake = pair[1].detach().float().requires_grad_()
        b, t = real.shape[:2]

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=real.device)

        def normal() -> Tensor:
            return torch.randn(real.shape, generator=generator, device=real.device)

        low, high = (torch.tensor(s, device=real.device).log() for s in c.sigma)
        sigma = (low + (high - low) * uniform(b, 1)).exp().expand(b, t)
        noise, true_side = normal(), uniform(b) < 0.5
        changed = torch.where(true_side[:, None, None, None, None], real, fake.detach())
        changed = changed + c.penalty_noise * normal()
        frames = [add_noise(x, noise, sigma) for x in (real, fake, changed)]
        levels = self._features(context, context_sigma, condition, mask, alone, frames, sigma)
        self.discriminator.measure([x[:, :t] for x in levels])
        # The discriminator's own loss.
        cut = [x.detach() for x in levels]
        logits = [
            self.discriminator([x[:, i * t : (i + 1) * t] for x in cut]) for i in range(len(frames))
        ]
        true, made, moved = logits
        loss = self._mean(map_tensors(relativistic_loss, true, made), counted)
        before = map_tensors(
            lambda r, f: torch.where(true_side[:, None, None, None], r, f), true, made
        )
        penalty = self._mean(map_tensors(lambda x, y: (x - y).square(), before, moved), counted)
        # The student's: the gradient ends at the predictions.
        asked = self.discriminator([x[:, t : 2 * t] for x in levels])
        error = self._mean(
            map_tensors(lambda f, r: relativistic_loss(f, r.detach()), asked, true), counted
        )
        (gradient,) = torch.autograd.grad(error, fake)
        right = map_tensors(lambda r, f: (r > f).float(), true, made)
        told = {
            "real_logit": self._mean(true, counted),
            "fake_logit": self._mean(made, counted),
            "accuracy": self._mean(right, counted),
            "logit_penalty": penalty,
            "discriminator_error": loss,
            "adversarial_error": error,
        }
        return Judged(
            loss + c.penalty * penalty,
            gradient.float(),
            {name: value.detach() for name, value in told.items()},
        )

    def _features(
        self,
        context: Tensor,
        context_sigma: Tensor,
        condition: Condition,
        mask: Tensor,
        alone: Tensor,
        frames: list[Tensor],
        sigma: Tensor,
    ) -> list[Tensor]:
        """Return the frozen network's features of the target streams, one after the other."""
        t, count = sigma.shape[1], len(frames)
        hidden = alone.repeat(1, count)[:, :, None]
        past = torch.arange((1 + count) * t, device=alone.device) < t
        mask = torch.cat([mask[:, :t], mask[:, t:] & ~(hidden & past)], 1)
        shown = Condition(
            condition.act,
            condition.motion,
            condition.rays,
            condition.view * ~alone[:, :, None, None, None],
        )
        both = map_tensors(lambda x, y: torch.cat([x] + [y] * count, 1), condition, shown)
        found: list[Tensor] = self.levels(
            torch.cat([context, *frames], 1),
            torch.cat([context_sigma, *[sigma] * count], 1),
            both,
            mask,
            torch.arange(t, device=alone.device).repeat(1 + count),
            count * t,
        )
        return found

    def _mean(self, logits: Logits, counted: Tensor) -> Tensor:
        """Return the mean of values of frames and clips, weighted."""
        frames, clips = logits
        weights = [1.0] * len(frames) + [self.config.clips] * len(clips)
        whole = torch.stack([counted[:, i : counted.shape[1] - CLIP + 1 + i] for i in range(CLIP)])
        of_clips = whole.prod(0)
        total = torch.zeros((), device=counted.device)
        for weight, values in zip(weights, itertools.chain(frames, clips), strict=True):
            share = counted if values.shape[1] == counted.shape[1] else of_clips
            each = values.mean((2, 3))
            total = total + weight * (each * share).sum() / share.sum().clamp(min=1.0)
        return total / sum(weights)

    def update(self, loss: Tensor, processes: int = 1) -> None:
        """Change the discriminator by the gradient of its loss.

        processes: processes over which the gradient is averaged.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = list(self.discriminator.parameters())
        if processes > 1:
            for parameter in parameters:
                assert parameter.grad is not None
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad.div_(processes)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name: weights, statistics and the optimiser's moments."""
        tensors = {f"heads.{k}": v for k, v in self.discriminator.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load what :meth:`state` returned. Raises KeyError or RuntimeError if it does not fit."""
        self.discriminator.load_state_dict(part_of(tensors, "heads."))
        state = self.optimizer.state_dict()
        state["state"] = {}
        for name, value in part_of(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(state)


def follows_generated(windows: Windows, own: Tensor, window: int) -> Tensor:
    """Return the frames whose context or memory holds generated frames, (b, t) bool.

    The true frame does not belong to such a context.

    own: (b, t) bool, context frames that the student predicted itself.
    window: frames that attention spans, the current one included.
    """
    generated, t = own, own.shape[1]
    if windows.own_rgb is not None:
        generated = generated | (windows.own_rgb != windows.rgb).flatten(2).any(2)
    found = torch.zeros_like(generated)
    for back in range(1, min(window, t)):
        found[:, back:] |= generated[:, : t - back]
    if windows.dreamed is not None:
        found = found | windows.dreamed
    if windows.invented is not None:
        found = found | windows.invented.flatten(2).any(2)
    return found


def detail(x: Tensor) -> Tensor:
    """Return the mean magnitude of the differences of neighbouring pixels' colours, (b, t).

    x: (b, t, c, h, w).
    """
    rgb = x[:, :, :3].float()
    across, down = rgb.diff(dim=-1), rgb.diff(dim=-2)
    return across.abs().mean((2, 3, 4)) + down.abs().mean((2, 3, 4))
