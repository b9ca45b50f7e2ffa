"""What can be seen from places on the remembered ground."""

from __future__ import annotations

import cv2
import numpy as np

from worldsim.errors import MissingGeometryError
from worldsim.memory.slots import points_of
from worldsim.planning.ground import Ground
from worldsim.planning.objectives import Dreaming, require_dreaming
from worldsim.runtime.types import Array

RAYS = 96
"""Directions in which views are cast over the map."""
RANGE = 16.0
"""Metres that they reach."""


def cast(ground: Ground, spots: Array, fade: float) -> Array:
    """Return the unseen ground in each of RAYS directions from cells (k, 2), (k, RAYS) m2.

    Cells count less the deeper they are in the unseen.
    """
    cell, n = ground.config.cell, ground.height.shape[0]
    square = np.ones((2 * round(1.0 / cell) + 1,) * 2, np.uint8)
    # Floors seen from afar have gaps between points.
    known = cv2.erode(cv2.dilate(ground.known.astype(np.uint8), square), square) > 0
    metres = np.arange(1, int(RANGE / cell) + 1) * cell
    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    x, y = (
        np.rint(spots[:, axis, None, None] + way[:, None] * metres / cell).astype(np.int64)
        for axis, way in ((0, np.cos(angle)), (1, np.sin(angle)))
    )
    inside = (x >= 0) & (x < n) & (y >= 0) & (y < n)
    x, y = x.clip(0, n - 1), y.clip(0, n - 1)
    stops = (ground.obstacle | ~np.isfinite(ground.height))[x, y] | ~inside
    unseen = (np.cumsum(stops, 2) == 0) & ~known[x, y]
    area = unseen * np.exp(-np.cumsum(unseen, 2) * cell / fade) * metres * (cell * 2 * np.pi / RAYS)
    total: Array = area.sum(2)
    return total


def require_points(source: object) -> Dreaming:
    """Return the source if its world has a point memory; raise MissingGeometryError otherwise."""
    dreaming = require_dreaming(source, "explorers")
    if points_of(dreaming.world.memory, dreaming.state.memory) is None:
        raise MissingGeometryError(
            "explorers look into a point memory, and this world has none: use one with geometry"
        )
    return dreaming
