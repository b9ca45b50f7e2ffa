"""``worldsim words``: the list, and what a prompt asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldsim.app import cli


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
