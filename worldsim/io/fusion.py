"""Meshes from trajectories: the depth of all frames, fused into one field of distances.

The method is a truncated signed distance field (Curless and Levoy 1996). Open3D computes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.camera import dequantise_depth, pixel_rays
from worldsim.errors import InvalidInputError
from worldsim.io.open3d_meshes import LEAST_CELL, MOST_CELL, finish, open3d
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.progress import follow
from worldsim.runtime.ranges import Count, Number, Positive
from worldsim.runtime.types import Array
from worldsim.state import Trajectory

if TYPE_CHECKING:
    from open3d.pybind.t.geometry import VoxelBlockGrid
    from trimesh import Trimesh

STRAIGHT = 0.1
"""Inverse depth is interpolated where it bends from pixel to pixel by at most this share: on planes
and in corners of walls."""
SMALLEST_VOXEL = 0.05
"""Default minimum edge of a cell in metres. Finer cells must be requested."""
SLANTS = (1.0, 4.0)
"""Factors of the truncation distance. Surfaces seen at a slant use the second; those at a still
sharper angle are left out."""
TOUCHES = 10_000
"""At most about twice as many pixels of a frame decide which blocks of cells it touches."""
CELL_BYTES = 20
"""Bytes of a cell of the field: distance, weight and colour, float32."""
BLOCK, BLOCKS = 8, 4096
"""Cells along the edge of the blocks that the field is stored in, and its first number of blocks.
The field grows."""


@dataclass(frozen=True)
class FusionConfig:
    """Settings of :func:`fuse`."""

    voxel: Annotated[float, Ge(LEAST_CELL), Le(MOST_CELL)] | None = None
    """Edge of a cell in metres; finer detail is lost, and half the edge takes eight times the
    memory. By default a fiftieth of the median depth, at least 0.05."""
    truncation: Annotated[float, Ge(1.0), Le(100.0)] = 5.0
    """Truncation distance around a surface, in voxels along the view. More closes floors seen at a
    slant from afar; less keeps thin objects and sharp edges."""
    far: Positive | None = None
    """Maximum depth in metres that a frame contributes; closer frames supply the rest. By default
    240 voxels: 12 m in rooms."""
    refine: Annotated[int, Ge(1), Le(16)] = 4
    """Factor by which frames are upsampled, with depth from the plane through neighbouring pixels.
    Frames are small, and a wall seen at a slant would be a staircase of pixels."""
    sightings: Count = 3
    """Surfaces that fewer frames saw are left out (in shorter trajectories: those that not all
    frames saw)."""
    smallest: Number = 100
    """Minimum number of triangles of a piece."""

    def __post_init__(self) -> None:
        check_ranges(self)


def fuse(trajectory: Trajectory, config: FusionConfig | None = None) -> Trimesh:
    """Fuse the depth of a trajectory into a mesh in world axes, metres.

    Surfaces that later frames see through are removed. Sky, and everything beyond ``config.far``,
    is left out. Raises MissingDependencyError without Open3D, and InvalidInputError if no surface
    is found.
    """
    config = config or FusionConfig()
    if not isinstance(trajectory, Trajectory):
        raise InvalidInputError(
            f"a mesh is fused from a Trajectory, not from a {type(trajectory).__name__}"
        )
    voxel, far = _resolution(trajectory, config)
    _require_room(trajectory, config, voxel, far)
    o3d = open3d()
    kinds, sizes = (o3d.core.float32,) * 3, ((1,), (1,), (3,))
    field = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), kinds, sizes, voxel, BLOCK, BLOCKS
    )
    fused = 0
    for i in follow(range(len(trajectory)), "fusing", "frame"):
        fused += _integrate(field, trajectory, i, config, far)
    source = f"{len(trajectory)} frames, depth up to {far:g} m"
    if not fused:
        raise InvalidInputError(
            f"no surface was found in {source}: there is nothing but sky, or what is further off"
        )
    # Above the threshold, not at it.
    mesh = field.extract_triangle_mesh(
        weight_threshold=min(config.sightings, len(trajectory)) - 0.5
    ).to_legacy()
    return finish(mesh, 1.0, config.smallest, source)


def _resolution(trajectory: Trajectory, config: FusionConfig) -> tuple[float, float]:
    """Return the edge of a cell and the largest depth that is fused, both in metres."""
    depth = trajectory.depth[trajectory.inverse_depth > 0]
    if not len(depth):
        raise InvalidInputError(
            f"no surface was found in {len(trajectory)} frames: there is nothing but sky"
        )
    default = max(SMALLEST_VOXEL, float(depth.median()) / 50.0)
    voxel = default if config.voxel is None else float(config.voxel)
    return voxel, float(240.0 * voxel if config.far is None else config.far)


def _integrate(
    field: VoxelBlockGrid, trajectory: Trajectory, i: int, config: FusionConfig, far: float
) -> int:
    """Add frame ``i`` to the field; returns how many parts of it, by slant, hold a surface."""
    o3d = open3d()
    intrinsics = trajectory.intrinsics.double() * config.refine
    fx, fy, cx, cy = intrinsics.tolist()
    # Open3D's tensor side cuts pixel coordinates off, so its pixel centres are at 0.5 as ours are.
    camera = o3d.core.Tensor(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]))
    metres = refined_depth(trajectory.inverse_depth[i].numpy(), config.refine)
    local, cosine = facing(metres, intrinsics)
    rgb = trajectory.rgb[i].permute(1, 2, 0).numpy()
    rgb = rgb.repeat(config.refine, 0).repeat(config.refine, 1).astype(np.float32)
    colours = o3d.t.geometry.Image(np.ascontiguousarray(rgb))
    pose = trajectory.pose[i].double().numpy()
    inverse = o3d.core.Tensor(np.linalg.inv(pose))
    world = (local @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
    fused, steepest = 0, math.inf
    for wider in SLANTS:
        # From cell to cell across a slanted surface the depth changes by more than the truncation
        # distance: without a wider one, only stripes would be left.
        truncation = float(config.truncation * wider)
        faced = (cosine * truncation >= 1.0) & (cosine < steepest)
        part, steepest = faced & (metres <= far), 1.0 / truncation
        if not part.any():
            continue
        near = o3d.t.geometry.Image(np.where(part, metres, 0.0).astype(np.float32))
        # From points, not from the depth: of a depth image Open3D reads every fourth pixel only.
        places = o3d.t.geometry.PointCloud(
            o3d.core.Tensor(np.ascontiguousarray(world[part][:: 1 + part.sum() // TOUCHES]))
        )
        blocks = field.compute_unique_block_coordinates(places, truncation)
        field.integrate(blocks, near, colours, camera, camera, inverse, 1.0, far, truncation)
        fused += 1
    return fused


def _require_room(trajectory: Trajectory, config: FusionConfig, voxel: float, far: float) -> None:
    """Raise OutOfMemoryError unless the estimated distance field fits in memory.

    The estimate counts the cells around visible surfaces. A pixel at depth d covers d^2 / (fx fy)
    square metres, more at a slant; walls in several frames count once.
    """
    depth = trajectory.depth
    near = torch.where(trajectory.inverse_depth > 0, depth, 0.0)
    near = torch.where(near <= far, near, 0.0)
    fx, fy = (float(x) for x in trajectory.intrinsics[:2])
    shown = float((near.double().square().sum((1, 2)) / (fx * fy)).max())
    side = BLOCK * voxel
    # The field's blocks reach to both sides of a surface.
    blocks = shown / side**2 * (2.0 * config.truncation * voxel / side + 1.0)
    pixels = trajectory.rgb.shape[-1] * trajectory.rgb.shape[-2] * config.refine**2
    require_memory_for(
        int(blocks * BLOCK**3 * CELL_BYTES + 400 * pixels),
        f"a mesh with cells of {voxel:g} m of what frames show",
    )


def facing(depth: Array, intrinsics: Tensor) -> tuple[Array, Array]:
    """Return each pixel's position and how much its surface faces the camera.

    depth: (h, w) metres.
    intrinsics: (4,) pixels.

    Returns positions (h, w, 3) in camera axes, metres, and the cosine of the angle between view and
    normal (h, w), 0 beside sky.
    """
    metres = torch.from_numpy(depth).double()
    ray = pixel_rays(intrinsics[None], *depth.shape)[0].double()
    place = torch.where(torch.isfinite(metres), metres, torch.nan) * ray
    padded = F.pad(place, (1, 1, 1, 1), mode="replicate")
    along = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    normal = torch.linalg.cross(along, down, dim=0)
    cosine = (normal * ray).sum(0).abs() / (normal.norm(dim=0) * ray.norm(dim=0))
    return place.permute(1, 2, 0).numpy(), cosine.nan_to_num(0.0).numpy()


def refined_depth(code: Array, factor: int) -> Array:
    """Upsample inverse-depth codes (h, w) to depth (factor * h, factor * w) in metres.

    ``inf`` is sky. The inverse depth of a plane is linear in the picture, so interpolating it is
    exact there. Across edges and beside sky, each pixel keeps its own depth.
    """
    own = torch.from_numpy(np.asarray(code, np.float32))[None, None]
    (h, w), padded = own.shape[2:], F.pad(own, (1, 1, 1, 1), mode="replicate")

    def beside(row: int, column: int) -> Tensor:
        return padded[..., 1 + row : 1 + row + h, 1 + column : 1 + column + w]

    ways = ((0, 1), (1, 0), (1, 1), (1, -1))
    bend = torch.stack([(beside(a, b) + beside(-a, -b) - 2.0 * own).abs() for a, b in ways]).amax(0)
    straight = (
        F.interpolate((bend <= STRAIGHT * own).float(), scale_factor=factor, mode="nearest") > 0
    )
    whole = F.interpolate(own, scale_factor=factor, mode="nearest")
    fine = F.interpolate(own, scale_factor=factor, mode="bilinear", align_corners=False)
    return dequantise_depth(torch.where(straight, fine, whole))[0, 0].numpy()
