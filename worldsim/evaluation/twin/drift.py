"""How a long dream drifts from its twin, by segments of 100 steps.

The dream runs freely with the recorded actions at the true poses, from the true history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.evaluation.benchmark_set import TestSet
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.measure import take_in_history
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.state import concatenate
from worldsim.world import World

SEGMENT = 100
"""Steps of a segment."""
Tick = Callable[[], object]


@dataclass(frozen=True)
class Drift:
    """Scores of the dreamed frames, CPU tensors (e, h) float32.

    dreamed: PSNR beside the twin, dB.
    stand: PSNR of the last true frame, kept for ever, dB.
    sharpness, true_sharpness: mean luminance gradient, dreamed and true.
    colour: distance of the mean colours, codes of 255.
    """

    dreamed: Tensor
    stand: Tensor
    sharpness: Tensor
    true_sharpness: Tensor
    colour: Tensor


def steps_of(history: int, horizon: int) -> int:
    """Return how often :func:`dream` calls its ``tick``."""
    return history - 1 + horizon


@torch.no_grad()
def dream(world: World, test: TestSet, horizon: int, tick: Tick = lambda: None) -> Drift:
    """Dream ``horizon`` steps of the walks of ``test`` at the true poses."""
    history = test.config.history
    state = take_in_history(world, test, tick)
    last = test.rgb[:, history - 1]
    columns: dict[str, list[Tensor]] = {}
    for t in range(history, history + horizon):
        state, transition = world.step(state, test.act[:, t - 1], pose=test.pose[:, t])
        mine, truth = transition.frame.rgb, test.rgb[:, t]
        difference = mine.float().mean((2, 3)) - truth.float().mean((2, 3))
        for name, values in (
            ("dreamed", psnr(mine, truth)),
            ("stand", psnr(last, truth)),
            ("sharpness", sharpness(mine)),
            ("true_sharpness", sharpness(truth)),
            ("colour", difference.norm(dim=1)),
        ):
            columns.setdefault(name, []).append(values.cpu())
        tick()
    return Drift(**{name: torch.stack(values, 1) for name, values in columns.items()})


def join(parts: list[Drift]) -> Drift:
    """Join chunks over walks."""
    return concatenate(parts)


def add(figures: Figures, drift: Drift, segment: int = SEGMENT) -> None:
    """Add ``drift_psnr.1-100``, ``drift_psnr_stand``, ``drift_colour`` and ``drift_sharpness``."""
    steps = drift.dreamed.shape[1]
    for start in range(0, steps, segment):
        part = slice(start, min(start + segment, steps))
        name = f"{part.start + 1}-{part.stop}"
        for key, values in (
            ("drift_psnr", drift.dreamed),
            ("drift_psnr_stand", drift.stand),
            ("drift_colour", drift.colour),
        ):
            array = values[:, part].double().numpy()
            figures.mean(f"{key}.{name}", array, np.ones_like(array, bool))
        pair = [x[:, part].double().numpy() for x in (drift.sharpness, drift.true_sharpness)]
        figures.ratio(f"drift_sharpness.{name}", *pair)
