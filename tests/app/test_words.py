"""``worldsim words``: the list, and what a prompt asks for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from worldsim.app import cli
from worldsim.painting.words.attributes import AttributePrior


def test_words_are_listed(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["words"]) == 0
    out = capsys.readouterr().out
    assert "brick, brickwork, bricked" in out and "without" in out and "crimson" in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_prompt_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "w.json"
    arguments = ["--prompt", "a brick cave under a red sky", "--json", str(path)]
    assert cli.main(["words", *arguments]) == 0
    out = capsys.readouterr().out
    assert "brick 0.7\nsky 0.7\n" in out
    assert "not understood by this painter, which has no attribute for that: 'red'" in out
    found = json.loads(path.read_text())
    assert found["amounts"] == {"brick": 0.7, "sky": 0.7} and found["ignored"] == ["red"]
    assert cli.main(["words", "--prompt", "a brik cave"]) == cli.USAGE_ERROR
    assert "near: brick" in capsys.readouterr().err


def test_words_are_those_of_the_painter(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    AttributePrior(np.full((4, 2), 90, np.uint8), ("brick", "stairs")).save(tmp_path)
    assert cli.main(["words", "--painter", str(tmp_path)]) == 0
    listed, lacking = capsys.readouterr().out.split("this painter has no attribute for it")
    assert "stair, staircase" in listed and "lava, magma" not in listed and "lava, magma" in lacking
    prompt = ["words", "--prompt", "brick steps", "--painter"]
    assert cli.main([*prompt, str(tmp_path)]) == 0
    assert "brick 0.7\nstairs 0.7" in capsys.readouterr().out
    assert cli.main([*prompt[:2], "brick and lava", "--painter", str(tmp_path)]) == cli.USAGE_ERROR
    assert "Leave 'lava' out" in capsys.readouterr().err
    assert cli.main([*prompt, str(tmp_path / "none")]) != 0
    assert "no table of attributes" in capsys.readouterr().err
