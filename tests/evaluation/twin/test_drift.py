"""Drift of a long dream: true frames have none, a constant shift of colours is measured."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.evaluation import SIZE, tiny_world
from tests.helpers.oracle import Oracle
from worldsim.evaluation.benchmark_set import TestSetConfig, record_test_set, stack
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.twin import drift

HISTORY, HORIZON = 4, 12


def test_true_frames_do_not_drift() -> None:
    config = TestSetConfig("worldsim/TinyRoom-v0", {"size": SIZE}, 0, HISTORY, HORIZON + 2)
    world = tiny_world(Oracle)
    world.truth = truth = stack(record_test_set(config, range(1)), config)
    ticks: list[int] = []
    found = drift.dream(world, truth, HORIZON, lambda: ticks.append(1))
    assert len(ticks) == drift.steps_of(HISTORY, HORIZON)
    figures = Figures(1, 10, 0)
    drift.add(figures, found, segment=8)
    assert figures.values["drift_psnr"] == {"1-8": 40.0, "9-12": 40.0}
    assert figures.values["drift_colour"] == {"1-8": 0.0, "9-12": 0.0}
    assert figures.values["drift_sharpness"] == {"1-8": 1.0, "9-12": 1.0}
    assert figures.values["drift_psnr_stand"]["1-8"] < 40.0


def test_segments_by_hand() -> None:
    rows = torch.tensor([[30.0, 20.0, 10.0], [30.0, 20.0, 40.0]])
    figures = Figures(2, 10, 0)
    drift.add(figures, drift.Drift(rows, rows / 2, rows, 2 * rows, rows * 0), segment=2)
    assert figures.values["drift_psnr"] == {"1-2": 25.0, "3-3": 25.0}
    assert figures.values["drift_psnr_stand"]["1-2"] == pytest.approx(12.5)
    assert figures.values["drift_sharpness"] == {"1-2": 0.5, "3-3": 0.5}
