"""The user's handle of one environment's scene memory: render, map, edit and export it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.camera import Camera
from worldsim.errors import InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.memory.arguments import as_intrinsics, as_numbers, as_pose, as_shape, as_size
from worldsim.memory.editing import Shape, in_box, surface_points
from worldsim.memory.handle_results import MemoryPicture, PointArrays, camera_places
from worldsim.memory.maps import Band, Occupancy, TopDown, occupancy, top_down
from worldsim.memory.points import PointMemory, Points
from worldsim.memory.slots import points_of
from worldsim.memory.splat import DIRECTION, POINT
from worldsim.memory.surfels import draw, normals_of, patch_metres, to_world
from worldsim.protocols import HasPoints, SceneMemory, remembers
from worldsim.runtime.arguments import number, whole
from worldsim.runtime.files import as_path
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.types import Array
from worldsim.state import Trajectory, WorldState, map_tensors

LEAST_POINTS = 8
"""Points near a place that are taken for its ground: fewer may be strays."""
RENDER_BYTES = 250
"""A pixel of a picture, while it is drawn."""

Box = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, eq=False)
class MemoryHandle:
    """One environment's scene memory, with the camera that last saw it. Methods never change it.

    kind: the memory's implementation.
    data: a batch of one.
    intrinsics: (4,) ``fx fy cx cy`` of the frames that were integrated.
    size: (height, width) of these frames.
    pose: (4, 4) camera-to-world of the newest frame.
    step: number of steps of the dream.
    """

    kind: SceneMemory
    data: Any
    intrinsics: Tensor
    size: tuple[int, int]
    pose: Tensor
    step: int = 0

    @classmethod
    def of(cls, kind: SceneMemory, state: WorldState, index: int = 0) -> MemoryHandle:
        """The memory of one environment of ``state``, sharing its tensors: do not write into them.

        Raises MissingGeometryError for a world without scene memory.
        """
        if not remembers(kind) or state.frame.pose is None:
            raise MissingGeometryError(
                "this world has no scene memory: it was trained without geometry, or it was "
                "switched off"
            )
        one = map_tensors(
            lambda x: x[index : index + 1], (state.memory, state.intrinsics, state.frame.pose)
        )
        height, width = state.frame.rgb.shape[-2:]
        return cls(kind, one[0], one[1][0], (height, width), one[2][0], int(state.step[index]))

    # Looking.

    def camera(
        self,
        pose: ArrayLike | None = None,
        size: tuple[int, int] | None = None,
        intrinsics: ArrayLike | None = None,
    ) -> Camera:
        """A camera, a batch of one; what is left out is that of the newest frame.

        pose: (4, 4) camera-to-world. size: (height, width). intrinsics: (4,) pixels of a picture of
        that size; by default the frames' own field of view from top to bottom, with square pixels:
        a wider picture sees more at the sides.
        """
        height, width = self.size if size is None else as_size(size)
        if intrinsics is None:
            scale = height / self.size[0]
            fx, fy, cx, cy = (self.intrinsics.float() * scale).tolist()
            intrinsics = [fx, fy, cx + 0.5 * (width - scale * self.size[1]), cy]
        matrix = as_pose(self.pose if pose is None else pose)
        pixels = as_intrinsics(intrinsics)
        device = self.intrinsics.device
        return Camera(matrix[None].to(device), pixels[None].to(device), height, width)

    @torch.no_grad()
    def render(
        self,
        pose: ArrayLike | Camera | None = None,
        size: tuple[int, int] | None = None,
        intrinsics: ArrayLike | None = None,
    ) -> MemoryPicture:
        """Render the memory at a :meth:`camera`, or at one (a batch of one) given as ``pose``.

        Points are as large as the patches of surface that they represent, so a picture larger than
        the frames is dense where the memory is. Holes stay holes.
        """
        camera = pose if isinstance(pose, Camera) else self.camera(pose, size, intrinsics)
        if isinstance(pose, Camera) and (
            size is not None or intrinsics is not None or len(camera.pose) != 1
        ):
            raise InvalidInputError(
                "a Camera must be a batch of one and brings its own size and intrinsics: leave "
                "those out"
            )
        height, width = as_size((camera.height, camera.width))
        require_memory_for(
            RENDER_BYTES * height * width + 2**27, f"a picture of {height}x{width} pixels"
        )
        points = points_of(self.kind, self.data)
        if points is self.data and points is not None:
            view = draw(points, camera, (float(self.intrinsics[0]), float(self.intrinsics[1])))
            rgb, depth, mask, normals = view.rgb, view.depth, view.mask, view.normals
        else:
            rgb, depth, mask, normals = self._rendered_by_kind(camera)
        return MemoryPicture(
            rgb=rgb.permute(1, 2, 0).cpu().numpy().copy(),
            depth=depth.cpu().numpy(),
            mask=mask.cpu().numpy(),
            normals=normals.permute(1, 2, 0).cpu().numpy().copy(),
            pose=camera.pose[0].float().cpu().numpy(),
            intrinsics=camera.intrinsics[0].float().cpu().numpy(),
        )

    def _rendered_by_kind(self, camera: Camera) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Render by the memory itself; normals come from its depth."""
        view = self.kind.render(self.data, camera)
        depth, mask = torch.where(view.mask, view.depth, torch.inf)[0], view.mask[0]
        solid = mask & torch.isfinite(depth)
        place = camera_places(torch.where(solid, depth, 0.0), camera)
        return view.rgb[0], depth, mask, to_world(normals_of(place, solid, 1), camera)

    def top_down(
        self,
        resolution: float = 0.05,
        above: float = 0.25,
        below: float = math.inf,
        reach: float | None = 25.0,
        gap: float = 0.5,
    ) -> TopDown:
        """A map seen from above, north (world y) up. Of points over one another, the highest shows.

        resolution: metres a pixel. above, below: metres over and under the present camera; what is
        outside of that band is cut away, ceilings above all. reach: metres to each side of the
        camera, None for everything. gap: what lies between points at most so far apart (m) is shown
        as the nearest of them, as floors seen from their side are; 0 for never.
        """
        band = Band(above, below, reach)
        return top_down(
            self._points(),
            float(self.intrinsics[0]),
            self.pose[:3, 3].float(),
            resolution,
            band,
            gap,
        )

    def occupancy(
        self,
        voxel: float = 0.1,
        reach: float | None = 10.0,
        confidence: int = 0,
        trajectory: Trajectory | None = None,
    ) -> Occupancy:
        """Return a grid of voxels around the points near the camera.

        Near is within ``reach`` metres to each side; None takes all points. A voxel is occupied if
        a point of at least ``confidence`` lies in it. It is free if lines of sight pass through it,
        up to a voxel short of their end: those of the newest frame, or those of all frames of
        ``trajectory`` (200 of them, if it has more). Both assume a static scene. Everything else is
        unknown, including gaps between the points of a wall.
        """
        points = self._points()
        if trajectory is not None and not isinstance(trajectory, Trajectory):
            raise InvalidInputError(
                f"trajectory is a {type(trajectory).__name__}: give a Trajectory, such as "
                f"env.unwrapped.trajectory"
            )
        if trajectory is None:
            camera = self.camera()
            view = self.kind.render(self.data, camera)
            depth = torch.where(view.mask, view.depth, torch.nan)
        else:
            depth, camera = trajectory.depth, trajectory.cameras
        device = points.position.device
        depth, camera = map_tensors(lambda x: x.to(device), (depth, camera))
        return occupancy(points, self.pose[:3, 3].float(), voxel, reach, confidence, depth, camera)

    def points(self) -> PointArrays:
        """All points but the sky's."""
        points = self._points()
        chosen = points.kind[0] == POINT

        def taken(values: Tensor) -> Array:
            return values[0][..., chosen].cpu().numpy().T.copy()

        return PointArrays(
            position=taken(points.position),
            colour=taken(points.colour),
            size=taken(patch_metres(points, float(self.intrinsics[0]))),
            confidence=taken(points.confidence),
            seen=taken(points.seen),
        )

    def floor(self, place: ArrayLike, radius: float = 0.5) -> float:
        """World z in metres of the ground at a place: to stand things on it.

        place: world x, y (and z, which is not looked at), or a pose (4, 4). radius: metres around
        it that count. The ground is where the lowest tenth of the points ends that lie there and
        under the camera. Raises NotFoundError where the memory knows fewer than
        :data:`LEAST_POINTS` of them.
        """
        shape = np.shape(place)
        if shape not in ((2,), (3,), (4, 4)):
            raise InvalidInputError(
                f"place has the shape {shape}: give x, y in metres, or a pose (4, 4)"
            )
        x, y = (
            as_pose(place)[:2, 3] if shape == (4, 4) else as_numbers("place", place, shape)[:2]
        ).tolist()
        radius = number("radius", radius, 1e-3, 1e3, "metres")
        points = self._points()
        position = points.position[0][:, points.kind[0] == POINT].cpu()
        near = (position[0] - x).square() + (position[1] - y).square() <= radius**2
        height = position[2, near & (position[2] < float(self.pose[2, 3]))]
        if len(height) < LEAST_POINTS:
            raise NotFoundError(
                f"the memory knows {len(height)} points of the ground within {radius:g} m of "
                f"({x:.1f}, {y:.1f}): "
                "look there first, or give a larger radius"
            )
        return float(height.quantile(0.1))

    def sky(self) -> tuple[Array, Array]:
        """Return the infinitely far directions and their colours.

        They are (n, 3) float32, world axes, and (n, 3) uint8.
        """
        points = self._points()
        chosen = points.kind[0] == DIRECTION
        direction = points.position[0][:, chosen].T
        return (direction / direction.norm(dim=1, keepdim=True)).cpu().numpy(), points.colour[0][
            :, chosen
        ].T.cpu().numpy().copy()

    def statistics(self) -> dict[str, int | float]:
        """Return statistics of the memory.

        They are points, directions, used (share of the slots), confidence (mean) and extent_m
        (longest side of the bounding box).
        """
        return {
            name: value.item() for name, value in PointMemory().statistics(self._points()).items()
        }

    # Editing. Each gives a new handle; ``env.unwrapped.edit(handle)`` has the dream go on from it.

    def remove(self, box: Box, pose: ArrayLike | None = None) -> MemoryHandle:
        """Return the memory without the points in ``box``.

        box: lower and upper corner (x, y, z) in metres, in the axes of ``pose`` or the world's.
        """
        memory, points = self._editable()
        return dataclasses.replace(
            self, data=memory.remove(points, self._inside(points, box, pose))
        )

    def recolour(
        self, box: Box, colour: Sequence[int], pose: ArrayLike | None = None
    ) -> MemoryHandle:
        """Return the memory with the points in ``box`` in another colour.

        box: see :meth:`remove`.
        colour: three numbers from 0 to 255.
        """
        memory, points = self._editable()
        if (
            not isinstance(colour, (Sequence, np.ndarray))
            or isinstance(colour, (str, bytes))
            or len(colour) != 3
        ):
            raise InvalidInputError(f"colour is {colour!r}: give red, green and blue, 0 to 255")
        other = torch.tensor([whole("colour", c, 0, 255) for c in colour], dtype=torch.uint8)
        return dataclasses.replace(
            self, data=memory.recolour(points, self._inside(points, box, pose), other)
        )

    def paste(
        self,
        shape: Shape | tuple[ArrayLike, ArrayLike],
        pose: ArrayLike,
        spacing: float = 0.02,
        distance: float = 0.25,
    ) -> MemoryHandle:
        """With a thing put in at ``pose`` (4, 4), its axes to world.

        shape: a trimesh mesh, scene or cloud, or the path of a file: see
        :func:`worldsim.memory.editing.surface_points`; or a pair of arrays, positions (n, 3) in
        metres and colours (n, 3) uint8. distance: from how near (m) it shall look sharp.
        """
        memory, points = self._editable()
        number("distance", distance, 1e-3, 1e3, "metres")
        if isinstance(shape, tuple):
            position, colour = as_shape(shape)
        else:
            spacing = number("spacing", spacing, 1e-4, 1e3, "metres")
            position, colour = surface_points(shape, spacing)
        step = torch.tensor([self.step], device=points.kind.device)
        data = memory.paste(points, position, colour, as_pose(pose), step, distance)
        return dataclasses.replace(self, data=data)

    def to_ply(self, path: str | os.PathLike[str]) -> None:
        """Write the points, without the sky, as a PLY file: world axes, metres."""
        PointMemory().to_ply(self._points(), as_path(path))

    def _points(self) -> Points:
        if isinstance(self.kind, HasPoints):
            return self.kind.to_points(self.data)
        raise InvalidInputError(
            f"a {type(self.kind).__name__} holds no points: only render() works with it"
        )

    def _editable(self) -> tuple[PointMemory, Points]:
        if not isinstance(self.kind, PointMemory):
            raise InvalidInputError(
                f"a {type(self.kind).__name__} cannot be edited: only a PointMemory can"
            )
        return self.kind, self.data

    def _inside(self, points: Points, box: Box, pose: ArrayLike | None) -> Tensor:
        if not isinstance(box, (tuple, list, np.ndarray)) or len(box) != 2:
            raise InvalidInputError(f"box is {box!r}: give two corners, ((x, y, z), (x, y, z))")
        low, high = (as_numbers("a corner of the box", corner, (3,)).tolist() for corner in box)
        return in_box(points, low, high, None if pose is None else as_pose(pose))
