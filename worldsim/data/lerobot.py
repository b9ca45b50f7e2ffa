"""Import LeRobot datasets, read by their files (https://github.com/huggingface/lerobot).

Layouts v2.0 and v2.1 have a Parquet file and a video for each episode and camera, v3.0 has several
episodes in each file. Neither the package lerobot nor a network is needed. ``action`` of frame i
leads to frame i + 1, as in recordings.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from worldsim.data.dataset import DatasetInfo, EpisodeDataset, EpisodeWriter
from worldsim.data.foreign import (
    Rows,
    describe_actions,
    make_episode,
    require_actions,
    require_new,
)
from worldsim.data.play import package_versions
from worldsim.data.report import finish_import
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.io.video import read_video
from worldsim.runtime.arguments import shown
from worldsim.runtime.extras import missing
from worldsim.runtime.files import inside, read_bytes, require_regular
from worldsim.runtime.json_config import check_ranges, read_json
from worldsim.runtime.progress import follow
from worldsim.runtime.ranges import Count
from worldsim.runtime.types import Array, JsonObject
from worldsim.world.image_env import require_trainable

VERSIONS = ("v2.0", "v2.1", "v3.0")
"""Layouts that are read."""
DATA_PATHS = {
    2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO_PATHS = {
    2: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    3: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
"""File names by major version, unless ``info.json`` has others."""
EPISODES = {2: "meta/episodes.jsonl", 3: "meta/episodes"}
OUTCOMES = ("next.reward", "next.done", "next.success")


@dataclass(frozen=True)
class ImportLeRobotConfig:
    """Make a recording of a local LeRobot dataset."""

    source: Path
    """Folder of the dataset, with ``meta/info.json``; ``hf download --repo-type dataset`` fetches
    public ones."""
    out: Path
    """Folder of the recording; it must not hold one."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that images are resized to, multiples of 8; their own if not
    given."""
    key: str | None = None
    """Camera, such as ``observation.images.top``; needed only if there are several."""
    done: Literal["terminated", "truncated"] = "truncated"
    """What ``next.done`` means where ``next.success`` does not say: demonstrations also end where
    someone stopped them."""
    actions: Count | None = None
    """Number of discrete actions; one more than the largest that occurs if not given."""
    env_id: str | None = None
    """Gymnasium id of the environment, or any name; the robot's type if not given."""
    frames_per_shard: Count = 8192
    """A shard is closed once it has this many frames."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.size is not None:
            require_trainable(self.size, f"ImportLeRobotConfig.size = {self.size!r}: it")


@dataclass(frozen=True)
class _Source:
    """An episode of the dataset: where its rows and frames are."""

    index: int
    length: int
    data: Path
    video: Path | None
    """None if images are in the rows."""
    begins: float
    """Seconds of the video at which its first frame is shown."""


def import_lerobot(config: ImportLeRobotConfig) -> EpisodeDataset:
    """Import a LeRobot dataset; returns the recording, with its report.

    Raises NotFoundError, InvalidInputError (an unknown layout, no actions, numbers of frames that
    do not fit, a changed size, a folder in use), DamagedFileError or MissingDependencyError. What
    was imported before an error stays readable.
    """
    require_new(config.out)
    reader = _Reader(config)
    rows = {}
    for one in follow(reader.episodes, "actions", "episode"):
        rows[one.index] = reader.rows(one)
    space = describe_actions([one.act for one in rows.values()], config.actions, config.source)
    height, width = config.size or reader.shape
    require_trainable((height, width), f"{config.source}: {reader.key}")
    info = DatasetInfo(
        env_id=config.env_id or reader.robot,
        observation_space={"shape": [height, width, 3], "dtype": "uint8"},
        action_space=space,
        fps=reader.fps,
        versions=package_versions(),
        recording={"lerobot": Path(config.source).name, "key": reader.key},
    )
    with EpisodeWriter(config.out, info, config.frames_per_shard) as writer:
        for one in follow(reader.episodes, "import", "episode"):
            frames = reader.frames(one)
            own = rows[one.index].of_frames(len(frames), f"{config.source}: episode {one.index}")
            writer.add(make_episode(frames, own, {"episode": one.index}))
    return finish_import(config.out)


class _Reader:
    """Reads the files of a dataset."""

    def __init__(self, config: ImportLeRobotConfig) -> None:
        self.config, self.folder = config, Path(config.source)
        self.parquet = _parquet()
        path = require_regular(self.folder / "meta" / "info.json")
        info = read_json(path)
        if not isinstance(info, dict):
            raise DamagedFileError(f"{path} is no object: copy the dataset again")
        version = info.get("codebase_version")
        if version not in VERSIONS:
            raise InvalidInputError(
                f"{path} has the layout {shown(version)}, and {', '.join(VERSIONS)} are read: "
                f"convert the dataset with LeRobot's own converter"
            )
        self.major = int(version[1])
        try:
            self.features: dict[str, Any] = dict(info["features"])
            self.fps = float(info["fps"])
            self.chunk = int(info.get("chunks_size", 1000))
            self.robot = str(info.get("robot_type") or self.folder.resolve().name)
            self.data_path = str(info.get("data_path") or DATA_PATHS[self.major])
            self.video_path = str(info.get("video_path") or VIDEO_PATHS[self.major])
            if not (self.fps > 0 and self.chunk > 0):
                raise ValueError("fps and chunks_size must be more than 0")
            self.key = self._find_camera()
            self.shape = _shape_of(self.features[self.key])
        except InvalidInputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DamagedFileError(f"{path} is damaged ({error!r}): copy it again") from None
        if "action" not in self.features:
            raise InvalidInputError(
                f"{path} lists no feature 'action', only {', '.join(self.features)}: a world "
                f"cannot be trained without actions"
            )
        self.in_rows = self.features[self.key]["dtype"] == "image"
        self.episodes = sorted(self._episodes(), key=lambda one: one.index)
        if not self.episodes:
            raise InvalidInputError(f"{self.folder} holds no episodes: copy it again")
        self._table: tuple[Path, Any] | None = None
        self._reel: tuple[Path, Iterator[tuple[float, Array]]] | None = None

    def _find_camera(self) -> str:
        cameras = [
            key
            for key, feature in self.features.items()
            if feature["dtype"] in ("video", "image") and not _is_depth(feature)
        ]
        key = self.config.key
        if key is None and len(cameras) == 1:
            return cameras[0]
        if key not in cameras:
            raise InvalidInputError(
                f"{self.folder} has the cameras {', '.join(cameras) or 'none'}: name one of them "
                f"with --key" + ("" if key is None else f", {key!r} is none")
            )
        return key

    def _episodes(self) -> Iterator[_Source]:
        for entry in self._entries():
            try:
                index, length = int(entry["episode_index"]), int(entry["length"])
                names: dict[str, int | str] = {
                    "episode_index": index,
                    "episode_chunk": index // self.chunk,
                    "video_key": self.key,
                }
                data, video, begins = dict(names), dict(names), 0.0
                if self.major == 3:
                    for place in ("chunk_index", "file_index"):
                        data[place] = int(entry[f"data/{place}"])
                        if not self.in_rows:
                            video[place] = int(entry[f"videos/{self.key}/{place}"])
                    if not self.in_rows:
                        begins = float(entry[f"videos/{self.key}/from_timestamp"])
                yield _Source(
                    index,
                    length,
                    self._file(self.data_path, data),
                    None if self.in_rows else self._file(self.video_path, video),
                    begins,
                )
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise DamagedFileError(
                    f"{self.folder / EPISODES[self.major]}: an episode is not as it should be "
                    f"({error!r}): copy the dataset again"
                ) from None

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        place = EPISODES[self.major]
        if self.major == 2:
            path = inside(self.folder, place)
            for line in read_bytes(require_regular(path), 2**30).splitlines():
                if line.strip():
                    yield json.loads(line)
            return
        for path in sorted((self.folder / place).glob("*/*.parquet")):
            own = inside(self.folder, str(path.relative_to(self.folder)))
            names = self.read_schema(own)
            wanted = [
                name
                for name in names
                if name in ("episode_index", "length") or name.startswith(("data/", "videos/"))
            ]
            yield from self.read(own, wanted).to_pylist()

    def _file(self, template: str, names: Mapping[str, int | str]) -> Path:
        """Fill a template of ``info.json``; only whole names and widths, no expressions."""

        def fill(found: re.Match[str]) -> str:
            value = names[found[1]]
            return f"{value:0{int(found[2] or 0)}d}" if isinstance(value, int) else value

        return inside(self.folder, re.sub(r"\{(\w+)(?::(\d{1,2})d)?\}", fill, template))

    def read_schema(self, path: Path) -> list[str]:
        """Return the names of a Parquet file's columns."""
        require_regular(path)
        try:
            return list(self.parquet.read_schema(path).names)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None

    def read(self, path: Path, columns: list[str]) -> Any:
        """Read columns of a Parquet file as a table."""
        require_regular(path)
        try:
            # One file and no data set: neither its folder nor anything else is looked at.
            return self.parquet.ParquetFile(path).read(columns)
        except (OSError, ValueError, KeyError) as error:
            raise _unreadable(path, error) from None

    def _own_rows(self, one: _Source) -> Any:
        if self._table is None or self._table[0] != one.data:
            names = self.read_schema(one.data)
            wanted = ["action", "episode_index", "frame_index", *OUTCOMES]
            wanted += [self.key] if self.in_rows else []
            lacking = [name for name in wanted[:3] if name not in names]
            if lacking:
                raise InvalidInputError(
                    f"{one.data} has no column {', '.join(lacking)}: copy the dataset again"
                )
            self._table = one.data, self.read(one.data, [name for name in wanted if name in names])
        table = self._table[1]
        index = np.asarray(table["episode_index"].to_numpy()).ravel()
        order = np.asarray(table["frame_index"].to_numpy()).ravel()
        mine = np.flatnonzero(index == one.index)
        mine = mine[np.argsort(order[mine], kind="stable")]
        if len(mine) != one.length:
            raise InvalidInputError(
                f"{one.data}: episode {one.index} has {len(mine)} rows, {EPISODES[self.major]} "
                f"says {one.length}: copy the dataset again"
            )
        return table.take(mine)

    def rows(self, one: _Source) -> Rows:
        """Return the rows of an episode, one a frame."""
        table = self._own_rows(one)
        try:
            act = require_actions(np.array(table["action"].to_pylist()), f"{one.data}: action")
            rew, done, success = (
                np.array(table[name].to_pylist(), np.float64).reshape(len(act))
                if name in table.column_names
                else np.zeros(len(act))
                for name in OUTCOMES
            )
        except (ValueError, TypeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise DamagedFileError(
                f"{one.data}: episode {one.index} has no numbers where they are needed ({error}): "
                f"copy the dataset again"
            ) from None
        if not np.isfinite(rew).all():
            row = int(np.argmin(np.isfinite(rew)))
            raise InvalidInputError(
                f"{one.data}: next.reward of frame {row} is {rew[row]}: it must be finite"
            )
        ends = done > 0
        term = ends & (success > 0)
        if self.config.done == "terminated" and "next.success" not in table.column_names:
            term = ends
        return Rows(act, rew.astype(np.float32), term, ends & ~term)

    def frames(self, one: _Source) -> Array:
        """Return the frames of an episode, (t, h, w, 3) uint8."""
        found = self._stored(one) if one.video is None else self._filmed(one, one.video)
        shape = tuple(found.shape[1:3])
        if shape != tuple(self.config.size or self.shape):
            raise InvalidInputError(
                f"{one.video or one.data}: frames of {shape[0]}x{shape[1]} pixels, and "
                f"meta/info.json says {self.shape[0]}x{self.shape[1]}: resize them all with --size"
            )
        return found

    def _stored(self, one: _Source) -> Array:
        import cv2

        images = []
        for frame, cell in enumerate(self._own_rows(one)[self.key].to_pylist()):
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            image = None
            if isinstance(content, bytes) and content:
                image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise DamagedFileError(
                    f"{one.data}: {self.key} of frame {frame} is no picture: copy the dataset again"
                )
            if self.config.size is not None:
                image = cv2.resize(image, self.config.size[::-1], interpolation=cv2.INTER_AREA)
            images.append(np.ascontiguousarray(image[..., ::-1]))
        if len({image.shape for image in images}) != 1:
            raise InvalidInputError(
                f"{one.data}: images of episode {one.index} change their size: resize with --size"
            )
        return np.stack(images)

    def _filmed(self, one: _Source, video: Path) -> Array:
        tolerance = 0.5 / self.fps
        if self._reel is None or self._reel[0] != video:
            self._reel = video, read_video(video, self.config.size)
        reel = self._reel[1]
        frames: list[Array] = []
        for time, frame in reel:
            if time >= one.begins - tolerance:
                frames.append(frame)
            if len(frames) == one.length:
                break
        surplus = 0
        if self.major == 2:
            surplus = sum(1 for _ in itertools.islice(reel, 1000))
        if len(frames) != one.length or surplus:
            raise InvalidInputError(
                f"{video}: {len(frames) + surplus} frames for the {one.length} rows of episode "
                f"{one.index}: they do not belong together, copy the dataset again"
            )
        return np.stack(frames)


def _shape_of(feature: JsonObject) -> tuple[int, int]:
    """Return height and width; LeRobot stores them in either order of axes."""
    shape = [int(n) for n in feature["shape"]]
    names = feature.get("names")
    if len(shape) != 3:
        raise ValueError(f"an image has the shape {shape}")
    first = isinstance(names, list) and str(names[0]).startswith("channel")
    return (shape[1], shape[2]) if first or shape[2] not in (1, 3) else (shape[0], shape[1])


def _is_depth(feature: JsonObject) -> bool:
    told = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
    return bool(told.get("is_depth_map") or told.get("video.is_depth_map"))


def _unreadable(path: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(f"{path} is no readable Parquet file ({error}): copy it again")


def _parquet() -> ModuleType:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise missing("LeRobot datasets need pyarrow", "lerobot", error) from None
