"""The ground of a Freedoom map by the game's own geometry: what a walker would know that had seen
everything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.doom import UNITS_PER_METRE, _geometry, resolve_map
from worldsim.envs.doom_geometry import BLOCKING, PLAYER_HEIGHT, MapGeometry
from worldsim.planning.ground import Ground, GroundConfig

Array = NDArray[Any]


def true_ground(name: str, eye: Array, config: GroundConfig, bumps: Array | None = None) -> Ground:
    """The true ground around an eye (3,) in metres: sectors' floors, and lines that stop a player.
    Solid things are not in it."""
    geometry = _geometry(resolve_map(name))
    n = 2 * math.ceil(config.reach / config.cell)
    low = (
        np.floor(np.asarray(eye, np.float64)[:2] / config.cell) * config.cell
        - 0.5 * n * config.cell
    )
    x, y = ((low[i] + (np.arange(n) + 0.5) * config.cell) * UNITS_PER_METRE for i in range(2))
    height = np.full((n, n), np.nan, np.float32)
    for column, north in enumerate(y):
        sector = sectors_along(geometry, x, float(north))
        height[:, column] = np.where(sector >= 0, geometry.floor[sector] / UNITS_PER_METRE, np.nan)
    obstacle = ~np.isfinite(height)
    front, back = geometry.sector_of_side
    opening = np.minimum(geometry.ceiling[front], geometry.ceiling[back]) - np.maximum(
        geometry.floor[front], geometry.floor[back]
    )
    stops = ~geometry.two_sided | (geometry.flags & BLOCKING != 0) | (opening < PLAYER_HEIGHT)
    for line in np.flatnonzero(stops):
        a, b = (
            geometry.vertices[:, index[line]] / UNITS_PER_METRE
            for index in (geometry.start, geometry.end)
        )
        count = max(2, math.ceil(float(np.linalg.norm(b - a)) / (0.5 * config.cell)))
        cells = np.floor(
            (a + np.linspace(0, 1, count)[:, None] * (b - a) - low) / config.cell
        ).astype(np.int64)
        cells = cells[((cells >= 0) & (cells < n)).all(1)]
        obstacle[cells[:, 0], cells[:, 1]] = True
    if bumps is not None and len(bumps):
        at = np.floor((np.asarray(bumps) - low) / config.cell).astype(np.int64)
        at = at[((at >= 0) & (at < n)).all(1)]
        obstacle[at[:, 0], at[:, 1]] = True
    return Ground(height, np.ones((n, n), bool), obstacle, low, config)


def sectors_along(geometry: MapGeometry, x: Array, y: float) -> Array:
    """The sector at each place (n,) of a row, -1 in the void: as ``sector_at``, the side of the
    nearest line to the east."""
    ax, ay = geometry.vertices[:, geometry.start]
    bx, by = geometry.vertices[:, geometry.end]
    index = np.flatnonzero((ay <= y) != (by <= y))
    if not len(index):
        return np.full(len(x), -1)
    at = ax[index] + (y - ay[index]) / (by[index] - ay[index]) * (bx[index] - ax[index])
    order = at.argsort()
    nearest = np.searchsorted(at[order], x, side="right")
    line = index[order[np.minimum(nearest, len(order) - 1)]]
    sector = geometry.sector_of_side[(by[line] > ay[line]).astype(np.int64), line]
    return np.where(nearest < len(order), sector, -1)
