"""Planted shifts of actions are found, in made-up pictures and in a real engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.recordings.action_lag import plant
from worldsim.data.action_lag import SHIFTS, change_features, measure_action_lag, spread
from worldsim.data.episode import Episode
from worldsim.data.record import RecordConfig, record
from worldsim.errors import InvalidInputError

STEPS = 160


def walk(seed: int, momentum: float = 0.0, delay: int = 0, hold: int = 4) -> Episode:
    """A bright square of 6x6 pixels on 24x24; action 0 to 3 pushes it up, down, left or right by
    two pixels, ``delay`` steps later. Actions are held for 1 to ``hold`` steps."""
    rng = np.random.default_rng(seed)
    act = np.repeat(rng.integers(0, 4, STEPS), rng.integers(1, hold + 1, STEPS))[:STEPS]
    place, speed, frames = np.array([9.0, 9.0]), np.zeros(2), []
    for t in range(STEPS + 1):
        frame = np.full((24, 24, 3), 30, np.uint8)
        y, x = np.round(place).astype(int)
        frame[y : y + 6, x : x + 6] = 220
        frames.append(frame)
        push = np.array([(-2, 0), (2, 0), (0, -2), (0, 2)])[act[min(max(t - delay, 0), STEPS - 1)]]
        speed = momentum * speed + (1 - momentum) * push
        place = np.clip(place + speed, 0, 18)
    zeros = np.zeros(STEPS + 1, bool)
    return Episode(
        np.stack(frames), np.append(act, 0), zeros.astype(np.float32), zeros, zeros.copy()
    )


@pytest.mark.parametrize("by", SHIFTS)
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_a_planted_shift_is_found(by: int, momentum: float) -> None:
    lag = measure_action_lag([plant(walk(seed, momentum), by) for seed in range(5)])
    assert lag.shift == by
    # What comes after the cause has left no trace.
    assert all(gain < 0.3 * lag.gains[by] for shift, gain in lag.gains.items() if shift > by)
    assert bool(lag.problem) == (by != 0)
    if by:
        side = "late" if by > 0 else "early"
        assert f"come {abs(by)} frame{'s' * (abs(by) > 1)} {side}" in lag.problem
        assert f"Shift the actions by {-by:+d}" in lag.problem


def test_an_environment_that_answers_late_has_a_negative_shift() -> None:
    assert measure_action_lag([walk(seed, delay=1) for seed in range(5)]).shift == -1


def continuous(episode: Episode) -> Episode:
    act = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], np.float32)[episode.act]
    act[-1] = 0
    # A number that does nothing beside those that do.
    return dataclasses.replace(episode, act=np.append(act, act[::-1, :1] * 0 + 0.5, 1))


def one_action(episode: Episode) -> Episode:
    return dataclasses.replace(episode, act=np.zeros_like(episode.act))


def still(episode: Episode) -> Episode:
    return dataclasses.replace(episode, rgb=np.repeat(episode.rgb[:1], len(episode), 0))


def of_another(episode: Episode) -> Episode:
    return dataclasses.replace(episode, act=walk(1000 + int(episode.act.sum())).act)


@pytest.mark.parametrize(
    ("change", "shift", "note"),
    [
        (continuous, 0, ""),
        (one_action, None, "there is one action only"),
        (still, None, "no visible effect"),
        (of_another, None, "no visible effect"),
    ],
)
def test_what_cannot_be_told_is_said(
    change: Callable[[Episode], Episode], shift: int | None, note: str
) -> None:
    lag = measure_action_lag([change(walk(seed)) for seed in range(5)])
    assert lag.shift == shift and note in lag.note and not lag.problem


def test_too_little_is_said() -> None:
    lag = measure_action_lag([walk(0)])
    assert lag.shift is None and lag.gains == {} and "154 steps are too few" in lag.note
    with pytest.raises(InvalidInputError, match="no episodes were given"):
        measure_action_lag([])


def test_features_of_tiny_and_large_frames() -> None:
    for height, width in ((1, 1), (2, 3), (8, 8), (90, 161)):
        rgb = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), np.uint8)
        features = change_features(rgb)
        assert len(features) == 3 and np.isfinite(features).all()


def test_episodes_are_spread_over_a_sequence() -> None:
    """Of eight episodes of 10 steps, 40 steps are those of every other one."""
    zeros = np.zeros(11, bool)
    episodes = [
        Episode(np.zeros((11, 1, 1, 3), np.uint8), zeros, zeros, zeros, zeros, info={"i": i})
        for i in range(8)
    ]
    assert [e.info["i"] for e in spread(episodes, 40)] == [0, 4, 2, 6]
    assert [e.info["i"] for e in spread(iter(episodes), 40)] == [0, 1, 2, 3]
    assert sorted(e.info["i"] for e in spread(episodes[:5], 1000)) == [0, 1, 2, 3, 4]


def test_planted_shifts_in_freedoom_are_found(tmp_path: Path) -> None:
    """The real engine; experiments/recordings/action_lag.py has 20 recordings of five."""
    pytest.importorskip("vizdoom", reason="the real twin needs the extra doom")
    dataset = record(
        RecordConfig(
            "worldsim/FreedoomReal-v0",
            tmp_path,
            frames=900,
            workers=0,
            policy="random",
            min_travel=0.0,
            reset_options={"split": "train"},
        )
    )
    assert dataset.info.report["action_lag"]["shift"] == 0
    for by in (-2, 1):
        assert measure_action_lag([plant(e, by) for e in dataset]).shift == by
