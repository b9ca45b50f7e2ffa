"""Start scenes out of a recording: where its episodes begin, dreams can begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from worldsim.camera import snap_pose
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.scene_files import save_scene
from worldsim.state import SceneStart


def first_frames(datasets: Sequence[EpisodeDataset], count: int) -> Iterator[SceneStart]:
    """The first frames of up to ``count`` episodes, spread evenly over the recordings, each frame once: ``start-1``, ``start-2``...

    A scene of one frame is what the environment's own reset gives: no past.
    """
    seen: set[bytes] = set()
    total = sum(len(d) for d in datasets)
    # Some look alike: so many more are looked at.
    for position in np.unique(np.linspace(0, total - 1, min(total, 8 * count)).round().astype(np.int64)):
        episode = _episode(datasets, int(position))
        if episode.rgb[0].tobytes() in seen:
            continue
        seen.add(episode.rgb[0].tobytes())
        yield _as_scene(episode, f"start-{len(seen)}")
        if len(seen) == count:
            return


def write_starts(datasets: Sequence[EpisodeDataset], count: int, folder: Path) -> None:
    """Save :func:`first_frames` as scenes in ``folder``, a sub-folder each."""
    for scene in first_frames(datasets, count):
        save_scene(scene, folder / scene.name)


def _episode(datasets: Sequence[EpisodeDataset], position: int) -> Episode:
    for dataset in datasets:
        if position < len(dataset):
            episode: Episode = dataset[position]
            return episode
        position -= len(dataset)
    raise IndexError(position)


def _as_scene(episode: Episode, name: str) -> SceneStart:
    geometry = episode.pose is not None and episode.inverse_depth is not None and episode.intrinsics is not None
    return SceneStart(
        rgb=torch.from_numpy(np.array(episode.rgb[:1])).permute(0, 3, 1, 2).contiguous(),
        act=torch.from_numpy(np.zeros_like(episode.act[:1])),
        inverse_depth=torch.from_numpy(episode.inverse_depth[:1].astype(np.int32)) if geometry else None,  # type: ignore[index]
        pose=snap_pose(torch.from_numpy(np.array(episode.pose[:1]))) if geometry else None,  # type: ignore[index]
        intrinsics=torch.from_numpy(np.array(episode.intrinsics)) if geometry else None,
        name=name,
    )
