"""The walkable ground of a scene memory: heights, obstacles, paths and frontiers.

Places have one ground: of floors above one another, the one that can be reached from the start
counts. Unseen ground counts as walkable, so paths lead into it until a frame shows otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import number
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.types import Array

MOST_METRES = 1e4
MOST_CELLS = 4096
"""To each side of the eye."""
BINS = 96
"""Heights that are told apart, half of them below the eye."""
NEIGHBOURS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)


@dataclass(frozen=True)
class GroundConfig:
    """The walker's body and the map's size, metres. The defaults are those of Freedoom's player."""

    cell: float = 0.125
    """Side of a cell, and of a step in height."""
    reach: float = 16.0
    """To each side of the eye."""
    eye: float = 1.28
    """Of the eye over the ground."""
    climb: float = 0.8
    """Highest step that can be walked up; any can be fallen down."""
    head: float = 1.6
    """What is between ``climb`` and this over the ground stands in the way."""
    radius: float = 0.4
    """Half the side of the square that must be free of obstacles, less than a cell under the body's
    own."""
    berth: float = 0.65
    """Within this of an obstacle a way counts ``near_cost`` times."""
    near_cost: float = 3.0
    unknown_cost: float = 1.5
    """Ways through what has not been seen count so many times."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in (
            "cell",
            "reach",
            "eye",
            "climb",
            "head",
            "radius",
            "berth",
            "near_cost",
            "unknown_cost",
        ):
            number(
                f"GroundConfig.{name}",
                getattr(self, name),
                0.0 if name in ("radius", "berth") else 1e-3,
                MOST_METRES,
            )
        if self.reach / self.cell > MOST_CELLS:
            raise InvalidInputError(
                f"GroundConfig: a reach of {self.reach} m is {self.reach / self.cell:,.0f} cells "
                f"of {self.cell} m: at most "
                f"{MOST_CELLS:,} are mapped"
            )
        if max(self.radius, self.berth) > self.reach:
            raise InvalidInputError(
                f"GroundConfig: radius {self.radius} and berth {self.berth} exceed the reach "
                f"{self.reach}"
            )
        if not (self.cell > 0 and self.reach >= 8 * self.cell and 0 < self.climb < self.head):
            raise InvalidInputError(
                f"GroundConfig: a cell of {self.cell} m, reach {self.reach}, climb {self.climb}, "
                f"head {self.head}"
            )


@dataclass(frozen=True, eq=False)
class Ground:
    """A map of cells (nx, ny), x east and y north in world axes.

    height: float32 metres of the ground, ``nan`` where no way leads from the start. known: bool,
    seen. obstacle: bool. low: (2,) float64, world x, y of the lower corner of cell (0, 0).
    """

    height: Array
    known: Array
    obstacle: Array
    low: Array
    config: GroundConfig

    @classmethod
    def of(
        cls,
        position: Array,
        eye: Array,
        config: GroundConfig | None = None,
        bumps: Array | None = None,
    ) -> Ground:
        """Return the ground around a walker.

        position: (3, n) points, world metres.
        eye: (3,) the walker's camera, world metres.
        bumps: (k, 2) world x, y where it was stopped by something that the points do not show.
        """
        c = config or GroundConfig()
        n = 2 * math.ceil(c.reach / c.cell)
        low = np.floor(np.asarray(eye, np.float64)[:2] / c.cell) * c.cell - 0.5 * n * c.cell
        base = float(eye[2]) - 0.5 * BINS * c.cell
        index = np.floor(
            (np.asarray(position, np.float64) - np.array([*low, base])[:, None]) / c.cell
        ).astype(np.int64)
        inside = ((index >= 0) & (index < np.array([n, n, BINS])[:, None])).all(0)
        top = np.full((n, n, BINS), -1, np.int8)
        x, y, z = index[:, inside]
        top[x, y, z] = z
        # The highest point at or under each height: floors and obstacles are both read from it.
        np.maximum.accumulate(top, 2, out=top)
        start = int(0.5 * BINS - c.eye / c.cell)
        level, known, obstacle = _flood(top, (n // 2, n // 2), start, c)
        if bumps is not None and len(bumps):
            at = np.floor((np.asarray(bumps) - low) / c.cell).astype(np.int64)
            at = at[((at >= 0) & (at < n)).all(1)]
            obstacle[at[:, 0], at[:, 1]] = True
        height = np.where(level >= 0, base + (level + 0.5) * c.cell, np.nan).astype(np.float32)
        return cls(height, known, obstacle, low, c)

    def cells(self, xy: ArrayLike) -> Array:
        """Convert world x, y (..., 2) to cells (..., 2) int64.

        Places outside the map give its nearest cell.
        """
        index = np.floor((np.asarray(xy, np.float64) - self.low) / self.config.cell).astype(
            np.int64
        )
        return np.clip(index, 0, np.array(self.height.shape) - 1)

    def places(self, cells: ArrayLike) -> Array:
        """The middles of cells (..., 2) as world x, y (..., 2)."""
        return self.low + (np.asarray(cells) + 0.5) * self.config.cell

    def blocked(self) -> Array:
        """(nx, ny) bool: the body would touch an obstacle."""
        return _grown(self.obstacle, self.config.radius / self.config.cell)

    def field(
        self,
        sources: Array,
        costs: Array | None = None,
        anyhow: bool = False,
        outward: bool = False,
    ) -> Array:
        """Return the length of the path from every cell to the nearest source.

        (nx, ny) float32 metres, ``inf`` where there is no path. Paths near obstacles and through
        the unknown cost more.

        sources: (k, 2) cells.
        costs: (k,) metres, initial cost of each source.
        anyhow: obstacles can be passed at 20 times the cost, for obstacles that may not exist.
        outward: paths from the sources to every cell instead; one can fall down ledges but not
            climb them.
        """
        c = self.config
        near = _grown(self.obstacle, c.berth / c.cell)
        price = np.where(near, c.near_cost, 1.0) * np.where(self.known, 1.0, c.unknown_cost)
        price = (
            np.where(self.blocked(), 20.0 if anyhow else np.inf, price).astype(np.float32) * c.cell
        )
        sources = np.asarray(sources).reshape(-1, 2)
        way = np.full(self.height.shape, np.inf, np.float32)
        begin = (
            np.zeros(len(sources), np.float32) if costs is None else np.asarray(costs, np.float32)
        )
        np.minimum.at(way, (sources[:, 0], sources[:, 1]), begin)
        # A source, and where the walker stands, may be touching something.
        height = np.nan_to_num(self.height, nan=np.inf if not anyhow else 0.0)
        steps = [
            (shift, price * math.hypot(*shift), self._climbable(height, shift, outward))
            for shift in NEIGHBOURS
        ]
        costs_of = [
            (_here(s), _there(s), np.where(ok, length[_there(s)], np.inf))
            for s, length, ok in steps
        ]
        while True:
            before = way.copy()
            for here, there, length in costs_of:
                np.minimum(way[here], way[there] + length, out=way[here])
            if np.array_equal(before, way):
                return way

    def _climbable(self, height: Array, shift: tuple[int, int], outward: bool) -> Array:
        """Return whether the step between each cell and the one at ``shift`` is low enough.

        outward: the step is from that cell, instead of to it.
        """
        with np.errstate(invalid="ignore"):
            rise = height[_there(shift)] - height[_here(shift)]
            return (-rise if outward else rise) <= self.config.climb

    def frontier(self, smallest: int = 4, beyond: float = 1.25) -> tuple[Array, Array]:
        """Return cells ``beyond`` metres outside the known ground, and the sizes of their groups.

        Frontiers of Yamauchi 1997, moved outwards: a walker there looks into the unknown, and
        narrower pockets are left out. Gaps of up to 2 m between points do not count, since floors
        seen from 10 m away have such gaps.

        Returns (k, 2) int64 and (k,) int64.
        """
        square = np.ones((2 * round(1.0 / self.config.cell) + 1,) * 2, np.uint8)
        # The map's own edge is no border: OpenCV takes what lies outside as whatever changes
        # nothing.
        closed = cv2.erode(cv2.dilate(self.known.astype(np.uint8), square), square) > 0
        walkable = np.isfinite(self.height) & ~self.blocked()
        inside = closed
        # Cell by cell, so that it does not grow through walls to what lies behind them.
        for _ in range(round(beyond / self.config.cell)):
            inside = closed | (_grown(inside & walkable, 1) & walkable)
        border = ~inside & walkable & _grown(inside & walkable, 1)
        _, label = cv2.connectedComponents(border.astype(np.uint8), connectivity=8)
        count = np.bincount(label.ravel())
        cells = np.argwhere(border & (count[label] >= smallest))
        return cells, count[label[cells[:, 0], cells[:, 1]]]

    def descent(self, field: Array, xy: ArrayLike, metres: float) -> Array:
        """Return the path down ``field`` (nx, ny) from world x, y, as (k, 2) cells.

        It ends after ``metres`` or at the source.
        """
        cell = self.cells(xy)
        path = [cell]
        for _ in range(math.ceil(metres / self.config.cell)):
            around = np.clip(cell + np.array(NEIGHBOURS), 0, np.array(field.shape) - 1)
            values = field[around[:, 0], around[:, 1]]
            best = int(values.argmin())
            if not values[best] < field[tuple(cell)]:
                break
            cell = around[best]
            path.append(cell)
        return np.stack(path)


def _here(shift: tuple[int, int]) -> tuple[slice, ...]:
    return tuple(slice(max(0, -s), None if s <= 0 else -s) for s in shift)


def _there(shift: tuple[int, int]) -> tuple[slice, ...]:
    return _here((-shift[0], -shift[1]))


def _grown(mask: Array, cells: float) -> Array:
    """Dilate ``mask`` by ``cells`` along both axes: bodies are squares that do not turn."""
    side = 2 * int(cells) + 1
    grown: Array = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    return grown


def _flood(
    top: Array, start: tuple[int, int], level: int, c: GroundConfig
) -> tuple[Array, Array, Array]:
    """Spread from ``start`` over everything walkable.

    top: (nx, ny, bins) int8, the highest point at or under each height.

    Returns heights in bins (-1 where nothing leads), known cells and obstacles.
    """
    n = top.shape[0]
    climb, below_head, above_knee = (round(x / c.cell) for x in (c.climb, c.head, c.climb + c.cell))
    height = np.full((n, n), -1, np.int64)
    known, obstacle = np.zeros((n, n), bool), np.zeros((n, n), bool)
    height[start], known[start] = level, True
    edge = np.array([start])
    while len(edge):
        beside = (edge[:, None] + np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])).reshape(-1, 2)
        source = np.repeat(height[edge[:, 0], edge[:, 1]], 4)
        fits = ((beside >= 0) & (beside < n)).all(1)
        beside, source = beside[fits], source[fits]
        fresh = (height[beside[:, 0], beside[:, 1]] < 0) & ~obstacle[beside[:, 0], beside[:, 1]]
        beside, source = beside[fresh], source[fresh]
        beside, first = np.unique(beside, axis=0, return_index=True)
        source = source[first]
        x, y = beside.T
        floor = top[x, y, np.minimum(source + climb, BINS - 1)].astype(np.int64)
        stand = np.maximum(np.where(floor >= 0, floor, source), source)
        over = top[x, y, np.minimum(stand + below_head, BINS - 1)]
        stops = over >= stand + above_knee
        obstacle[x[stops], y[stops]] = True
        x, y, floor, source = (v[~stops] for v in (x, y, floor, source))
        height[x, y] = np.where(floor >= 0, floor, source)
        known[x, y] = floor >= 0
        edge = np.stack([x, y], 1)
    return height, known, obstacle
