"""Videos with actions as recordings: frames and actions stay together, and errors name both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldsim.data.videos import ImportVideosConfig, import_videos
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.io.video import write_video

FRAMES = 12
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def grey(level: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def film(path: Path, levels: list[int], size: int = 16) -> Path:
    """A video of grey frames."""
    write_video([grey(level, size) for level in levels], 12.0, path)
    return path


def levels(rgb: np.ndarray) -> list[float]:
    """The grey of each frame; H.264 changes it by a few levels."""
    return [float(frame.mean()) for frame in rgb]


def test_frames_and_actions_stay_together(tmp_path: Path) -> None:
    """Frame i has the brightness 20 i, and action i is i."""
    told = [20 * i for i in range(FRAMES)]
    film(tmp_path / "a.mp4", told)
    rows = "\n".join(f"{i},{i / 2},{int(i == FRAMES - 2)}" for i in range(FRAMES - 1))
    (tmp_path / "a.csv").write_text(f"action,reward,terminated\n{rows}\n")
    dataset = import_videos(ImportVideosConfig(tmp_path, tmp_path / "out"))
    (episode,) = dataset
    np.testing.assert_allclose(levels(episode.rgb), told, atol=4)
    assert episode.act.tolist() == [*range(FRAMES - 1), 0]
    assert episode.rew.tolist() == [*(i / 2 for i in range(FRAMES - 1)), 0.0]
    assert episode.term.tolist() == [False] * 10 + [True, False] and not episode.trunc.any()
    info = dataset.info
    assert info.action_space == {"type": "Discrete", "n": FRAMES - 1} and info.fps == 12.0
    assert info.report["terminations"]["count"] == 1 and episode.info == {"video": "a.mp4"}
    with pytest.raises(InvalidInputError, match="holds a recording already"):
        import_videos(ImportVideosConfig(tmp_path, tmp_path / "out"))


def test_continuous_actions_a_row_a_frame_and_cuts(tmp_path: Path) -> None:
    """Twelve rows for twelve frames: the last one leads nowhere, and its end goes a step back."""
    told = [20 * i for i in range(FRAMES)]
    film(tmp_path / "b.mp4", told)
    act = np.stack([np.arange(FRAMES), -np.arange(FRAMES)], 1) / 10
    rows = "\n".join(f"{a},{b},{int(i == 11)},{i}" for i, (a, b) in enumerate(act))
    (tmp_path / "b.csv").write_text(f"action_0,action_1,terminated,reward\n{rows}\n")
    config = ImportVideosConfig(tmp_path / "b.mp4", tmp_path / "out", size=(8, 8), episode_steps=4)
    dataset = import_videos(config)
    assert [len(episode) for episode in dataset] == [5, 5, 4]
    # The last frame of an episode is the first of the next.
    np.testing.assert_allclose(levels(dataset[1].rgb), [80, 100, 120, 140, 160], atol=4)
    np.testing.assert_allclose(dataset[1].act[:-1, 0], [0.4, 0.5, 0.6, 0.7], rtol=1e-6)
    assert dataset[2].term.tolist() == [False, False, True, False]
    assert dataset[2].rew.tolist() == [8.0, 9.0, 11.0, 0.0]
    assert [bool(e.trunc[-2]) for e in dataset] == [True, True, False]
    assert dataset[0].rgb.shape[1:] == (8, 8, 3)
    np.testing.assert_allclose(dataset.info.action_space["high"], [1.1, 0.0], rtol=1e-6)


def test_actions_of_numpy(tmp_path: Path) -> None:
    film(tmp_path / "c.mp4", [10, 20, 30])
    np.save(tmp_path / "c.npy", np.array([2, 0]))
    dataset = import_videos(ImportVideosConfig(tmp_path, tmp_path / "out", actions=5))
    assert dataset[0].act.tolist() == [2, 0, 0] and dataset.info.action_space["n"] == 5


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, NotFoundError, "v.mp4 has no actions: put v.csv beside it"),
        ("action\n0\n", InvalidInputError, "3 frames and 1 actions do not fit.*a step .2.*frame"),
        ("action\n" + "0\n" * 9, InvalidInputError, "3 frames and 9 actions do not fit"),
        ("reward\n0\n0\n", InvalidInputError, "columns reward, and no 'action'"),
        ("action\nleft\nleft\n", InvalidInputError, "action of row 0 is 'left': a number"),
        ("action\n0\n-1\n", InvalidInputError, "action -1 is none of 0 to"),
        ("action_0\n0.5\nnan\n", InvalidInputError, "number 0 of action 1 is nan"),
        ("action,reward\n0,inf\n0,1\n", InvalidInputError, "reward 0 is inf"),
        ("action,terminated\n0,perhaps\n0,1\n", InvalidInputError, "terminated of row 0 is 'perha"),
        ("action,terminated\n0,1\n0,0\n", InvalidInputError, "step 0 ends the episode"),
        ("action,reward\n0\n0\n", InvalidInputError, "line 2 has 1 values, the header names 2"),
        ("action\n", InvalidInputError, "1 lines"),
    ],
)
def test_bad_actions_are_named(
    tmp_path: Path, text: str | None, error: type[Exception], message: str
) -> None:
    film(tmp_path / "v.mp4", [10, 20, 30])
    if text is not None:
        (tmp_path / "v.csv").write_text(text)
    with pytest.raises(error, match=message):
        import_videos(ImportVideosConfig(tmp_path / "v.mp4", tmp_path / "out"))


def test_bad_videos_are_named(tmp_path: Path) -> None:
    """Sizes that differ, no video, and a playlist under the name of one, which names a file."""
    film(tmp_path / "a.mp4", [10, 20, 30])
    film(tmp_path / "b.mp4", [10, 20, 30], size=32)
    for name in "abcd":
        (tmp_path / f"{name}.csv").write_text("action\n0\n1\n")
    config = ImportVideosConfig(tmp_path, tmp_path / "out")
    with pytest.raises(InvalidInputError, match="b.mp4 has frames of 32x32.*--size 16 16"):
        import_videos(config)
    import_videos(ImportVideosConfig(tmp_path, tmp_path / "resized", size=(16, 16)))
    (tmp_path / "c.mp4").write_bytes(b"no video at all")
    with pytest.raises(DamagedFileError, match="c.mp4 cannot be decoded"):
        import_videos(ImportVideosConfig(tmp_path / "c.mp4", tmp_path / "no"))
    playlist = f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n"
    (tmp_path / "d.mp4").write_text(playlist)
    with pytest.raises(DamagedFileError, match="d.mp4 cannot be decoded"):
        import_videos(ImportVideosConfig(tmp_path / "d.mp4", tmp_path / "no"))
    with pytest.raises(NotFoundError, match="holds no videos"):
        import_videos(ImportVideosConfig(tmp_path / "out", tmp_path / "no"))
    # An array of objects would run code when it is read.
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    film(tmp_path / "objects.mp4", [10, 20, 30])
    with pytest.raises(DamagedFileError, match="objects.npy is no array of numbers"):
        import_videos(ImportVideosConfig(tmp_path / "objects.mp4", tmp_path / "no"))
    (tmp_path / "a.gif").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="a.gif is no video that can be read: .mp4"):
        import_videos(ImportVideosConfig(tmp_path / "a.gif", tmp_path / "no"))
