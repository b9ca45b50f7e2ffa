"""Import from and export to Minari, Farama's format for offline RL (https://minari.farama.org)."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from worldsim.data.dataset import DatasetInfo, EpisodeDataset, EpisodeWriter
from worldsim.data.episode import Episode
from worldsim.data.foreign import require_new
from worldsim.data.play import package_versions
from worldsim.data.report import finish_import
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError, WorldsimError
from worldsim.runtime.extras import missing
from worldsim.runtime.files import require_regular
from worldsim.runtime.json_config import from_json
from worldsim.runtime.progress import Progress, follow
from worldsim.runtime.spaces import describe_space, space_of
from worldsim.runtime.types import Array, Space
from worldsim.world.image_env import PixelsConfig, as_dict, make_pixels, to_pixels
from worldsim.world.twin import check_twin

if TYPE_CHECKING:
    import h5py
    from minari import EpisodeData, MinariDataset
    from minari.data_collector import EpisodeBuffer

OWN_METADATA = "worldsim"
"""Key of a Minari dataset's metadata that holds what ``dataset.json`` says."""
GEOMETRY = ("inverse_depth", "pose", "intrinsics")
"""Infos that carry the geometry of each frame, as :class:`worldsim.data.episode.Episode` has it."""


@dataclass(frozen=True)
class ExportMinariConfig:
    """Copy a recording to the local Minari datasets (``MINARI_DATASETS_PATH``), losslessly."""

    data: Path
    """Folder of the recording."""
    name: str
    """Id of the Minari dataset, ``(namespace/)name-vN``, such as ``worldsim/takecover-random-v0``.
    It must not exist."""
    author: str | None = None
    """Author, as Minari requires."""


@dataclass(frozen=True)
class ImportMinariConfig:
    """Copy a local Minari dataset of images to a recording for training."""

    name: str
    """Id of the Minari dataset; ``minari download NAME`` fetches public ones."""
    out: Path
    """Folder of the recording; it must not hold one."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that images are resized to; their own if not given."""
    key: str | None = None
    """Key of the image in a Dict observation; needed only if several entries are images."""
    env_id: str | None = None
    """Gymnasium id of its environment, if the dataset does not say."""
    frames_per_shard: int = 8192
    """A shard is closed once it has this many frames."""


def export_minari(config: ExportMinariConfig) -> MinariDataset:
    """Export a recording; returns the Minari dataset.

    Observations, actions, rewards, terminations and truncations are stored without loss. The
    dataset names its environment (``env_spec``), so that Minari's ``recover_environment`` can
    create it. A warning says why where this is impossible: a file may not name the environment
    (:func:`worldsim.world.twin.check_twin`), it is not installed, or it was wrapped in functions,
    which Minari cannot store.

    Raises NotFoundError, InvalidInputError (an invalid or taken name), MissingDependencyError.
    """
    minari, buffers = _minari()
    dataset = EpisodeDataset(config.data)
    # A bad name that is refused later has left a folder by then, over which Minari's own listing
    # stumbles.
    _require_name(config.name)
    info, made = dataset.info, None
    spaces = {"observation_space": _image_space(info), "action_space": space_of(info.action_space)}
    with Progress(len(dataset), "export", "episode") as bar:
        for shard in _by_shard(dataset):
            episodes = [_buffer(buffers, episode) for episode in shard]
            if made is None:
                try:
                    with warnings.catch_warnings():
                        # Given a spec, it would make the environment: the spec is added below.
                        warnings.filterwarnings("ignore", "env_spec is None")
                        # Its own compression of images is lossy.
                        made = minari.create_dataset_from_buffers(
                            config.name,
                            episodes,
                            algorithm_name=info.policy,
                            author=config.author,
                            description=f"{info.env_id}, recorded with worldsim",
                            jpeg_encoding=False,
                            **spaces,
                        )
                except ValueError as error:
                    raise InvalidInputError(
                        f"Minari refuses {config.name!r} ({error}): use another name, such as "
                        f"my/data-v0"
                    ) from error
                made.storage.update_metadata(
                    {
                        OWN_METADATA: json.dumps(dataclasses.asdict(info)),
                        **_spec_metadata(info, config),
                    }
                )
            else:
                made.update_dataset_from_buffer(episodes)
            bar.update(len(episodes))
    if made is None:
        raise InvalidInputError(f"{config.data} holds no episodes yet: record more")
    # Anew: it reads what names the environment when it is loaded.
    return minari.load_dataset(config.name)


def _spec_metadata(info: DatasetInfo, config: ExportMinariConfig) -> dict[str, str]:
    """Return Minari's metadata of the environment.

    It is ``env_spec``, or empty with a warning that says why.
    """
    try:
        return {"env_spec": _spec_of(info, config.data).to_json()}
    except (WorldsimError, gym.error.Error, ImportError, TypeError, ValueError) as error:
        warnings.warn(
            f"{config.name} does not name its environment {info.env_id!r} ({error}): "
            f"recover_environment() will not find it, "
            "worldsim.world.image_env.make_pixels makes it",
            stacklevel=3,
        )
        return {}


def _spec_of(info: DatasetInfo, source: Path) -> EnvSpec:
    """Return the spec of the recorded environment, as ``gymnasium.make`` takes it."""
    env_id = check_twin(info.env_id, info.env_kwargs, source)
    if info.pixels:
        # The wrappers are in the spec of an environment that wears them.
        env = make_pixels(env_id, dict(info.env_kwargs), from_json(PixelsConfig, info.pixels))
        try:
            assert env.spec is not None
            return env.spec
        finally:
            env.close()
    spec = copy.deepcopy(gym.spec(env_id))
    kwargs = dict(info.env_kwargs)
    spec.max_episode_steps = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    spec.kwargs = {**spec.kwargs, **kwargs}
    return spec


def import_minari(config: ImportMinariConfig) -> EpisodeDataset:
    """Import a Minari dataset; returns the recording.

    Restores exactly what :func:`export_minari` wrote. Rewards are float32. Raises NotFoundError,
    InvalidInputError (no images, unsupported actions, a folder in use), MissingDependencyError.
    """
    minari, _ = _minari()
    require_new(config.out)
    try:
        source = minari.load_dataset(config.name)
    except (OSError, ValueError, TypeError, KeyError) as error:
        names = "none that can be listed"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            names = ", ".join(minari.list_local_datasets()) or "none"
        raise NotFoundError(
            f"no Minari dataset {config.name!r} here ({error}); there are: {names}"
        ) from None
    for file in sorted(Path(source.storage.data_path).glob("*.hdf5")):
        _require_own_data(file)
    told = source.storage.metadata.get(OWN_METADATA)
    pixels = _pixels(source.observation_space, config)
    info = _own(told, config.name) if told else _describe(source, config, pixels)
    height, width = config.size or _image_space_of(source.observation_space, pixels).shape[:2]
    info = dataclasses.replace(
        info, observation_space={"shape": [int(height), int(width), 3], "dtype": "uint8"}
    )
    if told and config.size is not None:
        kept = from_json(PixelsConfig, info.pixels) if info.pixels else PixelsConfig()
        info = dataclasses.replace(
            info, pixels=as_dict(dataclasses.replace(kept, size=config.size))
        )
    with EpisodeWriter(config.out, info, config.frames_per_shard) as writer:
        for data in follow(
            source.iterate_episodes(), "import", "episode", int(source.total_episodes)
        ):
            writer.add(
                _episode(
                    data,
                    partial(to_pixels, pixels=pixels),
                    isinstance(source.action_space, gym.spaces.Discrete),
                )
            )
    return finish_import(config.out)


def _require_own_data(path: Path) -> None:
    """Raise DamagedFileError if an HDF5 file refers to other files.

    It can do so by links, external storage and virtual datasets.
    """
    import h5py

    def check(group: h5py.Group) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            found = group.get(name) if isinstance(link, h5py.HardLink) else None
            if found is None or (
                isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
            ):
                raise DamagedFileError(
                    f"{path}: {name!r} lies in another file, or is a link: only the file's own "
                    f"data is imported"
                )
            if isinstance(found, h5py.Group):
                check(found)

    try:
        with h5py.File(require_regular(path), "r") as file:
            check(file)
    except (OSError, RuntimeError, KeyError, RecursionError) as error:
        if isinstance(error, WorldsimError):
            raise
        raise DamagedFileError(
            f"{path} is not a readable HDF5 file ({error}): copy the dataset again"
        ) from error


def _own(told: str, name: str) -> DatasetInfo:
    """Return the metadata of a recording that :func:`export_minari` wrote."""
    try:
        return from_json(DatasetInfo, json.loads(told))
    except (InvalidInputError, TypeError, ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"what the Minari dataset {name!r} says of its recording, under {OWN_METADATA!r}, is "
            f"damaged ({error}): export it again"
        ) from None


def _minari() -> tuple[ModuleType, type[EpisodeBuffer]]:
    try:
        importlib.import_module("h5py")
        return importlib.import_module("minari"), importlib.import_module(
            "minari.data_collector"
        ).EpisodeBuffer
    except ImportError as error:
        raise missing("Minari is not installed", "minari", error) from None


def _require_name(name: str) -> None:
    try:
        importlib.import_module("minari.dataset.minari_dataset").parse_dataset_id(name)
    except (ValueError, TypeError) as error:
        # Of a name without a version, its parser makes a number of nothing.
        raise InvalidInputError(
            f"Minari refuses {name!r} ({error}): use another name, such as my/data-v0"
        ) from None


def _by_shard(dataset: EpisodeDataset) -> Iterator[list[Episode]]:
    first = 0
    for index in dataset.readable:
        count = dataset.shards[index].episodes
        yield [dataset[i] for i in range(first, first + count)]
        first += count


def _buffer(kind: type[EpisodeBuffer], episode: Episode) -> EpisodeBuffer:
    infos = None
    if episode.has_geometry:
        assert episode.intrinsics is not None
        each = np.broadcast_to(episode.intrinsics, (len(episode), 4))
        infos = {
            "inverse_depth": np.array(episode.inverse_depth),
            "pose": np.array(episode.pose),
            "intrinsics": np.array(each),
        }
    return kind(
        seed=episode.info.get("seed"),
        observations=np.array(episode.rgb),
        actions=np.array(episode.act[:-1]),
        rewards=np.array(episode.rew[:-1]),
        terminations=np.array(episode.term[:-1]),
        truncations=np.array(episode.trunc[:-1]),
        infos=infos,
    )


def _episode(
    data: EpisodeData, image: Callable[[Array | Mapping[str, Array]], Array], discrete: bool
) -> Episode:
    act = np.asarray(data.actions, np.int64 if discrete else np.float32)
    geometry = {
        name: np.asarray(data.infos[name]) for name in GEOMETRY if name in (data.infos or {})
    }
    if "intrinsics" in geometry:
        geometry["intrinsics"] = geometry["intrinsics"][0]
    seed = getattr(data, "seed", None)
    return Episode(
        rgb=image(data.observations),
        act=np.concatenate([act, np.zeros_like(act[:1])]),
        rew=np.append(np.asarray(data.rewards, np.float32), np.float32(0.0)),
        term=np.append(np.asarray(data.terminations, bool), False),
        trunc=np.append(np.asarray(data.truncations, bool), False),
        info={} if seed is None else {"seed": int(seed)},
        **geometry,
    )


def _pixels(space: Space, config: ImportMinariConfig) -> PixelsConfig:
    key = config.key
    if isinstance(space, gym.spaces.Dict) and key is None:
        images = [
            k
            for k, s in space.spaces.items()
            if isinstance(s, gym.spaces.Box) and s.dtype == np.uint8 and len(s.shape) == 3
        ]
        if len(images) != 1:
            raise InvalidInputError(
                f"{config.name} observes {space}: name the image with --key, one of "
                f"{images or 'none'}"
            )
        key = images[0]
    pixels = PixelsConfig(config.size, key)
    _image_space_of(space, pixels)
    return pixels


def _image_space_of(space: Space, pixels: PixelsConfig) -> gym.spaces.Box:
    if pixels.key is not None:
        if not isinstance(space, gym.spaces.Dict) or pixels.key not in space.spaces:
            raise InvalidInputError(
                f"the Minari dataset observes {space}, without a part {pixels.key!r}"
            )
        space = space[pixels.key]
    if (
        not isinstance(space, gym.spaces.Box)
        or space.dtype != np.uint8
        or len(space.shape) != 3
        or space.shape[2] != 3
    ):
        raise InvalidInputError(
            f"the Minari dataset observes {space}: images, Box uint8 of (h, w, 3), are needed"
        )
    return space


def _describe(
    source: MinariDataset, config: ImportMinariConfig, pixels: PixelsConfig
) -> DatasetInfo:
    spec = source.env_spec
    env_id = config.env_id or (spec.id if spec is not None else "")
    kwargs = dict(spec.kwargs) if spec is not None and config.env_id is None else {}
    try:
        json.dumps(kwargs)
    except TypeError:
        kwargs = {}
    if spec is not None and spec.max_episode_steps is not None:
        kwargs["max_episode_steps"] = spec.max_episode_steps
    return DatasetInfo(
        env_id=env_id,
        observation_space={},
        action_space=describe_space(source.action_space),
        env_kwargs=kwargs,
        pixels=None if pixels == PixelsConfig() else as_dict(pixels),
        policy=str(source.storage.metadata.get("algorithm_name", "")),
        versions=package_versions(),
        recording={"minari": config.name},
    )


def _image_space(info: DatasetInfo) -> gym.spaces.Box:
    return gym.spaces.Box(0, 255, tuple(info.observation_space["shape"]), np.uint8)
