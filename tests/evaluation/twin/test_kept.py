"""What a dream keeps: true frames get the twin's figures, blur and a frozen picture do not win."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.evaluation import SIZE, tiny_world
from tests.helpers.oracle import Oracle
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.twin import kept
from worldsim.evaluation.twin.trajectories import (
    TRAJECTORIES,
    Trajectories,
    TrajectoryConfig,
    stack,
)

CONFIG = TrajectoryConfig("worldsim/TinyRoom-v0", {"size": SIZE}, history=8)
YAW = list(TRAJECTORIES).index("yaw")


@pytest.fixture(scope="module")
def walks() -> Trajectories:
    recorder = CONFIG.recorder()
    numbers = [0, 1]
    recorded = [recorder.record(n * len(TRAJECTORIES) + YAW) for n in numbers]
    return stack(recorded, numbers, CONFIG, "yaw")


def blur(rgb: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(rgb.float(), (2, 2, 2, 2), mode="replicate"), 5, 1).to(torch.uint8)


def figures_of(walks: Trajectories, found: kept.Kept) -> dict[str, float]:
    figures = Figures(len(walks), 10, 0)
    kept.add(figures, found, "yaw", "")
    return {key: values["yaw"] for key, values in figures.values.items()}


def oracle(walks: Trajectories, change: object = None) -> kept.Kept:
    world = tiny_world(Oracle)
    world.truth = walks
    if change is not None:
        world.change = change  # type: ignore[method-assign,assignment]
    ticks: list[int] = []
    shown = kept.dream(world, walks, lambda: ticks.append(1))
    assert len(ticks) == kept.steps_of(walks)
    return kept.score(walks, shown)


def test_true_frames_get_the_figures_of_the_twin(walks: Trajectories) -> None:
    twin, found = kept.score(walks, kept.true_frames(walks)), oracle(walks)
    for name in ("input", "generated", "consistent", "mirrored", "shares"):
        torch.testing.assert_close(
            getattr(found, name), getattr(twin, name), equal_nan=True, rtol=0, atol=0
        )
    figures = figures_of(walks, found)
    assert figures["input_kept"] == figures["mirrored"] == 40.0
    assert 15.0 < figures["self_consistent"] <= 40.0
    # Frames within the gap of the turning point never count.
    near = [m for m in range(1, walks.out + 1) if 2 * m <= kept.GAP]
    assert np.isnan(twin.mirrored[:, : len(near)].numpy()).all()
    assert twin.input.isfinite().any() and twin.shares[..., 0].max() > 0.05


def test_blur_and_a_frozen_picture_keep_less(walks: Trajectories) -> None:
    twin = figures_of(walks, kept.score(walks, kept.true_frames(walks)))
    blurred = figures_of(walks, oracle(walks, blur))
    frozen = figures_of(walks, kept.score(walks, kept.stand(walks)))
    assert blurred["input_kept"] < twin["input_kept"] - 5
    assert frozen["input_kept"] < twin["input_kept"] - 5
    # Blur repeats itself, and a frozen picture, too: so these figures are read beside the first.
    assert blurred["mirrored"] > 35.0 and frozen["mirrored"] == 40.0
