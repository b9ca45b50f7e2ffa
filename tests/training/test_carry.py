"""Runs that are carried to another machine: weights in 16 bits and parts, moments rebuilt."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.training import started
from tests.helpers.training import train_config as config
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.training import carry
from worldsim.training.train import TrainConfig, Trainer
from worldsim.world import World

PART_MB = 0.2


def bring(source: Path, target: Path) -> Path:
    """Copy what is carried, and nothing else."""
    shutil.copytree(source / carry.FOLDER, target / carry.FOLDER)
    return target


def steady(rooms: Path, out: Path, steps: int) -> TrainConfig:
    """A run of constant rate, whose network has learned something after 30 steps."""
    return config(
        rooms, out, steps=steps, decay=0.0, learning_rate=2e-3, motion_learning_rate=1e-3,
        batch_size=2, motions=8, carry_megabytes=PART_MB, carry_warmup=10, ema=0.9,
    )  # fmt: skip


def errors(trainer: Trainer, steps: int) -> torch.Tensor:
    """Squared error and loss of the next steps, (steps, 2)."""
    found = []
    for _ in range(steps):
        losses = trainer.train_step()
        found.append([float(losses["rgb_mse"].detach()), float(losses["loss"].detach())])
    return torch.tensor(found)


def test_the_loss_goes_on_across_a_boundary(tmp_path: Path, rooms: Path) -> None:
    """Against the same run without a boundary, which sees the same batches: within 2%."""
    first = started(steady(rooms, tmp_path / "a", 45))
    begun = errors(first, 30)
    first.save()
    parts = sorted((tmp_path / "a" / carry.FOLDER).glob("part-*.safetensors"))
    assert len(parts) > 1
    weights = sum(part.stat().st_size for part in parts)
    whole = (tmp_path / "a" / "checkpoint" / "state.safetensors").stat().st_size
    assert weights < 0.3 * whole

    second = Trainer(steady(rooms, bring(tmp_path / "a", tmp_path / "b"), 45))
    assert second.resume()
    second.wait_for_data()
    assert (second.step, second.carried, second.optimizer.state_dict()["state"]) == (30, [30], {})
    expected, found = errors(first, 15), errors(second, 15)
    # It has learned by then.
    assert begun[-10:, 1].mean() < begun[:10, 1].mean() - 0.2
    assert float(found[0, 0] / expected[0, 0]) == pytest.approx(1.0, abs=1e-3)
    assert abs(float(found[:, 0].mean() / expected[:, 0].mean()) - 1.0) < 0.02
    assert abs(float((found[:, 1].mean() - expected[:, 1].mean()) / expected[:, 1].mean())) < 0.02


def test_weights_and_averages_are_those_of_16_bits(tmp_path: Path, rooms: Path) -> None:
    first = started(steady(rooms, tmp_path / "a", 9))
    errors(first, 3)
    first.save()
    second = Trainer(steady(rooms, bring(tmp_path / "a", tmp_path / "b"), 9))
    assert second.resume()
    held, model = second.loss_module.state_dict(), first.loss_module.state_dict()
    parameters = {name for name, _ in first.loss_module.named_parameters()}
    for name, value in model.items():
        expected = value.half().float() if name in parameters else value
        assert torch.equal(held[name], expected), name
    for mine, theirs in zip(second.ema.shadow_params, first.ema.shadow_params, strict=True):
        assert torch.equal(mine, theirs.half().float())
    assert second.ema.optimization_step == first.ema.optimization_step


def test_the_rate_rises_again_after_each_boundary(tmp_path: Path, rooms: Path) -> None:
    """By hand: 1/10, 2/10, ... of the rate from the boundary. An exact resume keeps its place."""
    first = started(steady(rooms, tmp_path / "a", 90))
    errors(first, 3)
    first.save()
    settings = steady(rooms, bring(tmp_path / "a", tmp_path / "b"), 90)
    second = Trainer(settings)
    second.resume()
    assert [second._rate() for second.step in range(3, 14)] == pytest.approx(
        [0.1 * i for i in range(1, 11)] + [1.0]
    )
    second.step = 3
    second.wait_for_data()
    errors(second, 2)
    second.save()
    again = Trainer(settings)
    assert again.resume()
    assert (again.step, again.carried) == (5, [3])
    assert again._rate() == pytest.approx(0.3)
    # The decay belongs to the last part alone.
    last = Trainer(dataclasses.replace(settings, steps=10, decay=0.5))
    assert last.resume()
    last.step = 9
    assert last._rate() == pytest.approx(0.7 * 0.2)


def test_the_card_tells_of_recordings_that_stayed_behind(tmp_path: Path, rooms: Path) -> None:
    first = started(steady(rooms, tmp_path / "a", 9))
    errors(first, 1)
    first.save()
    second = Trainer(steady(rooms, bring(tmp_path / "a", tmp_path / "b"), 9))
    second.resume()
    # Before it has read anything.
    card = second.world().card
    before = World.from_pretrained(tmp_path / "a" / "world", "cpu").card
    assert card["train_maps"] == before["train_maps"] != []


def test_parts_that_are_missing_or_damaged_and_other_settings(tmp_path: Path, rooms: Path) -> None:
    first = started(steady(rooms, tmp_path / "a", 9))
    first.save()
    out = bring(tmp_path / "a", tmp_path / "b")
    other = dataclasses.replace(steady(rooms, out, 9), learning_rate=1e-3)
    with pytest.raises(InvalidInputError, match="other values of learning_rate"):
        Trainer(other).resume()
    assert Trainer(dataclasses.replace(steady(rooms, out, 9), buffer_frames=999)).resume()
    part = sorted((out / carry.FOLDER).glob("part-*"))[1]
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"part-001.*Copy .* again, with all its parts"):
        Trainer(steady(rooms, out, 9)).resume()
    part.unlink()
    with pytest.raises(DamagedFileError, match=r"part-001.*Copy .* again, with all its parts"):
        Trainer(steady(rooms, out, 9)).resume()


def test_tensors_that_do_not_fit_16_bits_stay_as_they_are() -> None:
    wide = torch.tensor([1.0, 1e6])
    assert torch.equal(carry.halve(wide), wide)
    assert carry.halve(torch.tensor([1.0])).dtype is torch.float16
    assert carry.halve(torch.tensor([70_000])).dtype is torch.int64
    parts = carry.split({"a": torch.zeros(10), "b": torch.zeros(3), "c": torch.zeros(2)}, 20)
    assert [list(part) for part in parts] == [["a"], ["b", "c"]]
