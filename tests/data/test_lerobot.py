"""LeRobot datasets of every layout, written here, as recordings; and errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from worldsim.data.lerobot import ImportLeRobotConfig, import_lerobot
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.io.video import write_video

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LENGTHS, FPS, KEY, SIZE = (5, 7), 10, "observation.images.top", 16


def level(episode: int, frame: int) -> int:
    """The grey of a frame."""
    return 20 + 100 * episode + 10 * frame


def image(episode: int, frame: int, size: int = SIZE) -> np.ndarray:
    return np.full((size, size, 3), level(episode, frame), np.uint8)


def columns(episode: int) -> dict[str, list[Any]]:
    """The rows of an episode; the last one pays and is done."""
    n = LENGTHS[episode]
    last = [i == n - 1 for i in range(n)]
    return {
        "action": [[episode + i / 10, -i / 10] for i in range(n)],
        "timestamp": [i / FPS for i in range(n)],
        "frame_index": list(range(n)),
        "episode_index": [episode] * n,
        "next.reward": [1.0 if end else 0.0 for end in last],
        "next.done": last,
    }


def write(path: Path, values: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(values), path)


def dataset_of(folder: Path, version: str, stored: str = "video", **changes: Any) -> Path:
    """A dataset of two episodes, with frames in videos or in rows."""
    features = {
        KEY: {"dtype": stored, "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]},
        "observation.depth": {
            "dtype": "video",
            "shape": [SIZE, SIZE, 1],
            "info": {"is_depth_map": True},
        },
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    }
    info = {"codebase_version": version, "fps": FPS, "features": features, "robot_type": "so100"}
    info |= changes
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    rows = [columns(e) for e in range(2)]
    films = [[image(e, i) for i in range(LENGTHS[e])] for e in range(2)]
    if stored == "image":
        for values, film in zip(rows, films, strict=True):
            values[KEY] = [
                {"bytes": cv2.imencode(".png", frame)[1].tobytes(), "path": None} for frame in film
            ]
    if version.startswith("v2"):
        lines = [json.dumps({"episode_index": e, "length": n}) for e, n in enumerate(LENGTHS)]
        (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines))
        for e in range(2):
            write(folder / f"data/chunk-000/episode_{e:06d}.parquet", rows[e])
            path = folder / f"videos/chunk-000/{KEY}/episode_{e:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(films[e], FPS, path)
        return folder
    write(
        folder / "data/chunk-000/file-000.parquet",
        {name: rows[0][name] + rows[1][name] for name in rows[0]},
    )
    path = folder / f"videos/{KEY}/chunk-000/file-000.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video([*films[0], *films[1]], FPS, path)
    place = {f"{of}/{what}": [0, 0] for of in ("data", f"videos/{KEY}") for what in INDICES}
    starts = {f"videos/{KEY}/from_timestamp": [0.0, LENGTHS[0] / FPS]}
    write(
        folder / "meta/episodes/chunk-000/file-000.parquet",
        {"episode_index": [0, 1], "length": list(LENGTHS), **place, **starts},
    )
    return folder


INDICES = ("chunk_index", "file_index")


@pytest.mark.parametrize(
    ("version", "stored"), [("v2.0", "video"), ("v2.1", "image"), ("v3.0", "video")]
)
def test_every_layout_gives_the_same_recording(tmp_path: Path, version: str, stored: str) -> None:
    source = dataset_of(tmp_path / "source", version, stored)
    dataset = import_lerobot(ImportLeRobotConfig(source, tmp_path / "out", done="terminated"))
    assert [len(episode) for episode in dataset] == list(LENGTHS)
    for e, episode in enumerate(dataset):
        n = LENGTHS[e]
        found = [float(frame.mean()) for frame in episode.rgb]
        np.testing.assert_allclose(found, [level(e, i) for i in range(n)], atol=4)
        expected = [[e + i / 10, -i / 10] for i in range(n - 1)] + [[0.0, 0.0]]
        np.testing.assert_allclose(episode.act, expected, rtol=1e-6)
        # The last row's action leads to a frame that is not there: its end goes a step back.
        assert episode.rew.tolist() == [0.0] * (n - 2) + [1.0, 0.0]
        assert episode.term.tolist() == [False] * (n - 2) + [True, False]
        assert episode.info == {"episode": e}
    info = dataset.info
    assert (info.env_id, info.fps, info.observation_space["shape"]) == ("so100", 10.0, [16, 16, 3])
    np.testing.assert_allclose(info.action_space["low"], [0.0, -0.6], rtol=1e-6)
    assert info.report["terminations"]["count"] == 2


def test_done_is_a_cut_unless_it_is_a_success(tmp_path: Path) -> None:
    dataset = import_lerobot(
        ImportLeRobotConfig(dataset_of(tmp_path / "a", "v2.1"), tmp_path / "out", size=(8, 8))
    )
    assert not any(e.term.any() for e in dataset) and all(e.trunc[-2] for e in dataset)
    assert dataset[0].rgb.shape[1:] == (8, 8, 3)


FEATURES_WITHOUT_ACTION = {KEY: {"dtype": "video", "shape": [SIZE, SIZE, 3]}}
SMALLER = {**FEATURES_WITHOUT_ACTION, "action": {"dtype": "float32", "shape": [2]}}
SMALLER[KEY] = {"dtype": "video", "shape": [8, 24, 3]}
TWO = {**SMALLER, "other": {"dtype": "video", "shape": [16, 16, 3]}}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"codebase_version": "v1.6"}, InvalidInputError, "layout 'v1.6', and v2.0, v2.1, v3.0"),
        ({"codebase_version": None}, InvalidInputError, "layout None"),
        ({"features": FEATURES_WITHOUT_ACTION}, InvalidInputError, "no feature 'action', only obs"),
        ({"features": SMALLER}, InvalidInputError, "16x16 pixels, and meta/info.json says 8x24"),
        ({"features": TWO}, InvalidInputError, "cameras observation.images.top, other: .*--key"),
        ({"features": {}}, InvalidInputError, "cameras none"),
        ({"features": 3}, DamagedFileError, "info.json is damaged"),
        ({"fps": 0}, DamagedFileError, "fps and chunks_size must be more than 0"),
        ({"data_path": "../{episode_index}"}, DamagedFileError, "only files inside"),
        ({"data_path": "{episode_index.real}"}, NotFoundError, "does not exist"),
    ],
)
def test_bad_descriptions_are_named(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    source = dataset_of(tmp_path / "source", "v2.1", **changes)
    with pytest.raises(error, match=message):
        import_lerobot(ImportLeRobotConfig(source, tmp_path / "out"))


def test_bad_files_are_named(tmp_path: Path) -> None:
    source = dataset_of(tmp_path / "source", "v2.1")
    config = ImportLeRobotConfig(source, tmp_path / "out")
    video = source / f"videos/chunk-000/{KEY}/episode_000001.mp4"
    for frames, told in ((LENGTHS[1] - 2, "5 frames"), (LENGTHS[1] + 2, "9 frames")):
        write_video([image(1, i) for i in range(frames)], FPS, video)
        with pytest.raises(InvalidInputError, match=f"{told} for the 7 rows of episode 1"):
            import_lerobot(ImportLeRobotConfig(source, tmp_path / f"out-{frames}"))
    rows = source / "data/chunk-000/episode_000001.parquet"
    whole = columns(1)
    write(rows, {name: values[:-1] for name, values in whole.items()})
    with pytest.raises(InvalidInputError, match="episode 1 has 6 rows, .*says 7"):
        import_lerobot(config)
    write(rows, {name: values for name, values in whole.items() if name != "action"})
    with pytest.raises(InvalidInputError, match="episode_000001.parquet has no column action"):
        import_lerobot(config)
    write(rows, {**whole, "action": [[1.0, float("nan")]] * 7})
    with pytest.raises(InvalidInputError, match="number 1 of action 0 is nan"):
        import_lerobot(config)
    write(rows, {**whole, "action": [[1.0, 2.0]] * 6 + [[1.0]]})
    with pytest.raises(DamagedFileError, match="no numbers where they are needed"):
        import_lerobot(config)
    rows.write_bytes(b"no parquet")
    with pytest.raises(DamagedFileError, match="no readable Parquet file"):
        import_lerobot(config)
    with pytest.raises(NotFoundError, match=r"info\.json does not exist"):
        import_lerobot(ImportLeRobotConfig(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
