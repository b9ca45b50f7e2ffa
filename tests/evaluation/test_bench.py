"""``worldsim bench``: what it reports, that an interruption loses nothing, and what it says of bad
input."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.errors import (
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    OutOfMemoryError,
    StorageError,
    WorldsimError,
)
from worldsim.evaluation import bench as module
from worldsim.evaluation.bench import BenchConfig, Start, bench
from worldsim.runtime.json_config import read_json
from worldsim.world import World

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "device": "cpu",
    "walk": 3,
    "warmup": 1,
    "repeats": 2,
    "timed_steps": 2,
    "cold_starts": 0,
}


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller products and copies: their speed is not what is tested."""
    ceilings = module.stopwatch.ceilings
    monkeypatch.setattr(module.stopwatch, "ceilings", lambda device: ceilings(device, quick=True))


def test_report(world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "bench.json"
    report = bench(
        BenchConfig(str(world_folder), path, batches=(1, 3), **{**QUICK, "cold_starts": 1})
    )
    assert read_json(path) == report
    assert [(r["batch"], r["memory"]) for r in report["results"]] == [
        (1, True),
        (3, True),
        (1, False),
        (3, False),
    ]
    for result in report["results"]:
        least, most = result["ms_per_step_range"]
        assert 0 < least <= result["ms_per_step"] <= most and result["repeats"] == 2
        assert result["steps_per_s"] == pytest.approx(
            1000 * result["batch"] / result["ms_per_step"]
        )
        assert sum(result["share"].values()) == pytest.approx(1.0)
        assert (
            result["precision"] == "float32"
            and result["flop_fraction"] > 0
            and result["bandwidth_fraction"] > 0
        )
        assert (result["memory_points"] > 0) == result["memory"]
    one, three = (r["gflop_per_step"] for r in report["results"][:2])
    assert three == pytest.approx(3 * one)
    assert set(report["cold_start"]) == {
        "import_s",
        "make_and_reset_s",
        "first_step_s",
        "processes",
    }
    assert (
        report["device_type"] == "cpu"
        and report["torch"] == torch.__version__
        and report["left_out"] == []
    )
    assert len(capsys.readouterr().out.splitlines()) == 6 + 4


def test_an_interrupted_bench_keeps_its_batches(
    world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    measure, path = module.measure, tmp_path / "bench.json"

    def interrupted(world: World, start: Start, batch: int, *rest: Any) -> dict[str, Any]:
        if batch == 2:
            raise KeyboardInterrupt
        return measure(world, start, batch, *rest)

    monkeypatch.setattr(module, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(BenchConfig(str(world_folder), path, batches=(1, 2), **QUICK))
    assert [r["batch"] for r in read_json(path)["results"]] == [1]


def test_batches_have_seeds_of_their_own_and_the_same_start_every_time(world_folder: Path):
    config = BenchConfig(str(world_folder), batches=(12,), **{**QUICK, "seed": 5})
    world = World.from_pretrained(world_folder, "cpu")
    start, again = Start(world, config), Start(world, config)
    state = start.batch(12)
    assert len(start.state) == 8 and state.seed.tolist() == [5_000_015 + i for i in range(12)]
    assert torch.equal(state.frame.rgb[8], state.frame.rgb[0]) and not torch.equal(
        state.frame.rgb[1], state.frame.rgb[0]
    )
    assert torch.equal(state.frame.rgb, again.batch(12).frame.rgb) and torch.equal(
        start.actions(12), again.actions(12)
    )
    assert start.actions(12).shape == (2, 12) and state.step.tolist() == [3] * 12
    assert start.batch(2, memory=False).memory == ()


def test_what_is_left_out_is_said():
    last = {"batch_size": 8, "ms_per_step": 400.0}
    assert module._left_out(32, last, 1, CPU) is None
    assert (
        module._left_out(1024, last, 1, CPU)
        == "a step would take about 51 s; ask for it by --batches 1024"
    )
    assert module._left_out(1024, None, 1, CPU) is None
    assert "environments fit in the memory of cpu" in str(
        module._left_out(1024, None, 1 << 40, CPU)
    )


def test_batches_that_were_not_asked_for_are_left_out(
    world_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "BATCHES", (1, 2))
    monkeypatch.setattr(module, "LONGEST_STEP_S", 1e-9)
    report = bench(BenchConfig(str(world_folder), memory="on", **QUICK))
    assert [r["batch"] for r in report["results"]] == [1]
    assert [(o["batch"], o["memory"]) for o in report["left_out"]] == [(2, True)]


def test_a_batch_that_does_not_fit(world_folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        OutOfMemoryError, match=r"batch of 1000000000 .* about \d+ fit: try --batches 1024"
    ):
        bench(BenchConfig(str(world_folder), batches=(10**9,), **QUICK))

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_steps", full)
    with pytest.raises(OutOfMemoryError, match="batch of 32 does not fit.*try --batches 8"):
        bench(BenchConfig(str(world_folder), batches=(32,), **QUICK))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": ()}, "at least one"),
        ({"batches": (8, 0)}, "at least 1 environment"),
        ({"threads": 0}, "threads = 0.*at least 1"),
        ({"threads": 99_999}, "threads = 99999.*at most 1024"),
        ({"seed": -1}, "seed = -1"),
        ({"cold_starts": 10**6}, "cold_starts = 1000000.*at most 1000"),
        ({"repeats": 0}, "repeats = 0"),
        ({"walk": -1}, "walk = -1"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str):
    with pytest.raises(InvalidInputError, match=message):
        BenchConfig(**changes)


@pytest.mark.parametrize("device", ["cuda:77", "abacus", "meta"])
def test_devices_that_are_not_there(device: str, world_folder: Path):
    with pytest.raises(InvalidInputError, match=f"device '{device}'"):
        bench(BenchConfig(str(world_folder), **{**QUICK, "device": device}))


def test_worlds_that_cannot_be_measured(world_folder: Path, tmp_path: Path):
    with pytest.raises(NotFoundError, match="no world 'freedom'.*freedoom-tiny"):
        bench(BenchConfig("freedom", **QUICK))
    bare = tmp_path / "bare"
    shutil.copytree(world_folder, bare, ignore=shutil.ignore_patterns("scenes"))
    with pytest.raises(NotFoundError, match="no start scenes"):
        bench(BenchConfig(str(bare), **QUICK))
    flat = make_tiny_world(geometry=False).save_pretrained(tmp_path / "flat")
    with pytest.raises(MissingGeometryError, match="leave out --memory"):
        bench(BenchConfig(str(flat), memory="on", **QUICK))


def test_a_process_that_fails_says_why(tiny_world: World):
    broken = make_tiny_world()
    broken.folder = Path("nowhere")
    with pytest.raises(WorldsimError, match="NotFoundError.*nowhere.*--cold-starts 0"):
        module.cold_start(broken, CPU, 1, 1)


def test_the_report_replaces_files_alone(world_folder: Path, tmp_path: Path):
    """Told before anything is measured."""
    pipe = tmp_path / "b.json"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="would be destroyed"):
        bench(BenchConfig(str(world_folder), pipe, batches=(1,), **QUICK))
    assert pipe.is_fifo()
    with pytest.raises(StorageError):
        bench(BenchConfig(str(world_folder), Path("/proc/nothing/b.json"), batches=(1,), **QUICK))


def test_a_walk_that_memory_has_no_room_for(world_folder: Path):
    with pytest.raises(OutOfMemoryError, match="the actions of 1000000000 steps"):
        bench(BenchConfig(str(world_folder), batches=(1024,), **{**QUICK, "walk": 10**9}))
