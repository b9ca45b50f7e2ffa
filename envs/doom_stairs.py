"""Stairs that a view of a Doom map shows, read off the map's lines and floors.

Units and axes are those of :mod:`worldsim.envs.doom_geometry`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.doom_geometry import (
    BLOCKING,
    PLAYER_HEIGHT,
    STEP_HEIGHT,
    Floats,
    MapGeometry,
)

LEAST_STEP = 4.0
"""Smallest difference of two floors that counts as a step; smaller ones are trims of the floor."""
LONGEST_TREAD = 80.0
"""Largest distance along a ray between two steps of one flight."""
LEAST_STEPS = 3
"""Fewest steps in a row, all up or all down, that count as stairs."""
LEAST_RISE = 32.0
"""Smallest height of all steps in a row, one metre; the rim of a pool is lower."""
FARTHEST = 1024.0
"""Steps beyond this distance do not count."""


def stairs_share(
    geometry: MapGeometry,
    crossings: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]],
    z: float,
    right: Floats,
    up: Floats,
) -> float:
    """Return the share of a view's columns, in [0, 1], that show stairs.

    Stairs are at least three steps in a row that lead 32 units up or down together. A step is a
    line between two floors whose heights differ by 4 to 24 units, the most that a player climbs,
    with room for a player above it. It is shown if its upper edge lies within the view's rows and
    no nearer floor or ceiling hides it. Two steps are in a row if both lead up or both lead down,
    and at most 80 units of the ray lie between them. Stairs that are seen from the side count where
    rays cross their steps one after the other.

    crossings: column, line, distance and side of what the rays cross, as of
        ``MapGeometry._crossings``.
    z: height of the eye.
    right, up: (w,) and (h,) offsets of the view's columns and rows at distance one.
    """
    column, line, distance, side = crossings
    lines, width = geometry.lines, len(right)
    near, far = lines.floor[side, line], lines.floor[1 - side, line]
    below = np.minimum(lines.ceiling[side, line], lines.ceiling[1 - side, line])
    low, high = (np.maximum(near, far) - z) / distance, (below - z) / distance
    rise = far - near
    fits = below - np.maximum(near, far) >= PLAYER_HEIGHT
    fits &= geometry.flags[geometry.noticed[line]] & BLOCKING == 0
    size = np.abs(rise)
    step = fits & (size >= LEAST_STEP) & (size <= STEP_HEIGHT) & (distance < FARTHEST)
    breaks = (size > 0) & ~step

    first = np.searchsorted(column, np.arange(width + 1))
    order = np.arange(len(column)) - first[column]
    slant = np.sqrt(1.0 + right**2)
    floor_line, ceiling_line = np.full(width, -np.inf), np.full(width, np.inf)
    run, climbed, last = (np.zeros(width) for _ in range(3))
    stairs = np.zeros(width, bool)
    for i in range(int(order.max(initial=-1)) + 1):
        at = np.flatnonzero(order == i)
        c, edge = column[at], low[at]
        shown = (edge >= floor_line[c]) & (edge < ceiling_line[c])
        shown &= (edge >= up.min()) & (edge <= up.max())
        floor_line[c] = np.maximum(floor_line[c], edge)
        ceiling_line[c] = np.minimum(ceiling_line[c], high[at])
        run[c[breaks[at]]] = 0
        at, c = at[shown & step[at]], c[shown & step[at]]
        away = distance[at] * slant[c]
        joins = (run[c] > 0) & (climbed[c] * rise[at] > 0) & (away - last[c] <= LONGEST_TREAD)
        run[c] = np.where(joins, run[c] + 1, 1)
        climbed[c] = np.where(joins, climbed[c] + rise[at], rise[at])
        last[c] = away
        stairs[c] |= (run[c] >= LEAST_STEPS) & (np.abs(climbed[c]) >= LEAST_RISE)
    return float(stairs.mean())
