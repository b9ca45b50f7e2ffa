"""Statistics of long walks: pairs of real walks from one start, and dreams beside them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.evaluation import SIZE, tiny_world
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.evaluation import long_walks
from worldsim.evaluation.benchmark_set import record_test_set
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.long_walks import NAMES, LongWalk, LongWalkConfig, Watch
from worldsim.memory.points import PointMemoryConfig
from worldsim.state import Frame

CONFIG = LongWalkConfig(
    "worldsim/TinyRoom-v0", {"size": SIZE}, history=3, steps=40, stretch=10,
    memory=PointMemoryConfig(capacity=2048),
)  # fmt: skip


@pytest.fixture(scope="module")
def walks() -> list[LongWalk]:
    return record_test_set(CONFIG, range(2))


def test_two_walks_part_from_one_start(walks: list[LongWalk]) -> None:
    for walk in walks:
        assert walk.rgb.shape == (3, 3, SIZE, SIZE) and walk.act.shape == (2,)
        assert walk.further_act.shape == (40,)
        assert walk.first.shape == walk.second.shape == (4, len(NAMES))
        assert not np.array_equal(walk.first, walk.second)
        # Nothing has changed over 12 steps before there were 12.
        assert np.isfinite(walk.first[1:]).all() and np.isnan(walk.first[0, 8])
    again = CONFIG.recorder().record(1)
    assert all(
        np.array_equal(a, again.arrays()[name], equal_nan=a.dtype.kind == "f")
        for name, a in walks[1].arrays().items()
    )


def test_statistics_by_hand() -> None:
    rgb = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    rgb[:, 0] = 51
    watch = Watch()
    for step in range(2):
        pose = torch.eye(4)[None].clone()
        pose[:, 0, 3] = 3.0 * step
        frame = Frame(rgb, torch.zeros(1, 8, 8, dtype=torch.int32), pose)
        watch.see(frame, torch.tensor([0.25]), torch.tensor([0.5]))
    (row,) = watch.stretches(2)[0]
    told = dict(zip(NAMES, row, strict=True))
    assert told["red mean"] == pytest.approx(0.2) and told["green mean"] == 0.0
    assert [told["sharpness"], told["red deviation"]] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert told["saturation"] == pytest.approx(1.0)
    assert told["metres from start"] == pytest.approx(1.5)
    assert (told["memory coverage"], told["memory used"]) == (0.25, 0.5)
    assert np.isnan(told["changed in 12 steps"])


def test_what_lies_within_the_band(walks: list[LongWalk]) -> None:
    """The first walks themselves lie within it nine times in ten, and what is shifted does not."""
    rng = np.random.default_rng(0)
    size = (50, 20, len(NAMES))
    first, second = rng.normal(size=size), rng.normal(size=size)
    many = [
        dataclasses.replace(walks[0], first=a, second=b) for a, b in zip(first, second, strict=True)
    ]
    dreamed = second.copy()
    dreamed[..., 0] += 3.0
    dreamed[..., 1] = 0.0
    told = long_walks.compute(dreamed, many, CONFIG, 50, 0)
    shares = np.array(list(told["inside_real"].values()))
    assert shares == pytest.approx(0.9, abs=0.03)
    assert told["inside"]["sharpness"] < 0.2 and told["inside"]["red mean"] == 1.0
    assert told["inside_last_fifth"]["sharpness"] < 0.2
    usual = sum(share >= 0.9 for share in told["inside"].values())
    assert told["within"] == usual and told["statistics"] == 13
    assert told["within_real"] == sum(share >= 0.9 for share in shares)


def test_one_command_measures_and_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = tiny_world(memory=CONFIG.memory)
    config = EvaluateConfig(
        "tiny", protocol="long-walks", json=tmp_path / "l.json", history=3, horizon=50,
        episodes=2, workers=1, bootstrap=20,
    )  # fmt: skip
    evaluate(config, world)
    told, shown = json.loads((tmp_path / "l.json").read_text()), capsys.readouterr().out
    assert (told["protocol"], told["steps"], told["episodes"]) == ("long-walks/1", 50, 2)
    assert 0 <= told["within"] <= 13 and 0 <= told["within_real"] <= 13
    assert f"{told['within']} of 13 statistics are within the band 90% of the time" in shown


def test_bad_input() -> None:
    with pytest.raises(InvalidInputError, match="at least a stretch of 50 steps"):
        LongWalkConfig("worldsim/TinyRoom-v0", {}, steps=40)
    with pytest.raises(MissingGeometryError, match="--protocol walks"):
        evaluate(EvaluateConfig("tiny", protocol="long-walks"), tiny_world(memory=None))
