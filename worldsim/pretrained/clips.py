"""Clips of a recording to train a video model on: what its chunks are generated from, in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, relative_motion
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.errors import InvalidInputError
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import PointMemoryConfig
from worldsim.pretrained.lora_training import Clip
from worldsim.protocols import VideoInputs, VideoSpec
from worldsim.state import Frame


class RecordedClips(Sequence[Clip]):
    """Moments of a recording, computed when they are needed.

    A clip's chunk is generated from the frames before it, and from the memory of these frames,
    rendered at the true cameras of the chunk. Without poses and depth the memory shows nothing.

    dataset: a recording.
    spec: of the video model.
    count: number of clips, at moments spread evenly over the recording.
    memory: settings of the memory.

    Raises InvalidInputError for a recording without an episode as long as a clip, and for a model
    that reads the memory along an imagined way.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        spec: VideoSpec,
        count: int,
        memory: PointMemoryConfig | None = None,
    ) -> None:
        self.dataset, self.spec = dataset, spec
        self.memory = PointMemory(memory or PointMemoryConfig())
        if spec.approach:
            raise InvalidInputError("models that read an imagined way have no clips here")
        length = spec.past + spec.frames
        moments = [
            (index, start)
            for index, episode in enumerate(dataset)
            for start in range(0, len(episode) - length + 1, spec.frames)
        ]
        if not moments or count < 1:
            raise InvalidInputError(
                f"{dataset.path} has {len(moments)} moments with {length} frames, and {count} "
                f"clips are asked for: record longer episodes, or shorten the model's clips"
            )
        chosen = np.linspace(0, len(moments) - 1, min(count, len(moments))).round().astype(int)
        self.moments = [moments[i] for i in chosen]

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one clip, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self._clip(*moment) for moment in self.moments[index]]
        return self._clip(*self.moments[index])

    def _clip(self, number: int, start: int) -> Clip:
        episode, p, n = self.dataset[number], self.spec.past, self.spec.frames
        part = slice(start, start + p + n)
        rgb = torch.from_numpy(np.array(episode.rgb[part])).permute(0, 3, 1, 2).contiguous()
        control, known = torch.zeros_like(rgb[p:]), torch.zeros(n, *rgb.shape[2:]).bool()
        motion = torch.zeros(6)
        if episode.has_geometry:
            control, known = self._views(episode, start, rgb)
            assert episode.pose is not None
            before, after = torch.from_numpy(np.array(episode.pose[start + p - 1 : start + p + 1]))
            motion = relative_motion(before, after).float()
        act = torch.from_numpy(np.array(episode.act[start + p - 1]))
        inputs = VideoInputs(rgb[:p], control, known, None, start, act, motion)
        return Clip(inputs, rgb[p:])

    def _views(self, episode: Episode, start: int, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory of the past frames at the chunk's cameras, and what it shows."""
        p, n = self.spec.past, self.spec.frames
        assert episode.pose is not None and episode.inverse_depth is not None
        pose = torch.from_numpy(np.array(episode.pose[start : start + p + n], np.float32))
        depth = torch.from_numpy(episode.inverse_depth[start : start + p].astype(np.int32))
        intrinsics = torch.from_numpy(np.array(episode.intrinsics, np.float32))[None]

        def camera(i: int) -> Camera:
            return Camera(pose[i : i + 1], intrinsics, rgb.shape[2], rgb.shape[3])

        memory = self.memory.empty(1)
        for i in range(p):
            one = slice(i, i + 1)
            frame = Frame(rgb[one], depth[one], pose[one])
            memory = self.memory.integrate(memory, frame, camera(i), torch.tensor([i]))
        views = [self.memory.render(memory, camera(p + i)) for i in range(n)]
        return torch.cat([v.rgb for v in views]), torch.cat([v.mask for v in views])
