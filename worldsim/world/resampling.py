"""Generated scenes for a world: its frame size, camera, actions and memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.io.rgbd import CapturedFrame, trajectory_of
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import Points
from worldsim.memory.splat import DIRECTION, EMPTY
from worldsim.protocols import PadsMemory, SceneMemory, remembers
from worldsim.state import Frame, SceneStart, map_tensors
from worldsim.world.world import World

SAME_CAMERA = 1e-3
"""Share by which the intrinsics of two cameras may differ and still count as equal."""
MOST_ZOOM = 1.25
"""Largest factor by which a scene's camera may see less than the world's."""
ROOM = 0.75
"""Largest share of the world's memory that a scene fills, so that a walk finds room in it."""


def resample_scene(scene: SceneStart, world: World) -> SceneStart:
    """Return a scene with all its frames for ``world``.

    scene: all frames of the scene, with depth, and its memory.

    Frames of the world's size and camera stay as they are. Others are resampled, and the memory is
    built again from them, since points of coarser frames would leave holes. Raises
    InvalidInputError if the frames see much less than the world's camera.
    """
    n = world.spec
    t, _, height, width = scene.rgb.shape
    act = torch.zeros(t, dtype=torch.int64) if n.actions else torch.zeros(t, n.action_dim)
    scene = dataclasses.replace(scene, act=act)
    same_size = (height, width) == (n.height, n.width)
    if same_size and _same_camera(scene.intrinsics, world.config.intrinsics):
        return dataclasses.replace(scene, memory=_memory_for(scene, world))
    if scene.inverse_depth is None or scene.pose is None or scene.intrinsics is None:
        raise MissingGeometryError(
            f"scene {scene.name or 'without a name'} has frames of {height}x{width} pixels "
            f"without depth, poses or camera, and the world has {n.height}x{n.width}: it cannot be "
            f"resampled"
        )
    times = max(-(-n.height // height), -(-n.width // width))
    frames = [_enlarged(scene, i, times) for i in range(t)]
    trajectory, _ = trajectory_of(frames, n.height, n.width, world.config.intrinsics)
    _require_view(scene, trajectory.intrinsics, world)
    scene = dataclasses.replace(
        scene,
        rgb=trajectory.rgb,
        inverse_depth=trajectory.inverse_depth,
        intrinsics=trajectory.intrinsics,
        memory=None,
    )
    return dataclasses.replace(scene, memory=_memory_for(scene, world))


def _enlarged(scene: SceneStart, i: int, times: int) -> CapturedFrame:
    """Return frame ``i`` as a capture, ``times`` times as large, with interpolated colours.

    Without this, worlds of larger frames would see large square pixels.
    """
    assert scene.inverse_depth is not None and scene.pose is not None
    assert scene.intrinsics is not None
    height, width = (int(size) * times for size in scene.rgb.shape[-2:])
    picture = Image.fromarray(scene.rgb[i].permute(1, 2, 0).contiguous().numpy())
    rgb = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    depth = dequantise_depth(scene.inverse_depth[i]).numpy()
    return CapturedFrame(
        f"{scene.name or 'scene'}, frame {i}",
        scene.pose[i].double().numpy(),
        scene.intrinsics.double().numpy() * times,
        height,
        width,
        lambda: (rgb, depth),
    )


def start_of(scene: SceneStart, first: int, count: int, world: World | None = None) -> SceneStart:
    """Return frames ``first`` to ``first + count`` as a start, with the scene's whole memory.

    world: the world that starts from it. Of more points than its memory has room for, those
        nearest to the start are kept.
    """
    chosen = slice(first, first + count)
    memory = scene.memory
    if world is not None and isinstance(memory, Points) and scene.pose is not None:
        most = _room(world)
        if most is not None and memory.capacity > most:
            memory = nearest_points(memory, scene.pose[first + count - 1, :3, 3], most)
    return SceneStart(
        rgb=scene.rgb[chosen],
        act=scene.act[chosen],
        inverse_depth=None if scene.inverse_depth is None else scene.inverse_depth[chosen],
        pose=None if scene.pose is None else scene.pose[chosen],
        intrinsics=scene.intrinsics,
        memory=memory,
        name=scene.name,
    )


def nearest_points(points: Points, place: Tensor, count: int) -> Points:
    """Return ``count`` points of a memory: those nearest to ``place`` (3,), and some of the sky.

    points: a batch of one without unused slots. Up to a quarter of the result are directions,
        evenly chosen. The order stays.
    """
    direction = points.kind[0] == DIRECTION
    sky = direction.nonzero()[:, 0]
    shown = min(len(sky), max(count // 4, count - int((~direction).sum())))
    even = (torch.arange(shown, dtype=torch.float64) * (len(sky) / max(1, shown))).long()
    apart = (points.position[0] - place[:, None].to(points.position.device)).norm(dim=0)
    apart = apart.masked_fill(direction | (points.kind[0] == EMPTY), torch.inf)
    near = apart.sort(stable=True).indices[: count - shown]
    kept = torch.cat([near, sky[even.to(sky.device)]]).sort().values
    return map_tensors(lambda x: x[..., kept], points)


def _room(world: World) -> int | None:
    """Return the number of points that a scene may bring, None for memories of another kind."""
    memory = getattr(world.memory, "points", world.memory)
    if not isinstance(memory, PointMemory):
        return None
    return max(1, int(ROOM * memory.config.capacity))


def _memory_for(scene: SceneStart, world: World) -> Any:
    """Return the scene's points, or the frames in the world's own kind of memory."""
    memory: SceneMemory = world.memory
    if not remembers(memory):
        return None
    if scene.memory is not None and isinstance(memory, PadsMemory):
        return scene.memory
    return integrate_scene(memory, scene, -2 * len(scene.rgb))


def integrate_scene(memory: SceneMemory, scene: SceneStart, step: int = 0) -> Any:
    """Return a memory's data, a batch of one, of all frames of a scene with geometry.

    step: of the first frame. Point memories are trimmed to the points that they hold.
    """
    assert scene.inverse_depth is not None and scene.pose is not None
    assert scene.intrinsics is not None
    data = memory.empty(1, "cpu")
    for i in range(len(scene.rgb)):
        one = slice(i, i + 1)
        camera = Camera(scene.pose[one], scene.intrinsics[None], *scene.rgb.shape[-2:])
        frame = Frame(scene.rgb[one], scene.inverse_depth[one], camera.pose)
        data = memory.integrate(data, frame, camera, torch.tensor([step + i]))
    return memory.trim(data) if isinstance(memory, PointMemory) else data


def _same_camera(intrinsics: Tensor | None, wanted: tuple[float, ...] | None) -> bool:
    if intrinsics is None or wanted is None:
        return True
    return torch.allclose(intrinsics.float(), torch.tensor(wanted), rtol=SAME_CAMERA)


def _require_view(scene: SceneStart, found: Tensor, world: World) -> None:
    wanted = world.config.intrinsics
    if wanted is None:
        return
    zoom = float((found[:2] / torch.tensor(wanted[:2])).max())
    if zoom > MOST_ZOOM:
        n = world.spec
        raise InvalidInputError(
            f"scene {scene.name or 'without a name'} shows {zoom:.2f} times less than the world's "
            f"camera sees ({n.height}x{n.width} pixels, intrinsics {list(wanted)}): at most "
            f"{MOST_ZOOM} times less can be resampled; use a painter or a world of another camera"
        )
