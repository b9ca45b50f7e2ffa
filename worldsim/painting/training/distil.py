"""Distillation of a painter into a student with few sampling steps and without guidance.

The student's sampler cuts the noise levels from 1 to 0 into as many windows as it has steps. In
each window the teacher takes several steps with guidance, and the student learns the one step that
lands where the teacher does (piecewise as in PeRFlow, Yan et al. 2024; progressive distillation,
Salimans and Ho 2022; guidance as in Meng et al. 2023). Sets move on from window to window along the
student's own samples, so that it learns from the states that it meets.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.painting.checkpoint import load_painter
from worldsim.painting.levels import add_noise_to, losses_of, per_channel
from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.painting.sampling import (
    Guidance,
    PaintConfig,
    euler_step,
    extrapolate,
    guidance_for,
    is_aided,
    predict,
    sigmas_for,
)
from worldsim.painting.training.batches import VIEW_COUNTS, BatchConfig, BatchMaker
from worldsim.painting.training.store import FolderReader, ViewStore
from worldsim.painting.training.trainer import LegConfig, PainterTrainer, Place, resumed, run_leg
from worldsim.protocols import PainterSpec
from worldsim.runtime.json_config import to_json
from worldsim.runtime.ranges import Count, Rate, Share
from worldsim.runtime.types import JsonObject
from worldsim.state import checksum, map_tensors

BALANCE_RATE = 0.02
"""Share of a step in the running loss of a window."""
LEAST_LOSS = 1e-6
"""Running losses below this do not raise a window's weight further."""


@dataclass(frozen=True, kw_only=True)
class PainterDistilConfig(LegConfig):
    """Settings of :func:`distil`."""

    painter: Path
    """The teacher: a folder with the last weights of a training, or a shipped painter."""
    start: Path | None = None
    """Painter with the teacher's settings, from whose weights the student starts; by default the
    teacher. An earlier student starts nearer to its goal."""
    num_inference_steps: Count = 8
    """Sampling steps of the student."""
    teacher: PaintConfig = field(
        default_factory=lambda: PaintConfig(32, attribute_guidance_scale=2.0)
    )
    """The teacher's sampling settings, whose guidance the student learns. Its steps are a multiple
    of the student's. Four per window lose no faint detail: the second-order solver starts anew in
    each."""
    own_share: Share = 0.8
    """Probability that a set goes on from the student's own end of a window. Otherwise another set
    replaces it, whose real views get noise. 0 distils on noised real views alone."""
    balance: Share = 0.5
    """Exponent with which the running loss of a window divides its losses. 0 leaves them as errors
    of velocity, which are largest in the last windows; with 1 all windows count alike."""
    learning_rate: Rate = 2e-4
    """Learning rate after the warm-up: half of training's, as the student starts near its goal."""
    warmup: Count = 100
    """Steps of the linear warm-up from 0."""
    decay: Share = 0.8
    """Share of this leg, at its end, over which the learning rate falls linearly to 0."""
    average: Share = 0.999
    """Decay of the exponential moving average."""
    capacity: Count = 40_000
    """Sets that each process keeps on its device. A set takes 0.29 MB at 64x64 and 14 views."""
    view_shares: tuple[Share, ...] = (0.1, 0.08, 0.08, 0.2, 0.14, 0.4)
    """Probability of 1, 2, 3, 4, 6 and 8 views per set, one number for each step."""
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(no_memory=0.5, given=0.4))
    """Settings of the batches. 30% of the sets of several views show nothing of the place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        steps, teacher = self.num_inference_steps, self.teacher.num_inference_steps
        if teacher % steps or teacher == steps:
            raise InvalidInputError(
                f"a teacher of {teacher} steps does not divide into the {steps} windows of its "
                f"student: give --teacher.num-inference-steps {4 * steps}, or another multiple."
            )

    def student(self) -> PaintConfig:
        """Return the sampling settings of the student: Euler's method without guidance."""
        return PaintConfig(
            self.num_inference_steps,
            guidance_scale=1.0,
            noise_guidance_scale=None,
            memory_guidance_scale=1.0,
            attribute_guidance_scale=1.0,
            solver="euler",
            schedule_power=self.teacher.schedule_power,
        )


@dataclass(frozen=True)
class Starts:
    """``b`` sets of ``n`` views, each at the start of a window of the student's sampler.

    x: (b, n, 5, h, w) channels at the level at which the window starts.
    given: (b, n, 5, h, w) clean channels, used where a view is known.
    unknown: (b, n, 2) bool, whether a view's colour, and its depth with sky, are painted.
    memory, rays, attributes, known: see :class:`worldsim.painting.network.PainterBatch`.
    window: (b,) int64, number of the window; windows are numbered from noise to clean views.
    """

    x: Tensor
    given: Tensor
    unknown: Tensor
    memory: Tensor
    rays: Tensor
    attributes: Tensor
    known: Tensor
    window: Tensor

    def batch(self, x: Tensor, level: Tensor) -> PainterBatch:
        """Return the network's input for channels ``x`` at levels (b,)."""
        level = self.unknown * level[:, None, None]
        return PainterBatch(x, level, self.memory, self.rays, self.attributes, self.known)

    def move(self, x: Tensor, towards: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """Move the unknown channels of ``x`` from levels ``here`` (b,) to ``there`` (b,)."""
        moved = euler_step(x, towards, _column(here), _column(there))
        return torch.where(per_channel(self.unknown)[..., None, None], moved, self.given)


def select(which: Tensor, a: Starts, b: Starts) -> Starts:
    """Return the sets of ``a`` where ``which`` (b,) bool is True, else those of ``b``."""
    return map_tensors(lambda x, y: torch.where(which.view(-1, *[1] * (x.ndim - 1)), x, y), a, b)


class Windows:
    """The noise levels of teacher and student.

    count: windows, which are the student's steps.
    teacher: the teacher's settings.
    """

    def __init__(self, count: int, teacher: PaintConfig, device: torch.device) -> None:
        self.count, self.substeps = count, teacher.num_inference_steps // count
        steps, power = teacher.num_inference_steps, teacher.schedule_power
        rows = [sigmas_for(steps, max(1, n), power) for n in range(max(VIEW_COUNTS) + 1)]
        self.sigmas = torch.stack(rows).to(device)
        """(9, steps + 1), the teacher's levels for each number of noisy views."""

    def levels(self, unknown: Tensor, window: Tensor) -> Tensor:
        """Return the teacher's levels in the windows of sets, (b, substeps + 1) from high to low.

        unknown, window: see :class:`Starts`.
        """
        noisy = unknown.any(-1).sum(1)
        at = torch.arange(self.substeps + 1, device=window.device)
        return self.sigmas[noisy[:, None], window[:, None] * self.substeps + at]


@torch.no_grad()
def solve(
    teacher: PainterNetwork,
    starts: Starts,
    levels: Tensor,
    guidance: Guidance,
    solver: str,
) -> Tensor:
    """Return where the teacher lands at the end of the windows, (b, n, 5, h, w).

    levels: (b, substeps + 1), see :meth:`Windows.levels`.
    solver: see :class:`worldsim.painting.sampling.PaintConfig`. The first step is of first order.
    """
    x = before = starts.x
    columns = levels.unbind(1)
    for i, (here, there) in enumerate(pairwise(columns)):
        clean = towards = predict(teacher, starts.batch(x, here), guidance)
        if solver == "dpmsolver++" and i:
            last = columns[i - 1]
            # Log-SNRs are infinite at levels 1 and 0, so those steps are of first order.
            second = _column((last < 1.0) & (there > 0.0))
            beyond = extrapolate(clean, before, *(_column(v) for v in (last, here, there)))
            towards = torch.where(second, beyond, clean)
        before = clean
        x = starts.move(x, towards, here, there)
    return x


def target_of(x: Tensor, end: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Return the clean channels towards which one step of Euler's method lands at ``end``.

    here, there: (b,) levels of ``x`` and of ``end``.
    """
    ratio = _column(there / here)
    return (end - ratio * x) / (1.0 - ratio)


class Balance:
    """Divides losses by a power of the running mean loss of their windows.

    power: exponent in [0, 1]; 0 changes nothing.
    """

    def __init__(self, windows: int, power: float, device: torch.device) -> None:
        self.power = power
        self.running = torch.full((windows,), torch.nan, device=device)
        """Mean loss of each window, NaN before its first one."""

    def weigh(self, losses: Tensor, window: Tensor) -> Tensor:
        """Return the weighted mean of losses (b,) of windows (b,), a scalar.

        The weights' mean over the windows is 1.
        """
        own, zero = losses.detach(), torch.zeros_like(self.running)
        count = zero.index_add(0, window, torch.ones_like(own))
        mean = zero.index_add(0, window, own) / count
        smooth = torch.where(
            self.running.isnan(), mean, torch.lerp(self.running, mean, BALANCE_RATE)
        )
        self.running = torch.where(count > 0, smooth, self.running)
        weight = self.running.clamp(min=LEAST_LOSS) ** -self.power
        return (losses * (weight / weight.nanmean())[window]).mean()


class DistilTrainer(PainterTrainer):
    """Trains a student to take the teacher's steps through a window in one.

    store: sets of the recording, which also has the views' size and camera.

    Raises InvalidInputError if ``config.out`` holds a run with another teacher or other settings.
    """

    config: PainterDistilConfig

    def __init__(self, config: PainterDistilConfig, store: ViewStore, place: Place) -> None:
        saved, teacher = resumed(config), load_painter(config.painter)
        network = teacher.network(average=False)
        self.method: JsonObject = {
            "teacher_sha256": checksum(network.state_dict()),
            "teacher_step": teacher.card.get("step"),
            "teacher": to_json(config.teacher),
            "num_inference_steps": config.num_inference_steps,
        }
        if saved and saved.card.get("distilled") != self.method:
            raise InvalidInputError(
                f"{config.out} holds a run of {saved.card.get('distilled')}, not of {self.method}: "
                "resume it with the same teacher and steps, or give another --out."
            )
        self.teacher = teacher.network(average=False).requires_grad_(False).eval()
        self.teacher.to(place.device)
        if saved:
            network = saved.network(average=False)
        elif config.start is not None:
            network = load_painter(config.start).network()
            if network.settings != self.teacher.settings:
                raise InvalidInputError(
                    f"the painters in {config.start} and {config.painter} have other settings: "
                    "start from the teacher, or from a student of the same size and attributes."
                )
        # The recording may have attributes that the teacher does not know.
        store.select(network.config.attributes)
        super().__init__(config, network, saved, store.names, place)
        if config.compile:
            self.teacher.compile_parts()
        self.windows = Windows(config.num_inference_steps, config.teacher, place.device)
        self.balance = Balance(config.num_inference_steps, config.balance, place.device)
        self.under_way: dict[int, Starts] = {}
        """Sets that may go on, by their number of views."""
        self._spec = store.spec(max(VIEW_COUNTS))
        self._losses = torch.zeros(2, config.num_inference_steps, device=place.device)

    def loss(self, maker: BatchMaker, views: int) -> Tensor:
        """Return the squared error of the student's step, as an error of velocity.

        See :meth:`worldsim.painting.training.trainer.PainterTrainer.loss`.
        """
        starts, settings = self._starts(maker, views), self.config.teacher
        levels = self.windows.levels(starts.unknown, starts.window)
        here, there = levels[:, 0], levels[:, -1]
        aided = is_aided(starts.unknown, starts.memory)
        guidance = guidance_for(aided, (starts.known != 0).any(1), settings)
        end = solve(self.teacher, starts, levels, guidance, settings.solver)
        predicted = self.predict(starts.batch(starts.x, here))
        target = target_of(starts.x, end, here, there)
        level = starts.unknown * here[:, None, None]
        own = predicted.detach()
        self.under_way[views] = dataclasses.replace(
            starts, x=starts.move(starts.x, own, here, there), window=starts.window + 1
        )
        losses = losses_of(predicted, target, level)
        self._count(losses.detach(), starts.window)
        return self.balance.weigh(losses, starts.window)

    def _starts(self, maker: BatchMaker, views: int) -> Starts:
        """Return the sets of a step: those that go on, and new ones in place of the others."""
        before, share = self.under_way.get(views), self.config.own_share
        sets, device = self.config.views // views, self.place.device
        weight = torch.ones(self.windows.count, device=device)
        if before is not None:
            # So that all windows are equally frequent: the later ones also get sets that go on.
            weight[1:] = 1.0 - share
        window = torch.multinomial(weight, sets, replacement=True, generator=maker.generator)
        fresh = self._fresh(maker, views, window)
        if before is None:
            return fresh
        chance = torch.rand(sets, generator=maker.generator, device=device)
        return select((before.window < self.windows.count) & (chance < share), before, fresh)

    def _fresh(self, maker: BatchMaker, views: int, window: Tensor) -> Starts:
        """Return real sets with the noise of the starts of windows (b,)."""
        example = maker.make(len(window), views)
        batch, clean = example.batch, example.clean
        unknown = batch.level > 0
        level = self.windows.levels(unknown, window)[:, 0]
        noise = torch.randn(clean.shape, generator=maker.generator, device=clean.device)
        x = add_noise_to(clean, noise, unknown * level[:, None, None])
        return Starts(
            x=torch.where(per_channel(unknown)[..., None, None], x, clean),
            given=clean,
            unknown=unknown,
            memory=batch.memory,
            rays=batch.rays,
            attributes=batch.attributes,
            known=batch.known,
            window=window,
        )

    def _count(self, losses: Tensor, window: Tensor) -> None:
        both = torch.stack([losses, torch.ones_like(losses)])
        self._losses.index_add_(1, window, both)

    def report(self) -> JsonObject:
        """Return the mean loss in each window since the last report, None where there was none."""
        total, count = self._losses.tolist()
        self._losses.zero_()
        means = [round(a / b, 5) if b else None for a, b in zip(total, count, strict=True)]
        return {"windows": means}

    def card(self) -> JsonObject:
        """Return what the student was distilled from, for the checkpoint's card."""
        return {"distilled": self.method}

    def spec(self) -> PainterSpec:
        """Return what the student paints."""
        return self._spec

    def sampling(self) -> PaintConfig:
        """Return the student's sampling settings."""
        return self.config.student()


def distil(config: PainterDistilConfig) -> JsonObject:
    """Distil for one leg and save the student; returns the last log line.

    A checkpoint in ``config.out`` is resumed. The sets under way are not part of it, so a resumed
    leg begins with new ones.
    """

    def build(reader: FolderReader, place: Place) -> DistilTrainer:
        return DistilTrainer(config, reader.store, place)

    return run_leg(config, build)


def _column(values: Tensor) -> Tensor:
    """Expand (b,) to (b, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]
