"""Import videos with their actions."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldsim.data.dataset import DatasetInfo, EpisodeDataset, EpisodeWriter
from worldsim.data.foreign import (
    Rows,
    describe_actions,
    require_actions,
    require_new,
    split,
)
from worldsim.data.play import package_versions
from worldsim.data.report import finish_import
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.io.video import CONTAINERS, frame_rate, read_video
from worldsim.runtime.files import as_path, read_bytes, require_regular
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.progress import follow
from worldsim.runtime.ranges import Count, Positive
from worldsim.runtime.types import Array
from worldsim.world.image_env import require_trainable

ACTION_FILES = (".csv", ".npy")
"""Suffixes of the files that hold a video's actions."""
LARGEST = 2**30
"""Largest file of actions, in bytes."""
FLAGS = {"0": False, "1": True, "false": False, "true": True, "": False}


@dataclass(frozen=True)
class ImportVideosConfig:
    """Make a recording of videos with their actions."""

    source: Path
    """A video, or a folder of videos. Beside each is a file of the same name that ends in ``.csv``
    (columns ``action``, or ``action_0``, ``action_1``, ...; perhaps ``reward``, ``terminated``,
    ``truncated``) or ``.npy`` (actions alone), with one row a step or one a frame."""
    out: Path
    """Folder of the recording; it must not hold one."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that frames are resized to, multiples of 8; their own if not
    given."""
    actions: Count | None = None
    """Number of discrete actions; one more than the largest that occurs if not given."""
    fps: Positive | None = None
    """Steps per second; what the first video states if not given."""
    episode_steps: Count | None = None
    """Longer videos are cut into episodes of this many steps; one video is one episode if not
    given, and then has to fit into memory."""
    env_id: str = "video"
    """Gymnasium id of the environment, or any name."""
    frames_per_shard: Count = 8192
    """A shard is closed once it has this many frames."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.size is not None:
            require_trainable(self.size, f"ImportVideosConfig.size = {self.size!r}: it")


def import_videos(config: ImportVideosConfig) -> EpisodeDataset:
    """Import videos; returns the recording, with its report.

    Raises NotFoundError, InvalidInputError (missing actions, numbers of frames and actions that do
    not fit, sizes that differ, a folder in use) or DamagedFileError. What was imported before an
    error stays readable.
    """
    require_new(config.out)
    videos = find_videos(config.source)
    # All of them first: an hour of decoding is lost if the last one is wrong.
    rows = {video: read_rows(find_actions(video)) for video in videos}
    space = describe_actions([one.act for one in rows.values()], config.actions, config.source)
    height, width = config.size or next(read_video(videos[0]))[1].shape[:2]
    require_trainable((height, width), str(videos[0]))
    info = DatasetInfo(
        env_id=config.env_id,
        observation_space={"shape": [int(height), int(width), 3], "dtype": "uint8"},
        action_space=space,
        fps=config.fps or frame_rate(videos[0]),
        versions=package_versions(),
        recording={"videos": as_path(config.source).name},
    )
    with EpisodeWriter(config.out, info, config.frames_per_shard) as writer:
        for video in follow(videos, "import", "video"):
            source = f"{video} and {find_actions(video).name}"
            frames = (frame for _, frame in read_video(video, config.size))
            named = {"video": video.name}
            for episode in split(frames, rows[video], config.episode_steps, named, source):
                if episode.rgb.shape[1:3] != (height, width):
                    raise InvalidInputError(
                        f"{video} has frames of {episode.rgb.shape[1]}x{episode.rgb.shape[2]} "
                        f"pixels, {videos[0].name} of {height}x{width}: resize them all with "
                        f"--size {height} {width}"
                    )
                writer.add(episode)
    return finish_import(config.out)


def find_videos(source: Path) -> list[Path]:
    """Return the videos of a folder by name, or the one that ``source`` is."""
    source = as_path(source)
    if not source.is_dir():
        return [require_regular(source)]
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in CONTAINERS)
    if not found:
        raise NotFoundError(
            f"{source} holds no videos ({', '.join(CONTAINERS)}): name their folder"
        )
    return found


def find_actions(video: Path) -> Path:
    """Return the file of a video's actions. Raises NotFoundError if there is none."""
    for suffix in ACTION_FILES:
        if video.with_suffix(suffix).is_file():
            return video.with_suffix(suffix)
    raise NotFoundError(
        f"{video} has no actions: put {video.with_suffix('.csv').name} beside it, with a column "
        f"'action' and one row a step"
    )


def read_rows(path: Path) -> Rows:
    """Read a file of actions. Raises InvalidInputError or DamagedFileError."""
    content = read_bytes(path, LARGEST)
    if path.suffix.lower() == ".npy":
        try:
            # Arrays of objects would run code when they are read: they are refused.
            act = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DamagedFileError(
                f"{path} is no array of numbers ({error}): write it with numpy.save"
            ) from None
        if act.ndim not in (1, 2) or not act.size:
            raise InvalidInputError(
                f"{path} is {act.shape}: (steps,) or (steps, numbers of an action) are needed"
            )
        return _rows(require_actions(act, path), path)
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedFileError(f"{path} is no CSV in UTF-8 ({error}): write it again") from None
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise InvalidInputError(f"{path} has {len(lines)} lines: a header and a row a step")
    names = [name.strip() for name in lines[0]]
    columns = {}
    for i, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            raise InvalidInputError(
                f"{path}: line {i} has {len(line)} values, the header names {len(names)}"
            )
    for name, values in zip(names, zip(*lines[1:], strict=True), strict=True):
        columns[name] = [value.strip() for value in values]
    wanted = [name for name in names if name == "action" or name.startswith("action_")]
    if not wanted:
        raise InvalidInputError(
            f"{path} has the columns {', '.join(names)}, and no 'action' or 'action_0': name it so"
        )
    act = np.stack([_numbers(columns[name], f"{path}: {name}") for name in wanted], 1)
    whole = len(wanted) == 1 and all(value.lstrip("+-").isdigit() for value in columns[wanted[0]])
    rew = columns.get("reward")
    return _rows(
        require_actions(act.astype(np.int64) if whole else act, path),
        path,
        None if rew is None else _numbers(rew, f"{path}: reward"),
        *(
            None if name not in columns else _flags(columns[name], f"{path}: {name}")
            for name in ("terminated", "truncated")
        ),
    )


def _rows(
    act: Array,
    path: Path,
    rew: Array | None = None,
    term: Array | None = None,
    trunc: Array | None = None,
) -> Rows:
    zeros = np.zeros(len(act), bool)
    rewards = zeros.astype(np.float32) if rew is None else rew.astype(np.float32)
    if not np.isfinite(rewards).all():
        row = int(np.argmin(np.isfinite(rewards)))
        raise InvalidInputError(f"{path}: reward {row} is {rewards[row]}: it must be finite")
    return Rows(act, rewards, zeros if term is None else term, zeros if trunc is None else trunc)


def _numbers(values: list[str], where: str) -> Array:
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        wrong = next(i for i, value in enumerate(values) if not _is_number(value))
        raise InvalidInputError(
            f"{where} of row {wrong} is {values[wrong]!r}: a number is needed"
        ) from None


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _flags(values: list[str], where: str) -> Array:
    wrong = next((i for i, value in enumerate(values) if value.lower() not in FLAGS), None)
    if wrong is not None:
        raise InvalidInputError(f"{where} of row {wrong} is {values[wrong]!r}: write 0 or 1")
    return np.array([FLAGS[value.lower()] for value in values])
