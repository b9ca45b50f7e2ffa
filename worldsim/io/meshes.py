"""Meshes from trajectories or from points, and export as GLB or PLY.

Meshes are :class:`trimesh.Trimesh` objects in world axes (z up), metres, with vertex colours.
Open3D builds them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.camera import dequantise_depth, pixel_rays
from worldsim.errors import InvalidInputError
from worldsim.runtime.extras import missing
from worldsim.runtime.files import as_path, replacing
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.ply import import_trimesh
from worldsim.runtime.progress import follow
from worldsim.runtime.ranges import Count, NotNegative, Number, Positive
from worldsim.runtime.types import Array, JsonObject
from worldsim.state import Trajectory

if TYPE_CHECKING:
    from open3d.pybind.geometry import PointCloud, TriangleMesh
    from trimesh import Trimesh

GLTF_FROM_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""(4, 4) from world axes (z up) to those of glTF (y up): x stays, z becomes y, y becomes -z. Its
transpose is the way back."""
STRAIGHT = 0.1
"""Inverse depth is interpolated where it bends from pixel to pixel by at most this share: on planes
and in corners of walls."""
SMALLEST_VOXEL = 0.05
"""Metres: finer cells than this are for those who ask for them."""
SLANTS = (1.0, 4.0)
"""Surfaces that are seen at a slant are fused with a field that reaches so many times as far; at a
sharper one, not at all."""
TOUCHES = 10_000
"""At most about twice as many pixels of a frame say which blocks of cells it touches."""
LEAST_CELL, MOST_CELL = 0.001, 100.0
"""Metres: edges of cells."""
CELL_BYTES = 20
"""A cell of a fused field: its distance, weight and colour, float32."""
POISSON_BYTES = 2000
"""A cell that the surface passes through, while it is wrapped."""
BLOCK, BLOCKS = 8, 4096
"""Cells along the edge of the blocks that a fused field is stored in, and blocks to begin with; it
grows."""

MOST_DEPTH = 13
"""Halvings from the octree's box to its finest cells."""
FARTHEST = 1e6
"""Metres from the origin."""


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


@dataclass(frozen=True)
class PoissonConfig:
    """Settings of :func:`wrap`."""

    cell: Annotated[float, Ge(LEAST_CELL), Le(MOST_CELL)] = 0.06
    """Edge of the finest cells in metres."""
    neighbours: Annotated[int, Ge(3), Le(1000)] = 20
    """Number of neighbours that determine a normal and an outlier."""
    outlier: Positive = 3.0
    """Points whose distance to their neighbours is this many times larger than usual are left
    out."""
    sparsest: Positive = 1.0
    """Maximum mean distance of a point to its neighbours in metres; sparser points are left out."""
    reach: NotNegative = 1.0
    """How far the surface extends beyond the points, in mean distances between neighbours. The
    method itself would close every hole."""
    smallest: Number = 100
    """Minimum number of triangles of a piece."""

    def __post_init__(self) -> None:
        check_ranges(self)


def fuse(trajectory: Trajectory, config: FusionConfig | None = None) -> Trimesh:
    """Fuse the depth of a trajectory into a mesh.

    The method is a truncated signed distance field (Curless and Levoy 1996). Surfaces that later
    frames see through are removed. Sky, and everything beyond ``config.far``, is left out. Raises
    MissingDependencyError without Open3D, and InvalidInputError if no surface is found.
    """
    config = config or FusionConfig()
    if not isinstance(trajectory, Trajectory):
        raise InvalidInputError(
            f"a mesh is fused from a Trajectory, not from a {type(trajectory).__name__}"
        )
    depth = trajectory.depth[trajectory.inverse_depth > 0]
    if not len(depth):
        raise InvalidInputError(
            f"no surface was found in {len(trajectory)} frames: there is nothing but sky"
        )
    voxel = (
        max(SMALLEST_VOXEL, float(depth.median()) / 50.0)
        if config.voxel is None
        else float(config.voxel)
    )
    far = float(240.0 * voxel if config.far is None else config.far)
    _require_room(trajectory, config, voxel, far)
    o3d = open3d()
    kinds, sizes = (o3d.core.float32,) * 3, ((1,), (1,), (3,))
    field = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), kinds, sizes, voxel, BLOCK, BLOCKS
    )
    intrinsics = trajectory.intrinsics.double() * config.refine
    fx, fy, cx, cy = intrinsics.tolist()
    # Open3D's tensor side cuts pixel coordinates off, so its pixel centres are at 0.5 as ours are.
    camera = o3d.core.Tensor(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]))
    source, fused = f"{len(trajectory)} frames, depth up to {far:g} m", 0
    for i in follow(range(len(trajectory)), "fusing", "frame"):
        metres = refined_depth(trajectory.inverse_depth[i].numpy(), config.refine)
        local, cosine = facing(metres, intrinsics)
        rgb = (
            trajectory.rgb[i]
            .permute(1, 2, 0)
            .numpy()
            .repeat(config.refine, 0)
            .repeat(config.refine, 1)
            .astype(np.float32)
        )
        colours = o3d.t.geometry.Image(np.ascontiguousarray(rgb))
        pose = trajectory.pose[i].double().numpy()
        inverse, world = (
            o3d.core.Tensor(np.linalg.inv(pose)),
            (local @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32),
        )
        steepest = math.inf
        for wider in SLANTS:
            # From cell to cell across a slanted surface the view runs far; what outruns the field
            # would leave but stripes.
            truncation = float(config.truncation * wider)
            faced = (cosine * truncation >= 1.0) & (cosine < steepest)
            part, steepest = faced & (metres <= far), 1.0 / truncation
            if not part.any():
                continue
            near = o3d.t.geometry.Image(np.where(part, metres, 0.0).astype(np.float32))
            # Not by depth: that way Open3D looks at every fourth pixel alone.
            places = o3d.t.geometry.PointCloud(
                o3d.core.Tensor(np.ascontiguousarray(world[part][:: 1 + part.sum() // TOUCHES]))
            )
            blocks = field.compute_unique_block_coordinates(places, truncation)
            field.integrate(blocks, near, colours, camera, camera, inverse, 1.0, far, truncation)
            fused += 1
    if not fused:
        raise InvalidInputError(
            f"no surface was found in {source}: there is nothing but sky, or what is further off"
        )
    # Above the threshold, not at it.
    mesh = field.extract_triangle_mesh(
        weight_threshold=min(config.sightings, len(trajectory)) - 0.5
    ).to_legacy()
    return _finish(mesh, 1.0, config.smallest, source)


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


def wrap(
    position: Array,
    colour: Array,
    viewpoints: Array | None = None,
    config: PoissonConfig | None = None,
) -> Trimesh:
    """Build a mesh around points by screened Poisson reconstruction (Kazhdan and Hoppe 2013).

    Use it where there is no trajectory to :func:`fuse`.

    position: (n, 3) world axes, metres.
    colour: (n, 3) uint8.
    viewpoints: (k, 3) metres, positions from which the points were seen; each point faces the
        nearest one. By default the points are taken as the inside of rooms.

    Raises MissingDependencyError without Open3D, and InvalidInputError for too few points.
    """
    config = config or PoissonConfig()
    if (
        not isinstance(position, np.ndarray)
        or not isinstance(colour, np.ndarray)
        or position.dtype.kind not in "uif"
    ):
        kinds = f"{type(position).__name__} and {type(colour).__name__}"
        raise InvalidInputError(
            f"points are arrays of positions (n, 3) in metres and colours (n, 3) uint8, not {kinds}"
        )
    if (
        position.shape != colour.shape
        or position.ndim != 2
        or position.shape[1] != 3
        or colour.dtype != np.uint8
    ):
        found = f"{position.shape} and {colour.dtype} {colour.shape}"
        raise InvalidInputError(
            f"points are positions (n, 3) in metres and colours (n, 3) uint8, not {found}"
        )
    if not bool((np.abs(position) <= FARTHEST).all()):
        raise InvalidInputError(
            f"points lie within {FARTHEST:.0f} m of the origin; some of these do not, or are not "
            f"finite"
        )
    if len(position) < 10 * config.neighbours:
        raise InvalidInputError(
            f"{len(position)} points are too few for a surface: at least {10 * config.neighbours} "
            f"are needed"
        )
    o3d = open3d()
    position = np.ascontiguousarray(position, np.float64)
    beside, spacing = _nearest(position, position, config.neighbours)
    near = spacing.mean(1)
    kept = (near <= config.outlier * np.median(near[beside], 1)) & (near <= config.sparsest)
    if kept.sum() < 10 * config.neighbours:
        raise InvalidInputError(
            f"{kept.sum()} of {len(position)} points have neighbours within {config.sparsest} m: "
            f"too few"
        )
    position, near = position[kept], near[kept]
    # The octree is finest where points are; without any bound on its depth it is as deep as the
    # cell is small.
    extent = float((position.max(0) - position.min(0)).max())
    cells = len(position) * (max(1.0, float(np.median(near)) / config.cell)) ** 2
    require_memory_for(
        int(cells * POISSON_BYTES),
        f"a mesh with cells of {config.cell:g} m around {len(position)} points",
    )
    if extent / config.cell > 2**MOST_DEPTH:
        raise InvalidInputError(
            f"cell = {config.cell:g} m: the points span {extent:.0f} m, and at most "
            f"{2**MOST_DEPTH} cells a side are made: give "
            f"{extent / 2**MOST_DEPTH:.3g} m or more"
        )
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(position))
    cloud.colors = o3d.utility.Vector3dVector(colour[kept] / 255.0)
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(config.neighbours))
    _face(cloud, viewpoints, config.neighbours)
    # A width of cell fixes the octree's depth: 2 ** depth cells span the points with a margin.
    mesh, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        cloud, depth=0, width=config.cell, n_threads=1
    )
    place, distance = _nearest(position, np.asarray(mesh.vertices), 1)
    mesh.remove_vertices_by_mask(
        distance[:, 0] > np.maximum(config.reach * near[place[:, 0]], config.cell)
    )
    return _finish(mesh, 255.0, config.smallest, f"{len(position)} points")


def _face(cloud: PointCloud, viewpoints: Array | None, neighbours: int) -> None:
    """Orient the normals of ``cloud`` towards the viewpoints from which its points were seen."""
    position, normal = np.asarray(cloud.points), np.asarray(cloud.normals)
    if viewpoints is None:
        cloud.orient_normals_consistent_tangent_plane(neighbours)
        # Consistent is one of two ways: rooms are seen from within.
        inward = (np.asarray(cloud.normals) * (position.mean(0) - position)).sum(1)
        flip = np.full(len(position), np.median(inward) < 0)
        normal = np.asarray(cloud.normals)
    else:
        viewpoints = np.ascontiguousarray(viewpoints, np.float64)
        nearest, _ = _nearest(viewpoints, position, 1)
        flip = (normal * (viewpoints[nearest[:, 0]] - position)).sum(1) < 0
    normal[flip] *= -1.0


def _nearest(points: Array, queries: Array, k: int) -> tuple[Array, Array]:
    """Return the ``k`` nearest ``points`` (n, 3) for each of ``queries`` (m, 3).

    Returns indices and distances, each (m, k).
    """
    o3d = open3d()
    tree = o3d.core.nns.NearestNeighborSearch(o3d.core.Tensor(points))
    tree.knn_index()
    index, squared = tree.knn_search(
        o3d.core.Tensor(np.ascontiguousarray(queries)), min(k, len(points))
    )
    return index.numpy().reshape(len(queries), -1), np.sqrt(squared.numpy()).reshape(
        len(queries), -1
    )


def _finish(mesh: TriangleMesh, scale: float, smallest: int, source: str) -> Trimesh:
    """Convert an Open3D mesh to trimesh, with 8-bit vertex colours and without its small pieces.

    scale: factor from its colours to 255.
    """
    trimesh = import_trimesh()
    piece, size, _ = mesh.cluster_connected_triangles()
    mesh.remove_triangles_by_mask(
        np.asarray(size)[np.asarray(piece)] < smallest if len(size) else []
    )
    mesh.remove_unreferenced_vertices()
    if not len(mesh.triangles):
        raise InvalidInputError(
            f"no surface was found in {source}: only pieces of fewer than {smallest} triangles"
        )
    colours = (np.asarray(mesh.vertex_colors) * scale).round().clip(0, 255).astype(np.uint8)
    return trimesh.Trimesh(
        np.asarray(mesh.vertices), np.asarray(mesh.triangles), vertex_colors=colours, process=False
    )


def save_glb(
    mesh: Trimesh, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a mesh in world axes as a GLB file, atomically.

    GLB's axes are y up (``GLTF_FROM_WORLD``), in metres.

    metadata: texts by name, written as ``asset.extras``.
    """
    turned = mesh.copy()
    turned.apply_transform(GLTF_FROM_WORLD)

    def describe(tree: JsonObject) -> None:
        if metadata:
            tree["asset"]["extras"] = dict(metadata)

    with replacing(path) as place:
        turned.export(str(place), file_type="glb", tree_postprocessor=describe)
    return as_path(path)


def open3d() -> ModuleType:
    """Import and return Open3D, which is large and slow to import.

    Raises MissingDependencyError.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:  # a system library that it needs may be missing
        raise missing("meshes are made by Open3D", "open3d", error) from error
    return open3d
