"""What a world begins from: start scenes, checked, and the states that have taken them in, kept for the next reset."""

from __future__ import annotations

import dataclasses
import weakref
from functools import cached_property
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from worldsim.engine import total_memory
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.none import NoMemory
from worldsim.state import Frame, SceneStart, WorldState, bytes_of, checksum, flatten, map_tensors
from worldsim.stepper import Stepper

KEPT_STARTS = 64
"""Start scenes whose state is kept at least, so that the next reset to one of them is a copy."""
STARTS_SHARE = 0.04
"""Share of the device's memory that kept states may take beyond that: agents learn from hundreds of starts."""


class StartStates:
    """The states of start scenes, those of named ones kept. stepper: whose states they are."""

    def __init__(self, stepper: Stepper, action_space: gym.Space[Any]) -> None:
        self.stepper, self.action_space = stepper, action_space
        self._states: dict[tuple[str, str] | None, WorldState] = {}
        self._known: dict[int, tuple[weakref.ref[SceneStart], tuple[str, str]]] = {}

    def __len__(self) -> int:
        return len(self._states)

    @cached_property
    def most(self) -> int:
        """How many start scenes' states are kept."""
        stepper = self.stepper
        return max(KEPT_STARTS, int(STARTS_SHARE * total_memory(stepper.device)) // bytes_of(stepper.blank(1)))

    def state(self, scene: SceneStart) -> WorldState:
        """A batch of one that has taken in the scene's frames. Named scenes are kept: a reset then is a copy.

        The frames' context noise is keyed by seed 0, not by the environment's seed, so that the state is the same for all.
        """
        self.check(scene)
        stepper = self.stepper
        key = self._key_of(scene)
        if key in self._states:
            return self._states[key]
        scene = map_tensors(lambda x: x.to(stepper.device), scene)
        frames = [
            stepper.checked(map_tensors(lambda x, t=t: x[t, None], Frame(scene.rgb, scene.inverse_depth, scene.pose)))
            for t in range(len(scene.rgb))
        ]
        state = stepper.blank(1)
        if scene.intrinsics is not None:
            state = dataclasses.replace(state, intrinsics=scene.intrinsics.float().reshape(1, 4))
        if scene.memory is not None and not isinstance(stepper.memory, NoMemory):
            pad = getattr(stepper.memory, "pad", None)
            state = dataclasses.replace(state, memory=pad(scene.memory) if pad else scene.memory)
        # Start frames count up to step 0, so the first generated frame's randomness is that of step 0.
        state = dataclasses.replace(state, frame=frames[0], step=state.step - len(frames))
        acts = scene.act[:, None].to(state.act.dtype)
        for frame, act in zip(frames, acts, strict=True):
            state = stepper.observe(state, act, frame)
        if key is not None:
            while len(self._states) >= self.most:
                del self._states[next(iter(self._states))]
            self._states[key] = state
        return state

    def check(self, scene: SceneStart) -> None:
        """See :meth:`worldsim.world.World.check_start`."""
        if not self._is_known(scene):
            check_start(scene, self.stepper, self.action_space)

    def _key_of(self, scene: SceneStart) -> tuple[str, str] | None:
        """Name and content of a named scene: frames of the same name may be other frames. Told once an object."""
        if not scene.name:
            return None
        if not self._is_known(scene):
            if len(self._known) >= 4 * self.most:
                self._known.clear()
            self._known[id(scene)] = weakref.ref(scene), (scene.name, checksum(flatten(scene)))
        return self._known[id(scene)][1]

    def _is_known(self, scene: SceneStart) -> bool:
        entry = self._known.get(id(scene))
        return entry is not None and entry[0]() is scene


def check_start(scene: SceneStart, stepper: Stepper, action_space: gym.Space[Any]) -> None:
    """Raise InvalidInputError (or MissingGeometryError) unless a world can start from ``scene``, saying what is wrong."""
    n, t, who = stepper.network.config, len(scene.rgb), f"start {scene.name or 'frames'}"
    _require(who, "rgb", scene.rgb, (torch.uint8,), (t, 3, n.height, n.width))
    kinds = (torch.int64, torch.int32) if n.actions else (torch.float32, torch.float64)
    _require(who, "act", scene.act, kinds, (t,) if n.actions else (t, n.action_dim))
    if n.actions and not bool(((scene.act >= 0) & (scene.act < n.actions)).all()):
        raise InvalidInputError(f"{who}: act {scene.act.tolist()} leaves {action_space}")
    if not stepper.has_geometry:
        return
    if scene.inverse_depth is None or scene.pose is None:
        raise MissingGeometryError(f"{who}: this world has a scene memory, so every frame needs depth and pose")
    _require(who, "inverse_depth", scene.inverse_depth, (torch.int32,), (t, n.height, n.width))
    _require(who, "pose", scene.pose, (torch.float32,), (t, 4, 4))
    rotation = scene.pose[:, :3, :3]
    if not torch.allclose(rotation.transpose(1, 2) @ rotation, torch.eye(3, device=rotation.device), atol=1e-3):
        raise InvalidInputError(f"{who}: pose holds a rotation that is not orthonormal; camera-to-world matrices are needed")
    if scene.intrinsics is not None:
        _require(who, "intrinsics", scene.intrinsics, (torch.float32, torch.float64), (4,))
        if not bool((scene.intrinsics[:2] > 0).all()):
            raise InvalidInputError(f"{who}: intrinsics fx and fy must be positive pixels, got {scene.intrinsics.tolist()}")


def _require(who: str, name: str, tensor: Tensor, types: tuple[torch.dtype, ...], shape: tuple[int, ...]) -> None:
    if tensor.dtype not in types or tuple(tensor.shape) != shape or 0 in shape:
        wanted = str(types[0]).removeprefix("torch.")
        raise InvalidInputError(f"{who}: {name} must be {wanted} of shape {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InvalidInputError(f"{who}: {name} holds values that are not finite")
