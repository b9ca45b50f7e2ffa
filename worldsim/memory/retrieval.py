"""The memory that shows one past frame: of all frames seen, the one whose camera was nearest.

Retrieval of past frames by their pose is how WorldMem (Xiao et al. 2025) and Context-as-Memory (Yu
et al. 2025) remember. It is kept here for comparisons: it does not put together what several frames
saw, and it grows with the steps taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import Camera, code_to_channel, nearest_pose
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.splat import EMPTY, frame_points, map_around, view_of
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Batch
from worldsim.state import Frame, MemoryView


@dataclass(frozen=True)
class SeenFrames:
    """The last ``n`` frames of a batch; frame k is in slot k modulo n.

    rgb: (b, n, 3, h, w) uint8.
    inverse_depth: (b, n, h, w) int32.
    pose, intrinsics: (b, n, 4, 4), (b, n, 4) float32.
    count: (b,) int64, number of frames ever seen.
    """

    rgb: Tensor
    inverse_depth: Tensor
    pose: Tensor
    intrinsics: Tensor
    count: Tensor


@dataclass(frozen=True)
class RetrievalMemoryConfig:
    """How much a :class:`RetrievalMemory` keeps."""

    height: Batch = 64
    """Of the frames, in pixels."""
    width: Batch = 64
    """Of the frames, in pixels."""
    capacity: Batch = 512
    """Frames an environment, 29 KB each at 64x64; the oldest make room."""

    def __post_init__(self) -> None:
        check_ranges(self)


class RetrievalMemory:
    """A :class:`worldsim.protocols.SceneMemory` that renders the past frame of the nearest pose.

    The frame is splatted to the new camera.
    """

    def __init__(self, config: RetrievalMemoryConfig | None = None) -> None:
        self.config = config or RetrievalMemoryConfig()

    def empty(self, batch: int, device: torch.device | str = "cpu") -> SeenFrames:
        """No frames yet."""
        c = self.config
        return SeenFrames(
            rgb=torch.zeros(
                batch, c.capacity, 3, c.height, c.width, dtype=torch.uint8, device=device
            ),
            inverse_depth=torch.zeros(
                batch, c.capacity, c.height, c.width, dtype=torch.int32, device=device
            ),
            pose=torch.eye(4, device=device).repeat(batch, c.capacity, 1, 1),
            intrinsics=torch.ones(batch, c.capacity, 4, device=device),
            count=torch.zeros(batch, dtype=torch.int64, device=device),
        )

    def integrate(
        self,
        memory: SeenFrames,
        frame: Frame,
        camera: Camera,
        step: Tensor,
        known: Tensor | None = None,
    ) -> SeenFrames:
        """Return the frames with this one added; it replaces the oldest if there are too many."""
        if frame.inverse_depth is None or frame.pose is None:
            raise MissingGeometryError(
                "this frame has no depth or no pose: retrieval by pose needs both (or use NoMemory)"
            )
        if frame.inverse_depth.shape[1:] != (self.config.height, self.config.width):
            raise InvalidInputError(
                f"frames of {tuple(frame.inverse_depth.shape[1:])} do not fit a memory of "
                f"{self.config.height}x{self.config.width}"
            )
        slot = memory.count % self.config.capacity
        row = torch.arange(len(slot), device=slot.device)

        def put(held: Tensor, values: Tensor) -> Tensor:
            return held.index_put((row, slot), values.to(held.dtype))

        return SeenFrames(
            rgb=put(memory.rgb, frame.rgb),
            inverse_depth=put(memory.inverse_depth, frame.inverse_depth),
            pose=put(memory.pose, camera.pose),
            intrinsics=put(memory.intrinsics, camera.intrinsics),
            count=memory.count + 1,
        )

    def render(self, memory: SeenFrames, camera: Camera) -> MemoryView:
        """Render the frame of the nearest pose (:func:`worldsim.camera.nearest_pose`).

        One pixel per point.
        """
        position, colour, kind, source = self._nearest_points(memory, camera.pose)
        return view_of(position, colour, kind, source, camera)

    def surroundings(self, memory: SeenFrames, pose: Tensor) -> Tensor:
        """The map of surroundings that the nearest frame gives."""
        position, _, kind, _ = self._nearest_points(memory, pose)
        return map_around(position, kind, pose)

    def _nearest_points(
        self, memory: SeenFrames, pose: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n = self.config.capacity
        known = torch.arange(n, device=pose.device) < memory.count[:, None]
        # What is not there is infinitely far away.
        candidates = memory.pose.clone()
        candidates[:, :, 0, 3] = candidates[:, :, 0, 3].masked_fill(~known, torch.inf)
        index = nearest_pose(pose[:, None], candidates[:, None])[:, 0]
        row = torch.arange(len(index), device=index.device)
        frame = Frame(
            memory.rgb[row, index], memory.inverse_depth[row, index], memory.pose[row, index]
        )
        assert frame.inverse_depth is not None and frame.pose is not None
        camera = Camera(
            frame.pose, memory.intrinsics[row, index], self.config.height, self.config.width
        )
        position, kind = frame_points(frame.inverse_depth, camera)
        kind = kind.masked_fill((memory.count == 0)[:, None], EMPTY)
        source = (code_to_channel(frame.inverse_depth.flatten(1)) * 255.0).round().to(torch.uint8)
        return position, frame.rgb.flatten(2), kind, source
