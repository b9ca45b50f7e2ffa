"""What the compiled engine says: that it compiles, how long that took the last time, and when it
has finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.clock import Clock
from worldsim.runtime.compiling import LAST, Compiling
from worldsim.world import engine
from worldsim.world.engine import Compiled, batch_of


def test_it_says_that_it_compiles_and_for_how_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reproduces: ``engine="compiled"`` was silent for 165 s."""
    clock = Clock()
    told = Compiling(lambda: tmp_path, clock)
    for seconds in (100.0, 65.0):
        with told.part():
            clock.now += seconds
    told.done()
    told.done()
    assert capsys.readouterr().err.splitlines() == [
        f"compiling with torch's inductor: a minute or more at first. What it compiles is kept in "
        f"{tmp_path}",
        "compiled in 2 min 45 s",
    ]
    with Compiling(lambda: tmp_path, clock).part():
        pass
    assert "it took 2 min 45 s the last time here" in capsys.readouterr().err
    for wrong in ("soon", "nan", "-1", "1e9"):
        (tmp_path / LAST).write_text(wrong)
        with Compiling(lambda: tmp_path, clock).part():
            pass
        assert "a minute or more at first" in capsys.readouterr().err


def test_parts_within_parts_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    told = Compiling(lambda: tmp_path, clock)
    with told.part():
        clock.now += 1.0
        with told.part():
            clock.now += 2.0
        told.done()
    told.done()
    assert capsys.readouterr().err.splitlines()[-1] == "compiled in 3.0 s"


def test_an_engine_says_it_for_each_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With torch's own compiler, on a function that takes no time."""
    monkeypatch.setattr(engine, "COMPILING", Compiling(lambda: tmp_path))
    part = Compiled(lambda x: x + 1, "default", torch.device("cpu"))
    for size, begins in (
        (2, ["compiling", "compiled"]),
        (2, []),
        (3, ["compiling", "compiled"]),
        (2, []),
        (3, []),
    ):
        for _ in range(2):
            assert torch.equal(part(torch.zeros(size)), torch.ones(size))
        engine.COMPILING.done()
        assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == begins
    assert batch_of((1, torch.zeros(4, 2))) == 4 and batch_of((torch.tensor(1.0),)) == 0
