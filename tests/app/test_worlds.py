"""``worldsim worlds`` lists what is shipped, damaged cards included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldsim.app import worlds as module
from worldsim.app.worlds import WorldsConfig, _as_text, describe_worlds, worlds


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two worlds, one with a card cut short, and a file that is no world."""
    results = {"next_frame_psnr": 28.04, "action_accuracy": 0.955, "seconds": 3}
    card = {"summary": "a maze", "trained_on": "2M frames", "results": results}
    (tmp_path / "b-good").mkdir()
    (tmp_path / "b-good/world.json").write_text(
        json.dumps({"format": "worldsim-world", "card": card})
    )
    (tmp_path / "b-good/weights.safetensors").write_bytes(bytes(2_500_000))
    (tmp_path / "a-cut").mkdir()
    (tmp_path / "a-cut/world.json").write_text('{"trained_on": ')
    (tmp_path / "README").write_text("")
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    return tmp_path


def test_worlds_are_described(shipped: Path):
    cut, good = describe_worlds(shipped)
    assert (cut["name"], good["name"]) == ("a-cut", "b-good")
    assert "a-cut/world.json" in cut["error"]
    assert (good["megabytes"], good["trained_on"], good["results"]["next_frame_psnr"]) == (
        2.5,
        "2M frames",
        28.04,
    )


def test_the_list_is_printed_and_written(shipped: Path, capsys: pytest.CaptureFixture[str]):
    worlds(WorldsConfig(json=shipped / "list.json"))
    printed = capsys.readouterr().out
    assert (
        "b-good  2.5 MB\n  a maze\n  trained on 2M frames\n  28.0 dB next frame, 96% of actions "
        "told apart" in printed
    )
    assert [world["name"] for world in json.loads((shipped / "list.json").read_text())] == [
        "a-cut",
        "b-good",
    ]


def test_an_empty_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    worlds(WorldsConfig())
    assert str(tmp_path) in capsys.readouterr().out


def test_cards_that_are_none(tmp_path: Path):
    for i, card in enumerate(
        (
            "[]",
            '{"card": 3}',
            '{"card": {"results": [1]}}',
            '{"card": {"results": {"seen_psnr": "x"}}}',
            "[[",
        )
    ):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "world.json").write_text(card)
    (tmp_path / "5").mkdir()
    (tmp_path / "5/world.json").write_text('{"card": {}}')
    (tmp_path / "5/secret").symlink_to("/etc/passwd")
    found = describe_worlds(tmp_path)
    assert ["error" in one for one in found] == [True, True, True, False, True, True]
    assert all(_as_text(one) for one in found)
