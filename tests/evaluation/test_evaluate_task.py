"""Evaluating worlds without geometry: figures by hand, and the way from the twin to the file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.errors import MissingGeometryError
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.task import Dreamed, Forced, Truth, compute, dream, force, play
from worldsim.runtime.json_config import read_json
from worldsim.world.config import Termination
from worldsim.world.image_env import PixelsConfig


def test_figures_by_hand() -> None:
    """Two episodes: of three steps that ended without a picture, of one step that was cut off."""
    blank = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    episodes = [
        Truth(
            blank,
            torch.zeros(3, dtype=torch.int64),
            np.array([4.0, 4.0, 2.0]),
            ended=True,
            pictured=False,
        ),
        Truth(
            blank[:2],
            torch.zeros(1, dtype=torch.int64),
            np.array([4.0]),
            ended=False,
            pictured=True,
        ),
    ]
    forced = [
        Forced(
            np.array([20.0, 22.0, 0.0]),
            np.array([10.0, 12.0, 0.0]),
            np.array([8.0, np.nan, 0.0]),
            np.array([5.0, np.nan, 0.0]),
            np.array([4.0, 3.5, 2.5]),
            np.array([0.1, 0.1, 0.5]),
        ),
        Forced(
            np.array([30.0]),
            np.array([20.0]),
            np.array([12.0]),
            np.array([7.0]),
            np.array([4.0]),
            np.array([0.1]),
        ),
    ]
    dreams = [
        Dreamed(8.0, 2, {1: 25.0}, {1: 20.0}, {1: math.nan}, {1: math.nan}),
        Dreamed(
            16.0, 4, {1: 27.0, 8: 20.0}, {1: 22.0, 8: 18.0}, {1: 9.0, 8: 7.0}, {1: 5.0, 8: 6.0}
        ),
    ]
    found = compute(episodes, forced, dreams, 100, 0)
    assert found["next_frame_psnr"] == pytest.approx(24.0) and found[
        "copy_last_psnr"
    ] == pytest.approx(14.0)
    assert found["reward_error"] == pytest.approx(0.25)
    assert found["dream_ending_share"] == pytest.approx(0.2) and found[
        "real_ending_share"
    ] == pytest.approx(0.25)
    assert found["ending_log_loss"] == pytest.approx(-(3 * math.log(0.9) + math.log(0.5)) / 4)
    assert found["ending_log_loss_of_share"] == pytest.approx(
        -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    )
    assert (found["real_return_mean"], found["dream_return_mean"]) == (7.0, 12.0)
    assert (found["real_steps_mean"], found["dream_steps_mean"]) == (2.0, 3.0)
    assert found["psnr_at"] == {"1": 26.0, "8": 20.0}
    assert found["first_frame_psnr_at"] == {"1": 21.0, "8": 18.0}
    assert found["changed_psnr_at"] == {"1": 9.0, "8": 7.0}
    assert found["changed_first_frame_psnr_at"] == {"1": 5.0, "8": 6.0}
    # Steps that change nothing, and synthetic last frames, are left out.
    assert (found["changed_psnr"], found["changed_copy_psnr"]) == (10.0, 6.0)
    assert found["changed_gain"] == 4.0
    # The usual reward is 4; the unusual one, 2 at the end, is predicted as 2.5.
    assert (found["reward_f1"], found["reward_events"]) == (1.0, 1)
    assert found["reward_error_continuing"] == pytest.approx(0.5 / 3)
    assert found["reward_error_of_constant"] == 0.0
    assert [row["steps"] for row in found["ending_calibration"]] == [3, 1]
    assert found["ending_calibration_error"] == pytest.approx(0.75 * 0.1 + 0.25 * 0.5)
    assert found["ci95"]["real_return_mean"] is None
    low, high = compute(episodes * 3, forced * 3, dreams * 3, 100, 0)["ci95"]["real_return_mean"]
    assert 4.0 <= low < 7.0 < high <= 10.0


def test_a_world_without_geometry_is_evaluated(tmp_path: Path) -> None:
    """From a room, of which it sees no geometry; the same twice, and in batches of another size."""
    kwargs = {"size": 32, "max_episode_steps": 12}
    world = make_tiny_world(
        geometry=False, rewards=True, termination=Termination.SAMPLE, env_kwargs=kwargs
    )
    config = EvaluateConfig("tiny", episodes=3, json=tmp_path / "found.json", bootstrap=50)
    found = evaluate(config, world)
    assert (
        found["protocol"] == "task/1"
        and found["episodes"] == 3
        and found["max_episode_steps"] == 12
    )
    assert (
        found["real_steps_mean"] == 12.0
        and found["real_ending_share"] == 0.0
        and found["dream_steps_mean"] <= 12.0
    )
    assert 0 < found["next_frame_psnr"] < 40 and found["copy_last_psnr"] > found["next_frame_psnr"]
    assert read_json(tmp_path / "found.json")["next_frame_psnr"] == found["next_frame_psnr"]
    again = evaluate(EvaluateConfig("tiny", episodes=3, bootstrap=50), world)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
    with pytest.raises(MissingGeometryError, match="no poses"):
        evaluate(EvaluateConfig("tiny", episodes=1, protocol="return-trip"), world)


def test_padded_episodes_do_not_touch_one_another() -> None:
    """Of other lengths in one batch, each is judged as it is alone."""
    world = make_tiny_world(
        geometry=False, rewards=True, env_kwargs={"size": 48}, pixels=PixelsConfig((32, 32))
    )
    world.config.env_kwargs["max_episode_steps"] = 9
    episodes, limit = play(world, 2, 0, lambda n: None)
    assert limit == 9 and [len(e) for e in episodes] == [9, 9] and all(e.pictured for e in episodes)
    short = Truth(episodes[0].rgb[:5], episodes[0].act[:4], episodes[0].rew[:4], False, True)
    both, alone = (
        force(world, [short, episodes[1]], lambda n: None),
        force(world, [short, short], lambda n: None),
    )
    np.testing.assert_allclose(both[0].psnr, alone[0].psnr, atol=0.05)
    assert both[0].psnr.shape == (4,) and both[1].psnr.shape == (9,)
    dreamed = dream(world, episodes, 0, 0, limit, lambda n: None)
    assert all(d.steps <= 9 and set(d.psnr_at) <= {1, 8} for d in dreamed)
