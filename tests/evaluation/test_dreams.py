"""The protocol of dreams: what the true frames and blurred ones score, on TinyRoom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.evaluation import SIZE, tiny_world
from tests.helpers.oracle import Oracle
from worldsim.evaluation import dreams
from worldsim.evaluation.benchmark_set import TestSet, TestSetConfig, record_test_set, stack
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.metrics import gradient

HISTORY, HORIZON, WALKS = 5, 24, 2


def blur(rgb: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(rgb.float(), (1, 1, 1, 1), mode="replicate"), 3, 1).to(torch.uint8)


def noise(rgb: Tensor) -> Tensor:
    """Another one in each frame."""
    generator = torch.Generator().manual_seed(int(rgb.sum()))
    added = 25.0 * torch.randn(rgb.shape, generator=generator)
    return (rgb.float() + added).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def truth() -> TestSet:
    config = TestSetConfig("worldsim/TinyRoom-v0", {"size": SIZE}, 0, HISTORY, HORIZON)
    return stack(record_test_set(config, range(WALKS)), config)


def figures_of(truth: TestSet, change: object = None) -> tuple[dreams.Dreams, dict]:
    world = tiny_world(Oracle)
    world.truth = truth
    if change is not None:
        world.change = change  # type: ignore[method-assign,assignment]
    ticks: list[int] = []
    found = dreams.dream(world, truth, lambda: ticks.append(1))
    assert len(ticks) == dreams.steps_of(HISTORY, HORIZON)
    return found, dreams.compute(found, truth, None, world.spec.window, 50, 0)


def test_true_frames_score_as_the_twin(truth: TestSet) -> None:
    found, told = figures_of(truth)
    assert told["next_frame_psnr"] == told["psnr"]["1-12"] == 40.0
    for name in (*dreams.RATIOS, "novelty", "next_frame_sharpness"):
        values = told[name].values() if isinstance(told[name], dict) else [told[name]]
        assert [v for v in values if v is not None] == pytest.approx([1.0] * len(values))
    assert list(told["psnr"]) == ["1-12", "13-24"]
    # Both kinds of pixels make up the inner pixels of a frame, and so do their gradients.
    assert found.pixels.sum(-1).unique().tolist() == [(SIZE - 2) ** 2]
    whole = gradient(truth.rgb[:, HISTORY:]).sum((-2, -1))
    torch.testing.assert_close(found.true.sum(-1), whole, rtol=1e-5, atol=1e-2)


def test_blur_and_noise_are_told_apart(truth: TestSet) -> None:
    """Noise is detail of single frames. The mean of two frames has less of it, and it flickers."""
    blurred, noisy = figures_of(truth, blur)[1], figures_of(truth, noise)[1]
    for name in ("1-12", "13-24"):
        assert blurred["sharpness"][name] < 0.95 and blurred["sharpness_steady"][name] < 0.95
        assert noisy["sharpness"][name] > 1.1
        assert noisy["sharpness_steady"][name] < noisy["sharpness"][name]
        assert noisy["warping_error"][name] > 1.1
        assert noisy["psnr"][name] < blurred["psnr"][name]


def test_distances_are_those_of_the_parts(truth: TestSet) -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(8, dreams.HORIZON, 4, generator=generator)
    results: dict = {"ci95": {}}
    dreams._distances(results, (near + 3.0, near, near.flip(0)), 48)
    assert list(results["fd"]) == ["25-48"]
    # A shift of 3 in four dimensions.
    assert results["fd"]["25-48"] == pytest.approx(36.0, abs=2.0)
    low, high = results["ci95"]["fd.25-48"]
    assert low < results["fd"]["25-48"] < high
    assert results["fd_real"]["25-48"] < 1.0


def test_one_command_measures_and_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(
        "tiny", protocol="dreams", json=tmp_path / "d.json", history=HISTORY, horizon=12,
        episodes=1, workers=1, bootstrap=20,
    )  # fmt: skip
    assert EvaluateConfig("tiny", protocol="dreams").dreamed == 96
    evaluate(config, tiny_world())
    told, shown = json.loads((tmp_path / "d.json").read_text()), capsys.readouterr().out
    assert (told["protocol"], told["episodes"], told["horizon"]) == ("dreams/1", 1, 12)
    # The encoder knows Freedoom alone.
    assert "fd" not in told
    assert "known pixels" in shown and "warping error" in shown and "too few episodes" in shown
