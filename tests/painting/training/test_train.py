"""The training script: some steps, a checkpoint in parts, and another leg that resumes it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.painting.checkpoint import load_painter, save_painter
from worldsim.painting.network import PainterNetwork
from worldsim.painting.training.train import PainterTrainConfig
from worldsim.painting.training.views import ViewSets, save_view_sets

SCRIPT = Path(__file__).resolve().parents[3] / "experiments/painter/train.py"


def run_leg(data: Path, out: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script itself, in this process: importing everything anew takes longest."""
    size = "--network.dim 32 --network.depth 2 --network.heads 2 --network.pixel 8"
    small = f"--data {data} --out {out} --views 24 --log-every 1 --steps {steps} {size}"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *small.split()])
    # A setting of the whole process, which other tests share.
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_leg_trains_and_the_next_resumes(
    tmp_path: Path, sets: ViewSets, monkeypatch: pytest.MonkeyPatch
):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    save_view_sets(sets, data / "views-00000.safetensors")
    run_leg(data, out, 3, monkeypatch)
    first = load_painter(out / "state")
    assert first.card["step"] == 3 and set(first.weights) == set(first.average)
    run_leg(data, out, 5, monkeypatch)
    second = load_painter(out / "state")
    assert second.card["step"] == 5
    # The checkpoint is a painter: views of the recording's size.
    spec = second.spec()
    assert (spec.height, spec.width) == sets.rgb.shape[2:4] and spec.attributes == sets.names
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    # The second leg began where the first had stopped: five warm-up steps move weights very little.
    moved = max(float((second.weights[k] - first.weights[k]).abs().max()) for k in first.weights)
    assert 0 < moved < 0.01


@pytest.mark.parametrize("eight_bit", [False, True])
def test_painters_come_back_from_their_parts(tmp_path: Path, eight_bit: bool):
    torch.manual_seed(0)
    network = PainterNetwork(("sky",), dim=32, depth=2, heads=2, pixel=8)
    weights = dict(network.named_parameters())
    save_painter(
        tmp_path / "p",
        network.settings,
        weights,
        told={"step": 7},
        eight_bit=eight_bit,
        part_bytes=30_000,
    )
    assert len(list((tmp_path / "p").glob("average-*"))) > 1
    saved = load_painter(tmp_path / "p")
    assert saved.card["step"] == 7 and not saved.weights
    for name, value in saved.network().named_parameters():
        torch.testing.assert_close(
            value, weights[name], atol=0.01 if eight_bit else 1e-3, rtol=1e-3
        )
    part = tmp_path / "p" / "average-00.safetensors"
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(DamagedFileError, match="average-00"):
        load_painter(tmp_path / "p")


def test_settings_are_checked(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="multiple of 24"):
        PainterTrainConfig(data=tmp_path, out=tmp_path, views=100)
