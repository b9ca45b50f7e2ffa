"""The protocol, on TinyRoom as the real twin: what is recorded, that scores mean what they say,
what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.evaluation import SIZE, tiny_world
from worldsim.envs.tiny_room import TinyRoom
from worldsim.errors import InvalidInputError
from worldsim.evaluation import figures, measure
from worldsim.evaluation.benchmark_set import TestSet, TestSetConfig, digest, record_test_set, stack
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.metrics import moved_frames
from worldsim.state import Transition, WorldState
from worldsim.world import World

SHORT = {"history": 6, "horizon": 4, "episodes": 2, "workers": 1, "bootstrap": 50}


class Oracle(World):
    """Returns the real twin's frames, those of ``shift`` steps later."""

    truth: TestSet
    shift = 0

    def step(
        self, state: WorldState, act: Tensor, pose: Tensor | None = None
    ) -> tuple[WorldState, Transition]:
        self.now = int(state.step[0]) + 1
        after, transition = super().step(state, act, pose)
        rgb = torch.stack([self._frame(i, a) for i, a in enumerate(act)])
        return after, dataclasses.replace(
            transition, frame=dataclasses.replace(transition.frame, rgb=rgb)
        )

    def _frame(self, walk: int, act: Tensor) -> Tensor:
        if int(act) == int(self.truth.act[walk, self.now - 1]):
            return self.truth.rgb[walk, self.now + self.shift]
        if self.now - 1 in self.truth.config.fork_frames and self.shift == 0:
            return self.truth.fork_rgb[
                walk, self.truth.config.fork_frames.index(self.now - 1), int(act)
            ]
        return torch.zeros_like(self.truth.rgb[0, 0])

    def without_memory(self) -> World:
        return self


@pytest.fixture(scope="module")
def test_set() -> TestSet:
    config = TestSetConfig("worldsim/TinyRoom-v0", {"size": SIZE}, history=6, horizon=4)
    return stack(record_test_set(config, range(3)), config)


def oracle(test: TestSet, shift: int = 0) -> Oracle:
    world = tiny_world(Oracle)
    assert isinstance(world, Oracle)
    world.truth, world.shift = test, shift
    return world


def test_the_true_next_frame_scores_the_cap(test_set: TestSet) -> None:
    result = measure.measure(oracle(test_set), test_set)
    for scores in (result.next, result.given, result.own):
        assert scores is not None and bool((scores == 40.0).all())
    assert bool((result.other < 20.0).all())
    assert bool(result.fork_right[result.fork_counts].all())
    assert bool(result.fork_counts.any())


def test_a_shift_by_one_frame_shows(test_set: TestSet) -> None:
    last = measure.measure(oracle(test_set, shift=-1), test_set)
    # The frame before is what copying the last frame gives, exactly.
    assert last.next.tolist() == last.copy.tolist()
    moved = moved_frames(test_set.pose)[:, 5:]
    assert bool((last.next[moved] < 40.0).all()) and bool(moved.any())
    assert last.own is not None and last.own.tolist() == last.copy.tolist()


def test_baselines_by_hand(test_set: TestSet) -> None:
    world = tiny_world()
    result = measure.measure(world, test_set)
    assert result.stand[:, 0].tolist() == result.copy[:, 0].tolist()
    assert bool((result.nearest >= 0).all()) and bool((result.splat >= result.nearest - 3.0).all())
    # Warped to the true pose, the last frame fits better than where it stood.
    t = test_set.config.history
    last, frame = test_set.frame(t - 1), test_set.frame(t)
    assert last.pose is not None and last.inverse_depth is not None and frame.pose is not None
    same = measure.warp(
        last.rgb, last.inverse_depth, test_set.camera(last.pose), test_set.camera(last.pose)
    )
    assert torch.equal(same, last.rgb)


def test_fork_frames_hold_what_each_action_leads_to(test_set: TestSet) -> None:
    config = test_set.config
    assert config.fork_frames == (2, 5)
    env = TinyRoom(size=SIZE)
    for act in range(7):
        obs, _ = env.reset(seed=1, options={"split": "test"})
        for taken in test_set.act[1, :5].tolist():
            env.step(taken)
        obs, *_ = env.step(act)
        assert np.array_equal(obs.transpose(2, 0, 1), test_set.fork_rgb[1, 1, act].numpy())
    own = test_set.fork_own[1, 1].item()
    assert own == test_set.act[1, 5].item()
    assert torch.equal(test_set.fork_rgb[1, 1, own], test_set.rgb[1, 6])
    assert bool((test_set.other_act != test_set.act[:, 5:]).all())


def test_recording_does_not_depend_on_who_records(tmp_path: Path) -> None:
    config = TestSetConfig("worldsim/TinyRoom-v0", {"size": SIZE}, history=4, horizon=2)
    alone = record_test_set(config, range(3))
    assert digest(record_test_set(config, range(3), workers=2, cache=tmp_path)) == digest(alone)
    # One kept walk is damaged: it is recorded again, the others are read.
    kept = sorted(tmp_path.rglob("*.safetensors"))
    assert len(kept) == 3
    kept[1].write_bytes(b"gone")
    assert digest(record_test_set(config, range(3), cache=tmp_path)) == digest(alone)
    assert digest(record_test_set(config, range(1, 3), cache=tmp_path)) == digest(alone[1:])
    assert digest(record_test_set(dataclasses.replace(config, seed=1), range(3))) != digest(alone)


def test_what_the_command_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sub" / "results.json"
    config = EvaluateConfig(
        "tiny",
        json=out,
        history=6,
        horizon=48,
        episodes=2,
        workers=1,
        bootstrap=100,
        pictures=tmp_path / "strips",
    )
    evaluate(config, tiny_world())
    results = json.loads(out.read_text())
    single = (
        "next_frame_psnr copy_last_psnr warp_last_psnr seen_psnr seen_nearest_psnr "
        "seen_splat_psnr seen_psnr_no_memory unseen_psnr "
        "action_gap_psnr action_accuracy position_error_pct position_error_pct_p90 "
        "heading_error_deg"
    ).split()
    for key in single:
        assert key in results and key in results["ci95"]
        # Two walks are too few for intervals.
        assert results["ci95"][key] is None
    for group in ("psnr_at", "free_running_psnr_at"):
        assert list(results[group]) == ["1", "8", "24", "48"]
        assert f"{group}.8" in results["ci95"]
    assert set(results["gaps"]) == {
        "next_minus_copy",
        "next_minus_warp",
        "seen_minus_best_baseline",
        "seen_minus_no_memory",
    }
    assert results["gaps"]["next_minus_copy"] == pytest.approx(
        results["next_frame_psnr"] - results["copy_last_psnr"], abs=1e-3
    )
    assert {"seen_frames", "episodes", "sampling_steps", "seconds", "test_set_sha256"} <= set(
        results
    )
    assert results["maps"] and set(results["maps"]) <= {"room-6", "room-7"}
    assert len(list((tmp_path / "strips").glob("*.png"))) == 2
    printed = capsys.readouterr().out
    assert "copy last" in printed and printed.endswith(
        "too few episodes for intervals: 2 of at least 5\n"
    )


def test_same_seed_same_figures() -> None:
    first, again, other = (
        evaluate(EvaluateConfig("tiny", seed=seed, **SHORT), tiny_world()) for seed in (0, 0, 1)
    )  # type: ignore[arg-type]
    for results in (first, again, other):
        for key in ("seconds", "steps_per_second"):
            results.pop(key)
    assert first == again
    assert first["test_set_sha256"] != other["test_set_sha256"]


def test_without_memory_the_two_seen_figures_agree() -> None:
    results = evaluate(EvaluateConfig("tiny", **SHORT), tiny_world(memory=None))  # type: ignore[arg-type]
    assert results["seen_psnr"] == results["seen_psnr_no_memory"]
    assert results["seen_splat_psnr"] is not None


def test_more_walks_until_enough_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldsim.evaluation.evaluate.FULL_EPISODES", 2)
    monkeypatch.setattr("worldsim.evaluation.evaluate.EXTRA_EPISODES", 1)
    config = EvaluateConfig("tiny", **{**SHORT, "horizon": 4}, min_seen_frames=10_000)  # type: ignore[arg-type]
    assert evaluate(config, tiny_world())["episodes"] == 8


def test_refusals() -> None:
    world = tiny_world()
    world.card["train_maps"] = ["room-6", "room-7"]
    with pytest.raises(InvalidInputError, match="trained on room-"):
        evaluate(EvaluateConfig("tiny", **SHORT), world)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="real twin"):
        evaluate(EvaluateConfig("tiny", **SHORT), tiny_world(env_id=""))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="32x32.*16x16"):
        evaluate(EvaluateConfig("tiny", **SHORT), tiny_world(env_kwargs={"size": 32}))  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="episodes = 0"):
        EvaluateConfig("tiny", episodes=0)


def hand_made(**changes: Any) -> dict[str, Any]:
    """Two walks of four frames, all scores 20 dB unless said otherwise."""
    twenty = np.full((2, 4), 20.0)
    names = (
        "next",
        "copy",
        "warp",
        "other",
        "given",
        "no_memory",
        "own",
        "nearest",
        "splat",
        "stand",
    )
    measured: dict[str, Any] = {name: twenty for name in names}
    measured |= {
        "fork_right": np.ones((2, 2, 7), bool),
        "fork_counts": np.ones((2, 2, 7), bool),
        "own_pose": None,
    }
    return measured | changes


def straight(metres: float) -> np.ndarray[Any, Any]:
    """Five poses along x, of two walks: the second one stands still."""
    pose = np.tile(np.eye(4), (2, 5, 1, 1))
    pose[0, :, 0, 3] = np.linspace(0.0, metres, 5)
    return pose


def test_seen_frames_lie_beyond_the_window() -> None:
    given = np.array([[1.0, 2.0, 30.0, 10.0], [1.0, 2.0, 20.0, 40.0]])
    covered = np.array([[1.0, 1.0, 1.0, 0.8], [1.0, 1.0, 0.81, 1.0]])
    moved = np.array([[True] * 4, [True, True, True, False]])
    result = figures.compute(
        hand_made(given=given), moved, covered, straight(4.0), window=3, draws=20, seed=0
    )
    # Frames 1 and 2 still attend to true ones; exactly 80% is not over 80%; the last frame of walk
    # 2 stood still.
    assert result["seen_frames"] == 2 and result["seen_psnr"] == 25.0
    assert result["unseen_psnr"] == 10.0
    assert result["psnr_at"] == {"1": 1.0}
    assert result["gaps"]["seen_minus_best_baseline"] == 5.0


def test_the_best_baseline_counts() -> None:
    measured = hand_made(
        given=np.full((2, 4), 26.0), nearest=np.full((2, 4), 21.0), splat=np.full((2, 4), 23.0)
    )
    result = figures.compute(
        measured, np.ones((2, 4), bool), np.ones((2, 4)), straight(4.0), window=1, draws=20, seed=0
    )
    assert result["gaps"]["seen_minus_best_baseline"] == 3.0
    assert result["ci95"]["gaps.seen_minus_best_baseline"] is None
    six = {
        name: None if value is None else np.concatenate([value] * 3)
        for name, value in measured.items()
    }
    pose = np.concatenate([straight(4.0)] * 3)
    result = figures.compute(
        six, np.ones((6, 4), bool), np.ones((6, 4)), pose, window=1, draws=20, seed=0
    )
    assert result["ci95"]["gaps.seen_minus_best_baseline"] == [3.0, 3.0]


def test_position_error_by_hand() -> None:
    truth, own = straight(8.0), straight(8.0)[:, 1:].copy()
    own[0, -1, 0, 3] = 8.4
    angle = math.radians(3.0)
    own[0, -1, :2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    moved = np.ones((2, 4), bool)
    result = figures.compute(
        hand_made(own_pose=own), moved, np.ones((2, 4)), truth, window=1, draws=20, seed=0
    )
    # 0.4 m of 8 m; the walk that stands still has no path of 5 m.
    assert result["position_error_pct"] == pytest.approx(5.0, abs=1e-3)
    assert result["heading_error_deg"] == pytest.approx(3.0, abs=1e-3)
    assert result["position_episodes"] == 1
    # Through places mostly unseen, a walk counts among all walks only.
    covered = np.array([[1.0, 1.0, 1.0, 0.5], [1.0] * 4])
    result = figures.compute(
        hand_made(own_pose=own), moved, covered, truth, window=1, draws=20, seed=0
    )
    assert result["position_error_pct"] is None and result[
        "position_error_pct_all"
    ] == pytest.approx(5.0, abs=1e-3)


def test_indistinguishable_actions_do_not_count() -> None:
    right, counts = np.zeros((2, 2, 7), bool), np.zeros((2, 2, 7), bool)
    counts[0, 0, :4], right[0, 0, :3], right[1] = True, True, True
    result = figures.compute(
        hand_made(fork_right=right, fork_counts=counts),
        np.ones((2, 4), bool),
        np.ones((2, 4)),
        straight(4.0),
        window=1,
        draws=20,
        seed=0,
    )
    assert result["action_accuracy"] == 0.75 and result["action_dreams"] == 4
