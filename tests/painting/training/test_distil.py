"""Distillation of a painter: windows, the teacher's steps, guidance, and whole legs."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.painters import make_tiny_painter
from worldsim.errors import InvalidInputError
from worldsim.painting.checkpoint import load_painter, save_painter
from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.sampling import Guidance, PaintConfig, guidance_for, paint, sigmas_for
from worldsim.painting.training.batches import BatchConfig, BatchMaker
from worldsim.painting.training.distil import (
    Balance,
    DistilTrainer,
    PainterDistilConfig,
    Starts,
    Windows,
    distil,
    solve,
    target_of,
)
from worldsim.painting.training.store import ViewStore
from worldsim.painting.training.trainer import Place
from worldsim.painting.training.views import ViewSets, save_view_sets

SCRIPT = Path(__file__).resolve().parents[3] / "experiments/painter/distil.py"
CPU = torch.device("cpu")
FREE = Guidance(None, None)


@pytest.fixture
def teacher(tmp_path: Path, sets: ViewSets) -> Path:
    """A tiny painter with the recording's attributes, as its training saves it."""
    torch.manual_seed(0)
    network = PainterNetwork(sets.names, dim=32, depth=2, heads=2, pixel=8)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.05)
    weights = network.state_dict()
    save_painter(tmp_path / "teacher", network.settings, weights, weights, {"step": 9})
    return tmp_path / "teacher"


@pytest.fixture
def data(tmp_path: Path, sets: ViewSets) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    save_view_sets(sets, folder / "views-00000.safetensors")
    return folder


def settings(painter: Path, data: Path, out: Path, **changes: object) -> PainterDistilConfig:
    plain = PainterDistilConfig(
        painter=painter,
        data=data,
        out=out,
        views=24,
        capacity=8,
        num_inference_steps=2,
        teacher=PaintConfig(4, guidance_scale=3.0, attribute_guidance_scale=2.0),
        view_shares=(0, 0, 0, 1, 0, 0),
        log_every=1,
        warmup=1,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def starts_of(windows: Windows, window: Tensor, size: int = 4, views: int = 4) -> Starts:
    """Sets of which everything is unknown, pure noise."""
    b = len(window)
    noise = torch.randn(b, views, 5, size, size, generator=torch.Generator().manual_seed(0))
    return Starts(
        x=noise,
        given=torch.zeros_like(noise),
        unknown=torch.ones(b, views, 2, dtype=torch.bool),
        memory=torch.zeros_like(noise),
        rays=torch.zeros(b, views, 6, size, size),
        attributes=torch.ones(b, 1),
        known=torch.ones(b, 1),
        window=window,
    )


class Shrink(nn.Module):
    """Predicts clean channels as a share of the noisy ones that depends on the level."""

    def forward(self, batch: PainterBatch) -> Tensor:
        told = batch.known.mean(1)[:, None, None, None, None]
        return batch.noisy * (1 - batch.level[..., :1, None, None]) * 0.7 + 0.1 * told


def test_windows_join_and_end_at_the_students_levels():
    windows = Windows(4, PaintConfig(12), CPU)
    unknown = torch.ones(4, 6, 2, dtype=torch.bool)
    # A view of which the depth alone is unknown is noisy, too; a given one is not.
    unknown[:, 0, 0] = False
    unknown[:, 1] = False
    levels = windows.levels(unknown, torch.arange(4))
    assert levels.shape == (4, 4)
    assert torch.equal(levels[1:, 0], levels[:-1, -1])
    student = sigmas_for(4, 5, 1.5)
    torch.testing.assert_close(levels[:, 0], student[:-1])
    torch.testing.assert_close(levels[:, -1], student[1:])


@pytest.mark.parametrize("solver", ["euler", "dpmsolver++"])
def test_the_teacher_takes_the_samplers_steps(solver: str):
    steps = 12
    config = PaintConfig(steps, guidance_scale=3.0, solver=solver)  # type: ignore[arg-type]
    windows = Windows(1, config, CPU)
    starts = starts_of(windows, torch.zeros(2, dtype=torch.long))
    guidance = guidance_for(
        torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool), config
    )
    network: PainterNetwork = Shrink()  # type: ignore[assignment]
    found = solve(network, starts, windows.levels(starts.unknown, starts.window), guidance, solver)
    expected = paint(
        network,
        starts.given,
        starts.unknown,
        starts.memory,
        starts.rays,
        starts.attributes,
        starts.known,
        starts.x,
        config,
    )
    torch.testing.assert_close(found, expected)


def test_the_target_leads_to_where_the_teacher_lands():
    windows = Windows(4, PaintConfig(12), CPU)
    starts = starts_of(windows, torch.arange(4))
    levels = windows.levels(starts.unknown, starts.window)
    here, there = levels[:, 0], levels[:, -1]
    end = torch.randn_like(starts.x)
    target = target_of(starts.x, end, here, there)
    torch.testing.assert_close(starts.move(starts.x, target, here, there), end)


def trainer_of(config: PainterDistilConfig, store: ViewStore) -> tuple[DistilTrainer, BatchMaker]:
    trainer = DistilTrainer(config, store, Place(0, 1, CPU))
    return trainer, BatchMaker(store, config.batch, torch.Generator().manual_seed(1))


def test_a_perfect_student_has_no_loss(
    tmp_path: Path, teacher: Path, data: Path, store: ViewStore, monkeypatch: pytest.MonkeyPatch
):
    # A teacher whose prediction never changes takes a straight way, which is one step of Euler's.
    def same(self: PainterNetwork, batch: PainterBatch) -> Tensor:
        return 0.3 * batch.rays[:, :, :5] + 0.0 * self.norm_table.sum()

    monkeypatch.setattr(PainterNetwork, "forward", same)
    trainer, maker = trainer_of(settings(teacher, data, tmp_path / "out"), store)
    for _ in range(3):
        assert float(trainer.loss(maker, 4).detach()) < 1e-6


def test_guidance_is_baked_in(
    tmp_path: Path, teacher: Path, data: Path, store: ViewStore, monkeypatch: pytest.MonkeyPatch
):
    # Predictions that depend on attributes alone: the target is the guided one.
    def told(self: PainterNetwork, batch: PainterBatch) -> Tensor:
        known = batch.known.mean(1)[:, None, None, None, None]
        return known.expand_as(batch.noisy) + 0.0 * self.norm_table.sum()

    monkeypatch.setattr(PainterNetwork, "forward", told)
    batch = BatchConfig(no_attributes=0.0, some_attributes=0.0, given=0.0, damaged=0.0)
    seen = {}
    for name, no_memory in (("alone", 1.0), ("aided", 0.0)):
        changes = {"batch": dataclasses.replace(batch, no_memory=no_memory), "own_share": 0.0}
        config = settings(teacher, data, tmp_path / name, **changes)
        trainer, maker = trainer_of(config, store)
        starts = trainer._fresh(maker, 4, torch.ones(6, dtype=torch.long))
        trainer._starts = lambda maker, views, starts=starts: starts  # type: ignore[method-assign]
        shown = (starts.memory != 0).flatten(1).any(1)
        seen[name] = float(shown.float().mean())
        here = trainer.windows.levels(starts.unknown, starts.window)[:, 0]
        # All views have the same error of velocity, (scale - 1) / level, but for given ones.
        scale = torch.where(shown, 2.0, 3.0)
        loss = ((scale - 1.0) / here).square().mean()
        torch.testing.assert_close(trainer.loss(maker, 4).detach(), loss)
    assert seen["alone"] == 0 and seen["aided"] > 0


def test_a_balanced_loss():
    losses, window = torch.tensor([4.0, 1.0, 4.0, 4.0]), torch.tensor([0, 2, 0, 0])
    plain = Balance(3, 0.0, CPU)
    assert float(plain.weigh(losses, window)) == float(losses.mean())
    # Weights 1/2 and 1 of the windows seen, over their mean 3/4.
    half = Balance(3, 0.5, CPU)
    assert float(half.weigh(losses, window)) == pytest.approx((3 * 2.0 + 1.0) / 4 / 0.75)
    half.weigh(torch.tensor([9.0]), torch.tensor([0]))
    torch.testing.assert_close(half.running[[0, 2]], torch.tensor([4.1, 1.0]))


def test_sets_go_on_from_the_students_own_samples(
    tmp_path: Path, teacher: Path, data: Path, store: ViewStore
):
    config = settings(teacher, data, tmp_path / "out", own_share=1.0)
    trainer, maker = trainer_of(config, store)
    trainer.loss(maker, 4)
    first = trainer.under_way[4]
    starts = trainer._starts(maker, 4)
    went_on = first.window < 2
    assert bool(went_on.any()) and not bool(went_on.all())
    assert torch.equal(starts.x[went_on], first.x[went_on])
    # The others are new, and begin with noise.
    assert torch.equal(starts.window[~went_on], torch.zeros_like(starts.window[~went_on]))
    none, maker = trainer_of(dataclasses.replace(config, own_share=0.0), store)
    none.loss(maker, 4)
    assert not torch.isin(none._starts(maker, 4).x, none.under_way[4].x).all()


def test_windows_are_equally_frequent(tmp_path: Path, teacher: Path, data: Path, store: ViewStore):
    changes = {"own_share": 0.7, "views": 2400, "num_inference_steps": 4}
    config = settings(teacher, data, tmp_path / "out", teacher=PaintConfig(8), **changes)
    trainer, maker = trainer_of(config, store)
    counts = torch.zeros(4)
    trainer._fresh = lambda maker, views, window: dataclasses.replace(  # type: ignore[method-assign]
        starts_of(trainer.windows, window, size=1, views=1), window=window
    )
    for _ in range(200):
        starts = trainer._starts(maker, 4)
        counts += torch.bincount(starts.window, minlength=4)
        trainer.under_way[4] = dataclasses.replace(starts, window=starts.window + 1)
    torch.testing.assert_close(counts / counts.sum(), torch.full((4,), 0.25), atol=0.01, rtol=0)


def test_a_leg_is_reproducible_and_the_next_resumes_it(tmp_path: Path, teacher: Path, data: Path):
    weights = []
    for name in ("a", "b"):
        config = settings(
            teacher, data, tmp_path / name, steps=3, view_shares=(0, 0.5, 0, 0.5, 0, 0)
        )
        line = distil(config)
        assert line["step"] == 3 and len(line["windows"]) == 2
        weights.append(load_painter(tmp_path / name / "state").weights)
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    line = distil(dataclasses.replace(config, steps=5))
    assert line["step"] == 5
    lines = (tmp_path / "b" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
    with pytest.raises(InvalidInputError, match="another --out"):
        distil(dataclasses.replace(config, teacher=PaintConfig(6)))
    saved = load_painter(tmp_path / "b" / "state")
    assert saved.card["distilled"]["teacher_step"] == 9
    painter = NetworkPainter.from_pretrained(tmp_path / "b" / "state")
    assert painter.spec.views == 8 and painter.spec.height == 16
    assert painter.config == config.student() and painter.config.guidance_scale == 1.0


def test_the_loss_falls(tmp_path: Path, teacher: Path, data: Path):
    config = settings(teacher, data, tmp_path / "out", steps=60, learning_rate=2e-3, log_every=20)
    distil(config)
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.6 * losses[0]


def test_the_script_runs(
    tmp_path: Path, teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    size = "--views 24 --steps 1 --log-every 1 --num-inference-steps 2 --capacity 8"
    size += " --teacher.num-inference-steps 4"
    arguments = f"--painter {teacher} --data {data} --out {tmp_path / 'out'} {size}"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments.split()])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert load_painter(tmp_path / "out" / "state").card["step"] == 1


def test_settings_and_recordings_that_do_not_fit(
    tmp_path: Path, teacher: Path, data: Path, store: ViewStore
):
    with pytest.raises(InvalidInputError, match="does not divide"):
        settings(teacher, data, tmp_path, num_inference_steps=3)
    with pytest.raises(InvalidInputError, match="add up to 1"):
        settings(teacher, data, tmp_path, view_shares=(1.0,))
    other = make_tiny_painter().network
    save_painter(tmp_path / "other", other.settings, other.state_dict(), told={"step": 1})
    with pytest.raises(InvalidInputError, match="attributes"):
        trainer_of(settings(tmp_path / "other", data, tmp_path / "out"), store)
