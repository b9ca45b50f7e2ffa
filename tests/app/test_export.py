"""``worldsim export`` writes a whole world once, and never over another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import worldsim.world
from worldsim.app.export import ExportConfig, export
from worldsim.errors import InvalidInputError, NotFoundError


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with start scenes, and a World that saves one file which tells how it was called."""
    folder = tmp_path / "trained"
    (folder / "scenes").mkdir(parents=True)
    (folder / "scenes/a.png").write_bytes(b"picture")

    def save(out: Path, eight_bit: bool) -> None:
        (out / "world.json").write_text(f"eight bit: {eight_bit}")

    def load(name: str, device: Any = None) -> SimpleNamespace:
        assert (name, device) == (str(folder), "cpu")
        return SimpleNamespace(folder=folder, save_pretrained=save)

    monkeypatch.setattr(worldsim.world.World, "from_pretrained", load)
    return folder


def test_weights_and_start_scenes_are_written(trained: Path, tmp_path: Path):
    out = export(ExportConfig(str(trained), tmp_path / "out"))
    assert (out / "world.json").read_text() == "eight bit: True"
    assert (out / "scenes/a.png").read_bytes() == b"picture"


def test_a_world_is_not_overwritten(tmp_path: Path):
    (tmp_path / "world.json").write_text("mine")
    with pytest.raises(InvalidInputError, match=str(tmp_path)):
        export(ExportConfig("any", tmp_path))
    assert (tmp_path / "world.json").read_text() == "mine"


def test_an_unknown_world_is_named_and_writes_nothing(tmp_path: Path):
    with pytest.raises(NotFoundError, match="'no-such-world'"):
        export(ExportConfig("no-such-world", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
