"""Tracking of a world's state from the true frames of its real twin, for planning."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.camera import quantise_depth
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.handle import MemoryHandle
from worldsim.runtime.types import Action, Info, Space
from worldsim.state import Frame, SceneStart, WorldState, map_tensors
from worldsim.world.world import World


class Belief:
    """A world's state that follows an episode in its real twin, for model-predictive control.

    Call :meth:`start` with the result of ``reset`` and :meth:`see` with the result of each step.
    :attr:`state` is then the world's state (a batch of one), and planners accept the belief as
    their model. Methods raise InvalidInputError for frames that do not fit the world, and
    MissingGeometryError if the world needs pose or depth and ``info`` has none.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._state: WorldState | None = None

    @property
    def action_space(self) -> Space:
        """The world's action space, which is its real twin's."""
        return self.world.action_space

    @property
    def state(self) -> WorldState:
        """The current state, a batch of one."""
        if self._state is None:
            raise InvalidInputError(
                "this belief has seen nothing yet: call start(obs, info) with the result of reset"
            )
        return self._state

    @property
    def pose(self) -> Tensor:
        """Camera-to-world pose of the newest frame, (4, 4) float32.

        Raises MissingGeometryError for a world without poses.
        """
        pose = self.state.frame.pose
        if pose is None:
            raise MissingGeometryError("this world was trained without geometry: it knows no poses")
        return pose[0]

    @property
    def memory(self) -> MemoryHandle:
        """The scene memory of the episode so far, for rendering and maps.

        For example ``belief.memory.top_down()``. Raises MissingGeometryError for a world without
        memory.
        """
        return MemoryHandle.of(self.world.memory, self.state)

    def start(self, obs: ArrayLike, info: Info, seed: int = 0) -> None:
        """Start a new episode.

        obs, info: observation and info of the real twin's ``reset``.
        seed: seed of predictions from here.
        """
        frame = self._frame(obs, info)
        n = self.world.spec
        act = torch.zeros(1, dtype=torch.int64) if n.actions else torch.zeros(1, n.action_dim)
        intrinsics = (
            torch.as_tensor(np.asarray(info["intrinsics"], np.float32))
            if self.world.has_geometry
            else None
        )
        scene = SceneStart(frame.rgb, act, frame.inverse_depth, frame.pose, intrinsics)
        self._state = self.world.initial([scene], [seed])

    def see(self, act: Action, obs: ArrayLike, info: Info) -> None:
        """Add a step of the real twin.

        act: the action.
        obs, info: the observation and info after it.
        """
        if not self.action_space.contains(act):
            raise InvalidInputError(f"action {act!r} is outside {self.action_space}")
        state = self.state
        given = torch.as_tensor(np.asarray(act), device=self.world.device)[None].to(state.act.dtype)
        frame = map_tensors(lambda x: x.to(self.world.device), self._frame(obs, info))
        self._state = self.world.observe(state, given, frame)

    def resume(self, state: WorldState) -> None:
        """Return to an earlier :attr:`state` of a belief in the same world.

        Later frames are dropped.
        """
        if len(state) != 1:
            raise InvalidInputError(
                f"a belief follows one environment, this state has {len(state)}: select one with "
                f"state.select(...)"
            )
        self._state = self.world.own(state)

    def _frame(self, obs: ArrayLike, info: Info) -> Frame:
        obs, shape = np.asarray(obs), self.world.observation_space.shape
        if obs.shape != shape or obs.dtype != np.uint8:
            raise InvalidInputError(
                f"observations must be uint8 {shape} as this world's frames are, got {obs.dtype} "
                f"{obs.shape}: make the real twin "
                "with the arguments that the world was recorded with"
            )
        rgb = torch.from_numpy(obs.copy()).permute(2, 0, 1)[None].contiguous()
        if not self.world.has_geometry:
            return Frame(rgb)
        missing = [key for key in ("pose", "depth", "intrinsics") if key not in info]
        if missing:
            raise MissingGeometryError(
                f"this world has a scene memory: its real twin's info must have "
                f"{', '.join(missing)}"
            )
        depth = torch.from_numpy(np.asarray(info["depth"], np.float32).copy())
        pose = torch.from_numpy(np.asarray(info["pose"], np.float32).copy())
        return Frame(rgb, quantise_depth(depth)[None], pose[None])
