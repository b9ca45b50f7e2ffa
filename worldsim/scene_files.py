"""Start scenes on disk, and recording them in a real twin.

A scene is a folder: ``frames.webp`` (the frames on top of one another, without loss; ``frames.png`` where they are too many rows
for that), ``inverse_depth.png`` (their 16-bit codes, the same way), ``scene.json`` (actions, exact poses, intrinsics, checksums)
and, if more has been seen than the frames show, ``points.safetensors`` (the scene memory).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from worldsim.camera import quantise_depth, snap_pose
from worldsim.config import read_json, write_json
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.memory.points import Points
from worldsim.pictures import save_picture
from worldsim.pixels import make_env
from worldsim.policies import make_policy
from worldsim.protocols import Policy
from worldsim.state import SceneStart, flatten

FORMAT_VERSION = 2
"""1 had all frames as PNG, and is read, too."""
FRAMES, MANY_FRAMES, DEPTH, POINTS, SCENE = "frames.webp", "frames.png", "inverse_depth.png", "points.safetensors", "scene.json"
WEBP_ROWS = 16_383
"""WebP takes a quarter less than PNG, but no picture with more rows or columns."""
MAX_TRIES = 50
"""Walks that may come to nothing in a row before recording gives up."""

Array = NDArray[Any]
Visit = tuple[Array, Any, dict[str, Any]]
"""An observation, the action that led to it, and the info that came with it."""


@dataclass(frozen=True)
class ScenesConfig:
    """Settings of :func:`record_scenes`."""

    env_id: str
    """Gymnasium id of the real twin."""
    out: Path
    """Folder that gets a sub-folder a scene, for instance the ``scenes`` folder of a world."""
    maps: tuple[str, ...] = ()
    """Maps to spread the scenes over, as the environment's ``map`` option takes them; none: its test split draws."""
    count: int = 32
    """How many scenes to record."""
    frames: int = 6
    """How many frames a scene keeps, the last ones of its walk: more than the ego-motion head needs to feel momentum."""
    steps: int = 32
    """Steps of the walk, so that a scene begins in the middle of things."""
    min_view: float = 1.5
    """Walks that end with a nearer median depth (m) are walked again: a start that stares at a wall shows nothing."""
    min_travel: float = 2.0
    """Walks that never get this far (m) from where they began are walked again: a random start may lie in a closet."""
    policy: str = "persistent"
    """``persistent``, ``random``, or ``module:Class`` of a policy that is constructed with the action space."""
    seed: int = 0
    """What all randomness comes from."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Further arguments of ``gymnasium.make``."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.frames < 1 or self.steps < self.frames:
            raise InvalidInputError(
                f"count {self.count} and frames {self.frames} must be at least 1, and steps {self.steps} at least frames"
            )


def save_scene(scene: SceneStart, folder: str | os.PathLike[str]) -> Path:
    """Write ``scene`` to ``folder``; ``scene.json`` comes last, so that an interrupted save is no scene."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCENE).unlink(missing_ok=True)
    t, _, h, w = scene.rgb.shape
    frames, stale = (FRAMES, MANY_FRAMES) if max(t * h, w) <= WEBP_ROWS else (MANY_FRAMES, FRAMES)
    (folder / stale).unlink(missing_ok=True)
    save_picture(scene.rgb.permute(0, 2, 3, 1).reshape(t * h, w, 3).cpu().numpy(), folder / frames)
    files = [frames]
    if scene.inverse_depth is not None:
        save_picture(scene.inverse_depth.reshape(t * h, w).cpu().numpy().astype(np.uint16), folder / DEPTH)
        files.append(DEPTH)
    if scene.memory is not None and flatten(scene.memory):
        save_file({k: v.cpu().contiguous() for k, v in flatten(scene.memory).items()}, folder / POINTS)
        files.append(POINTS)
    pose = None if scene.pose is None else scene.pose.reshape(t, 16)
    described = {
        "format": "worldsim-scene",
        "version": FORMAT_VERSION,
        "name": scene.name or folder.name,
        "frames": t,
        "act": {"dtype": str(scene.act.dtype).removeprefix("torch."), "values": scene.act},
        "pose": pose,
        "intrinsics": scene.intrinsics,
        "sha256": {name: _sha256(folder / name) for name in files},
    }
    write_json(folder / SCENE, described)
    return folder


def load_scene(folder: str | os.PathLike[str]) -> SceneStart:
    """The scene in ``folder``. Raises NotFoundError or DamagedFileError, both naming the file."""
    folder = Path(folder)
    meta = read_json(folder / SCENE)
    try:
        if meta["format"] != "worldsim-scene" or meta["version"] > FORMAT_VERSION:
            raise DamagedFileError(f"{folder / SCENE}: version {meta['version']} of {meta['format']!r} cannot be read")
        sums, t = dict(meta["sha256"]), int(meta["frames"])
        files = {name: _checked(folder / name, checksum) for name, checksum in sums.items()}
        rgb = _read_picture(files[FRAMES if FRAMES in files else MANY_FRAMES])
        code = _read_picture(files[DEPTH]) if DEPTH in files else None
        return SceneStart(
            rgb=torch.from_numpy(rgb).unflatten(0, (t, -1)).permute(0, 3, 1, 2).contiguous(),
            act=torch.tensor(meta["act"]["values"], dtype=getattr(torch, meta["act"]["dtype"])),
            inverse_depth=None if code is None else torch.from_numpy(code.astype(np.int32)).unflatten(0, (t, -1)),
            pose=None if meta["pose"] is None else torch.tensor(meta["pose"], dtype=torch.float32).view(t, 4, 4),
            intrinsics=None if meta["intrinsics"] is None else torch.tensor(meta["intrinsics"], dtype=torch.float32),
            memory=_read_points(files[POINTS]) if POINTS in files else None,
            name=str(meta["name"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise DamagedFileError(f"{folder / SCENE} is damaged ({type(error).__name__}: {error}): copy the scene again") from error


def scene_names(folder: str | os.PathLike[str]) -> list[str]:
    """The scenes in ``folder``, in natural order (``MAP30-2`` before ``MAP30-10``)."""

    def natural(name: str) -> list[Any]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    return sorted((path.parent.name for path in Path(folder).glob(f"*/{SCENE}")), key=natural)


def record_scenes(config: ScenesConfig) -> list[Path]:
    """Record start scenes in the real twin; returns their folders. Names are the map's and a number: ``MAP30-2``."""
    env = make_env(config.env_id, dict(config.env_kwargs))
    policy = make_policy(config.policy, env.action_space)
    taken: dict[str, int] = {}
    folders = []
    try:
        for i in tqdm(range(config.count), desc="scenes", unit="scene"):
            options = {"map": config.maps[i % len(config.maps)]} if config.maps else {"split": "test"}
            scene = _one_scene(env, policy, options, config, i)
            taken[scene.name] = taken.get(scene.name, 0) + 1
            scene = dataclasses.replace(scene, name=f"{scene.name}-{taken[scene.name]}")
            folders.append(save_scene(scene, config.out / scene.name))
    finally:
        env.close()
    return folders


def _one_scene(env: gym.Env[Any, Any], policy: Policy, options: dict[str, Any], config: ScenesConfig, index: int) -> SceneStart:
    for attempt in range(MAX_TRIES):
        env_seed, policy_seed = (int(x) for x in np.random.SeedSequence([config.seed, index, attempt]).generate_state(2) >> 1)
        walk = _walk(env, policy, options, config.steps, (env_seed, policy_seed))
        if len(walk) == config.steps + 1 and _is_worth_it(walk, config):
            return scene_of(walk[-config.frames :], isinstance(env.action_space, gym.spaces.Discrete))
    raise InvalidInputError(
        f"{MAX_TRIES} walks of {config.steps} steps of {config.env_id} with {options} ended early, stayed within "
        f"{config.min_travel} m of their start or had a median depth under {config.min_view} m: lower min_travel or min_view"
    )


def _walk(env: gym.Env[Any, Any], policy: Policy, options: dict[str, Any], steps: int, seeds: tuple[int, int]) -> list[Visit]:
    """What is seen on a walk, the start included; shorter than asked if the episode ends."""
    obs, info = env.reset(seed=seeds[0], options=options)
    policy.reset(seeds[1])
    visits: list[Visit] = [(np.array(obs), np.zeros_like(policy.act(obs)), info)]
    policy.reset(seeds[1])
    for _ in range(steps):
        act = policy.act(obs)
        obs, _, term, trunc, info = env.step(act)
        visits.append((np.array(obs), act, info))
        if term or trunc:
            break
    return visits


def _is_worth_it(walk: list[Visit], config: ScenesConfig) -> bool:
    if "pose" not in walk[0][2]:
        return True
    place = _stacked(walk, "pose")[:, :3, 3]
    far = float((place - place[0]).norm(dim=1).max())
    return far >= config.min_travel and float(np.median(walk[-1][2]["depth"])) >= config.min_view


def scene_of(visits: Sequence[Visit], discrete: bool) -> SceneStart:
    """The start that these visits in a row make; with depth and poses if their ``info`` has them."""
    info = visits[-1][2]
    scene = SceneStart(
        rgb=torch.from_numpy(np.stack([obs for obs, _, _ in visits])).permute(0, 3, 1, 2).contiguous(),
        act=torch.from_numpy(np.stack([np.asarray(act, np.int64 if discrete else np.float32) for _, act, _ in visits])),
        name=str(info.get("map", "scene")).split("/")[-1],
    )
    if "pose" not in info:
        return scene
    return dataclasses.replace(
        scene,
        inverse_depth=quantise_depth(_stacked(visits, "depth")),
        pose=snap_pose(_stacked(visits, "pose")),
        intrinsics=torch.from_numpy(np.asarray(info["intrinsics"], np.float32)),
    )


def _stacked(visits: Sequence[Visit], key: str) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(info[key], np.float32) for _, _, info in visits]))


def _read_picture(path: Path) -> Array:
    try:
        with Image.open(path) as image:
            return np.array(image)
    except OSError as error:
        raise DamagedFileError(f"{path} is not a readable picture ({error}): copy the scene again") from error


def _read_points(path: Path) -> Points:
    try:
        return Points(**load_file(path))
    except (SafetensorError, TypeError) as error:
        raise DamagedFileError(f"{path} holds no point memory ({error}): copy the scene again") from error


def _checked(path: Path, checksum: str) -> Path:
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: copy the scene again")
    if _sha256(path) != checksum:
        raise DamagedFileError(f"{path} differs from its checksum in {SCENE}: it was cut short or altered; copy the scene again")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
