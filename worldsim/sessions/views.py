"""The pictures of a frame: drawn from a session's state, and encoded for display or losslessly."""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from worldsim.camera import Camera
from worldsim.io.pictures import depth_picture, holes_marked
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.painted import is_painted
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.protocols import CountsPoints, remembers
from worldsim.runtime.types import Array
from worldsim.sessions.protocol import Blob, MapPlace, PictureFormat, View, array_blob
from worldsim.sessions.stored_frames import as_picture
from worldsim.state import MemoryView, WorldState
from worldsim.world.world import World

QUALITY = {PictureFormat.WEBP: 90, PictureFormat.JPEG: 92}
"""Quality of lossy pictures, of 100."""
MAP_RESOLUTION = 0.1
"""Metres per pixel of the map that comes with a frame."""
MAP_REACH = 20.0
"""Metres to each side of the camera that it shows."""
FROM_MEMORY = (View.MEMORY, View.PAINTED, View.MAP)
"""Views that are drawn from the memory."""


@dataclass(frozen=True)
class Drawn:
    """Views as arrays.

    arrays: by view.
    map: where the map lies.
    points: number of points in the memory, if it counts them.
    """

    arrays: dict[View, Array]
    map: MapPlace | None = None
    points: int | None = None


@torch.no_grad()
def draw_memory(
    world: World, state: WorldState, view: tuple[MemoryView, int] | None, wanted: tuple[View, ...]
) -> Drawn:
    """Draw the views that need the memory; those that the world does not have are left out.

    It runs where the world's steps run.

    view: what the memory showed before the step, and the row in it. After a reset or an edit there
        is none, and the memory is drawn as it is.
    """
    arrays: dict[View, Array] = {}
    place = None
    if not remembers(world.memory) or state.frame.pose is None:
        return Drawn(arrays)
    height, width = state.frame.rgb.shape[-2:]
    camera = Camera(state.frame.pose, state.intrinsics, height, width)
    if View.MEMORY in wanted:
        shown, row = view or (world.memory.render(state.memory, camera), 0)
        arrays[View.MEMORY] = with_alpha(as_picture(shown.rgb[row]), shown.mask[row].cpu().numpy())
    if View.PAINTED in wanted and isinstance(state.memory, Points):
        arrays[View.PAINTED] = painted_mask(world, state.memory, camera)
    if View.MAP in wanted and isinstance(state.memory, Points):
        handle = MemoryHandle.of(world.memory, state)
        seen = handle.top_down(MAP_RESOLUTION, reach=MAP_REACH)
        arrays[View.MAP] = with_alpha(seen.rgb, seen.mask)
        place = MapPlace(west=seen.west, north=seen.north, resolution=seen.resolution)
    memory = world.memory
    points = int(memory.count(state.memory)[0]) if isinstance(memory, CountsPoints) else None
    return Drawn(arrays, place, points)


def painted_mask(world: World, points: Points, camera: Camera) -> Array:
    """Return where a camera sees points that a painter invented, (h, w) uint8, 255 or 0."""
    colour = torch.where(is_painted(points)[:, None] & (points.kind == POINT)[:, None], 255, 0)
    marked = dataclasses.replace(
        points, colour=colour.to(points.colour.dtype).expand_as(points.colour)
    )
    seen = world.memory.render(marked, camera)
    shown = (seen.rgb[0, 0] > 127) & seen.mask[0]
    return shown.to(torch.uint8).mul(255).cpu().numpy()


def with_alpha(rgb: Array, mask: Array) -> Array:
    """Return (h, w, 4) uint8: holes are transparent."""
    return np.concatenate([rgb, np.where(mask, 255, 0).astype(np.uint8)[..., None]], -1)


def encode(view: View | str, array: Array, kind: PictureFormat) -> Blob:
    """Encode one view.

    array: (h, w), (h, w, 3) or (h, w, 4) uint8, or (h, w) float32 metres.
    """
    name = str(view)
    if kind is PictureFormat.RAW:
        return array_blob(name, array)
    if array.dtype == np.float32:
        array = depth_picture(array)
    if kind is PictureFormat.JPEG and array.ndim == 3 and array.shape[2] == 4:
        array = holes_marked(array[..., :3], array[..., 3] > 0)
    return name, kind.value, array.shape, picture_bytes(array, kind)


def picture_bytes(array: Array, kind: PictureFormat) -> bytes:
    """Encode a uint8 picture."""
    picture = Image.fromarray(np.ascontiguousarray(array))
    stream = io.BytesIO()
    if kind is PictureFormat.PNG:
        picture.save(stream, "PNG", compress_level=1)
    elif kind is PictureFormat.JPEG:
        picture.save(stream, "JPEG", quality=QUALITY[kind])
    else:
        picture.save(stream, "WEBP", quality=QUALITY[kind], method=0)
    return stream.getvalue()


def psnr_of(frame: Array, other: Array) -> float | None:
    """Return the peak signal-to-noise ratio of two frames in dB; None if they are equal."""
    error = float(np.square(frame.astype(np.float64) - other.astype(np.float64)).mean())
    return None if error == 0.0 else 10.0 * math.log10(255.0**2 / error)
