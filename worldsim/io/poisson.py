"""Meshes around points, where there is no trajectory to fuse.

The method is screened Poisson reconstruction (Kazhdan and Hoppe 2013). Open3D computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Le

from worldsim.errors import InvalidInputError
from worldsim.io.open3d_meshes import LEAST_CELL, MOST_CELL, finish, open3d
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.ranges import NotNegative, Number, Positive
from worldsim.runtime.types import Array

if TYPE_CHECKING:
    from open3d.pybind.geometry import PointCloud
    from trimesh import Trimesh

POISSON_BYTES = 2000
"""Bytes of a cell that the surface passes through, while the mesh is built."""
MOST_DEPTH = 13
"""Halvings from the octree's box to its finest cells."""
FARTHEST = 1e6
"""Metres from the origin."""


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


def wrap(
    position: Array,
    colour: Array,
    viewpoints: Array | None = None,
    config: PoissonConfig | None = None,
) -> Trimesh:
    """Build a mesh around points, in their axes, metres.

    position: (n, 3) world axes, metres.
    colour: (n, 3) uint8.
    viewpoints: (k, 3) metres, positions from which the points were seen; each point faces the
        nearest one. By default the points are taken as the inside of rooms.

    Raises MissingDependencyError without Open3D, and InvalidInputError for too few points.
    """
    config = config or PoissonConfig()
    _check_points(position, colour, 10 * config.neighbours)
    position = np.ascontiguousarray(position, np.float64)
    kept, near = _dense(position, config)
    position = position[kept]
    _require_cells(position, near, config.cell)
    o3d = open3d()
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
    return finish(mesh, 255.0, config.smallest, f"{len(position)} points")


def _check_points(position: Array, colour: Array, least: int) -> None:
    """Raise InvalidInputError unless these are at least ``least`` points with colours."""
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
    if len(position) < least:
        raise InvalidInputError(
            f"{len(position)} points are too few for a surface: at least {least} are needed"
        )


def _dense(position: Array, config: PoissonConfig) -> tuple[Array, Array]:
    """Return which points are kept (n,), and the mean distance to their neighbours in metres.

    Outliers, and points that are far from all others, are left out.
    """
    beside, spacing = _nearest(position, position, config.neighbours)
    near = spacing.mean(1)
    kept = (near <= config.outlier * np.median(near[beside], 1)) & (near <= config.sparsest)
    if kept.sum() < 10 * config.neighbours:
        raise InvalidInputError(
            f"{kept.sum()} of {len(position)} points have neighbours within {config.sparsest} m: "
            f"too few"
        )
    return kept, near[kept]


def _require_cells(position: Array, near: Array, cell: float) -> None:
    """Raise an error unless a mesh with such cells fits in memory and in the octree.

    The octree is finest where points are. Without a bound it is as deep as the cell is small.
    """
    extent = float((position.max(0) - position.min(0)).max())
    cells = len(position) * (max(1.0, float(np.median(near)) / cell)) ** 2
    require_memory_for(
        int(cells * POISSON_BYTES),
        f"a mesh with cells of {cell:g} m around {len(position)} points",
    )
    if extent / cell > 2**MOST_DEPTH:
        raise InvalidInputError(
            f"cell = {cell:g} m: the points span {extent:.0f} m, and at most "
            f"{2**MOST_DEPTH} cells a side are made: give "
            f"{extent / 2**MOST_DEPTH:.3g} m or more"
        )


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
