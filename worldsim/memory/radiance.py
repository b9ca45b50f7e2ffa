"""The radiance field: a scene memory of points that fits a dense voxel field on request.

Points hold every frame at once and show one pixel each. The field takes seconds to fit and then
gives smooth views of any size, and density. It starts from the points, which makes the fit fast.
Where it has no coverage, or newer frames contradict it, the points are shown.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, quantise_depth
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.fitting import FitConfig, fit_grid, grid_from_points
from worldsim.memory.keyframes import (
    AGREEMENT,
    Keyframes,
    keep_frame,
    rays_of,
)
from worldsim.memory.operations import agreeing
from worldsim.memory.sky import sky_of
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT, shown_slots, view_of_shown
from worldsim.memory.voxels import (
    RowView,
    Voxels,
    density_at,
    empty_voxels,
    grid_of,
    render_row,
    source_of,
    voxels_of,
    world_rays,
)
from worldsim.protocols import SceneMemory
from worldsim.runtime.arguments import number, whole
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Batch, NotNegative
from worldsim.state import Frame, MemoryView, map_tensors


class PointMemoryLike(SceneMemory[Points], Protocol):
    """A memory whose data has the fields of :class:`worldsim.memory.slots.Points`.

    These are position, colour, kind, source and seen.
    """

    def pad(self, memory: Points) -> Points:
        """Points with the memory's capacity."""
        ...


@dataclass(frozen=True)
class RadianceField:
    """The data of a :class:`RadianceMemory`.

    points: the point memory's data. frames: for the next fit. voxels: the field. fitted: (b,)
    int64, the step up to which frames went into the field, -1 if there is none. step: (b,) int64,
    that of the newest frame, -1 before the first.
    """

    points: Points
    frames: Keyframes
    voxels: Voxels
    fitted: Tensor
    step: Tensor


MOST_VOXELS = 1024
"""Most voxels along one axis."""


@dataclass(frozen=True)
class RadianceMemoryConfig:
    """Sizes of a :class:`RadianceMemory`, and how it fits."""

    height: Batch = 64
    """Rows of the frames that are integrated."""
    width: Batch = 64
    """Their columns."""
    shape: tuple[int, int, int] = (96, 96, 48)
    """Voxels along x, y and z (up): 6 bytes each, 2.7 MB an environment. They are stretched over
    the box around the points: a room of 8 m gets voxels of 8 cm, about what a pixel of a 64x64
    frame covers from 3 m away."""
    longest_m: float = 24.0
    """The box reaches at most half of this to each side of where the cameras were; what is further
    away stays points."""
    keyframes: Batch = 48
    """Frames kept for fitting, 29 KB each at 64x64; the oldest make room."""
    apart_m: NotNegative = 0.25
    """A frame is kept if every kept one is at least this far away in metres ..."""
    apart_deg: NotNegative = 12.0
    """... or looks at least this many degrees elsewhere. So the set grows with the space seen, as
    points do."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the field is fitted."""

    def __post_init__(self) -> None:
        check_ranges(self)
        number("RadianceMemoryConfig.longest_m", self.longest_m, 0.0, 1e6, "metres")
        shape: object = self.shape
        if not isinstance(shape, (tuple, list)) or not all(
            isinstance(n, int) and not isinstance(n, bool) for n in shape
        ):
            raise InvalidInputError(
                f"RadianceMemoryConfig.shape = {shape!r}: give three whole numbers of voxels"
            )
        if len(self.shape) != 3 or min(self.shape) < 4 or max(self.shape) > MOST_VOXELS:
            raise InvalidInputError(
                f"RadianceMemoryConfig.shape = {self.shape}: give three numbers of 4 to "
                f"{MOST_VOXELS} voxels"
            )
        if not self.longest_m > 0:
            raise InvalidInputError(
                f"RadianceMemoryConfig.longest_m = {self.longest_m}: it must be more than 0 metres"
            )


class RadianceMemory:
    """A :class:`worldsim.protocols.SceneMemory` of points and a voxel field. All methods are pure.

    points: the point memory that it builds upon, such as ``PointMemory()``.
    """

    def __init__(self, points: PointMemoryLike, config: RadianceMemoryConfig | None = None) -> None:
        self.points, self.config = points, config or RadianceMemoryConfig()

    def empty(self, batch: int, device: torch.device | str = "cpu") -> RadianceField:
        """Nothing seen, no field."""
        return self.pad(self.points.empty(batch, device))

    def pad(self, memory: Points | RadianceField) -> RadianceField:
        """Return data of this memory's sizes, from its own data or from the point memory's.

        From points, there is no field yet.
        """
        if isinstance(memory, RadianceField):
            return dataclasses.replace(memory, points=self.points.pad(memory.points))
        c, points = self.config, self.points.pad(memory)
        b, device = points.kind.shape[0], points.kind.device
        frames = Keyframes(
            rgb=torch.zeros(b, c.keyframes, 3, c.height, c.width, dtype=torch.uint8, device=device),
            inverse_depth=torch.zeros(
                b, c.keyframes, c.height, c.width, dtype=torch.int32, device=device
            ),
            pose=torch.eye(4, device=device).repeat(b, c.keyframes, 1, 1),
            intrinsics=torch.ones(b, c.keyframes, 4, device=device),
            count=torch.zeros(b, dtype=torch.int64, device=device),
        )
        none = torch.full((b,), -1, dtype=torch.int64, device=device)
        return RadianceField(
            points, frames, empty_voxels(b, c.shape, device), fitted=none, step=none.clone()
        )

    def integrate(
        self,
        memory: RadianceField,
        frame: Frame,
        camera: Camera,
        step: Tensor,
        known: Tensor | None = None,
    ) -> RadianceField:
        """Return data with ``frame`` in its points and, if new and fully known, its keyframes.

        The field does not change: see :meth:`fit`.
        """
        if frame.inverse_depth is None or frame.pose is None:
            raise MissingGeometryError(
                "this frame has no depth or no pose: the radiance field needs both (or use "
                "NoMemory)"
            )
        c = self.config
        if frame.inverse_depth.shape[1:] != (c.height, c.width):
            raise InvalidInputError(
                f"frames of {tuple(frame.inverse_depth.shape[1:])} do not fit a radiance memory "
                f"of {c.height}x{c.width}: "
                "set height and width in its config"
            )
        points = self.points.integrate(memory.points, frame, camera, step, known)
        frames = memory.frames
        if known is None:
            frames = keep_frame(frames, frame, camera, c.apart_m, c.apart_deg)
        return dataclasses.replace(memory, points=points, frames=frames, step=step.to(torch.int64))

    def fit(
        self, memory: RadianceField, iterations: int = 200, seed: int = 0, from_points: bool = True
    ) -> RadianceField:
        """Return data with a new field, fitted to the points and keyframes of every environment.

        iterations: 200 take about 10 s for a 64x64 environment on 2 CPU cores; many more improve
            little. The same data, iterations and seed give the same field on a CPU.
        from_points: False starts from noise instead, for comparisons.
        """
        if whole("iterations", iterations, -math.inf) < 1:
            raise InvalidInputError(
                f"a field cannot be fitted in {iterations} iterations: give at least 1"
            )
        rows = [i for i, count in enumerate(memory.frames.count.tolist()) if count]
        voxels, fitted = map_tensors(torch.clone, memory.voxels), memory.fitted.clone()
        for i in rows:
            one = map_tensors(lambda x, i=i: x[i : i + 1], memory)
            own = self._fit_row(one, iterations, seed, from_points)
            map_tensors(lambda held, new, i=i: held[i : i + 1].copy_(new), voxels, own)
            fitted[i] = memory.step[i]
        return dataclasses.replace(memory, voxels=voxels, fitted=fitted)

    def adopt(self, memory: RadianceField, fitted: RadianceField) -> RadianceField:
        """Return ``memory`` with the field of ``fitted``.

        For fits in the background, whose data is a few steps old when they end.
        """
        return dataclasses.replace(memory, voxels=fitted.voxels, fitted=fitted.fitted)

    def without_field(self, memory: RadianceField) -> RadianceField:
        """``memory`` with its points alone, which then can be edited and fitted again."""
        return dataclasses.replace(memory, fitted=torch.full_like(memory.fitted, -1))

    def _fit_row(self, one: RadianceField, iterations: int, seed: int, from_points: bool) -> Voxels:
        generator = torch.Generator().manual_seed(seed)
        points, (low, size) = one.points, self._box(one)
        start = grid_from_points(
            points.position[0], points.colour[0], points.kind[0], low, size, self.config.shape
        )
        if not from_points:
            noise = torch.rand(start.values.shape, generator=generator).to(start.values.device)
            noise[0] -= 3.5
            start = dataclasses.replace(start, values=noise)
        rays = rays_of(one.frames, one.points)
        grid = (
            fit_grid(start, rays, iterations, self.config.fit, generator)[0]
            if len(rays.depth)
            else start
        )
        source = source_of(points.position[0], points.source[0], points.kind[0], grid)
        return voxels_of(grid, source, sky_of(rays.ray, rays.colour, torch.isinf(rays.depth)))

    def _box(self, one: RadianceField) -> tuple[Tensor, Tensor]:
        """Return the first node and the spacing of nodes, (3,) metres each.

        They span the points without a few outliers.
        """
        count = min(int(one.frames.count), self.config.keyframes)
        centre = one.frames.pose[0, :count, :3, 3].mean(0)
        position = one.points.position[0][:, one.points.kind[0] == POINT]
        if not position.shape[1]:
            position = centre[:, None]
        reach = 0.5 * self.config.longest_m
        ends = torch.stack(
            [position.kthvalue(_rank(position, share), dim=1).values for share in (0.005, 0.995)]
        )
        ends = torch.minimum(torch.maximum(ends, centre - reach), centre + reach)
        margin = 0.1 + 0.02 * (ends[1] - ends[0])
        shape = torch.tensor(self.config.shape, device=ends.device)
        return ends[0] - margin, (ends[1] - ends[0] + 2.0 * margin) / (shape - 1)

    def render(self, memory: RadianceField, camera: Camera) -> MemoryView:
        """Render the memory at ``camera``, of any size.

        It shows the field, and points where there is none or it is out of date. A point of a frame
        newer than the fit wins if it lies before the field's surface, or behind it without a point
        near by that confirms the surface.
        """
        points = memory.points
        shown = shown_slots(points.position, points.kind, camera)
        view = view_of_shown(shown, points.colour, points.source, camera)
        rows = [i for i, fitted in enumerate(memory.fitted.tolist()) if fitted >= 0]
        if not rows:
            return view
        newer = (points.seen.gather(1, shown.slot) > memory.fitted[:, None]) & shown.mask
        z = shown.z.masked_fill(~shown.mask, torch.inf).view(view.mask.shape)
        origin, ray = world_rays(camera)
        view = map_tensors(torch.clone, view)
        for i in rows:
            self._draw(
                view,
                i,
                render_row(memory.voxels, i, origin[i], ray[i]),
                z[i],
                newer[i].view(z[i].shape),
            )
        return view

    def _draw(self, view: MemoryView, row: int, seen: RowView, z: Tensor, newer: Tensor) -> None:
        """Paint the field's pixels over the points' in one row of a view, in place.

        z: (h, w) depth of the points.
        """
        h, w = z.shape
        depth, solid, known_sky = seen.depth.view(h, w), seen.solid.view(h, w), seen.sky.view(h, w)
        radius = max(1, round(w / self.config.width))
        nearest = -F.max_pool2d(
            -z[None].nan_to_num(posinf=1e9), 2 * radius + 1, stride=1, padding=radius
        )[0]
        near, far = agreeing(AGREEMENT, depth)
        outdated = newer & ((z < near) | ((z > far) & (nearest > far)))
        solid = solid & ~outdated
        # The sky is smooth where no point is in front of it.
        sky = known_sky & ~seen.solid.view(h, w) & torch.isinf(z)
        drawn = solid | sky
        code = torch.where(solid, quantise_depth(depth), 0)
        rgb = torch.where(solid, seen.colour.T.view(3, h, w), seen.sky_colour.T.view(3, h, w))
        view.rgb[row] = torch.where(
            drawn, (rgb * 255.0).round().clamp(0, 255).to(torch.uint8), view.rgb[row]
        )
        view.inverse_depth[row] = torch.where(drawn, code, view.inverse_depth[row])
        view.mask[row] |= drawn
        view.offset[row] = torch.where(drawn, 8, view.offset[row])
        view.source[row] = torch.where(
            drawn, torch.where(solid, seen.source.view(h, w), 0), view.source[row]
        )

    def density(self, memory: RadianceField, place: Tensor) -> Tensor:
        """Return the density (b, n) float32 per metre at world places (b, n, 3) metres.

        0 outside the field and without one. A ray of ``s`` metres through density ``d`` passes with
        probability exp(-s d).
        """
        if place.ndim != 3 or place.shape[0] != len(memory.fitted) or place.shape[2] != 3:
            raise InvalidInputError(
                f"places are {tuple(place.shape)}: give ({len(memory.fitted)}, n, 3) world metres"
            )
        rows = [density_at(grid_of(memory.voxels, i), place[i].float()) for i in range(len(place))]
        return torch.stack(rows) * (memory.fitted >= 0)[:, None]

    def to_points(self, memory: RadianceField) -> Points:
        """The points that it keeps, which know every frame."""
        return memory.points

    def surroundings(self, memory: RadianceField, pose: Tensor) -> Tensor:
        """Return the points' map of the surroundings of ``pose`` (b, 4, 4).

        See :meth:`worldsim.protocols.SceneMemory.surroundings`.
        """
        return self.points.surroundings(memory.points, pose)


def _rank(values: Tensor, share: float) -> int:
    """The place, from 1, of a quantile of (3, n) values."""
    n = values.shape[1]
    return max(1, min(n, round(share * n)))
