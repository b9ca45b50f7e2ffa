"""Editing a world: continue with another scene memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from worldsim.camera import rotation_vector_to_matrix
from worldsim.errors import MissingGeometryError
from worldsim.protocols import StepInputs, remembers
from worldsim.runtime.rng import Purpose
from worldsim.state import WorldState
from worldsim.world.heads import to_camera_axes
from worldsim.world.step import Step


def edit_memory(step: Step, state: WorldState, memory: Any) -> WorldState:
    """Return the state with another memory, see :meth:`worldsim.world.World.edit`.

    Where the two memories' views of the newest frame differ, the frame takes the new memory's
    colours and depth. Regions that the new memory does not cover are predicted again. Raises
    MissingGeometryError for a world without scene memory.
    """
    if not step.has_geometry or not remembers(step.memory) or not step.dynamics.spec.uses_memory:
        raise MissingGeometryError("this world has no scene memory to edit")
    frame = state.frame
    assert frame.pose is not None and frame.inverse_depth is not None
    before, after = step.render(state, state.memory), step.render(state, memory)
    inputs = StepInputs(
        last=frame,
        act=state.act[:, -1],
        motion=last_motion(state),
        pose=frame.pose,
        view=after,
        intrinsics=state.intrinsics,
        seed=state.seed,
        step=state.step,
        purpose=Purpose.EDIT,
    )
    empty = step.dynamics.empty(len(state), step.device)
    predicted = step.dynamics.predict(empty, inputs)[0].frame
    assert predicted.inverse_depth is not None
    changed = (before.mask != after.mask) | (before.inverse_depth != after.inverse_depth)
    changed = changed | (before.rgb != after.rgb).any(1)
    shown, unknown = changed & after.mask, changed & ~after.mask

    def merge(old: Tensor, known: Tensor, new: Tensor) -> Tensor:
        over, under = (shown, unknown) if old.ndim == 3 else (shown[:, None], unknown[:, None])
        return torch.where(over, known, torch.where(under, new, old))

    frame = dataclasses.replace(
        frame,
        rgb=merge(frame.rgb, after.rgb, predicted.rgb),
        inverse_depth=merge(frame.inverse_depth, after.inverse_depth, predicted.inverse_depth),
    )
    context = step.dynamics.observe(empty, inputs, frame)
    # Predicted pixels lie around the outline of removed objects. They are not integrated; the
    # next steps generate these regions.
    assert frame.pose is not None
    camera = step.camera(frame.pose, state.intrinsics)
    memory = step.memory.integrate(memory, frame, camera, state.step, ~unknown)
    covered = None if state.coverage is None else step.coverage(inputs)
    return dataclasses.replace(state, frame=frame, context=context, memory=memory, coverage=covered)


def last_motion(state: WorldState) -> Tensor:
    """Return the newest motion in the axes of the camera that it started from, (b, 6).

    It is in metres and radians.
    """
    assert state.frame.pose is not None
    motion = state.motion[:, -1]
    turn = rotation_vector_to_matrix(motion[:, 3:])
    start = torch.eye(4, device=motion.device).repeat(len(motion), 1, 1)
    # In world axes rotations multiply from the left, so the inverse does too.
    start[:, :3, :3] = turn.transpose(1, 2) @ state.frame.pose[:, :3, :3]
    return to_camera_axes(motion, start)
