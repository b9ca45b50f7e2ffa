"""What files hold for people to look at: a snapshot's or a scene's memory and frames."""

from __future__ import annotations

import os

from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.runtime.files import as_path, is_file, is_folder
from worldsim.state import Trajectory
from worldsim.world.resampling import integrate_scene
from worldsim.world.scene_files import SCENE, load_scene, scene_names
from worldsim.world.snapshots import OpenedSnapshot, open_snapshot


def is_scene(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is the folder of a scene."""
    path = as_path(path)
    return is_folder(path) and is_file(path / SCENE)


def open_memory(path: str | os.PathLike[str], index: int = 0) -> OpenedSnapshot:
    """Read the memory and the frames of a snapshot's file or a scene's folder, on the CPU.

    index: of the environment in a snapshot.

    Raises as :func:`worldsim.world.snapshots.open_snapshot` and
    :func:`worldsim.world.scene_files.load_scene` do.
    """
    if not is_scene(path):
        if is_folder(path) and (names := scene_names(path)):
            raise InvalidInputError(
                f"{path} is a folder of {len(names)} scenes: name one of them, such as "
                f"{as_path(path) / names[0]}"
            )
        return open_snapshot(path, index)
    if index:
        raise InvalidInputError(f"{path} is one scene: index = {index} is for snapshots")
    scene = load_scene(path)
    if scene.inverse_depth is None or scene.pose is None or scene.intrinsics is None:
        raise MissingGeometryError(
            f"{path} is a scene without depth, poses or camera, so it has no memory to read"
        )
    trajectory = Trajectory(scene.rgb, scene.inverse_depth, scene.pose, scene.intrinsics)
    points = scene.memory
    if points is None:
        room = PointMemoryConfig(capacity=trajectory.inverse_depth.numel())
        points = integrate_scene(PointMemory(room), scene)
    handle = MemoryHandle(
        kind=PointMemory(PointMemoryConfig(capacity=max(1, points.capacity))),
        data=points,
        intrinsics=scene.intrinsics,
        size=(int(scene.rgb.shape[-2]), int(scene.rgb.shape[-1])),
        pose=scene.pose[-1],
    )
    return OpenedSnapshot(handle, trajectory, scene.name, "", 1)
