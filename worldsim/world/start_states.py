"""Start states of a world: start scenes are validated, ingested and cached for later resets."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.slots import Points, beginning
from worldsim.protocols import PadsMemory, SceneMemory, remembers
from worldsim.runtime.types import Space
from worldsim.state import (
    Frame,
    SceneStart,
    WorldState,
    bytes_of,
    checksum,
    concatenate,
    flatten,
    map_tensors,
)
from worldsim.world.engine import total_memory
from worldsim.world.running import RunningStep
from worldsim.world.step import Step

KEPT_STARTS = 64
"""Smallest number of start states cached on a GPU, so that a reset to one of them is a copy."""
STARTS_SHARE = 0.04
"""Share of a GPU's memory for further cached states, since agents learn from hundreds of starts."""
STARTS_BYTES = 20 * 2**20
"""Bytes of cached states on a CPU: five of freedoom-tiny. Ingesting a start takes as long as ten
steps. A larger cache would make the process's memory grow for hours, like a leak."""
TOGETHER = 32
"""Start scenes that a GPU ingests in one batch, if there is enough memory. The batch size is fixed
(the last scene is repeated), since a result may depend on the batch size but not on the other
rows."""


class StartStates:
    """The states of start scenes. States of named scenes are cached.

    running: the step of their world.
    action_space: the world's action space, for error messages.
    """

    def __init__(self, running: RunningStep, action_space: Space) -> None:
        self.running, self.action_space = running, action_space
        self._states: dict[tuple[str, str] | None, WorldState] = {}
        self._bytes = 0
        self._known: dict[int, tuple[weakref.ref[SceneStart], tuple[str, str]]] = {}

    def __len__(self) -> int:
        return len(self._states)

    @cached_property
    def most(self) -> int:
        """Largest number of cached start states. On a CPU large memories reduce it further."""
        if self.running.inner.device.type == "cpu":
            blank = self.running.inner.blank(1)
            return max(1, STARTS_BYTES // (bytes_of(blank) - bytes_of(blank.memory)))
        return max(KEPT_STARTS, self._room)

    @cached_property
    def _room(self) -> int:
        """Number of states that :data:`STARTS_SHARE` of the memory holds."""
        step = self.running.inner
        return int(STARTS_SHARE * total_memory(step.device)) // bytes_of(step.blank(1))

    @cached_property
    def together(self) -> int:
        """Number of start scenes ingested in one batch: several on a GPU with enough memory."""
        # Twice, for the states before and after a frame.
        return (
            TOGETHER
            if self.running.inner.device.type == "cuda" and self._room >= 2 * TOGETHER
            else 1
        )

    def states(self, scenes: Sequence[SceneStart]) -> list[WorldState]:
        """Return one state for each scene, each a batch of one.

        A state includes all frames of its scene. States of named scenes are cached, so a later
        reset is a copy. The frames' context noise uses seed 0 instead of the environment's seed, so
        that the state is the same for all environments.
        """
        found: dict[int, WorldState] = {}
        missing: dict[object, list[SceneStart]] = {}
        for scene in {id(scene): scene for scene in scenes}.values():
            self.check(scene)
            key = self._key_of(scene)
            if key is not None and key in self._states:
                found[id(scene)] = self._whole(self._states[key])
            else:
                # Memories differ in size, so a scene with a memory is ingested alone.
                given = tuple(
                    x is not None for x in (scene.inverse_depth, scene.pose, scene.intrinsics)
                )
                alike = (len(scene.rgb), given, 0 if scene.memory is None else id(scene))
                missing.setdefault(alike, []).append(scene)
        for alike_scenes in missing.values():
            size = self.together if alike_scenes[0].memory is None else 1
            for first in range(0, len(alike_scenes), size):
                part = alike_scenes[first : first + size]
                state = self._taken_in([*part, *part[-1:] * (size - len(part))])
                for row, scene in enumerate(part):
                    found[id(scene)] = state if size == 1 else state.select(torch.tensor([row]))
                    self._keep(scene, found[id(scene)])
        return [found[id(scene)] for scene in scenes]

    def _taken_in(self, scenes: Sequence[SceneStart]) -> WorldState:
        """Ingest scenes with the same number of frames in one batch.

        Only a single scene may have a memory of its own.
        """
        step, first = self.running.inner, scenes[0]
        joined: list[SceneStart] = [
            map_tensors(
                lambda x: x[None].to(step.device),
                dataclasses.replace(scene, memory=None, name=""),
            )
            for scene in scenes
        ]
        scene: SceneStart = concatenate(joined)
        frames = [
            step.check_frame(
                map_tensors(
                    lambda x, t=t: x[:, t], Frame(scene.rgb, scene.inverse_depth, scene.pose)
                )
            )
            for t in range(len(first.rgb))
        ]
        state = step.blank(len(scenes))
        if scene.intrinsics is not None:
            state = dataclasses.replace(
                state, intrinsics=scene.intrinsics.float().reshape(len(scenes), 4)
            )
        if first.memory is not None and remembers(step.memory):
            memory = map_tensors(lambda x: x.to(step.device), first.memory)
            if isinstance(step.memory, PadsMemory):
                memory = step.memory.pad(memory)
            state = dataclasses.replace(state, memory=memory)
        # Start frames have negative steps, so the first generated frame uses the random numbers of
        # step 0.
        state = dataclasses.replace(state, frame=frames[0], step=state.step - len(frames))
        if state.recent is not None:
            recent = frames[0].rgb[:, None].expand_as(state.recent).contiguous()
            state = dataclasses.replace(state, recent=recent)
        for t, frame in enumerate(frames):
            state = self.running.observe(state, scene.act[:, t].to(state.act.dtype), frame)
        return state

    def _keep(self, scene: SceneStart, state: WorldState) -> None:
        """Cache the state of a named scene; drops the oldest states if there are too many."""
        key = self._key_of(scene)
        if key is None or key in self._states:
            return
        state = compact(state)
        self._bytes += bytes_of(state)
        while self._states and self._too_many():
            self._bytes -= bytes_of(self._states.pop(next(iter(self._states))))
        self._states[key] = state

    def _too_many(self) -> bool:
        """Return whether the cache is full. The new state's bytes are already counted."""
        if self.running.inner.device.type == "cpu":
            return self._bytes > STARTS_BYTES
        return len(self._states) >= self.most

    def _whole(self, state: WorldState) -> WorldState:
        """Invert :func:`compact`."""
        return expand(state, self.running.inner.memory)

    def check(self, scene: SceneStart) -> None:
        """Validate a scene, see :meth:`worldsim.world.World.check_start`."""
        if not self._is_known(scene):
            check_start(scene, self.running.inner, self.action_space)

    def _key_of(self, scene: SceneStart) -> tuple[str, str] | None:
        """Return name and checksum of a named scene, computed once for each object.

        Scenes of the same name may have different frames.
        """
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


def compact(state: WorldState) -> WorldState:
    """Return the state without the unused slots of a point memory.

    After a few frames most slots are unused. On a GPU all slots are kept.
    """
    memory = state.memory
    if not isinstance(memory, Points):
        return state
    used = beginning(memory)
    # Only if padding restores it bit for bit.
    if any(bool(x[..., used.capacity :].any()) for x in flatten(memory).values()):
        return state
    return dataclasses.replace(state, memory=map_tensors(torch.clone, used))


def expand(state: WorldState, memory: SceneMemory) -> WorldState:
    """Return a state of :func:`compact` with all slots of ``memory`` again, bit for bit."""
    if not isinstance(state.memory, Points) or not isinstance(memory, PadsMemory):
        return state
    return dataclasses.replace(state, memory=memory.pad(state.memory))


def check_start(scene: SceneStart, step: Step, action_space: Space) -> None:
    """Raise InvalidInputError or MissingGeometryError unless a world can start from ``scene``.

    The error names the problem.
    """
    n, t, who = step.dynamics.spec, len(scene.rgb), f"start {scene.name or 'frames'}"
    _require(who, "rgb", scene.rgb, (torch.uint8,), (t, 3, n.height, n.width))
    kinds = (torch.int64, torch.int32) if n.actions else (torch.float32, torch.float64)
    _require(who, "act", scene.act, kinds, (t,) if n.actions else (t, n.action_dim))
    if n.actions and not bool(((scene.act >= 0) & (scene.act < n.actions)).all()):
        raise InvalidInputError(f"{who}: act {scene.act.tolist()} is outside {action_space}")
    if not step.has_geometry:
        return
    if scene.inverse_depth is None or scene.pose is None:
        raise MissingGeometryError(
            f"{who}: this world has a scene memory, so every frame needs depth and pose"
        )
    _require(who, "inverse_depth", scene.inverse_depth, (torch.int32,), (t, n.height, n.width))
    _require(who, "pose", scene.pose, (torch.float32,), (t, 4, 4))
    rotation = scene.pose[:, :3, :3]
    if not torch.allclose(
        rotation.transpose(1, 2) @ rotation, torch.eye(3, device=rotation.device), atol=1e-3
    ):
        raise InvalidInputError(
            f"{who}: pose holds a rotation that is not orthonormal; camera-to-world matrices are "
            f"needed"
        )
    if scene.intrinsics is not None:
        _require(who, "intrinsics", scene.intrinsics, (torch.float32, torch.float64), (4,))
        if not bool((scene.intrinsics[:2] > 0).all()):
            raise InvalidInputError(
                f"{who}: intrinsics fx and fy must be positive pixels, got "
                f"{scene.intrinsics.tolist()}"
            )


def _require(
    who: str, name: str, tensor: Tensor, types: tuple[torch.dtype, ...], shape: tuple[int, ...]
) -> None:
    if tensor.dtype not in types or tuple(tensor.shape) != shape or 0 in shape:
        wanted = str(types[0]).removeprefix("torch.")
        raise InvalidInputError(
            f"{who}: {name} must be {wanted} of shape {shape}, got {tensor.dtype} "
            f"{tuple(tensor.shape)}"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InvalidInputError(f"{who}: {name} holds values that are not finite")
