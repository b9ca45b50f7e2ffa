"""Videos: whole or not there, and clear errors for what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.errors import InvalidInputError, StorageError
from worldsim.io.video import write_video


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e30, "10"])
def test_videos_of_no_speed(tmp_path: Path, fps: Any) -> None:
    with pytest.raises(InvalidInputError, match="fps = "):
        write_video([np.zeros((16, 16, 3), np.uint8)] * 2, fps, tmp_path / "v.mp4")


def test_videos_of_no_frames(tmp_path: Path) -> None:
    good = np.zeros((16, 16, 3), np.uint8)
    for frames in (
        [],
        [good[:15]],
        [good[..., 0]],
        [good.astype(float)],
        [good, good[:8]],
        [good[:0]],
        3,
    ):
        with pytest.raises(InvalidInputError, match="a video needs frames"):
            write_video(frames, 10.0, tmp_path / "v.mp4")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_video_is_whole_or_not_there(tmp_path: Path) -> None:
    frames, path = [np.full((16, 16, 3), 99, np.uint8)] * 3, tmp_path / "v.mp4"
    write_video(frames, 10.0, path)
    before = path.read_bytes()
    with pytest.raises(InvalidInputError):
        write_video([*frames, frames[0][:8]], 10.0, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    (tmp_path / "link.mp4").symlink_to(path)
    with pytest.raises(StorageError, match="would be destroyed"):
        write_video(frames, 10.0, tmp_path / "link.mp4")
