"""Loss of a student with few sampling steps: teacher samples, its own rollouts and true frames.

All frames of a window are predicted at once, in streams as in :mod:`worldsim.training.loss`.
Teacher and student receive the same context, condition and noise, so the target is a function of
the student's input.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.diffusion.denoiser import add_noise
from worldsim.diffusion.network import Condition, SpaceTimeTransformer
from worldsim.diffusion.sampling import sample, schedule
from worldsim.errors import InvalidInputError
from worldsim.runtime.old_names import old_fields
from worldsim.state import map_tensors
from worldsim.training.adversarial import Adversary, Judged, detail, follows_generated
from worldsim.training.buffer import Windows
from worldsim.training.loss import LossConfig, TrainingLoss, known_loss, sees_last
from worldsim.training.outcomes import Transitions
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import Motions, OutcomeHead

HUBER = 0.03
"""Distances well under this count squared, those well over it as they are; colours are in [-1,
1]."""


@old_fields(context_level="context_sigma", consistency_levels="consistency_sigmas")
@dataclass(frozen=True)
class DistilLossConfig:
    """Weights and settings of the losses; a weight of 0 turns a loss off."""

    regression: float = 1.0
    """Weight of the distance from the teacher's sample of ``teacher_steps`` steps from the same
    noise."""
    teacher_steps: int = 4
    """Sampling steps of the teacher."""
    consistency: float = 0.0
    """Weight of the distance between the student at a noise level and its average at the next lower
    one, to which the teacher brings the frame by one Euler step (consistency distillation, Song et
    al. 2023)."""
    consistency_sigmas: int = 8
    """Number of noise levels between which consistency is enforced."""
    real: float = 0.5
    """Weight of the loss on true frames, which lets a student exceed its teacher."""
    energy: float = 0.7
    """Share in [0, 1] of the energy score in that loss, beside the squared error, at noise level 1.
    It gives sharp frames."""
    motion_pixels: int = 1
    """Side length in pixels (1, 2, 4 or 8) of the squares whose means are compared with the
    teacher's. 1 compares all pixels. With more, the teacher determines motion and the true frames
    determine appearance (needs ``real``; after the motion consistency of Zhai et al. 2024)."""
    own_context: float = 0.25
    """Share of context frames that are the student's own. The target is the teacher's sample after
    the same context (self-forcing), so the student learns to recover from its errors. For whole
    walks see ``--perturb.own``."""
    own_context_from: float = 0.0
    """Fraction of the training after which ``own_context`` begins; more than 0 for a student that
    starts with random weights."""
    context_sigma: float = 0.15
    """Maximum noise level of context frames; levels are uniform in [0, this]..."""
    context_any: float = 0.15
    """...except this share of them, uniform in [0, 1]."""
    context_drop: float = 0.2
    """Share of windows in which the frames before a random moment are hidden, as after a reset."""
    depth_weight: float = 0.5
    """Weight of the depth channel's loss relative to colour."""
    forgive_dreamed: bool = True
    """Mask the loss on true frames where a memory with generated frames differs from the truth, as
    in training: there the dream should stay as it is. The loss on the teacher's samples is not
    masked, since the teacher sees the same memory."""

    def __post_init__(self) -> None:
        for name in ("regression", "consistency", "real"):
            if getattr(self, name) < 0:
                raise InvalidInputError(
                    f"DistilLossConfig.{name} = {getattr(self, name)!r}: a weight is at least 0"
                )
        if not self.regression and not self.consistency and not self.real:
            raise InvalidInputError(
                "DistilLossConfig: regression, consistency and real are all 0, nothing would "
                "be learned"
            )
        for name in (
            "energy",
            "own_context",
            "own_context_from",
            "context_sigma",
            "context_any",
            "context_drop",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInputError(
                    f"DistilLossConfig.{name} = {getattr(self, name)!r}: it must be in [0, 1]"
                )
        if self.consistency_sigmas < 2:
            raise InvalidInputError(
                f"DistilLossConfig.consistency_sigmas = {self.consistency_sigmas}: it must "
                f"be at least 2"
            )
        if self.motion_pixels not in (1, 2, 4, 8):
            raise InvalidInputError(
                f"DistilLossConfig.motion_pixels = {self.motion_pixels}: choose 1, 2, 4 or 8"
            )
        if self.motion_pixels > 1 and not self.real:
            raise InvalidInputError(
                "DistilLossConfig.motion_pixels over 1 needs real over 0: nothing else tells "
                "how it looks"
            )


@dataclass(frozen=True)
class Stage:
    """The input that teacher and student share.

    context: (b, t, c, h, w) at noise levels (b, t).
    condition: condition of one stream.
    hidden_before: (b,) moment of each window's reset.
    """

    context: Tensor
    sigma: Tensor
    condition: Condition
    hidden_before: Tensor


@dataclass(frozen=True)
class Lesson:
    """A training example: noisy frames x (b, t, c, h, w) at noise levels (b, t), and the target."""

    x: Tensor
    sigma: Tensor
    target: Tensor


def distance(prediction: Tensor, target: Tensor, pixels: int = 1) -> Tensor:
    """Return the mean pseudo-Huber distance (b, t) of two (b, t, c, h, w).

    pixels: distances are of colours (1), or of the means of squares of ``pixels`` x ``pixels``.
    """
    difference = prediction[:, :, :3] - target[:, :, :3]
    if pixels > 1:
        difference = F.avg_pool2d(difference.flatten(0, 1), pixels).unflatten(
            0, prediction.shape[:2]
        )
    return ((difference.square().sum(2) + HUBER**2).sqrt() - HUBER).mean((2, 3))


class DistilLoss(TrainingLoss):
    """The student and its loss; called as :class:`TrainingLoss` is.

    The ego-motion head is the teacher's and is not trained. The teacher and ``averaged``, a moving
    average of the student that the trainer keeps, are not among the module's parameters.

    num_inference_steps: sampling steps of the student.
    shift: shift of the noise schedules, the teacher's (:class:`DynamicsConfig`).
    adversary: judges the predictions; None for no adversarial loss.
    """

    def __init__(
        self,
        network: SpaceTimeTransformer,
        teacher: SpaceTimeTransformer,
        outcome: OutcomeHead | FrameOutcomeHead,
        config: DistilLossConfig,
        num_inference_steps: int = 1,
        shift: float = 1.0,
        adversary: Adversary | None = None,
    ) -> None:
        shared = {
            name: getattr(config, name) for name in ("energy", "depth_weight", "forgive_dreamed")
        }
        super().__init__(network, None, outcome, LossConfig(**shared))
        self.distil = config
        # In a tuple: as attributes they would be trained, saved and averaged with the rest.
        self._others = (teacher, copy.deepcopy(network).eval().requires_grad_(False))
        self.adversary = adversary
        self.sigmas, self.teacher_sigmas = (
            schedule(num_inference_steps, shift),
            schedule(config.teacher_steps, shift),
        )
        self.register_buffer("starts", torch.tensor(self.sigmas[:-1]), persistent=False)
        self.register_buffer(
            "ladder", torch.tensor(schedule(config.consistency_sigmas, shift)), persistent=False
        )
        self.starts: Tensor
        self.ladder: Tensor

    @property
    def teacher(self) -> SpaceTimeTransformer:
        """The teacher's network."""
        return self._others[0]

    @property
    def averaged(self) -> SpaceTimeTransformer:
        """The moving average of the student."""
        return self._others[1]

    @torch.no_grad()
    def follow(self, parameters: Sequence[Tensor]) -> None:
        """Set ``averaged`` to these averages of the module's parameters, in their order."""
        held: list[Tensor] = list(self.averaged.parameters())
        torch._foreach_copy_(held, list(parameters[: len(held)]))

    def forward(
        self,
        windows: Windows,
        motions: Motions | None,
        intrinsics: Tensor | None,
        generator: torch.Generator,
        progress: float = 0.0,
        transitions: Transitions | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses by name and ``prediction`` (b, t, c, h, w).

        ``loss`` is their sum. The prediction is the student's from pure noise, if that is one of
        its noise levels. With an adversary there is ``discriminator``, too: its loss, which is not
        part of the sum. ``motions`` and ``transitions`` are ignored.
        """
        c, x = self.distil, windows.x
        b, t = x.shape[:2]

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=x.device)

        def integers(high: int) -> Tensor:
            return torch.randint(high, (b, t), generator=generator, device=x.device)

        context_sigma = torch.where(
            uniform(b, t) < c.context_any, uniform(b, t), c.context_sigma * uniform(b, t)
        )
        hidden_before = (uniform(b) * t).long() * (uniform(b) < c.context_drop)
        own = uniform(b, t) < c.own_context
        # Of the context, of the first and second sample, of consistency, and for the student's own
        # frames.
        noise = torch.randn(5, *x.shape, generator=generator, device=x.device)

        def stage(source: Tensor) -> Stage:
            condition = self._condition(
                windows, intrinsics, 1, self._last(source, hidden_before, generator)
            )
            return Stage(
                add_noise(source, noise[0], context_sigma), context_sigma, condition, hidden_before
            )

        seen = stage(windows.context)
        if c.own_context > 0 and progress >= c.own_context_from:
            dreamed, _ = self._sample(self.averaged, self.sigmas, seen, noise[4])
            seen = stage(torch.where(own[:, :, None, None, None], dreamed, windows.context))
        # The student is asked at the levels of its own schedule; consistency is asked for between
        # the rungs of a longer one.
        sigma = self.starts[integers(len(self.starts))]
        lessons = self._lessons(seen, x, noise, sigma, integers(len(self.ladder) - 1))
        questions = [(lesson.x, lesson.sigma) for lesson in lessons.values()]
        predictions, features, _ = self._denoise(self.network, seen, questions)
        answers = dict(zip(lessons, predictions, strict=True))
        losses: dict[str, Tensor] = {}
        for name in ("regression", "consistency"):
            if name in lessons:
                losses |= self._taught(name, answers[name], lessons[name].target)
        if c.real > 0:
            first = "first" if "first" in answers else "regression"
            twice = [answers[name] for name in (first, "second") if name in answers]
            follows = sees_last(x.shape[1], hidden_before)
            forgiven = self._forgiven(twice, x, windows)
            true = self._denoising(forgiven, x, sigma, windows.drawn, follows)
            losses |= {k: c.real * v if k.endswith("_loss") else v for k, v in true.items()}
            if self.adversary is not None and windows.view is not None:
                losses |= known_loss(forgiven, x, windows, self.adversary.config.known)
        losses.update(self._outcomes(features, windows, sigma))
        losses["loss"] = torch.stack([v for k, v in losses.items() if k.endswith("_loss")]).sum()
        if self.adversary is not None:
            generated = own & (c.own_context > 0 and progress >= c.own_context_from)
            judged, values = self._judge(seen, predictions[0], x, windows, generated, generator)
            weight, surrogate = self._adversarial(losses["loss"], predictions[0], judged)
            losses["loss"] = losses["loss"] + surrogate
            losses |= values | judged.told | {"adversarial_weight_ratio": weight}
            losses["discriminator"] = judged.loss
        losses["prediction"] = predictions[0].detach()
        return losses

    def _judge(
        self,
        seen: Stage,
        prediction: Tensor,
        x: Tensor,
        windows: Windows,
        own: Tensor,
        generator: torch.Generator,
    ) -> tuple[Judged, dict[str, Tensor]]:
        """Return what the adversary says about predictions, and their detail over the truth's.

        own: (b, t) bool, context frames that are the student's own.
        """
        assert self.adversary is not None
        t = x.shape[1]
        counted = torch.ones_like(seen.sigma) if windows.drawn is None else windows.drawn.float()
        alone = follows_generated(windows, own, self.network.config.window)
        judged = self.adversary.judge(
            seen.context,
            seen.sigma,
            seen.condition,
            self._mask(t, seen.hidden_before, 3),
            alone,
            counted,
            (x, prediction),
            generator,
        )
        mine, true = detail(prediction.detach()), detail(x)
        values = {}
        for name, rows in (("detail", ~alone), ("dreamed_detail", alone)):
            share = counted * rows
            values[f"{name}_ratio"] = (mine * share).sum() / (true * share).sum().clamp(min=1e-6)
        return judged, values

    def _adversarial(
        self, loss: Tensor, prediction: Tensor, judged: Judged
    ) -> tuple[Tensor, Tensor]:
        """Return the weight of the adversarial gradient, and a term of the loss that applies it.

        The term's value is 0, so that the loss remains comparable while the weight varies.

        loss: sum of the other losses.
        """
        assert self.adversary is not None
        (others,) = torch.autograd.grad(loss, prediction, retain_graph=True)
        strength = self.adversary.config.weight
        # Of colours: the absolute error of depth has a gradient of its own scale.
        theirs, ours = (g[:, :, :3].float().norm() for g in (others, judged.gradient))
        weight = strength * theirs / ours.clamp(min=1e-12)
        weight = weight.clamp(max=self.adversary.config.most)
        pull = (prediction * (weight * judged.gradient)).sum()
        return weight, pull - pull.detach()

    def _lessons(
        self, seen: Stage, x: Tensor, noise: Tensor, sigma: Tensor, rung: Tensor
    ) -> dict[str, Lesson]:
        """Return the student's predictions and their targets; the first at its own noise levels."""
        c, lessons = self.distil, {}
        ladder = None
        if c.consistency > 0:
            above, below = self.ladder[rung], self.ladder[rung + 1]
            ladder = (add_noise(x, noise[3], above), above)
        told = None
        if c.regression > 0:
            sampled, told = self._sample(self.teacher, self.teacher_sigmas, seen, noise[1], ladder)
            # The straight way between the noise and where the teacher ends (Liu et al. 2022): what
            # Euler steps then follow.
            lessons["regression"] = Lesson(add_noise(sampled, noise[1], sigma), sigma, sampled)
        if c.real > 0:
            # At pure noise alone, the same question is answered already.
            if c.regression == 0 or len(self.starts) > 1:
                lessons["first"] = Lesson(add_noise(x, noise[1], sigma), sigma, x)
            if c.energy > 0:
                lessons["second"] = Lesson(add_noise(x, noise[2], sigma), sigma, x)
        if ladder is not None:
            lessons["consistency"] = Lesson(*ladder, self._one_rung_down(seen, ladder, told, below))
        return lessons

    @torch.no_grad()
    def _one_rung_down(
        self, seen: Stage, ladder: tuple[Tensor, Tensor], told: Tensor | None, below: Tensor
    ) -> Tensor:
        """Return the averaged student's prediction after one Euler step of the teacher.

        At noise level 0, this is the frame itself.
        """
        x, above = ladder
        if told is None:
            told = self._denoise(self.teacher, seen, [ladder])[0][0]
        share = (below / above)[:, :, None, None, None]
        lower = torch.lerp(told, x, share)
        (answer,), _, _ = self._denoise(self.averaged, seen, [(lower, below)])
        return torch.where(share == 0.0, lower, answer)

    def _taught(self, name: str, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the logarithm of the distances, as for true frames.

        Every frame counts by ratio, so the weights of losses are comparable.
        """
        c, weight = self.distil, getattr(self.distil, name)
        error = distance(prediction, target, c.motion_pixels)
        loss = 2.0 * torch.log(error + 1e-2).mean()
        if prediction.shape[2] > 3:
            depth = (prediction[:, :, 3] - target[:, :, 3]).abs().mean((2, 3))
            loss = loss + c.depth_weight * torch.log(depth + 1e-2).mean()
        return {f"{name}_loss": weight * loss, f"{name}_error": error.mean().detach()}

    def _denoise(
        self, network: SpaceTimeTransformer, seen: Stage, targets: list[tuple[Tensor, Tensor]]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Run a forward pass with target streams (x, level) beside the context.

        Returns each target's prediction (b, t, c, h, w) float32, features (b, t, d) of the first,
        and the context's cache.
        """
        t, streams = seen.context.shape[1], 1 + len(targets)
        x = torch.cat([seen.context, *(x for x, _ in targets)], 1)
        sigma = torch.cat([seen.sigma, *(sigma for _, sigma in targets)], 1)
        condition = map_tensors(lambda c: torch.cat([c] * streams, 1), seen.condition)
        time = torch.arange(t, device=x.device).repeat(streams)
        mask = self._mask(t, seen.hidden_before, len(targets))
        out, features, cache = network(x, sigma, condition, mask, time, outputs=len(targets) * t)
        return [p.float() for p in out.split(t, 1)], features[:, :t], cache[:, :, :, :t]

    @torch.no_grad()
    def _sample(
        self,
        network: SpaceTimeTransformer,
        sigmas: tuple[float, ...],
        seen: Stage,
        noise: Tensor,
        beside: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sample every frame after the true context, as in use.

        The context is processed once, and its keys and values are kept for the later steps.

        beside: one more frame and noise level to predict with the first step.

        Returns the sample and that prediction.
        """
        t, device = noise.shape[1], noise.device
        mask = self._mask(t, seen.hidden_before)[:, t:]
        time = torch.arange(t, device=device).repeat(2)
        past: list[Tensor] = []
        others: list[Tensor] = []

        def denoise(x: Tensor, sigma: float) -> Tensor:
            sigmas = torch.full(x.shape[:2], sigma, device=device)
            if past:
                return network(x, sigmas, seen.condition, mask, time, past=past[0])[0].float()
            out, _, cache = self._denoise(
                network, seen, [(x, sigmas), *([beside] if beside is not None else [])]
            )
            past.append(cache)
            others.extend(out[1:])
            return out[0]

        return sample(denoise, noise, sigmas), others[0] if others else None
