"""Training by the clock: a limit is met at any step, what is little is said, a batch fits its
device. Clocks are injected."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.helpers.training import assert_equal, distil_config, started, state_of
from tests.helpers.training import train_config as config
from worldsim.runtime.json_config import read_json
from worldsim.runtime.pace import forecast, smaller, steps_that_fit
from worldsim.training.distil import DistilTrainer
from worldsim.training.train import Trainer, run
from worldsim.world import World

DEVICE_SIZE = 4 if not torch.cuda.is_available() else 32


def test_a_time_limit_ends_slow_steps(
    tmp_path: Path, rooms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reproduces: ``train --minutes 4`` with steps of 18 s looked at the clock every 25 steps, and
    said nothing before the 50th."""
    trainer = Trainer(config(rooms, tmp_path, minutes=4.0, steps=100_000))
    run(trainer, clock=lambda: 18.0 * trainer.step)
    # 13 steps take 234 s, the 14th ends after 252 s.
    assert trainer.step == 14 and trainer.elapsed == 252.0
    assert read_json(tmp_path / "checkpoint" / "checkpoint.json")["step"] == 14
    assert World.from_pretrained(tmp_path / "world", "cpu").card["training"]["steps"] == 14
    (entry,) = read_json(tmp_path / "history.json")
    assert entry["step"] == 14 and entry["elapsed"] == 252.0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert any(line.startswith("first step: 18.0 s, loss ") for line in lines)
    assert any(
        line.startswith(
            "a step of 2 windows takes 18.0 s here: about 12 in the 3 min 24 s that are left"
        )
        for line in lines
    )
    assert any(
        line.startswith("train: 15.0%, 36.0 s, about 3 min 24 s left, step 2, 18.0 s a step, loss ")
        for line in lines
    )
    assert (
        lines[-1]
        == f"trained 14 steps; saved in {tmp_path}: world/ to use, checkpoint/ to go on from"
    )


def test_too_few_steps_are_said_with_what_would_fit(
    tmp_path: Path, rooms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reproduces: nothing said that 13 steps were all that would fit, nor what to do about it."""
    trainer = Trainer(config(rooms, tmp_path, minutes=2.0, batch_size=3, warmup=300))
    run(trainer, clock=lambda: 18.0 * trainer.step)
    (line,) = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("a step of 3 windows")
    ]
    assert line == (
        "a step of 3 windows takes 18.0 s here: about 5 in the 1 min 24 s that are left. That is "
        "little: stop with Ctrl-C and try "
        "--batch-size 1 (about 15 steps) and --warmup 1 instead of 300 and more --minutes, with "
        "another --out"
    )


def test_steps_that_take_days_are_told(
    tmp_path: Path, rooms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(config(rooms, tmp_path, steps=3))
    run(trainer, clock=lambda: 7200.0 * trainer.step)
    assert (
        "a step of 2 windows takes 2 h here: 1 more take about 2 h"
        in capsys.readouterr().err.splitlines()
    )
    # Without a time limit, no clock ends anything.
    assert trainer.step == 3


def test_figures_by_hand() -> None:
    assert steps_that_fit(18.0, 4.0) == 14 and steps_that_fit(18.0, -1.0) == 1
    # 14 steps of 32 windows are 112 of 4; at least 100 are wanted.
    assert smaller(32, 14, 100) == 4 and smaller(32, 1, 100) == 1 and smaller(1, 1, 100) == 1
    told = "a step of 32 windows takes 18.2 s here: 20,000 more take about 101 h 6 min"
    assert forecast(18.2, "32 windows", None, 20_000) == told


def test_the_batch_size_fits_the_device_and_is_written_down(tmp_path: Path, rooms: Path) -> None:
    """Reproduces: 32 windows a step on a CPU, too. Checkpoint and card say what was used."""
    trainer = started(
        dataclasses.replace(config(rooms, tmp_path), batch_size=None, mixed_precision=None)
    )
    assert (
        trainer.config.mixed_precision
        == trainer.accelerator.mixed_precision
        == ("bf16" if DEVICE_SIZE == 32 else "no")
    )
    assert trainer.batch_size == trainer.config.batch_size == DEVICE_SIZE
    trainer.train_step()
    trainer.save()
    assert (
        read_json(tmp_path / "checkpoint" / "checkpoint.json")["config"]["batch_size"]
        == DEVICE_SIZE
    )
    assert (
        World.from_pretrained(tmp_path / "world", "cpu").card["training"]["config"]["batch_size"]
        == DEVICE_SIZE
    )


def test_a_resumed_run_keeps_its_batch_size(tmp_path: Path, rooms: Path) -> None:
    """A checkpoint of 5 windows a step goes on with 5 where none are asked for, exactly; other
    numbers are refused as ever."""
    settings = config(rooms, tmp_path, batch_size=5, steps=4)
    first = started(settings)
    first.train_step()
    first.save()
    resumed = Trainer(dataclasses.replace(settings, batch_size=None, mixed_precision=None))
    assert resumed.batch_size == 5 and resumed.config.mixed_precision == "no" and resumed.resume()
    resumed.wait_for_data()
    first.train_step()
    resumed.train_step()
    assert_equal(state_of(resumed), state_of(first))
    # A checkpoint that cannot be read is refused by resume(), not here.
    (tmp_path / "checkpoint" / "checkpoint.json").write_text(json.dumps({"config": []}))
    assert Trainer(dataclasses.replace(settings, batch_size=None)).batch_size == DEVICE_SIZE


def test_distilling_keeps_the_same_clock_and_batch_size(
    tmp_path: Path, world_folder: Path, rooms: Path
) -> None:
    changes = {"batch_size": None, "minutes": 1.0, "training_steps": 10_000}
    settings = distil_config(world_folder, rooms, tmp_path, **changes)
    trainer = DistilTrainer(settings)
    run(trainer, clock=lambda: 25.0 * trainer.step)
    assert trainer.step == 3
    written = read_json(tmp_path / "checkpoint" / "checkpoint.json")["config"]
    assert (written["batch_size"], trainer.distil.batch_size) == (DEVICE_SIZE, DEVICE_SIZE)
    assert DistilTrainer(settings).resume()
