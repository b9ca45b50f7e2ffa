"""The report of a recording: hand-computed counts, and warnings of what cannot be learned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.app import cli
from worldsim.data.dataset import DatasetInfo, EpisodeDataset, EpisodeWriter
from worldsim.data.episode import Episode
from worldsim.data.report import add_report, measure_recording, training_warnings
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError

DISCRETE = {"type": "Discrete", "n": 3}


def episode(act: list[Any], rew: list[float], end: str, still: int = 0, **info: Any) -> Episode:
    """One frame more than actions; frame i has the brightness 10 i, but the last ``still`` ones are
    alike."""
    n = len(act)
    levels = np.minimum(np.arange(n + 1), n - still) * 10
    rgb = np.broadcast_to(levels[:, None, None, None], (n + 1, 8, 8, 3)).astype(np.uint8)
    acts = np.array(act, np.int64 if isinstance(act[0], int) else np.float32)
    flags = {name: np.zeros(n + 1, bool) for name in ("term", "trunc")}
    flags[end][-2] = True
    return Episode(
        np.ascontiguousarray(rgb),
        np.concatenate([acts, np.zeros_like(acts[:1])]),
        np.array([*rew, 0.0], np.float32),
        info=info,
        **flags,
    )


def recording(folder: Path, episodes: list[Episode], space: Any = None) -> EpisodeDataset:
    info = DatasetInfo("some/Game-v0", {"shape": [8, 8, 3]}, space or DISCRETE, policy="mix")
    with EpisodeWriter(folder, info, frames_per_shard=5) as writer:
        for one in episodes:
            writer.add(one)
    return EpisodeDataset(folder)


def small(folder: Path) -> EpisodeDataset:
    """Two episodes of 4 and 6 steps, in two shards."""
    return recording(
        folder,
        [
            episode([0, 0, 1, 0], [0, 0, 5, 0], "term", policy="random"),
            episode([1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, -1], "trunc", still=3, policy="sticky"),
        ],
    )


def test_counts(tmp_path: Path) -> None:
    found = measure_recording(small(tmp_path))
    assert (found.frames, found.episodes, found.steps) == (12, 2, 10)
    assert found.episode_steps == (4, 5.0, 6)
    rewards = found.rewards
    assert (rewards.count, rewards.per_thousand, rewards.usual) == (2, 200.0, 0.0)
    assert (rewards.mean, rewards.lowest, rewards.highest) == (0.4, -1.0, 5.0)
    assert (found.terminations.count, found.terminations.per_thousand) == (1, 100.0)
    assert found.truncations.count == 1
    assert found.actions == [{"share": [0.5, 0.5, 0.0]}]
    assert found.policies == {
        "random": {"episodes": 1, "steps": 4, "events": 1, "terminations": 1},
        "sticky": {"episodes": 1, "steps": 6, "events": 1, "terminations": 0},
    }
    pictures = found.pictures
    # Of ten steps, the last three of the second episode change nothing; seven change by 10.
    assert (pictures.steps, pictures.frozen, pictures.change) == (10, 0.3, 7.0)
    assert pictures.still == 0.3
    # 0, 10, 20, 30, 40 and 0, 10, 20, 30, 30, 30, 30.
    assert pictures.brightness == round((100 + 150) / 12, 2)
    assert (pictures.one_colour, pictures.contrast) == (1.0, 0.0)
    assert "never taken: action 2" in found.notes
    assert found.action_lag.shift is None and "steps are too few" in found.action_lag.note


def test_continuous_actions(tmp_path: Path) -> None:
    """From -1 to 1 in ten bins: -1 falls into the first, 0 into the sixth, 1 into the last."""
    space = {"type": "Box", "low": [-1.0, 0.0], "high": [1.0, 2.0]}
    act = [[-1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    acts = episode([0.0] * 4, [0.0] * 4, "trunc")
    acts = dataclasses.replace(acts, act=np.array([*act, [0, 0]], np.float32))
    found = measure_recording(recording(tmp_path, [acts], space))
    first, second = found.actions
    assert first["share"] == [0.25, 0, 0, 0, 0, 0.25, 0, 0, 0, 0.5]
    assert (first["mean"], first["low"], first["high"]) == (0.25, -1.0, 1.0)
    assert second["std"] == 0.0 and "action[1] is always 1" in found.notes


def test_rare_events_are_warned_of_with_what_to_do(tmp_path: Path) -> None:
    """Two events in twelve frames: 200 need 1,200 frames."""
    dataset = small(tmp_path)
    with pytest.warns(UserWarning, match="1 terminations in 10 steps are too rare to learn"):
        found = add_report(dataset)
    assert any(
        "2 unusual rewards in 10 steps are too rare to learn; 200 are needed. Record some 1,200 "
        "frames (--frames), or with --policy mix" in one
        for one in found.warnings
    )
    many = episode([0, 1] * 200, [1.0, 0.0] * 200, "trunc")
    found = measure_recording(recording(tmp_path / "many", [many]))
    assert found.rewards.count == 200 and not any("rewards" in one for one in found.warnings)
    # Where no reward is in the majority, they are dense.
    dense = episode([0, 1] * 4, [float(i) for i in range(8)], "trunc")
    found = measure_recording(recording(tmp_path / "dense", [dense]))
    assert (found.rewards.usual, found.rewards.count) == (0.0, 7)
    # A living reward on every step is usual.
    living = episode([0, 1] * 4, [1.0] * 8, "trunc")
    found = measure_recording(recording(tmp_path / "living", [living]))
    assert (found.rewards.usual, found.rewards.count) == (1.0, 0)
    assert any("every reward is 1" in note for note in found.notes)


def test_frozen_frames_are_warned_of(tmp_path: Path) -> None:
    found = measure_recording(recording(tmp_path, [episode([0] * 9, [0.0] * 9, "trunc", still=6)]))
    assert found.pictures.frozen == 0.6667
    assert any("67% of steps change no pixel" in one for one in found.warnings)


def test_the_report_stands_in_the_index_and_goes_with_what_it_describes(tmp_path: Path) -> None:
    dataset = small(tmp_path)
    assert dataset.info.report == {}
    with pytest.warns(UserWarning, match="too rare"):
        found = add_report(dataset)
    again = EpisodeDataset(tmp_path)
    assert again.info == dataset.info and again.verify() == ()
    assert again.info.report["warnings"] == found.warnings == training_warnings(again)
    with EpisodeWriter(tmp_path, dataclasses.replace(again.info, report={})) as writer:
        writer.add(again[0])
    assert EpisodeDataset(tmp_path).info.report == {}


def test_the_command_prints_it_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path / "data")
    file = tmp_path / "report.json"
    assert cli.main(["report", str(tmp_path / "data"), "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("12 frames, 2 episodes of 4 to 6 steps (mean 5.0)\nrewards: 2 steps")
    assert "policy random: 1 episodes, 4 steps, 1 unusual rewards, 1 terminations" in out
    assert "warning: 2 unusual rewards" in out and f"result: {file}" in err
    assert json.loads(file.read_text())["rewards"]["count"] == 2
    with pytest.raises(NotFoundError, match="worldsim record"):
        cli.run("report", [str(tmp_path / "nowhere")])


def test_empty_and_damaged_recordings_are_named(tmp_path: Path) -> None:
    dataset = small(tmp_path)
    (tmp_path / "shard-00000.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFileError, match="shard-00000"):
        measure_recording(EpisodeDataset(tmp_path))
    with pytest.warns(UserWarning, match="Skipped"):
        rest = EpisodeDataset(tmp_path, on_damaged="skip")
    assert measure_recording(rest).episodes == 1
    (tmp_path / dataset.shards[1].file).write_bytes(b"")
    with pytest.warns(UserWarning, match="Skipped"):
        nothing = EpisodeDataset(tmp_path, on_damaged="skip")
    with pytest.raises(InvalidInputError, match="holds no episodes yet"):
        measure_recording(nothing)
