"""Return trips on TinyRoom as the real twin: what is recorded, that scores mean what they say, what
is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.evaluation import SIZE, WINDOW, tiny_world
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.evaluation import measure
from worldsim.evaluation import return_trips as returns
from worldsim.evaluation.benchmark_set import digest, record_test_set
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.memory_fitting import Fits
from worldsim.evaluation.trip_recording import UNDO, Trip, TripConfig, stack_trips
from worldsim.memory.radiance import RadianceField, RadianceMemory, RadianceMemoryConfig

CONFIG = TripConfig("worldsim/TinyRoom-v0", {"size": SIZE}, start=3, lengths=(4, 14))


@pytest.fixture(scope="module")
def trips() -> list[Trip]:
    return record_test_set(CONFIG, range(2))


def test_a_trip_is_what_the_engine_does(trips: list[Trip]) -> None:
    """Played by hand: three frames to start from, n steps out, and the same actions undone in
    reverse order."""
    env: Any = gym.make(CONFIG.env_id, size=SIZE, disable_env_checker=True, max_episode_steps=100)
    for number, trip in enumerate(trips):
        assert (
            trip.rgb.shape == (17, 3, SIZE, SIZE)
            and trip.act.shape == (16,)
            and trip.pose.shape == (17, 4, 4)
        )
        for length in CONFIG.lengths:
            obs, _ = env.reset(seed=number, options={"split": "test"})
            assert np.array_equal(obs.transpose(2, 0, 1), trip.rgb[0])
            turn = 2 + length
            for act in trip.act[:turn]:
                obs, *_ = env.step(int(act))
            assert np.array_equal(obs.transpose(2, 0, 1), trip.rgb[turn])
            for j in range(length):
                obs, _, _, _, info = env.step(UNDO[trip.act[turn - 1 - j]])
                assert np.array_equal(obs.transpose(2, 0, 1), trip.back_rgb[length][j])
                assert np.allclose(info["pose"], trip.back_pose[length][j])
                assert trip.back_act[length][j] == UNDO[trip.act[turn - 1 - j]]


def test_trips_are_reproducible_and_cached(trips: list[Trip], tmp_path: Path) -> None:
    first = record_test_set(CONFIG, range(2), cache=tmp_path)
    assert digest(first) == digest(trips)
    again = record_test_set(CONFIG, range(2), cache=tmp_path)
    assert digest(again) == digest(trips) and [t.map for t in again] == [t.map for t in trips]
    other = record_test_set(dataclasses.replace(CONFIG, seed=1), range(2), cache=tmp_path)
    assert digest(other) != digest(trips)


def test_novelty_by_hand() -> None:
    """Half of the pixels change by 17 codes in one colour after 12 frames, the others by 16: those
    do not count."""
    rgb = torch.zeros(1, 13, 3, 2, 2, dtype=torch.uint8)
    rgb[0, 12, 1] = torch.tensor([[17, 16], [16, 17]])
    assert returns.changed_share(rgb).tolist() == [[0.5]]
    assert returns.changed_share(rgb[:, :12]).shape == (1, 0)


def test_returned_frames_are_compared_with_the_right_ones(trips: list[Trip]) -> None:
    """A world that stands for the engine: its true return is perfect, and so is its dream return
    where the way leads back."""

    class Engine:
        """Frames of the true way back, in the order in which they are asked for."""

        def __init__(self) -> None:
            self.world = tiny_world()
            self.calls: list[tuple[torch.Tensor, torch.Tensor | None]] = []

        def step(self, state: Any, act: torch.Tensor, pose: torch.Tensor | None = None) -> Any:
            self.calls.append((act, pose))
            return self.world.step(state, act, pose)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.world, name)

    stacked = stack_trips(trips, CONFIG)
    engine: Any = Engine()
    state = measure.start_walks(engine, stacked)
    back = returns._follow(
        engine, state, stacked.back_act[4], stacked.back_pose[4], lambda: None, None
    )
    assert back.shape == (2, 4, 3, SIZE, SIZE)
    for i, (act, pose) in enumerate(engine.calls):
        assert pose is not None
        assert torch.equal(act, stacked.back_act[4][:, i]) and torch.equal(
            pose, stacked.back_pose[4][:, i]
        )
    engine.calls.clear()
    out, poses, states = returns._dreamed_way_out(engine, stacked, lambda: None)
    assert out.shape[1] == 14 and poses.shape[1] == 15 and sorted(states) == [4, 14]
    # The first pose is that of the last given frame, and the last action out is the one before the
    # longest trip's turn.
    torch.testing.assert_close(poses[:, 0], stacked.pose[:, 2], atol=2e-3, rtol=0)
    assert torch.equal(engine.calls[0][0], stacked.act[:, 2]) and torch.equal(
        engine.calls[-1][0], stacked.act[:, 15]
    )
    assert torch.equal(states[4].frame.rgb, out[:, 3])


def test_the_protocol_writes_what_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trips.json"
    config = EvaluateConfig(
        "tiny",
        json=file,
        protocol="return-trip",
        episodes=2,
        lengths=(4, 14),
        workers=1,
        bootstrap=20,
        cache=tmp_path / "cache",
    )
    results = evaluate(config, tiny_world())
    stored = json.loads(file.read_text())
    assert stored == json.loads(json.dumps(results))
    keys = (
        "return_real_psnr",
        "return_real_psnr_no_memory",
        "return_real_psnr_retrieval",
        "return_psnr",
        "return_psnr_no_memory",
    )
    for key in keys:
        assert set(stored[key]) == {"4", "14"} and all(5 < v < 40 for v in stored[key].values()), (
            key
        )
        assert set(stored["ci95"]) >= {f"{key}.4", f"{key}.14"}
    assert stored["novelty"]["4"] is None and stored["novelty"]["14"] >= 0
    assert 0 < stored["sharpness_ratio"]["14"] < 5
    assert stored["episodes"] == 2 and stored["protocol"] == "return-trip/1"
    assert (
        evaluate(dataclasses.replace(config, json=None), tiny_world())["return_psnr"]
        == results["return_psnr"]
    )
    printed = capsys.readouterr().out
    assert "true return" in printed and "novelty" in printed and "2 trips" in printed


def test_fits_are_made_where_the_way_back_begins_and_on_it(
    trips: list[Trip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both ways back of each length, in the state of that moment; never on ways out, and for no
    other memory."""
    asked: list[tuple[int, int]] = []
    fit = RadianceMemory.fit

    def noted(self: RadianceMemory, memory: RadianceField, iterations: int) -> RadianceField:
        asked.append((int(memory.step[0]), iterations))
        return fit(self, memory, iterations)

    monkeypatch.setattr(RadianceMemory, "fit", noted)
    world, stacked = tiny_world(), stack_trips(trips, CONFIG)
    world = world.with_memory(
        RadianceMemory(world.memory, RadianceMemoryConfig(SIZE, SIZE, (16, 16, 8)))
    )  # type: ignore[arg-type]
    returned = returns.measure_returns(world, stacked, fits=Fits(iterations=2, every=6))
    # Trips turn at frames 6 and 16. Start frames count up to step 0, of which there is one: their
    # newest frames are of steps 5 and 15. The longer way back is walked 6 and 12 steps to the next
    # fits. True and dreamed ways have as many frames.
    assert sorted(asked) == sorted(2 * [(step, 2) for step in (5, 15, 21, 27)])
    plain = returns.measure_returns(tiny_world(), stacked, fits=Fits(2, 6))
    assert len(asked) == 8
    for length in CONFIG.lengths:
        assert not torch.equal(returned.real[length, ""], plain.real[length, ""])
        for kind in ("_no_memory", "_retrieval"):
            assert torch.equal(returned.real[length, kind], plain.real[length, kind])


def test_the_radiance_field_is_measured_by_the_same_keys(tmp_path: Path) -> None:
    config = EvaluateConfig(
        "tiny",
        json=tmp_path / "trips.json",
        protocol="return-trip",
        episodes=1,
        lengths=(4,),
        workers=1,
        bootstrap=20,
        memory="radiance",
        fit_iterations=2,
        fit_every=3,
    )
    evaluate(config, tiny_world())
    stored = json.loads((tmp_path / "trips.json").read_text())
    points = evaluate(dataclasses.replace(config, json=None, memory="points"), tiny_world())
    assert set(stored) - set(points) == {"memory", "fit_iterations", "fit_every"} and set(
        points
    ) <= set(stored)
    assert (stored["memory"], stored["fit_iterations"], stored["fit_every"]) == ("radiance", 2, 3)
    assert stored["return_real_psnr"] != points["return_real_psnr"]
    assert stored["return_real_psnr_no_memory"] == points["return_real_psnr_no_memory"]


def test_clear_errors() -> None:
    with pytest.raises(InvalidInputError, match="ascending"):
        TripConfig("worldsim/TinyRoom-v0", {}, lengths=(5, 4))
    with pytest.raises(InvalidInputError, match="--undo"):
        record_test_set(dataclasses.replace(CONFIG, undo=(0, 1)), range(1))
    blind = tiny_world()
    blind.ego_motion = None
    with pytest.raises(MissingGeometryError, match="--protocol walks"):
        evaluate(EvaluateConfig("tiny", protocol="return-trip"), blind)


def test_frames_in_the_attention_window_are_left_out() -> None:
    """PSNR 10 inside the window and 30 beyond it: 30 is reported."""
    values = torch.full((6, 6), 10.0)
    values[:, WINDOW - 1 :] = 30.0
    ones = (torch.ones(6, 12), 2 * torch.ones(6, 12))
    results = returns.compute(
        returns.Returned({(6, ""): values[..., None]}, {}, {6: ones}, {}), WINDOW, 10, 0
    )
    assert results["return_real_psnr"] == {"6": 30.0} and results["sharpness_ratio"] == {"6": 0.5}
    assert "at_64x64" not in results
    both = torch.stack([values, values + 1.0], -1)
    results = returns.compute(
        returns.Returned({(6, ""): both, (6, "_no_memory"): both - 2.0}, {}, {}, {}), WINDOW, 10, 0
    )
    assert results["return_real_psnr"] == {"6": 30.0}
    reduced = results["at_64x64"]
    assert reduced["return_real_psnr"] == {"6": 31.0} and reduced[
        "return_real_gain_over_no_memory"
    ] == {"6": 2.0}
    assert reduced["ci95"]["return_real_psnr.6"] == [31.0, 31.0]
