"""The video of an agent in dream and real twin."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.app.watch import WatchConfig, video_frames, watch
from worldsim.errors import InvalidInputError, OutOfMemoryError, StorageError
from worldsim.evaluation.episodes import Played


def test_writes_a_video(goal_folder: Path, tmp_path: Path) -> None:
    out = watch(
        WatchConfig(
            "persistent", tmp_path / "films/w.mp4", world=str(goal_folder), steps=5, scale=2
        )
    )
    with av.open(str(out)) as film:
        frames = list(film.decode(video=0))
        assert film.streams.video[0].average_rate == Fraction(35, 4)
    # At most five steps and the start, then the end for fifteen more.
    assert 15 + 2 <= len(frames) <= 15 + 6
    picture = frames[0].to_ndarray(format="rgb24").astype(int)
    assert (
        abs(picture[25:89, 4:68] - picture[25:89, 72:136]).mean() < 6
    )  # both begin alike, beside one another


def test_the_one_that_ends_first_stays(tmp_path: Path) -> None:
    white = np.full((3, 16, 16, 3), 255, np.uint8)
    real = Played(1.0, 2, False, frames=white, rewards=(0.0, 1.0))
    dream = Played(1.0, 1, True, frames=white[:2], rewards=(1.0,))
    frames = video_frames(real, dream, scale=4)
    assert len(frames) == 3 + 15
    assert frames[1][50, 30].tolist() == [255] * 3 and frames[2][50, 30].tolist() == [127] * 3
    assert frames[2][50, 100].tolist() == [255] * 3


def test_bad_input() -> None:
    with pytest.raises(InvalidInputError, match="must end in .mp4"):
        WatchConfig("random", Path("film.gif"))
    with pytest.raises(InvalidInputError, match="names no world"):
        watch(WatchConfig("random"))


@pytest.mark.parametrize(
    ("name", "value"), [("scale", 500), ("scale", 0), ("steps", 0), ("seed", -1)]
)
def test_numbers_out_of_range(name: str, value: int) -> None:
    """At a scale of 500, a frame of the video took 6 GB."""
    with pytest.raises(InvalidInputError, match=f"WatchConfig.{name} = {value}"):
        WatchConfig("random", **{name: value})


def test_a_video_that_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.zeros((200, 64, 64, 3), np.uint8)
    played = Played(0.0, 199, False, frames=frames, rewards=(0.0,) * 199)
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "4")
    with pytest.raises(OutOfMemoryError, match="a video of 200 frames at scale 64"):
        video_frames(played, played, 64)


def test_what_is_no_file_stays(goal_folder: Path, tmp_path: Path) -> None:
    """Told before anything is played."""
    pipe = tmp_path / "w.mp4"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="is a FIFO and would be destroyed"):
        watch(WatchConfig("persistent", pipe, world=str(goal_folder), steps=2))
    assert pipe.is_fifo()
    with pytest.raises(StorageError):
        watch(
            WatchConfig("persistent", Path("/proc/nothing/w.mp4"), world=str(goal_folder), steps=2)
        )
