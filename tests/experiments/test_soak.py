"""The memory of a long run, as ``experiments/soak.py`` reads it: by hand, and in a short run of a
tiny world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.soak import growth
from tests.helpers.launching import launched

ROOT = Path(__file__).resolve().parents[2]


def readings(*values: float) -> list[dict[str, Any]]:
    return [{"step": 100 * i, "rss_mb": value} for i, value in enumerate(values)]


def test_growth_by_hand() -> None:
    """What comes before the memory has settled does not count; the largest value after it does,
    wherever it is."""
    assert growth(readings(100, 150, 200, 210, 204), settle=200) == pytest.approx(0.05)
    assert growth(readings(100, 150), settle=200) == 0.0
    assert growth(readings(100, 90, 200, 190), settle=200) == 0.0


def test_a_short_run(world_folder: Path, tmp_path: Path) -> None:
    """Both environments step, reset and are read. How much memory they take is not what a few
    hundred steps tell."""
    out = tmp_path / "soak.json"
    values = {
        "world": world_folder, "steps": 240, "single": 120, "batch": 8, "settle": 40,
        "episode": 20, "every": 20, "json": out,
    }  # fmt: skip
    options = (str(x) for name, value in values.items() for x in (f"--{name}", value))
    with launched("experiments.soak", *options) as process:
        process.wait()
        assert out.is_file(), process.printed
    found = json.loads(out.read_text())
    assert found["steps"] >= 240 and set(found["parts"]) == {"single", "batch"}
    single, batch = found["parts"]["single"], found["parts"]["batch"]
    assert single["steps"] == 120 and len(single["readings"]) >= 6 and single["resets"] >= 4
    assert batch["steps"] == 120 and batch["resets"] >= 8
    assert all(reading["rss_mb"] > 50 for part in (single, batch) for reading in part["readings"])
