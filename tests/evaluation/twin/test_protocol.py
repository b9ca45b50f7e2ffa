"""One command: all parts, twice the same; and worlds without geometry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.evaluation import tiny_world
from tests.helpers.worlds import make_tiny_world
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.twin import actions, ranks
from worldsim.evaluation.twin.trajectories import TRAJECTORIES
from worldsim.runtime.json_config import read_json
from worldsim.world.config import Termination


@pytest.fixture
def peek_alone() -> Iterator[None]:
    before = dict(TRAJECTORIES)
    TRAJECTORIES.clear()
    TRAJECTORIES["peek"] = before["peek"]
    yield
    TRAJECTORIES.clear()
    TRAJECTORIES.update(before)


@pytest.mark.usefixtures("peek_alone")
def test_one_command_measures_and_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "STEPS", 3)
    monkeypatch.setattr(actions, "FRAMES", 2)
    config = EvaluateConfig(
        "tiny", protocol="twin", quick=True, episodes=1, history=4, horizon=6, workers=0,
        bootstrap=20, json=tmp_path / "twin.json",
    )  # fmt: skip
    found = evaluate(config, tiny_world())
    told, shown = read_json(tmp_path / "twin.json"), capsys.readouterr().out
    assert (told["protocol"], told["episodes"], told["horizon"]) == ("twin/1", 1, 6)
    assert list(told["drift_psnr"]) == ["1-6"] and 0 <= told["action_score"]["all"] <= 1
    for kind in ("", "_no_memory", "_retrieval", "_stand", "_twin"):
        assert list(told[f"self_consistent{kind}"]) == ["peek"]
    assert told["input_kept_twin"]["peek"] == 40.0 > told["input_kept"]["peek"]
    assert len(told["area"]["dream"]) == len(told["policies"]) == 9
    assert "memory off" in shown and "action score" in shown and "rank agreement" in shown
    again = evaluate(config, tiny_world())
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_random_futures_of_a_world_without_geometry(capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = {"size": 32, "max_episode_steps": 12}
    world = make_tiny_world(
        geometry=False, rewards=True, termination=Termination.SAMPLE, env_kwargs=kwargs
    )
    config = EvaluateConfig("tiny", protocol="twin", episodes=4, bootstrap=20)
    found = evaluate(config, world)
    assert list(found["outcome_distance"]) == ["10"] and found["episodes"] == 4
    assert 0 < found["outcome_p"]["10"] <= 1 and found["outcome_distance"]["10"] > 0
    assert "energy distance" in capsys.readouterr().out
    with pytest.raises(MissingGeometryError, match="neither poses nor rewards"):
        evaluate(config, make_tiny_world(geometry=False, env_kwargs=kwargs))


def test_quick_gives_way_to_numbers() -> None:
    quick = EvaluateConfig("tiny", protocol="twin", quick=True)
    assert (quick.walks, quick.dreamed) == (2, 100)
    own = EvaluateConfig("tiny", protocol="twin", quick=True, episodes=5, horizon=30)
    assert (own.walks, own.dreamed) == (5, 30)
    assert EvaluateConfig("tiny", protocol="twin").dreamed == 500
    with pytest.raises(InvalidInputError, match="--quick belongs to --protocol twin"):
        EvaluateConfig("tiny", quick=True)
    with pytest.raises(InvalidInputError, match="fits no memory"):
        EvaluateConfig("tiny", protocol="twin", memory="radiance")
