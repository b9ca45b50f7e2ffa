"""Start scenes from a capture: a nerfstudio dataset with depth, a trajectory, or RGB-D frames.

The last frames of a capture are the start frames; the earlier ones are integrated into the memory.
Poses are camera-to-world in world axes (z up), metres. They are not moved to the camera height of
the world's training data: a capture taken at another height is shown from that height.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, snap_pose
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.io.nerfstudio import TRANSFORMS, open_capture
from worldsim.io.rgbd import CapturedFrame, frames_of, trajectory_of
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.painting.holes import nearest_known
from worldsim.protocols import MemoryT, SceneMemory, SkipsUnknown, remembers
from worldsim.runtime.files import inside
from worldsim.state import Frame, SceneStart, Trajectory
from worldsim.world import World

LAST = 12
"""Default number of start frames. It covers the attention window and the motion history of the
shipped worlds."""
ROOM = 2_000_000
"""Largest capacity, in points of 23 bytes, of the memory that is made without a world."""
COLOUR_TOLERANCE = 48
"""``colour_tolerance`` of the point memory, of 255, where the world's memory sets none.

A point whose colour a later frame contradicts is dropped. Captured frames are true, so a different
colour means that something has moved.
"""


class CaptureScene:
    """Scene that starts at the end of one capture.

    capture: folder of a nerfstudio dataset, a :class:`Trajectory`, or frames (see
        :func:`worldsim.io.rgbd.captured_frames`). A folder is opened with the defaults of
        :func:`worldsim.io.nerfstudio.open_capture`; for other settings, open it and pass its
        frames.
    last: number of start frames, at least 1. Earlier frames are integrated into the memory.
    name: name of the start; by default the folder's name, or "capture".
    world: the world whose frame size, camera and memory the start has. Environments set it with
        :meth:`fit_to`. Without a world, frames keep their size, and a :class:`PointMemory` of at
        most ``ROOM`` points holds the earlier frames.

    Frames are cropped to the world's camera if all of them cover it, otherwise to the largest
    camera that all of them cover. Then they are resized by area. Pixels of unknown depth are not
    integrated into the memory; start frames take their depth from the memory, or from the nearest
    known pixel. Captures have no actions, so all actions of the start are the no-op, or zeros.

    Raises InvalidInputError if ``last`` is below 1 or the capture has no frames, and the errors of
    :func:`worldsim.io.nerfstudio.open_capture`.
    """

    def __init__(
        self,
        capture: str | os.PathLike[str] | Trajectory | Sequence[CapturedFrame],
        last: int = LAST,
        name: str | None = None,
        world: World | None = None,
    ) -> None:
        if last < 1:
            raise InvalidInputError(f"last is {last}: at least one frame is needed to start from")
        if isinstance(capture, (str, os.PathLike)):
            name = Path(capture).resolve().name if name is None else name
            self.frames: Sequence[CapturedFrame] = open_capture(capture)
        else:
            self.frames = frames_of(capture) if isinstance(capture, Trajectory) else list(capture)
        if not self.frames:
            raise InvalidInputError("this capture has no frames: give at least one")
        self.last, self.name, self.world = last, name or "capture", world
        self._start: SceneStart | None = None

    def fit_to(self, world: World) -> CaptureScene:
        """Return the same scene with the frame size, camera and memory of ``world``."""
        return (
            self if world is self.world else CaptureScene(self.frames, self.last, self.name, world)
        )

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return the start. ``rng`` is not used: there is only one.

        The first call reads the pictures.

        Raises InvalidInputError if no depth of a frame is known, from the frame or the memory.
        """
        if self._start is None:
            self._start = self._made()
        return self._start

    def _made(self) -> SceneStart:
        world = self.world
        if world is None:
            trajectory, known = trajectory_of(self.frames)
            memory: SceneMemory = PointMemory(
                PointMemoryConfig(capacity=min(ROOM, trajectory.inverse_depth.numel()))
            )
            act = torch.zeros(len(trajectory), dtype=torch.int64)
        else:
            n = world.spec
            trajectory, known = trajectory_of(
                self.frames, n.height, n.width, world.config.intrinsics
            )
            memory = world.memory
            act = (
                torch.zeros(len(trajectory), dtype=torch.int64)
                if n.actions
                else torch.zeros(len(trajectory), n.action_dim)
            )
        pose = snap_pose(trajectory.pose)
        memory = _comparing_colours(memory)
        first, data, code = (
            max(0, len(trajectory) - self.last),
            memory.empty(1, "cpu"),
            trajectory.inverse_depth.clone(),
        )
        for i in range(len(trajectory)):
            camera = Camera(
                pose[i : i + 1], trajectory.intrinsics[None], *trajectory.rgb.shape[-2:]
            )
            code[i] = _whole(code[i], known[i], memory, data, camera, self.frames[i].name)
            if i < first:
                frame = Frame(trajectory.rgb[i : i + 1], code[i : i + 1], camera.pose)
                # Memory steps are negative: they come before the world's first step.
                data = _integrate(
                    memory,
                    data,
                    frame,
                    camera,
                    torch.tensor([i - len(trajectory)]),
                    known[i : i + 1],
                )
        return SceneStart(
            rgb=trajectory.rgb[first:],
            act=act[first:],
            inverse_depth=code[first:],
            pose=pose[first:],
            intrinsics=trajectory.intrinsics,
            memory=None
            if not remembers(memory)
            else memory.trim(data)
            if isinstance(memory, PointMemory)
            else data,
            name=self.name,
        )


def _comparing_colours(memory: SceneMemory) -> SceneMemory:
    if not isinstance(memory, PointMemory) or memory.config.colour_tolerance is not None:
        return memory
    return PointMemory(dataclasses.replace(memory.config, colour_tolerance=COLOUR_TOLERANCE))


def _integrate(
    memory: SceneMemory[MemoryT],
    data: MemoryT,
    frame: Frame,
    camera: Camera,
    step: Tensor,
    known: Tensor,
) -> MemoryT:
    if isinstance(memory, SkipsUnknown):
        return memory.integrate(data, frame, camera, step, known)
    return memory.integrate(data, frame, camera, step)


def _whole(
    code: Tensor,
    known: Tensor,
    memory: SceneMemory[MemoryT],
    data: MemoryT,
    camera: Camera,
    name: str,
) -> Tensor:
    """Fill unknown depth codes (h, w) from the memory's view, else from the nearest known pixel."""
    if bool(known.all()):
        return code
    view = memory.render(data, camera)
    known, code = known | view.mask[0], torch.where(known, code, view.inverse_depth[0])
    if not bool(known.any()):
        raise InvalidInputError(f"{name}: its depth is unknown everywhere: leave the frame out")
    return code.flatten()[torch.from_numpy(nearest_known(known.numpy())[1])]


class CaptureScenes:
    """Scenes from the captures in a folder.

    folder: holds one capture per subfolder, or is a capture itself. Captures are read on first use.
    last, world: as in :class:`CaptureScene`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], last: int = LAST, world: World | None = None
    ) -> None:
        self.folder, self.last, self.world = Path(folder), last, world
        self._loaded: dict[str, CaptureScene] = {}

    def fit_to(self, world: World) -> CaptureScenes:
        """Return the same scenes with the frame size, camera and memory of ``world``."""
        return self if world is self.world else CaptureScenes(self.folder, self.last, world)

    def names(self) -> list[str]:
        """Return the names of the captures, sorted: their folders' names."""
        return list(self._folders())

    def load(self, name: str) -> SceneStart:
        """Return the start of the capture with that name.

        Raises NotFoundError, which lists the existing names, or the error of an invalid capture.
        """
        folders = self._folders()
        if name not in folders:
            raise NotFoundError(
                f"no capture {name!r} in {self.folder}; there are: {', '.join(folders) or 'none'}"
            )
        if name not in self._loaded:
            self._loaded[name] = CaptureScene(folders[name], self.last, name, self.world)
        return self._loaded[name].start(np.random.default_rng(0))

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return the start of a capture drawn uniformly with ``rng``.

        Raises NotFoundError if the folder holds no captures, or the error of an invalid capture.
        """
        names = self.names()
        if not names:
            raise NotFoundError(
                f"{self.folder} holds no captures: give a nerfstudio dataset, or a folder of them "
                f"({TRANSFORMS})"
            )
        return self.load(names[int(rng.integers(len(names)))])

    def _folders(self) -> dict[str, Path]:
        if (self.folder / TRANSFORMS).is_file():
            return {self.folder.resolve().name: self.folder}
        found = sorted(file.parent.name for file in self.folder.glob(f"*/{TRANSFORMS}"))
        return {name: inside(self.folder, name) for name in found}
