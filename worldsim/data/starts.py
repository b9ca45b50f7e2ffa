"""Start scenes from a recording: dreams can begin where its episodes begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from worldsim.camera import snap_pose
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.runtime.files import replacing_folder
from worldsim.state import SceneStart
from worldsim.world.scene_files import save_scene


def first_frames(datasets: Sequence[EpisodeDataset], count: int) -> Iterator[SceneStart]:
    """Return the first frames of up to ``count`` episodes, as ``start-1``, ``start-2``, ...

    They are spread evenly over the recordings, without duplicates. A scene of one frame has no
    past, like the environment's own reset.
    """
    seen: set[bytes] = set()
    total = sum(len(d) for d in datasets)
    # Some look alike: so many more are looked at.
    for position in np.unique(
        np.linspace(0, total - 1, min(total, 8 * count)).round().astype(np.int64)
    ):
        episode = _episode(datasets, int(position))
        if episode.rgb[0].tobytes() in seen:
            continue
        seen.add(episode.rgb[0].tobytes())
        scene = scene_at(episode, 0, 1, f"start-{len(seen)}")
        yield (
            scene if scene.pose is None else dataclasses.replace(scene, pose=snap_pose(scene.pose))
        )
        if len(seen) == count:
            return


def write_starts(datasets: Sequence[EpisodeDataset], count: int, folder: Path) -> None:
    """Save :func:`first_frames` as scenes in sub-folders of ``folder``, atomically.

    Raises StorageError.
    """
    with replacing_folder(folder) as unfinished:
        for scene in first_frames(datasets, count):
            save_scene(scene, unfinished / scene.name)


def _episode(datasets: Sequence[EpisodeDataset], position: int) -> Episode:
    for dataset in datasets:
        if position < len(dataset):
            episode: Episode = dataset[position]
            return episode
        position -= len(dataset)
    raise IndexError(position)


def scene_at(episode: Episode, frame: int, frames: int, name: str = "") -> SceneStart:
    """Return the start scene that ends at frame ``frame`` of an episode.

    It has up to ``frames`` frames, fewer near the beginning of the episode.
    """
    part = slice(max(0, frame + 1 - frames), frame + 1)
    depth, pose, intrinsics = episode.inverse_depth, episode.pose, episode.intrinsics
    if depth is None or pose is None or intrinsics is None:
        depth = pose = intrinsics = None
    # Recordings tell what each frame led on with, starts what led to each.
    act = np.concatenate([np.zeros_like(episode.act[:1]), episode.act[:-1]])[part]
    return SceneStart(
        rgb=torch.from_numpy(np.array(episode.rgb[part])).permute(0, 3, 1, 2).contiguous(),
        act=torch.from_numpy(np.array(act)),
        inverse_depth=None if depth is None else torch.from_numpy(depth[part].astype(np.int32)),
        pose=None if pose is None else torch.from_numpy(np.array(pose[part], np.float32)),
        intrinsics=None
        if intrinsics is None
        else torch.from_numpy(np.array(intrinsics, np.float32)),
        name=name,
    )
