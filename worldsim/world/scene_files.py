"""Start scenes on disk, and their recording in a real twin.

A scene is a folder with these files:

- ``frames.webp``: the frames, stacked vertically, lossless. ``frames.png`` if they have too many
  rows for WebP.
- ``inverse_depth.png``: their 16-bit codes, stacked in the same way.
- ``scene.json``: actions, exact poses, intrinsics, and checksums of the other files and of itself.
- ``points.safetensors``: the scene memory, if it covers more than the frames.

A generated scene says so in ``scene.json``, and where it comes from. It may have several starts:
frames of it that begin an episode, each with the memory of the whole scene. Other files in its
folder (pictures, a film, points as PLY) are for people and not read.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.camera import check_poses, quantise_depth, snap_pose
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.io.pictures import read_picture, save_picture
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points
from worldsim.memory.splat import DIRECTION
from worldsim.protocols import Policy
from worldsim.runtime.files import (
    as_path,
    check_files,
    inside,
    load_tensors,
    present_folder,
    replacing_folder,
    require_finite,
    save_tensors,
    sha256_of,
)
from worldsim.runtime.json_config import (
    check_format,
    check_ranges,
    check_seal,
    from_json,
    read_json,
    write_sealed,
)
from worldsim.runtime.progress import follow
from worldsim.runtime.types import Action, Array, Env, Info, JsonMapping, JsonObject
from worldsim.shipped.policies import make_policy
from worldsim.state import SceneStart, flatten
from worldsim.world.image_env import make_env

FORMAT, FORMAT_VERSION, RECORDED_VERSION = "worldsim-scene", 4, 3
"""Version 1 stored all frames as PNG. Versions 1 and 2 had no checksum of ``scene.json``. Version 4
added generated scenes and starts; recorded scenes are still written as version 3. All of them are
read."""
FRAMES, MANY_FRAMES, DEPTH, POINTS, SCENE = (
    "frames.webp",
    "frames.png",
    "inverse_depth.png",
    "points.safetensors",
    "scene.json",
)
WEBP_ROWS = 16_383
"""Largest number of rows or columns of a WebP image. WebP is a quarter smaller than PNG."""
FARTHEST = 1_000_000
"""Largest distance of poses from the origin in metres; float32 has a resolution of 6 cm there."""
MOST_FRAMES = 65_536
"""Largest number of frames that a scene's file may claim."""
MAX_TRIES = 50
"""Largest number of consecutive rejected walks before recording raises an error."""


@dataclass(frozen=True)
class StartFrames:
    """Consecutive frames of a scene that begin an episode."""

    first: Annotated[int, Ge(0), Le(MOST_FRAMES)]
    """Number of the first one, from 0."""
    count: Annotated[int, Ge(1), Le(MOST_FRAMES)] = 1
    """How many."""

    def __post_init__(self) -> None:
        check_ranges(self)


Visit = tuple[Array, Action, Info]
"""An observation, the action that led to it, and the info returned with it."""


@dataclass(frozen=True)
class ScenesConfig:
    """Settings of :func:`record_scenes`."""

    env_id: str
    """Gymnasium id of the real twin."""
    out: Path
    """Output folder with one sub-folder per scene, for example the ``scenes`` folder of a world."""
    maps: tuple[str, ...] = ()
    """Maps to distribute the scenes over, as the environment's ``map`` option accepts them. Without
    maps, the environment draws from its test split."""
    count: int = 32
    """Number of scenes to record."""
    frames: int = 6
    """Number of frames in a scene, the last ones of its walk: enough for the ego-motion head to
    infer momentum. With ``look_action`` give at least the world's attention window."""
    steps: int = 32
    """Steps of the walk, so that a scene starts in mid-episode."""
    min_view: float = 1.5
    """Walks whose last frame has a smaller median depth (m) are repeated: a start that faces a wall
    shows nothing."""
    min_travel: float = 2.0
    """Walks whose largest distance (m) from their start is smaller are repeated: a random start may
    lie in a closet."""
    min_brightness: float = 0.0
    """Walks whose last frame has a smaller mean value (of 255) are repeated."""
    look_action: int | None = None
    """Action that turns on the spot. If given, the walk is followed by ``look_steps`` turning steps
    and ``frames`` steps of the policy. The scene then starts with every ``look_every``-th frame of
    the turn, so that its memory covers all directions."""
    look_steps: int = 28
    """Steps of the turn. In Freedoom, actions 3 and 4 turn by 14 degrees per step."""
    look_every: int = 3
    """Keep every ``look_every``-th frame of the turn. ``frames`` should then exceed the world's
    history (8 motions, and its attention window), since motions between these frames are not those
    of single actions."""
    policy: str = "persistent"
    """``persistent``, ``random``, or ``module:Class`` of a policy, constructed with the action
    space."""
    seed: int = 0
    """Seed of all random numbers."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Further arguments of ``gymnasium.make``."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.frames < 1 or self.steps < self.frames:
            raise InvalidInputError(
                f"count {self.count} and frames {self.frames} must be at least 1, and steps "
                f"{self.steps} at least frames"
            )
        if self.look_every < 1 or self.look_steps < 1:
            raise InvalidInputError(
                f"look_steps {self.look_steps} and look_every {self.look_every} must be at least 1"
            )


def save_scene(scene: SceneStart, folder: str | os.PathLike[str]) -> Path:
    """Write ``scene`` to ``folder`` atomically.

    The folder is written to a temporary place and renamed, so an interrupted save leaves the old
    scene. Raises StorageError, and InvalidInputError for an inconsistent scene.
    """
    folder = as_path(folder)
    _require_consistent(scene)
    with replacing_folder(folder) as new:
        write_scene(dataclasses.replace(scene, name=scene.name or folder.name), new)
    return folder


def write_scene(
    scene: SceneStart,
    folder: Path,
    starts: Sequence[StartFrames] = (),
    origin: JsonMapping | None = None,
) -> None:
    """Write the files of ``scene`` to an existing folder, for example a temporary one.

    starts: frames that begin an episode; by default all of them together.
    origin: for a generated scene, where it comes from (words, seeds, the painter), JSON values.

    Raises StorageError, and InvalidInputError for an inconsistent scene.
    """
    _require_consistent(scene)
    t, _, h, w = scene.rgb.shape
    check_starts(starts, t)
    frames = FRAMES if max(t * h, w) <= WEBP_ROWS else MANY_FRAMES
    for name in (FRAMES, MANY_FRAMES, DEPTH, POINTS):
        (folder / name).unlink(missing_ok=True)
    save_picture(scene.rgb.permute(0, 2, 3, 1).reshape(t * h, w, 3).cpu().numpy(), folder / frames)
    files = [frames]
    if scene.inverse_depth is not None:
        codes = scene.inverse_depth.reshape(t * h, w).cpu().numpy().astype(np.uint16)
        save_picture(codes, folder / DEPTH)
        files.append(DEPTH)
    if scene.memory is not None and flatten(scene.memory):
        save_tensors(
            {k: v.cpu().contiguous() for k, v in flatten(scene.memory).items()}, folder / POINTS
        )
        files.append(POINTS)
    described = {
        "format": FORMAT,
        "version": FORMAT_VERSION if starts or origin is not None else RECORDED_VERSION,
        "name": scene.name,
        "frames": t,
        "act": {"dtype": str(scene.act.dtype).removeprefix("torch."), "values": scene.act},
        "pose": None if scene.pose is None else scene.pose.reshape(t, 16),
        "intrinsics": scene.intrinsics,
        "sha256": {name: sha256_of(folder / name) for name in files},
        **({"starts": list(starts)} if starts else {}),
        **({"generated": True, "origin": dict(origin)} if origin is not None else {}),
    }
    write_sealed(folder / SCENE, described)


def check_starts(starts: Sequence[StartFrames], frames: int) -> None:
    """Raise InvalidInputError for a start beyond the ``frames`` of its scene."""
    for start in starts:
        if start.first + start.count > frames:
            raise InvalidInputError(
                f"this scene cannot be saved: a start has the frames {start.first} to "
                f"{start.first + start.count - 1}, and the scene has {frames}"
            )


def _require_consistent(scene: SceneStart) -> None:
    """Raise InvalidInputError for an inconsistent scene."""
    try:
        t, *_ = scene.rgb.shape
        _check_scene(scene, t)
    except (ValueError, AttributeError, TypeError, RuntimeError) as error:
        raise InvalidInputError(f"this scene cannot be saved: {error}") from None


@dataclass(frozen=True)
class _Actions:
    dtype: Literal["int64", "float32"]
    values: list[int] | list[float] | list[list[float]]


@dataclass(frozen=True)
class Described:
    """The contents of ``scene.json``."""

    format: str
    version: int
    name: str
    frames: Annotated[int, Ge(1), Le(MOST_FRAMES)]
    act: _Actions
    pose: list[list[float]] | None
    intrinsics: list[float] | None
    sha256: dict[str, str]
    starts: list[StartFrames] = field(default_factory=list)
    """Frames that begin an episode; empty: all of them together."""
    generated: bool = False
    """Whether a painter made it."""
    origin: JsonObject = field(default_factory=dict)
    """Of a generated scene: its words, seeds, painter and log."""
    content_sha256: str = ""


def check_scene_folder(folder: str | os.PathLike[str]) -> Described:
    """Read ``scene.json`` in ``folder`` and verify all checksums.

    Images are not decoded. Raises NotFoundError or DamagedFileError.
    """
    folder = present_folder(folder)
    path = folder / SCENE
    values = read_json(inside(folder, SCENE))
    version = check_format(path, values, FORMAT, FORMAT_VERSION)
    try:
        meta = from_json(Described, values)
    except InvalidInputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}): copy the scene again") from error
    check_seal(path, values, required=version >= 3)
    known = {FRAMES, MANY_FRAMES, DEPTH, POINTS}
    if not known >= meta.sha256.keys() or not {FRAMES, MANY_FRAMES} & meta.sha256.keys():
        raise DamagedFileError(
            f"{path} lists the files {', '.join(meta.sha256) or 'none'}: copy the scene again"
        )
    for start in meta.starts:
        if start.first + start.count > meta.frames:
            raise DamagedFileError(
                f"{path} has a start at frame {start.first} of {start.count} frames, and "
                f"{meta.frames} frames: copy the scene again"
            )
    check_files(path, meta.sha256)
    return meta


def load_scene(folder: str | os.PathLike[str]) -> SceneStart:
    """Load the scene in ``folder``.

    Raises NotFoundError or DamagedFileError, both naming the file.
    """
    folder, meta = present_folder(folder), check_scene_folder(folder)
    path, t = folder / SCENE, meta.frames
    rgb = read_picture(
        folder / (FRAMES if FRAMES in meta.sha256 else MANY_FRAMES), formats=("PNG", "WEBP")
    )
    code = read_picture(folder / DEPTH, formats=("PNG",)) if DEPTH in meta.sha256 else None
    try:
        if rgb.ndim != 3 or rgb.dtype != np.uint8 or (code is not None and code.ndim != 2):
            raise ValueError(
                f"frames are {rgb.dtype} {rgb.shape}, depth {None if code is None else code.shape}"
            )
        scene = SceneStart(
            rgb=torch.from_numpy(rgb).unflatten(0, (t, -1)).permute(0, 3, 1, 2).contiguous(),
            act=torch.tensor(meta.act.values, dtype=getattr(torch, meta.act.dtype)),
            inverse_depth=None
            if code is None
            else torch.from_numpy(code.astype(np.int32)).unflatten(0, (t, -1)),
            pose=None
            if meta.pose is None
            else torch.tensor(meta.pose, dtype=torch.float32).view(t, 4, 4),
            intrinsics=None
            if meta.intrinsics is None
            else torch.tensor(meta.intrinsics, dtype=torch.float32),
            memory=_read_points(folder / POINTS) if POINTS in meta.sha256 else None,
            name=meta.name,
        )
        _check_scene(scene, t)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({type(error).__name__}: {error}): copy the scene again"
        ) from error
    return scene


def _check_scene(scene: SceneStart, frames: int) -> None:
    """Raise ValueError for wrong shapes, invalid poses and invalid intrinsics."""
    if len(scene.act) != frames:
        raise ValueError(f"{len(scene.act)} actions for {frames} frames")
    if scene.inverse_depth is not None and scene.inverse_depth.shape != (
        frames,
        *scene.rgb.shape[-2:],
    ):
        raise ValueError(
            f"depth of {tuple(scene.inverse_depth.shape)} for frames of {tuple(scene.rgb.shape)}"
        )
    if scene.intrinsics is not None and (
        scene.intrinsics.shape != (4,) or not bool((scene.intrinsics[:2] > 0).all())
    ):
        raise ValueError(
            f"intrinsics are {scene.intrinsics.tolist()}, fx fy cx cy in pixels are needed"
        )
    if scene.intrinsics is not None and not bool((scene.intrinsics.abs() <= FARTHEST).all()):
        raise ValueError(f"intrinsics are {scene.intrinsics.tolist()}: at most {FARTHEST:,} pixels")
    if scene.pose is not None:
        if scene.pose.shape != (frames, 4, 4):
            raise ValueError(f"poses of {tuple(scene.pose.shape)} for {frames} frames")
        check_poses(scene.pose)
        if not bool((scene.pose[:, :3, 3].abs() <= FARTHEST).all()):
            raise ValueError(f"a pose lies more than {FARTHEST:,} m from the origin")


def scene_names(folder: str | os.PathLike[str]) -> list[str]:
    """Return the scenes in ``folder``, in natural order (``MAP30-2`` before ``MAP30-10``)."""

    def natural(name: str) -> list[tuple[int, str]]:
        return [
            (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)
        ]

    # Broken links count, so that reading them raises an error. Hidden folders are scenes that a
    # killed process was writing.
    found = [path.name for path in Path(folder).glob("[!.]*") if os.path.lexists(path / SCENE)]
    return sorted(found, key=natural)


def record_scenes(config: ScenesConfig) -> list[Path]:
    """Record start scenes in the real twin; returns their folders.

    A scene's name consists of its map and a number: ``MAP30-2``.
    """
    env = make_env(config.env_id, dict(config.env_kwargs))
    policy = make_policy(config.policy, env.action_space)
    taken: dict[str, int] = {}
    folders = []
    try:
        for i in follow(range(config.count), "scenes", "scene"):
            options = (
                {"map": config.maps[i % len(config.maps)]} if config.maps else {"split": "test"}
            )
            scene = _one_scene(env, policy, options, config, i)
            taken[scene.name] = taken.get(scene.name, 0) + 1
            scene = dataclasses.replace(scene, name=f"{scene.name}-{taken[scene.name]}")
            folders.append(save_scene(scene, config.out / scene.name))
    finally:
        env.close()
    return folders


def _one_scene(
    env: Env,
    policy: Policy,
    options: Info,
    config: ScenesConfig,
    index: int,
) -> SceneStart:
    for attempt in range(MAX_TRIES):
        env_seed, policy_seed = (
            int(x)
            for x in np.random.SeedSequence([config.seed, index, attempt]).generate_state(2) >> 1
        )
        walk = _walk(env, policy, options, config, (env_seed, policy_seed))
        if walk is not None and _is_worth_it(walk, config):
            turn = (
                []
                if config.look_action is None
                else walk[config.steps + 1 : -config.frames : config.look_every]
            )
            return scene_of(
                [*turn, *walk[-config.frames :]], isinstance(env.action_space, gym.spaces.Discrete)
            )
    raise InvalidInputError(
        f"{MAX_TRIES} walks of {config.steps} steps of {config.env_id} with {options} ended "
        f"early, stayed within "
        f"{config.min_travel} m of their start, had a median depth under {config.min_view} m or "
        f"were darker than "
        f"{config.min_brightness}: lower min_travel, min_view or min_brightness"
    )


def _walk(
    env: Env,
    policy: Policy,
    options: Info,
    config: ScenesConfig,
    seeds: tuple[int, int],
) -> list[Visit] | None:
    """Return the visits of a walk, and of the turn and the steps after it if requested.

    None if the episode ends early.
    """
    obs, info = env.reset(seed=seeds[0], options=options)
    policy.reset(seeds[1])
    visits: list[Visit] = [(np.array(obs), np.zeros_like(policy.act(obs)), info)]
    policy.reset(seeds[1])
    turn = (
        []
        if config.look_action is None
        else [*[config.look_action] * config.look_steps, *[None] * config.frames]
    )
    for forced in (*[None] * config.steps, *turn):
        act = policy.act(obs) if forced is None else forced
        obs, _, term, trunc, info = env.step(act)
        visits.append((np.array(obs), act, info))
        if term or trunc:
            return visits if len(visits) == config.steps + len(turn) + 1 else None
    return visits


def _is_worth_it(walk: list[Visit], config: ScenesConfig) -> bool:
    if float(walk[-1][0].mean()) < config.min_brightness:
        return False
    if "pose" not in walk[0][2]:
        return True
    place = _stack(walk, "pose")[:, :3, 3]
    far = float((place - place[0]).norm(dim=1).max())
    return far >= config.min_travel and float(np.median(walk[-1][2]["depth"])) >= config.min_view


def scene_of(visits: Sequence[Visit], discrete: bool) -> SceneStart:
    """Return the start of consecutive visits, with depth and poses if their ``info`` has them.

    discrete: whether actions are discrete.
    """
    info = visits[-1][2]
    scene = SceneStart(
        rgb=torch.from_numpy(np.stack([obs for obs, _, _ in visits]))
        .permute(0, 3, 1, 2)
        .contiguous(),
        act=torch.from_numpy(
            np.stack(
                [np.asarray(act, np.int64 if discrete else np.float32) for _, act, _ in visits]
            )
        ),
        name=str(info.get("map", "scene")).split("/")[-1],
    )
    if "pose" not in info:
        return scene
    return dataclasses.replace(
        scene,
        inverse_depth=quantise_depth(_stack(visits, "depth")),
        pose=snap_pose(_stack(visits, "pose")),
        intrinsics=torch.from_numpy(np.asarray(info["intrinsics"], np.float32)),
    )


def _stack(visits: Sequence[Visit], key: str) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(info[key], np.float32) for _, _, info in visits]))


def _read_points(path: Path) -> Points:
    tensors = load_tensors(path)
    require_finite(tensors, path)
    try:
        points = Points(**tensors)
    except TypeError as error:
        raise DamagedFileError(
            f"{path} holds no point memory ({error}): copy the scene again"
        ) from error
    template = flatten(PointMemory(PointMemoryConfig(capacity=1)).empty(1, "meta"))
    n = points.kind.shape[-1] if points.kind.dim() == 2 else -1
    for name, value in flatten(points).items():
        like = template[name]
        if value.dtype != like.dtype or value.shape != (*like.shape[:-1], n):
            raise DamagedFileError(
                f"{path} holds no point memory ({name} is {value.dtype} {tuple(value.shape)}): "
                f"copy it again"
            )
    if bool((points.kind > DIRECTION).any()):
        raise DamagedFileError(
            f"{path} holds points of a kind {int(points.kind.max())}: kinds are 0 to {DIRECTION}; "
            f"copy it again"
        )
    return points
