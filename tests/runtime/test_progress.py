"""Progress: a bar on a terminal, lines elsewhere, nothing where it shall be quiet."""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path

import pytest

from tests.helpers.clock import Clock
from worldsim.runtime import progress
from worldsim.runtime.progress import Progress, follow, say, silence, span

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_redirected_output_gets_a_line_every_ten_seconds_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str],
):
    """Reproduces: redirected to a file, bars printed hundreds of updates, or nothing at all."""
    clock = Clock()
    with Progress(200, "dreaming", clock=clock) as bar:
        for _ in range(200):
            clock.now += 0.125
            bar.update()
    out, err = capsys.readouterr()
    assert out == "" and "\r" not in err
    assert err.splitlines() == [
        "dreaming: 80 of 200 steps, 10.0 s, about 15.0 s left",
        "dreaming: 160 of 200 steps, 20.0 s, about 5.0 s left",
        "dreaming: 200 of 200 steps, 25.0 s",
    ]


def test_shares_notes_and_what_was_done_before(capsys: pytest.CaptureFixture[str]):
    clock = Clock()
    with Progress(100.0, "train", "%", initial=50.0, clock=clock) as bar:
        clock.now += 12.0
        bar.move_to(60.0, "step 7")
    assert capsys.readouterr().err.splitlines() == [
        "train: 60.0%, 12.0 s, about 48.0 s left, step 7",
        "train: 60.0%, 12.0 s, step 7",
    ]


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(3, "dreaming") as bar:
        say("something happened")
        bar.update(3)
    written = terminal.getvalue()
    assert "dreaming" in written and "something happened\n" in written
    # tqdm takes a bar away by overwriting it with blanks.
    assert written.rpartition("\r")[2] == "" and not written.endswith("\n")


def test_quiet(capsys: pytest.CaptureFixture[str]):
    with silence(), Progress(3, "dreaming") as bar:
        bar.update()
        say("not said")
        say("said", always=True)
    assert capsys.readouterr().err == "said\n"
    assert not progress.is_quiet()
    with silence(False):
        say("said again")
    assert capsys.readouterr().err == "said again\n"


def test_follow(capsys: pytest.CaptureFixture[str]):
    assert list(follow([5, 6], "reading", "batch")) == [5, 6]
    assert capsys.readouterr().err.startswith("reading: 2 of 2 batches, ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.074, "0.074 s"),
        (18.24, "18.2 s"),
        (59.97, "1 min"),
        (60, "1 min"),
        (450, "7 min 30 s"),
        (3600, "1 h"),
        (20_000, "5 h 33 min"),
    ],
)
def test_spans(seconds: float, text: str):
    assert span(seconds) == text


@pytest.mark.parametrize("folder", ["worldsim", "agents", "envs", "scenes"])
def test_all_progress_is_shown_by_one_helper(folder: str):
    """Reproduces: each use of tqdm decided for itself what a file gets to see."""
    for path in (ROOT / folder).rglob("*.py"):
        if path.name != "progress.py":
            imports = [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            names = {getattr(node, "module", None) for node in imports} | {
                alias.name for node in imports for alias in node.names
            }
            assert "tqdm" not in names, path
