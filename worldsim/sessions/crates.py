"""Edits of a session's memory: a crate to drop, and what lies around a place to erase."""

from __future__ import annotations

import numpy as np
import torch

from worldsim.errors import InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.slots import Points
from worldsim.runtime.types import Array
from worldsim.sessions.protocol import Crate, Edit, Erase
from worldsim.state import WorldState
from worldsim.world.world import World

WOOD = (150, 104, 58)
"""Colour of a crate."""
PER_METRE = 50
"""Points of a crate's surface per metre."""
LARGEST_SHARE = 4
"""A crate takes at most one in so many slots of the memory."""
AHEAD = 2.5
"""Metres from the camera to a crate that is dropped ahead, if nothing is in its way."""
EYE = 1.2
"""Metres from the ground to the camera where the memory does not know the ground."""


@torch.no_grad()
def edit_state(world: World, state: WorldState, edit: Edit) -> WorldState:
    """Return the state with the edited memory; it runs where the world's steps run.

    Raises MissingGeometryError, InvalidInputError or NotFoundError.
    """
    handle = MemoryHandle.of(world.memory, world.own(state))
    if not isinstance(handle.data, Points):
        raise MissingGeometryError(
            f"a {type(handle.kind).__name__} cannot be edited: only a point memory can"
        )
    if isinstance(edit, Crate):
        pose = np.eye(4, dtype=np.float32)
        pose[:3, 3] = ahead(handle, state, edit.size) if edit.position is None else edit.position
        colour = WOOD if edit.colour is None else tuple(edit.colour)
        room = handle.data.capacity // LARGEST_SHARE
        changed = handle.paste(crate_points(edit.size, colour, room), pose)
    else:
        middle = np.asarray(_place(state, edit), np.float32)
        corners = (middle - edit.radius).tolist(), (middle + edit.radius).tolist()
        changed = handle.remove(corners)
    return world.edit(state, changed.data)


def crate_points(size: float, colour: tuple[int, ...], most: int) -> tuple[Array, Array]:
    """Return the surface of a crate that stands on the origin, z up, in at most ``most`` points.

    Its boards are darker at their edges. Returns (n, 3) float32 metres and (n, 3) uint8.
    """
    n = int(np.clip(round(size * PER_METRE), 8, max(8, int((most / 6) ** 0.5))))
    rows, columns = np.meshgrid((np.arange(n) + 0.5) / n, (np.arange(n) + 0.5) / n, indexing="ij")
    u, v = rows.ravel(), columns.ravel()
    board = np.abs((v * 4.0) % 1.0 - 0.5) > 0.44
    frame = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) < 0.09
    diagonal = np.abs(u - v) < 0.06
    shade = np.where(frame | diagonal, 1.12, 0.9) * np.where(board & ~frame, 0.6, 1.0)
    faces, tints = [], []
    for axis in range(3):
        for side, light in ((0.0, 0.72 if axis == 2 else 0.85), (1.0, 1.1 if axis == 2 else 1.0)):
            place = np.empty((n * n, 3))
            place[:, axis] = side
            place[:, (axis + 1) % 3], place[:, (axis + 2) % 3] = u, v
            faces.append((place - [0.5, 0.5, 0.0]) * size)
            tints.append(shade * light * (0.93 if axis == 0 else 1.0))
    position = np.concatenate(faces).astype(np.float32)
    tint = np.concatenate(tints)[:, None] * np.asarray(colour, np.float64)
    return position, tint.round().clip(0, 255).astype(np.uint8)


def ahead(handle: MemoryHandle, state: WorldState, size: float) -> Array:
    """Return the place on the ground ahead of the camera, world x, y, z in metres."""
    pose, depth = state.frame.pose, state.frame.depth
    if pose is None or depth is None:
        raise MissingGeometryError("this world has no geometry, so nothing can be put into it")
    matrix = pose[0].cpu().numpy()
    h, w = depth.shape[-2:]
    middle = depth[0, 3 * h // 8 : h // 2 + 1, 3 * w // 8 : 5 * w // 8 + 1]
    free = float(middle.median().clamp(max=1e3))
    forward = matrix[:3, 2] * np.array([1.0, 1.0, 0.0])
    forward = forward / max(float(np.linalg.norm(forward)), 1e-6)
    place = matrix[:3, 3] + forward * max(size, min(AHEAD, 0.9 * free - 0.5 * size))
    try:
        place[2] = handle.floor(place)
    except NotFoundError:
        place[2] = matrix[2, 3] - EYE
    return place


def _place(state: WorldState, edit: Erase) -> Array:
    """Return the middle of what is erased, world x, y, z in metres."""
    if (edit.position is None) == (edit.pixel is None):
        raise InvalidInputError("erase takes one of position and pixel")
    if edit.position is not None:
        return np.asarray(edit.position)
    pose, depth = state.frame.pose, state.frame.depth
    if pose is None or depth is None:
        raise MissingGeometryError("this world has no geometry, so nothing of it can be erased")
    assert edit.pixel is not None
    column, row = edit.pixel
    h, w = depth.shape[-2:]
    if not (0 <= column < w and 0 <= row < h):
        raise InvalidInputError(
            f"pixel {edit.pixel} is outside of the frame: columns are 0 to {w}, rows 0 to {h}"
        )
    far = float(depth[0, int(row), int(column)])
    if not np.isfinite(far):
        raise InvalidInputError(f"pixel {edit.pixel} shows the sky, which cannot be erased")
    fx, fy, cx, cy = state.intrinsics[0].cpu().numpy().astype(np.float64)
    local = np.array([(column - cx) / fx * far, (row - cy) / fy * far, far, 1.0])
    matrix: Array = pose[0].cpu().numpy().astype(np.float64)
    placed: Array = (matrix @ local)[:3]
    return placed
