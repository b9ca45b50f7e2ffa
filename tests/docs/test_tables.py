"""The tables of the README, the benchmarks and the painter's page are what the measured files say,
the architecture picture is what the imports are, and the README is short and runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from worldsim.training.config import PRESETS, TrainConfig
from worldsim.world import World

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def script(name: str) -> ModuleType:
    """A file of experiments/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md", "docs/experiments/painter.md"])
def test_tables_are_what_the_files_say(page: str) -> None:
    text = (ROOT / page).read_text()
    assert text.count("<!-- table: ") == text.count("<!-- end -->") > 0
    assert script("tables").rewrite(text) == text, "run python experiments/tables.py"


def test_every_table_is_shown() -> None:
    pages = "".join((ROOT / page).read_text() for page in script("tables").PAGES)
    assert set(re.findall(r"<!-- table: (\w+) -->", pages)) == set(script("tables").TABLES)


def test_cards_hold_the_files_figures() -> None:
    """Reproduces: a card and a file with the return trips of the network before."""
    tables = script("tables")
    for world in ("freedoom-tiny", "freedoom-small"):
        folder = world.replace("-", "_")
        meta = tables.load(f"worldsim/worlds/{world}/world.json")["card"]
        for name, file in (("results", "evaluation"), ("return_trips", "return_trips")):
            measured = tables.experiment(f"{folder}/{file}.json")
            assert {key: measured[key] for key in meta[name]} == meta[name], (world, name)


def test_numbers_in_sentences_are_those_of_the_worlds() -> None:
    """Reproduces: sentences with the frames, points and parameters of worlds before."""
    tables = script("tables")
    docs = ROOT / "docs"
    memory, training = (
        (docs / page).read_text() for page in ("concepts/memory.md", "how_to/train_your_own.md")
    )
    for name in ("freedoom-tiny", "carracing", "takecover"):
        frames = tables.load(f"worldsim/worlds/{name}/world.json")["card"]["frames"]
        (row,) = [line for line in training.splitlines() if line.startswith(f"| `{name}`")]
        assert f"| {frames:,} |" in row
    for name in ("freedoom-tiny", "freedoom-small"):
        points = tables.load(f"worldsim/worlds/{name}/world.json")["config"]["memory"]["capacity"]
        assert re.search(rf"{points:,}( points)? in `{name}`", memory), (name, points)
    default = TrainConfig(data=(Path("data"),), out=Path("out")).world_memory_capacity
    assert f"{default:,} in a\nworld that `worldsim train` makes" in memory
    modules = World.from_pretrained("freedoom-tiny", device="cpu").modules()
    sizes = {k: sum(p.numel() for p in m.parameters()) / 1e6 for k, m in modules.items()}
    assert f"{sum(sizes.values()):.1f}M parameters, {sizes['dynamics']:.1f}M of them" in README
    assert PRESETS["tiny"] == PRESETS["small"]  # "two names of one network"


def test_figures_by_hand() -> None:
    tables = script("tables")
    results = {"a": 0.5, "b": {"8": 1234.567}, "ci95": {"b.8": [1.0, 2.345]}}
    assert tables.figure(results, "a", 0, 100, "%") == "50%"
    assert tables.figure(results, "b.8") == "1,234.57 [1.00, 2.35]"
    assert tables.markdown([["x", "y"], ["1", ""]]) == "| x | y |\n| --- | --- |\n| 1 | |\n"


def test_the_architecture_picture_is_what_the_imports_are() -> None:
    architecture = script("architecture")
    assert architecture.PICTURE.read_text() == architecture.draw(), (
        "run python experiments/architecture.py"
    )


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000
    rows = script("tables").TABLES["summary"]()
    assert len(rows) - 1 <= 10


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    local = [link for link in links if not link.startswith("https://")]
    folder = (ROOT / page).parent
    assert local and [link for link in local if not (folder / link).exists()] == []


def test_the_picture_moves_and_is_small() -> None:
    path = ROOT / "docs" / "images" / "dream.webp"
    assert path.stat().st_size <= 600_000
    with Image.open(path) as picture:
        assert picture.n_frames > 30  # type: ignore[attr-defined]


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 13
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["picture"].shape == (256, 256, 3)  # type: ignore[attr-defined]
    assert (tmp_path / "walk.safetensors").stat().st_size > 100_000
