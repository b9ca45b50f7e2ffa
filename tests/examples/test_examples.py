"""The examples run on a CPU, say what they did, and write what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.launching import run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WRITES = {
    "step_and_fork": ("bit for bit: True", ["futures.png", "moment.safetensors"]),
    "train_your_own": ("mean colour error", ["compare.png", "run/world/world.json"]),
    "plan_to_a_goal": ("\narrived\n", ["way.png", "frames.png"]),
    "edit_and_export_memory": ("triangles", ["edit.png", "memory.ply", "walk.glb"]),
}
"""By example: a text that it prints, and files that it writes."""


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(WRITES)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITES))
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, files = WRITES[name]
    monkeypatch.chdir(tmp_path)
    printed = run(EXAMPLES / f"{name}.py", str(tmp_path / "out"))
    assert said in printed, printed
    for file in files:
        path = tmp_path / "out" / file
        assert path.stat().st_size > 500
        if path.suffix == ".png":
            with Image.open(path) as picture:
                # Something is drawn.
                assert len(picture.convert("RGB").getcolors(2**24) or ()) > 20
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_every_example_has_cells_and_says_how_to_run_it() -> None:
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text()
        assert text.count("\n# %% ") >= 4
        assert f"python examples/{path.name} [OUT]" in text
