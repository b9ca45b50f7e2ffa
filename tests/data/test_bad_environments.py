"""Environments that break: errors name value and next step, and nothing recorded is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.record import RecordConfig, record
from worldsim.errors import EngineError, InvalidInputError, WorldsimError
from worldsim.runtime import workers

STEPS = 24


def config(out: Path, name: str, **changes: Any) -> RecordConfig:
    """Shards of two 25-frame episodes, in this process."""
    settings: dict[str, Any] = dict(
        env_id=f"tests.helpers.breaking:breaking/{name}-v0",
        out=out,
        frames=50,
        frames_per_shard=50,
        episode_steps=STEPS,
        workers=0,
        policy="random",
    )
    return RecordConfig(**(settings | changes))


def seed_of(shard: int, episode: int) -> int:
    """The seed that the environment is reset with."""
    return int(np.random.SeedSequence([0, shard, episode]).generate_state(2)[0]) & 0x7FFFFFFF


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "message"),
    [
        ("Growing", {}, InvalidInputError, r"step 3 is \(17, 16, 3\) uint8.*16, 16, 3.*--size"),
        ("Floats", {}, InvalidInputError, r"step 0 is \(16, 16, 3\) float64.*uint8.*wrap it"),
        ("Paying", {"amount": float("nan")}, InvalidInputError, "reward of step 4 is nan.*finite"),
        ("Paying", {"amount": 1e9}, InvalidInputError, r"reward of step 4 is 1e\+09.*TransformRew"),
        ("Paying", {"amount": "list"}, InvalidInputError, r"reward of step 4 is \[1.0, 2.0\].*one"),
    ],
)
def test_bad_steps_are_named(
    tmp_path: Path, name: str, kwargs: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=f"breaking/{name}-v0: the .*{message}"):
        record(config(tmp_path / "out", name, env_kwargs=kwargs))
    assert not list(tmp_path.glob("out/*"))


def test_frames_of_changing_size_can_be_resized(tmp_path: Path) -> None:
    dataset = record(config(tmp_path, "Growing", size=(24, 24)))
    assert dataset[0].rgb.shape == (STEPS + 1, 24, 24, 3)


def test_large_rewards_that_can_be_stored_are(tmp_path: Path) -> None:
    dataset = record(config(tmp_path, "Paying", env_kwargs={"amount": -1e7}))
    assert dataset[0].rew[4] == -1e7 and dataset.info.report["rewards"]["lowest"] == -1e7


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_reward_in_the_middle_loses_no_finished_shard(tmp_path: Path, workers: int) -> None:
    kwargs = {"amount": float("nan"), "seed": seed_of(1, 0)}
    with pytest.raises(InvalidInputError, match="reward of step 4 is nan"):
        record(config(tmp_path, "Paying", frames=100, env_kwargs=kwargs, workers=workers))
    kept = EpisodeDataset(tmp_path)
    assert [shard.file for shard in kept.shards] == ["shard-00000.safetensors"]
    assert len(kept) == 2 and not kept[1].rew.any()


def test_actions_that_do_nothing_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no visible effect.*--policy mix"):
        record(config(tmp_path / "ignoring", "Ignoring", frames=500, frames_per_shard=500))
    dataset = record(config(tmp_path / "squares", "Squares", frames=500, frames_per_shard=500))
    assert dataset.info.report["action_lag"]["shift"] == 0
    assert not any("Actions" in one for one in dataset.info.report["warnings"])


@pytest.mark.filterwarnings("ignore:.*is dropped")
def test_an_environment_that_always_crashes_ends_the_recording(tmp_path: Path) -> None:
    """Reproduces: it was blamed on episodes that stay within min_travel of their start."""
    before = record(config(tmp_path / "short", "Raising", episode_steps=3))
    kept = files(before.path)
    with pytest.raises(
        EngineError, match="8 episodes in a row.*4 times.*the joint left its limits.*is kept"
    ):
        record(config(tmp_path / "longer", "Raising"))
    assert files(before.path) == kept and not list(tmp_path.glob("longer/*"))


def test_a_process_that_is_killed_records_its_shard_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By a segmentation fault in the middle of shard 0, and by SIGKILL at the start of shard 1."""
    signals = tmp_path / "signals"
    signals.mkdir()
    settings: dict[str, Any] = {"frames": 150, "env_kwargs": {"folder": str(signals)}}
    whole = files(record(config(tmp_path / "whole", "Killed", **settings)).path)
    (signals / f"{seed_of(0, 1)}-SIGSEGV").touch()
    (signals / f"{seed_of(1, 0)}-SIGKILL").touch()
    with pytest.warns(UserWarning, match="bit for bit the same") as caught:
        record(config(tmp_path / "killed", "Killed", workers=1, **settings))
    told = [str(one.message) for one in caught if "recorded shard" in str(one.message)]
    assert len(told) == 2 and not list(signals.iterdir())
    for i, name in enumerate(("SIGSEGV", "SIGKILL")):
        assert f"shard {i} is gone (it was killed by {name})" in told[i]
        assert "bit for bit the same (attempt 2 of 4)" in told[i]
    assert files(tmp_path / "killed") == whole


def test_resets_that_hang_are_named_and_what_is_finished_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GRACE_S", 0.2)
    monkeypatch.setattr(workers, "TRIES", 2)
    settings: dict[str, Any] = {"frames": 100, "env_kwargs": {"seed": seed_of(1, 0)}}
    with (
        pytest.raises(
            WorldsimError,
            match=r"ended 2 times at task 1; the last time, reset of the environment took more "
            r"than 1 s \(engine_timeout_s\)\. What is finished is kept: run the same command",
        ),
        pytest.warns(UserWarning, match="shard 1 is gone .reset of the environment"),
    ):
        record(config(tmp_path, "Hanging", workers=1, engine_timeout_s=1.0, **settings))
    kept = EpisodeDataset(tmp_path)
    assert len(kept.shards) == 1 and kept.verify() == () and not kept.info.report
