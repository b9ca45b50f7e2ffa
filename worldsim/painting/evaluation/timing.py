"""How long a new place takes on this machine."""

from __future__ import annotations

import statistics
import time

import torch

from worldsim.painting.evaluation.paintings import Known, inputs_of
from worldsim.painting.evaluation.places import HEADINGS, Places
from worldsim.protocols import Painter

GPU_REPEATS = 3
"""Timed places on a GPU, after one that is not timed. On a CPU one place is timed."""


def seconds_per_place(painter: Painter, places: Places) -> float:
    """Return the wall-clock seconds of a new place of 8 headings, painted alone.

    places: at least one place, on the painter's device. On a GPU it is the median of three after a
    first one, since that one loads the kernels.
    """
    device = places.rgb.device
    inputs = inputs_of(
        places.part(slice(0, 1)), range(HEADINGS), Known(attributes=True), torch.tensor([0])
    )
    taken = []
    for _ in range(1 + GPU_REPEATS if device.type == "cuda" else 1):
        began = time.perf_counter()
        painter.paint(inputs).rgb.sum().item()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[-GPU_REPEATS:])
