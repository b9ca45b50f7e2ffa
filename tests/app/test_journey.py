"""``worldsim journey``: scenes for environments, resumed and continued, and clear ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.painters import INTRINSICS, SIZE, make_tiny_painter
from worldsim.app import cli
from worldsim.app.journey import JourneyRunConfig, journey
from worldsim.errors import InvalidInputError, PaintingError
from worldsim.painting.checkpoint import save_painter
from worldsim.painting.sampling import PaintConfig
from worldsim.scenes.recorded import RecordedScenes


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a painter with random weights."""
    folder = tmp_path_factory.mktemp("painter")
    one = make_tiny_painter(views=8)
    save_painter(
        folder,
        one.network.settings,
        one.network.state_dict(),
        spec=one.spec,
        sampling=PaintConfig(num_inference_steps=1),
    )
    return folder


def config(painter: Path, out: Path, **changes: object) -> JourneyRunConfig:
    settings = {"prompt": "a dark brick hall", "length": 1, "validate": False, "device": "cpu"}
    return JourneyRunConfig(out=out, painter=str(painter), **{**settings, **changes})  # type: ignore


def test_a_journey_is_a_scene_with_pictures(
    painter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "trip"
    arguments = ["journey", "--prompt", "a dark brick hall", "--length", "1", "--no-validate"]
    arguments += ["--painter", str(painter), "--out", str(out), "--device", "cpu"]
    assert cli.main([*arguments, "--json", str(tmp_path / "log.json")]) == 0
    told = capsys.readouterr()
    assert "1 place, 1 of them painted" in told.out and "a dark brick hall" in told.out
    assert f"result: {out}" in told.err and "worldsim view" in told.err
    for name in ("sheet.png", "map.png", "fly.mp4", "scene.ply", "scene.json"):
        assert (out / name).stat().st_size > 0
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["places"][0]["words"] == "a dark brick hall" and log["painter"]
    start = RecordedScenes(out).start(np.random.default_rng(0))
    assert start.rgb.shape == (1, 3, SIZE, SIZE)
    torch.testing.assert_close(start.intrinsics, torch.tensor(INTRINSICS))
    assert start.memory is not None and int(start.memory.seen.max()) < 0
    # Again: nothing is painted, and the files are the same.
    before = (out / "points.safetensors").read_bytes()
    assert cli.main(arguments) == 0
    assert (out / "points.safetensors").read_bytes() == before


def test_a_refused_journey_keeps_its_places_and_names_the_checks(painter: Path, tmp_path: Path):
    out = tmp_path / "trip"
    with pytest.raises(PaintingError, match=r"place 0 was refused .* checks"):
        # Random weights draw no place: they are refused by the depth that views disagree on.
        journey(config(painter, out, validate=True, tries=1, accept=1.0))
    assert not (out / "scene.json").exists()


def test_bad_words_are_named_before_anything_is_painted(painter: Path, tmp_path: Path):
    with pytest.raises(InvalidInputError, match="brik"):
        journey(config(painter, tmp_path / "trip", prompt="a brik hall"))


def test_another_seed_needs_another_folder(painter: Path, tmp_path: Path):
    journey(config(painter, tmp_path))
    with pytest.raises(InvalidInputError, match="seed = 0, now it is 3"):
        journey(config(painter, tmp_path, seed=3))
