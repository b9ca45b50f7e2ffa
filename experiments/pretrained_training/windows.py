"""Recorded frames on a device, and short windows of them with the memory's views.

A window is what an adapter receives at use: the newest frames, and the memory of all frames until
then, rendered at the cameras of the frames that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, snap_pose
from worldsim.data.dataset import EpisodeDataset
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import Frame

CAPACITY = 32768
"""Points per memory, as evaluated."""


@dataclass(frozen=True)
class Recording:
    """The frames of episodes, one after the other, on one device.

    rgb: (n, 3, h, w) uint8.
    code: (n, h, w) int32, inverse-depth codes.
    pose: (n, 4, 4) float32 camera-to-world, snapped.
    intrinsics: (4,) float32 pixels.
    first, length: (e,) int64 on the CPU, each episode's first frame and number of frames.
    """

    rgb: Tensor
    code: Tensor
    pose: Tensor
    intrinsics: Tensor
    first: Tensor
    length: Tensor


def load_recording(path: Path, device: torch.device, most: int | None = None) -> Recording:
    """Load the complete shards of a dataset with geometry.

    most: number of frames after which no further shard is read.
    """
    dataset = EpisodeDataset(path, on_damaged="skip")
    rgb, code, pose, first, length, total = [], [], [], [], [], 0
    intrinsics = None
    for episode in dataset:
        assert episode.inverse_depth is not None and episode.pose is not None
        intrinsics = episode.intrinsics
        rgb.append(torch.from_numpy(episode.rgb.copy()).permute(0, 3, 1, 2).to(device))
        code.append(torch.from_numpy(episode.inverse_depth.astype(np.int32)).to(device))
        pose.append(torch.from_numpy(episode.pose.copy()).to(device))
        first.append(total)
        length.append(len(episode))
        total += len(episode)
        if most is not None and total >= most:
            break
    assert intrinsics is not None
    return Recording(
        rgb=torch.cat(rgb).contiguous(),
        code=torch.cat(code),
        pose=snap_pose(torch.cat(pose)),
        intrinsics=torch.from_numpy(intrinsics.copy()).to(device),
        first=torch.tensor(first),
        length=torch.tensor(length),
    )


@dataclass(frozen=True)
class Windows:
    """Windows of ``p`` past and ``n`` future frames, w in all.

    frame: (w,) int64, the index of the first past frame in the recording.
    control: (w, n, 3, h, w) uint8, the memory's views at the cameras of the future frames.
    known: (w, n, h, w) bool, what of them is known.
    """

    frame: Tensor
    control: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.frame)


@torch.no_grad()
def render_windows(
    recording: Recording, past: int, frames: int, stride: int, most: int, episodes: int, seed: int
) -> Windows:
    """Walk along the longest episodes and render each window's views.

    past, frames: p and n.
    stride: frames between the windows of an episode.
    most: number of windows after which no further episodes are begun.
    episodes: memories at once.
    seed: of the order of the episodes.
    """
    order = torch.randperm(len(recording.first), generator=torch.Generator().manual_seed(seed))
    # The shortest episode of a batch ends it.
    order = order[recording.length[order] == recording.length.max()]
    parts: list[Windows] = []
    total = 0
    for chosen in order.split(episodes):
        if total >= most:
            break
        for part in _walk(recording, chosen, past, frames, stride, int(seed + total)):
            parts.append(part)
            total += len(part)
    return Windows(
        torch.cat([x.frame for x in parts]),
        torch.cat([x.control for x in parts]),
        torch.cat([x.known for x in parts]),
    )


def _walk(
    recording: Recording, chosen: Tensor, past: int, frames: int, stride: int, seed: int
) -> Iterator[Windows]:
    """Yield the windows of some episodes, step by step. The shortest one ends them all."""
    device, (height, width) = recording.rgb.device, recording.rgb.shape[2:]
    memory = PointMemory(PointMemoryConfig(capacity=CAPACITY))
    data = memory.empty(len(chosen), device)
    first = recording.first[chosen].to(device)
    length = int(recording.length[chosen].min())
    intrinsics = recording.intrinsics.expand(len(chosen), 4)

    def camera(t: int) -> Camera:
        return Camera(recording.pose[first + t], intrinsics, height, width)

    for t in range(length - frames):
        here = first + t
        frame = Frame(recording.rgb[here], recording.code[here], recording.pose[here])
        step = torch.full((len(chosen),), t, dtype=torch.int64, device=device)
        data = memory.integrate(data, frame, camera(t), step)
        if t < past - 1 or (t + seed) % stride:
            continue
        views = [memory.render(data, camera(t + j)) for j in range(1, frames + 1)]
        yield Windows(
            here - (past - 1),
            torch.stack([view.rgb for view in views], 1),
            torch.stack([view.mask for view in views], 1),
        )


def past_and_future(
    recording: Recording, windows: Windows, index: Tensor, past: int
) -> tuple[Tensor, Tensor]:
    """Return the past (b, p, 3, h, w) and future (b, n, 3, h, w) uint8 frames of some windows."""
    count = past + windows.control.shape[1]
    offsets = torch.arange(count, device=index.device)
    clip = recording.rgb[windows.frame[index][:, None] + offsets]
    return clip[:, :past], clip[:, past:]


def random_clips(
    recording: Recording, frames: int, batch: int, generator: torch.Generator
) -> Tensor:
    """Return clips (b, f, 3, h, w) uint8 that do not leave their episodes."""
    episode = torch.randint(len(recording.first), (batch,), generator=generator)
    room = recording.length[episode] - frames
    start = (torch.rand(batch, generator=generator) * (room + 1)).long()
    index = (recording.first[episode] + start).to(recording.rgb.device)
    return recording.rgb[index[:, None] + torch.arange(frames, device=index.device)]
