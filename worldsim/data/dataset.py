"""Datasets on disk: a folder with ``dataset.json`` and shards of whole episodes.

A shard ``shard-00000.safetensors`` holds the frames of its episodes one after the other, n in all:

| tensor | shape | |
|---|---|---|
| ``rgb`` | (n, h, w, 3) uint8 | |
| ``act`` | (n, ...) int64 or float32 | leads from frame i to i + 1; an episode's last is 0 |
| ``rew``, ``term``, ``trunc`` | (n,) float32, bool, bool | of the transition after ``act[i]`` |
| ``episode_start`` | (E + 1,) int64 | first frame of each episode, then n |
| ``inverse_depth`` | (n, h, w) uint16 | code of :func:`worldsim.camera.quantise_depth` |
| ``pose`` | (n, 4, 4) float32 | camera-to-world, OpenCV axes, metres |
| ``intrinsics`` | (4,) float32 | ``fx fy cx cy`` in pixels |

The last three exist only with geometry. ``act`` is int64 in a Discrete space and float32 in a Box.

The shard's safetensors metadata names the format, its version and, as JSON, the info of each
episode. Shards and ``dataset.json`` are renamed into place when they are complete, so a reader can
follow a recording in progress.

``dataset.json`` (version 2) holds the SHA-256 of every shard and a checksum of itself; version 1,
without the latter, is accepted. A shard is compared with its checksum when its frames are first
read; its actions, rewards and poses are compared with the index.
"""

from __future__ import annotations

import bisect
import json
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, NamedTuple, SupportsIndex, overload

import gymnasium as gym
import numpy as np
from annotated_types import Ge, Gt, Le, Len
from pydantic import StringConstraints
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from worldsim.camera import check_poses
from worldsim.data.episode import Episode, validate_episode
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.runtime.files import as_path, inside, is_file, replacing, require_regular, sha256_of
from worldsim.runtime.json_config import (
    SEAL,
    check_format,
    check_seal,
    from_json,
    read_json,
    write_sealed,
)
from worldsim.runtime.remote import Place
from worldsim.runtime.spaces import space_of
from worldsim.runtime.types import Array, JsonObject

INDEX_FILE = "dataset.json"
DATASET_FORMAT, SHARD_FORMAT = "worldsim-dataset", "worldsim-episodes"
VERSION, SHARD_VERSION = 2, 1
FRAME_TENSORS = ("rgb", "act", "rew", "term", "trunc")
GEOMETRY_TENSORS = ("inverse_depth", "pose")
MOST_PIXELS = 16_384
"""Most rows or columns of frames that an index may claim."""


@dataclass(frozen=True)
class ShardInfo:
    """One entry of ``shards`` in ``dataset.json``."""

    file: Annotated[str, StringConstraints(pattern=r"^shard-\d{5,9}\.safetensors$")]
    """File name inside the dataset's folder."""
    frames: Annotated[int, Ge(1)]
    """Frames of all its episodes together."""
    episodes: Annotated[int, Ge(1)]
    """Number of its episodes."""
    sha256: str
    """Checksum of the whole file, hexadecimal."""


@dataclass(frozen=True)
class DatasetInfo:
    """Properties of a whole dataset: ``dataset.json`` without its list of shards."""

    env_id: str
    """Gymnasium id of the environment, or a name of the user's own for other recordings."""
    observation_space: JsonObject
    """``{"shape": [h, w, 3], "dtype": "uint8"}``."""
    action_space: JsonObject
    """``{"type": "Discrete", "n": 7}`` or ``{"type": "Box", "low": [..], "high": [..]}``."""
    geometry: bool = False
    """Whether every shard has depth, poses and intrinsics."""
    intrinsics: Annotated[list[float], Len(4, 4)] | None = None
    """``fx fy cx cy`` in pixels, if there is geometry."""
    fps: Annotated[float, Gt(0), Le(100_000)] | None = None
    """Frames per second of the environment's own time, if it names one."""
    env_kwargs: JsonObject = field(default_factory=dict)
    """Arguments of ``gymnasium.make``."""
    pixels: JsonObject | None = None
    """Settings that converted its images to observations, a
    :class:`worldsim.world.image_env.PixelsConfig`; None if there was no conversion."""
    reset_options: JsonObject = field(default_factory=dict)
    """Options of every reset, such as ``{"split": "train"}``."""
    policy: str = ""
    """Name of the policy."""
    seed: int = 0
    """Seed of the recording."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that recorded it."""
    recording: JsonObject = field(default_factory=dict)
    """Other settings of the recorder; a resumed recording must have the same."""
    report: JsonObject = field(default_factory=dict)
    """What the recording holds, a :class:`worldsim.data.report.RecordingReport`; empty until it is
    complete."""


class Shard(NamedTuple):
    """The tensors of a shard by name, as read-only memory maps, and the info of each episode.

    The module docstring lists the tensors.
    """

    arrays: dict[str, Array]
    episodes: list[JsonObject]


def shard_name(index: int) -> str:
    """File name of shard ``index``."""
    return f"shard-{index:05d}.safetensors"


def write_shard(folder: Path, index: int, episodes: Sequence[Episode]) -> ShardInfo:
    """Write episodes as shard ``index`` of a folder, atomically.

    Does not change ``dataset.json``.
    """
    if not episodes:
        raise InvalidInputError(f"Shard {index} of {folder}: a shard needs at least one episode.")
    for i, episode in enumerate(episodes):
        validate_episode(episode, f"episode {i} of shard {index}")
        _require_same_kind(episodes[0], episode, f"episode {i} of shard {index}")
    names = FRAME_TENSORS + (GEOMETRY_TENSORS if episodes[0].has_geometry else ())
    tensors = {name: np.concatenate([getattr(e, name) for e in episodes]) for name in names}
    tensors["episode_start"] = np.cumsum([0, *(len(e) for e in episodes)], dtype=np.int64)
    if episodes[0].intrinsics is not None:
        tensors["intrinsics"] = episodes[0].intrinsics
    infos = json.dumps([e.info for e in episodes])
    path = folder / shard_name(index)
    with replacing(path) as temporary:
        save_file(
            tensors,
            temporary,
            metadata={"format": SHARD_FORMAT, "version": str(SHARD_VERSION), "episodes": infos},
        )
        _sort_header(temporary)
        checksum = sha256_of(temporary)
    return ShardInfo(path.name, len(tensors["rgb"]), len(episodes), checksum)


def _sort_header(path: Path) -> None:
    """Sort the metadata of a safetensors file alphabetically.

    Its writer shuffles the metadata, and equal shards must be equal bytes.
    """
    with open(path, "rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(content) <= length
        file.seek(8)
        file.write(content.ljust(length))


def write_index(folder: Path, info: DatasetInfo, shards: Sequence[ShardInfo]) -> None:
    """Write ``dataset.json``, atomically."""
    content = {
        "format": DATASET_FORMAT,
        "version": VERSION,
        **asdict(info),
        "shards": [asdict(s) for s in shards],
    }
    write_sealed(folder / INDEX_FILE, content)


def read_index(folder: Path) -> tuple[DatasetInfo, tuple[ShardInfo, ...]]:
    """Read ``dataset.json``. Raises NotFoundError or DamagedFileError."""
    path = folder / INDEX_FILE
    if not is_file(path):
        raise NotFoundError(
            f"No dataset at {str(folder)!r}: it has no {INDEX_FILE}. Record one with: worldsim "
            f"record ENV_ID --out DIR"
        )
    content = read_json(inside(folder, INDEX_FILE))
    version = check_format(path, content, DATASET_FORMAT, VERSION)
    try:
        fields = {
            key: value
            for key, value in content.items()
            if key not in ("format", "version", "shards", SEAL)
        }
        listed = content.get("shards")
        if not isinstance(listed, list):
            raise InvalidInputError(f"shards is {type(listed).__name__}, a list is needed")
        shards = tuple(
            from_json(ShardInfo, entry, f"shards[{i}]") for i, entry in enumerate(listed)
        )
        info = from_json(DatasetInfo, fields)
        _check_info(info)
    except (InvalidInputError, DamagedFileError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({error}). Restore it, or record again."
        ) from None
    if len({shard.file for shard in shards}) != len(shards):
        raise DamagedFileError(f"{path} lists a shard twice. Restore it, or record again.")
    check_seal(path, content, required=version >= 2)
    return info, shards


def _check_info(info: DatasetInfo) -> None:
    """Raise InvalidInputError or DamagedFileError for invalid spaces and cameras."""
    shape = info.observation_space.get("shape")
    sides = shape if isinstance(shape, list) and len(shape) == 3 else [0]
    if not all(isinstance(n, int) and 1 <= n <= MOST_PIXELS for n in sides) or sides[-1] != 3:
        raise InvalidInputError(
            f"observation_space.shape is {shape!r}: [height, width, 3] in pixels is needed"
        )
    space_of(info.action_space)
    if info.intrinsics is not None and min(info.intrinsics[:2]) <= 0:
        raise InvalidInputError(
            f"intrinsics are {info.intrinsics}: fx and fy must be more than 0 pixels"
        )
    if info.geometry and info.intrinsics is None:
        raise InvalidInputError("geometry is true and intrinsics are missing")


def read_shard(path: Path, expected: ShardInfo | None = None) -> Shard:
    """Map a shard into memory.

    Raises :class:`DamagedFileError`, which names the file, if it cannot be used. Does not compute
    the checksum: ``EpisodeDataset.verify`` does.
    """
    try:
        require_regular(inside(path.parent, path.name))
    except NotFoundError:
        raise DamagedFileError(f"Shard {path} is missing. {_REMEDY}") from None
    try:
        # The torch framework hands out views of the memory map; the numpy one copies.
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise DamagedFileError(f"Shard {path} is damaged ({error}). {_REMEDY}") from None
    if metadata.get("format") != SHARD_FORMAT:
        raise DamagedFileError(
            f"Shard {path} has format {metadata.get('format')!r}, not {SHARD_FORMAT!r}. {_REMEDY}"
        )
    if metadata.get("version") != str(SHARD_VERSION):
        raise DamagedFileError(
            f"Shard {path} has version {metadata.get('version')!r}; this worldsim reads "
            f"{SHARD_VERSION}. Install a newer worldsim."
        )
    try:
        episodes = json.loads(metadata["episodes"])
        if not isinstance(episodes, list) or not all(isinstance(one, dict) for one in episodes):
            raise ValueError("what it says of its episodes is no list of objects")
        _check_tensors(arrays, len(episodes), expected)
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
        raise DamagedFileError(f"Shard {path} is damaged ({error}). {_REMEDY}") from None
    for array in arrays.values():
        array.flags.writeable = False
    return Shard(arrays, episodes)


_REMEDY = (
    "Run the same `worldsim record` command again to record it anew, or copy it back; "
    'on_damaged="skip" reads the other shards meanwhile.'
)


def _check_values(shard: Shard, info: DatasetInfo) -> None:
    """Raise ValueError or InvalidInputError unless actions, rewards and cameras fit the index."""
    arrays = shard.arrays
    shape = tuple(info.observation_space["shape"])
    if arrays["rgb"].shape[1:] != shape or arrays["rgb"].dtype != np.uint8:
        raise ValueError(
            f"rgb is {arrays['rgb'].dtype} {arrays['rgb'].shape}, {INDEX_FILE} says {shape}"
        )
    act, space = arrays["act"], space_of(info.action_space)
    if isinstance(space, gym.spaces.Discrete):
        good = act.dtype == np.int64 and act.ndim == 1 and act.min() >= 0 and act.max() < space.n
    else:
        good = (
            act.dtype == np.float32
            and act.shape[1:] == space.shape
            and bool(np.isfinite(act).all())
        )
    if not good:
        raise ValueError(
            f"act is {act.dtype} {act.shape}, from {act.min()} to {act.max()}: none of {space}"
        )
    if arrays["rew"].dtype != np.float32 or not np.isfinite(arrays["rew"]).all():
        raise ValueError("rew is not float32 and finite")
    if any(arrays[name].dtype != np.bool_ for name in ("term", "trunc")):
        raise ValueError("term or trunc is not bool")
    if "pose" in arrays:
        height, width, _ = shape
        if arrays["pose"].shape[1:] != (4, 4) or arrays["inverse_depth"].shape[1:] != (
            height,
            width,
        ):
            raise ValueError(
                f"pose is {arrays['pose'].shape}, inverse_depth {arrays['inverse_depth'].shape}"
            )
        if arrays["inverse_depth"].dtype != np.uint16 or arrays["pose"].dtype != np.float32:
            raise ValueError(
                f"pose is {arrays['pose'].dtype}, inverse_depth {arrays['inverse_depth'].dtype}"
            )
        check_poses(np.array(arrays["pose"]))
        told = arrays.get("intrinsics")
        if info.geometry and (
            told is None or not np.allclose(told, np.asarray(info.intrinsics), rtol=1e-5)
        ):
            raise ValueError(f"intrinsics are {told}, {INDEX_FILE} says {info.intrinsics}")


def _check_tensors(arrays: Mapping[str, Array], episodes: int, expected: ShardInfo | None) -> None:
    start = arrays["episode_start"]
    if start.dtype != np.int64 or start.ndim != 1 or not len(start):
        raise ValueError(f"episode_start is {start.dtype} {start.shape}")
    frames = int(start[-1])
    if len(start) != episodes + 1 or start[0] != 0 or (np.diff(start) < 1).any():
        raise ValueError(f"episode_start {start.tolist()[:4]}... does not fit {episodes} episodes")
    for name in (*FRAME_TENSORS, *(GEOMETRY_TENSORS if "pose" in arrays else ())):
        if arrays[name].ndim == 0 or len(arrays[name]) != frames:
            raise ValueError(f"{name} has {len(arrays[name])} frames instead of {frames}")
    if expected is not None and (frames, episodes) != (expected.frames, expected.episodes):
        raise ValueError(
            f"{episodes} episodes, {frames} frames; {INDEX_FILE} says {expected.episodes}, "
            f"{expected.frames}"
        )


def _require_same_kind(first: Episode, other: Episode, name: str) -> None:
    for key in (*FRAME_TENSORS, *GEOMETRY_TENSORS):
        a, b = getattr(first, key), getattr(other, key)
        if (a is None) != (b is None) or (
            a is not None and (a.shape[1:], a.dtype) != (b.shape[1:], b.dtype)
        ):
            kinds = ["nothing" if x is None else f"{x.shape[1:]} {x.dtype}" for x in (a, b)]
            raise InvalidInputError(
                f"{name}: {key} is {kinds[1]} a frame, but {kinds[0]} in the first episode."
            )
    a, b = first.intrinsics, other.intrinsics
    if a is not None and (b is None or not np.array_equal(a, b)):
        raise InvalidInputError(f"{name}: intrinsics {b} differ from the first episode's {a}.")


class EpisodeDataset(Sequence[Episode]):
    """A recorded dataset, read by memory map: a sequence of episodes, with access to its shards.

    path: the folder.
    require_geometry: raise :class:`MissingGeometryError` if the dataset has no poses and depth.
    on_damaged: ``"raise"`` on the first missing or damaged shard, or ``"skip"`` it with one
        warning.
    verify: compare a shard with its checksum before its frames are first used, which reads all of
        it once.
    """

    def __init__(
        self,
        path: str | Path,
        require_geometry: bool = False,
        on_damaged: Literal["raise", "skip"] = "raise",
        verify: bool = True,
    ) -> None:
        if on_damaged not in ("raise", "skip"):
            raise InvalidInputError(f'on_damaged={on_damaged!r}: it is "raise" or "skip".')
        self.path = as_path(path)
        self.on_damaged = on_damaged
        self.verifies = verify
        self.info, self.shards = read_index(self.path)
        if require_geometry and not self.info.geometry:
            raise MissingGeometryError(
                f"The dataset {str(path)!r} ({self.info.env_id}) has no poses and depth, which "
                f"the scene memory needs. "
                f'Record an environment whose info has "pose", "depth" and "intrinsics", or train '
                f"without memory."
            )
        self._open: dict[int, Shard] = {}
        self._verified: set[int] = set()
        self._damaged: set[str] = set()
        # Per readable shard: its index, and the number of episodes up to and including it.
        self._readable: list[int] = []
        self._episode_ends: list[int] = []
        self._index_shards(0)

    def refresh(self) -> int:
        """Add the shards that a recording in progress has finished since; returns how many."""
        info, shards = read_index(self.path)
        known = {s.file: s for s in self.shards}
        if any(known[s.file] != s for s in shards if s.file in known) or not set(known) <= {
            s.file for s in shards
        }:
            raise DamagedFileError(
                f"{self.path / INDEX_FILE} was replaced by another recording while it was read. "
                f"Open it anew."
            )
        fresh = tuple(s for s in shards if s.file not in known)
        first = len(self.shards)
        # New shards go to the end, whatever their names, so that indices given out before stay
        # valid.
        self.info, self.shards = info, self.shards + fresh
        self._index_shards(first)
        return len(fresh)

    @property
    def place(self) -> Place:
        """Where the dataset is: a folder, or the URL of one."""
        return self.path

    def where(self, entry: ShardInfo) -> str:
        """Return where a shard is, as text."""
        return str(self.path / entry.file)

    @property
    def frames(self) -> int:
        """Number of frames in all readable shards."""
        return sum(self.shards[i].frames for i in self._readable)

    @property
    def readable(self) -> tuple[int, ...]:
        """Indices of the readable shards: all, unless damaged ones are skipped."""
        return tuple(self._readable)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Names of the missing or damaged files that were skipped."""
        return tuple(sorted(self._damaged))

    def infos(self) -> list[JsonObject]:
        """Return the info of each readable episode."""
        return [info for i in self._readable for info in self._infos_of(i)]

    def load_shard(self, index: int) -> Shard:
        """Return the tensors of shard ``index`` as read-only memory maps.

        Slicing them reads only what the slice covers. The first call compares the shard with its
        checksum; it stays open, so later calls are free. A damaged shard raises, also with
        ``on_damaged="skip"``.
        """
        shard = self._open_shard(index)
        if self.verifies and index not in self._verified:
            entry = self.shards[index]
            if sha256_of(self.path / entry.file) != entry.sha256:
                raise DamagedFileError(
                    f"Shard {self.path / entry.file} differs from its checksum in {INDEX_FILE}. "
                    f"{_REMEDY}"
                )
            self._verified.add(index)
        return shard

    def _infos_of(self, index: int) -> list[JsonObject]:
        return self._open_shard(index).episodes

    def _open_shard(self, index: int) -> Shard:
        """Return shard ``index`` with its small tensors checked."""
        if index not in self._open:
            entry = self.shards[index]
            shard = read_shard(self.path / entry.file, entry)
            missing = [
                k
                for k in (*GEOMETRY_TENSORS, "intrinsics")
                if self.info.geometry and k not in shard.arrays
            ]
            if missing:
                raise DamagedFileError(
                    f"Shard {self.path / entry.file} lacks {', '.join(missing)}. {_REMEDY}"
                )
            try:
                _check_values(shard, self.info)
            except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
                raise DamagedFileError(
                    f"Shard {self.path / entry.file} is damaged ({error}). {_REMEDY}"
                ) from None
            self._open[index] = shard
        return self._open[index]

    def __len__(self) -> int:
        return self._episode_ends[-1] if self._episode_ends else 0

    @overload
    def __getitem__(self, index: SupportsIndex) -> Episode: ...

    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Episode | list[Episode]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            number = operator.index(index)
        except TypeError:
            raise InvalidInputError(
                f"episode {index!r} of a dataset: give a whole number, or a slice"
            ) from None
        position = number + len(self) if number < 0 else number
        if not 0 <= position < len(self):
            raise IndexError(f"episode {number} of a dataset of {len(self)}")
        place = bisect.bisect_right(self._episode_ends, position)
        first = self._episode_ends[place - 1] if place else 0
        return self._episode(self._readable[place], position - first)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def verify(self) -> tuple[str, ...]:
        """Compare the SHA-256 of every shard with ``dataset.json``, which reads all data.

        Raises :class:`DamagedFileError`, which names all bad files; with ``on_damaged="skip"``,
        returns their names instead.
        """
        bad = []
        for entry in self.shards:
            path = self.path / entry.file
            if not is_file(path) or sha256_of(path) != entry.sha256:
                bad.append(entry.file)
        if bad and self.on_damaged == "raise":
            raise DamagedFileError(
                f"In {self.path}, missing or not as recorded: {', '.join(bad)}. {_REMEDY}"
            )
        return tuple(bad)

    def __getstate__(self) -> dict[str, object]:
        # Memory maps stay behind: another process opens its own.
        return {**self.__dict__, "_open": {}, "_verified": set()}

    def _episode(self, shard_index: int, i: int) -> Episode:
        arrays, infos = self.load_shard(shard_index)
        a, b = (int(x) for x in arrays["episode_start"][i : i + 2])
        names = FRAME_TENSORS + (GEOMETRY_TENSORS if "pose" in arrays else ())
        return Episode(
            **{k: arrays[k][a:b] for k in names},
            intrinsics=arrays.get("intrinsics"),
            info=dict(infos[i]),
        )

    def _index_shards(self, first: int) -> None:
        total = len(self)
        for i in self._readable_from(first):
            total += self.shards[i].episodes
            self._readable.append(i)
            self._episode_ends.append(total)

    def _readable_from(self, first: int) -> Iterator[int]:
        """Open the shards from ``first`` on; yields the indices of the readable ones."""
        for i in range(first, len(self.shards)):
            try:
                self._open_shard(i)
            except DamagedFileError as error:
                if self.on_damaged == "raise":
                    # Forgotten again, so that a later refresh meets it anew.
                    self.shards = self.shards[:i]
                    raise
                warnings.warn(f"Skipped: {error}", stacklevel=4)
                self._damaged.add(self.shards[i].file)
                continue
            yield i


class EpisodeWriter:
    """Writes episodes into a new dataset, or appends to one that :class:`EpisodeWriter` made.

    Use it as a context manager: the last, smaller shard is written on exit. The first episode sets
    ``geometry`` and ``intrinsics`` of ``info``.

    frames_per_shard: a shard is closed once it has this many frames.
    """

    def __init__(self, path: str | Path, info: DatasetInfo, frames_per_shard: int = 8192) -> None:
        if frames_per_shard < 1:
            raise InvalidInputError(f"frames_per_shard={frames_per_shard}: it must be at least 1.")
        self.path, self.info, self.frames_per_shard = Path(path), info, frames_per_shard
        self.shards: list[ShardInfo] = []
        self._pending: list[Episode] = []
        self._first: Episode | None = None
        if (self.path / INDEX_FILE).exists():
            known, shards = read_index(self.path)
            require_same_info(
                self.path,
                known,
                replace(info, geometry=known.geometry, intrinsics=known.intrinsics),
            )
            self.info, self.shards = known, list(shards)
            self._first = EpisodeDataset(self.path)[0] if shards else None

    def add(self, episode: Episode) -> None:
        """Add an episode; writes a shard once it has enough frames."""
        name = f"episode {len(self._pending) + sum(s.episodes for s in self.shards)}"
        validate_episode(episode, name)
        if list(episode.rgb.shape[1:]) != list(self.info.observation_space.get("shape", ())):
            raise InvalidInputError(
                f"{name}: frames are {episode.rgb.shape[1:]}, the dataset says "
                f"{self.info.observation_space}."
            )
        if self._first is None:
            self._first = episode
            intrinsics = (
                None if episode.intrinsics is None else [float(x) for x in episode.intrinsics]
            )
            self.info = replace(self.info, geometry=episode.has_geometry, intrinsics=intrinsics)
        _require_same_kind(self._first, episode, name)
        self._pending.append(episode)
        if sum(len(e) for e in self._pending) >= self.frames_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write the collected episodes as a shard."""
        if not self._pending:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        taken = {s.file for s in self.shards}
        index = next(i for i in range(len(taken) + 1) if shard_name(i) not in taken)
        self.shards.append(write_shard(self.path, index, self._pending))
        self.shards.sort(key=lambda s: s.file)
        # A report is of what was there before.
        self.info = replace(self.info, report={})
        write_index(self.path, self.info, self.shards)
        self._pending = []

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()


def require_same_info(path: Place, known: DatasetInfo, wanted: DatasetInfo) -> None:
    """Raise :class:`InvalidInputError` if a dataset's info differs from that of new episodes.

    The error names the first field that differs.
    """
    # Through JSON, so that tuples and lists compare as what they become on disk.
    old, new = (json.loads(json.dumps(asdict(x))) for x in (known, wanted))
    old_flat, new_flat = ({**x.pop("recording"), **x} for x in (old, new))
    for key in [*old_flat, *(k for k in new_flat if k not in old_flat)]:
        if key not in ("versions", "report") and old_flat.get(key) != new_flat.get(key):
            raise InvalidInputError(
                f"The dataset in {str(path)!r} has {key} = {old_flat.get(key)!r}, this recording "
                f"{new_flat.get(key)!r}. "
                f"Use the same value to continue it, or another folder."
            )
