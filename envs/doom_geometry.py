"""Map geometry of Doom WAD files: reading it, casting rays into it, and where a player can stand.

Everything here is in map units and map axes (x east, y north, z up); angles are radians,
counter-clockwise from east. The format is the one of the original game (The Unofficial Doom Specs,
Matthew Fell 1994, chapters 2 and 4).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import DamagedFileError, NotFoundError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLAYER_HEIGHT = 56.0
PLAYER_RADIUS = 16.0
STEP_HEIGHT = 24.0
NO_SIDE = 0xFFFF
BLOCKING = 1
NEAR = 1e-3

_DIRECTORY = np.dtype([("offset", "<i4"), ("size", "<i4"), ("name", "S8")])
_LUMPS = {
    "THINGS": np.dtype(
        [("x", "<i2"), ("y", "<i2"), ("angle", "<i2"), ("type", "<i2"), ("flags", "<i2")]
    ),
    "LINEDEFS": np.dtype(
        [(name, "<u2") for name in ("start", "end", "flags", "special", "tag", "front", "back")]
    ),
    "SIDEDEFS": np.dtype(
        [
            ("x", "<i2"),
            ("y", "<i2"),
            ("upper", "S8"),
            ("lower", "S8"),
            ("middle", "S8"),
            ("sector", "<u2"),
        ]
    ),
    "VERTEXES": np.dtype([("x", "<i2"), ("y", "<i2")]),
    "SECTORS": np.dtype(
        [("floor", "<i2"), ("ceiling", "<i2"), ("floor_flat", "S8"), ("ceiling_flat", "S8")]
        + [(name, "<i2") for name in ("light", "special", "tag")]
    ),
}


def map_names(wad: Path) -> tuple[str, ...]:
    """Names of the maps in a WAD file, in its order: the lumps that a THINGS lump follows."""
    names = [name.decode("ascii", "replace") for name in _directory(wad)["name"]]
    return tuple(name for name, following in itertools.pairwise(names) if following == "THINGS")


def _directory(wad: Path) -> NDArray[np.void]:
    with open(wad, "rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] not in (b"IWAD", b"PWAD"):
            raise DamagedFileError(
                f"{wad} is no WAD file: it starts with {header[:4]!r}. Reinstall the package that "
                f"holds it."
            )
        count, offset = np.frombuffer(header, "<i4", 2, 4).tolist()
        file.seek(offset)
        table = file.read(count * _DIRECTORY.itemsize)
    if len(table) < count * _DIRECTORY.itemsize:
        raise DamagedFileError(
            f"{wad} is cut short: its directory of {count} lumps is incomplete. Reinstall the "
            f"package that holds it."
        )
    return np.frombuffer(table, _DIRECTORY, count)


def read_lumps(wad: Path, name: str) -> dict[str, NDArray[np.void]]:
    """The geometry lumps of one map as structured arrays."""
    directory = _directory(wad)
    found = np.flatnonzero(directory["name"] == name.encode())
    if len(found) == 0:
        raise NotFoundError(f"{wad} has no map {name!r}; it has {', '.join(map_names(wad))}.")
    lumps: dict[str, NDArray[np.void]] = {}
    with open(wad, "rb") as file:
        for entry in directory[found[0] + 1 : found[0] + 11]:
            lump = entry["name"].decode()
            if lump in _LUMPS:
                file.seek(int(entry["offset"]))
                lumps[lump] = np.frombuffer(file.read(int(entry["size"])), _LUMPS[lump])
    return lumps


@dataclass(frozen=True)
class Lines:
    """Lines that rays can end at or change sector at, as flat arrays of one entry a line.

    start, end: vertex indices. floor, ceiling, sky: (2, n), row 0 in front of the line (on its
    right), row 1 behind it; behind a one-sided line the floor is at +inf, so that nothing passes.
    two_sided: (n,) bool.
    """

    start: Ints
    end: Ints
    floor: Floats
    ceiling: Floats
    ceiling_sky: NDArray[np.bool_]
    floor_sky: NDArray[np.bool_]
    two_sided: NDArray[np.bool_]


class MapGeometry:
    """The walls, floors and ceilings of one map."""

    def __init__(self, lumps: dict[str, NDArray[np.void]]) -> None:
        sides, lines, sectors = lumps["SIDEDEFS"], lumps["LINEDEFS"], lumps["SECTORS"]
        self.things = lumps["THINGS"]
        self.vertices = np.stack([lumps["VERTEXES"]["x"], lumps["VERTEXES"]["y"]], 0).astype(
            np.float64
        )
        self.start, self.end = lines["start"].astype(np.int64), lines["end"].astype(np.int64)
        self.flags, self.special = (
            lines["flags"].astype(np.int64),
            lines["special"].astype(np.int64),
        )
        self.two_sided = lines["back"] != NO_SIDE
        sector = sides["sector"].astype(np.int64)
        front = sector[np.where(lines["front"] == NO_SIDE, 0, lines["front"])]
        back = sector[np.where(self.two_sided, lines["back"], 0)]
        self.sector_of_side = np.stack([front, np.where(self.two_sided, back, -1)])
        self.floor = sectors["floor"].astype(np.float64)
        self.ceiling = sectors["ceiling"].astype(np.float64)
        self.ceiling_sky = sectors["ceiling_flat"] == b"F_SKY1"
        self.floor_sky = sectors["floor_flat"] == b"F_SKY1"
        # Lines with a picture hung between two sectors: grates, fences, curtains. Rays pass them;
        # the engine knows their holes.
        hung = (
            sides["middle"][np.where(lines["front"] == NO_SIDE, 0, lines["front"])] != b"-"
        ) & self.two_sided
        self.hung = self._make_lines(np.flatnonzero(hung))
        self.noticed = self._noticed_lines()
        """Numbers in the map of the lines that rays notice, in the order of :attr:`lines`."""
        self.lines = self._make_lines(self.noticed)

    @classmethod
    def load(cls, wad: Path, name: str) -> MapGeometry:
        """Read one map of a WAD file."""
        lumps = read_lumps(wad, name)
        missing = sorted(set(_LUMPS) - set(lumps))
        if missing:
            raise DamagedFileError(
                f"Map {name} of {wad} lacks its lumps {', '.join(missing)}; the file is damaged "
                f"or in another format."
            )
        return cls(lumps)

    def _noticed_lines(self) -> Ints:
        """Lines with equal heights on both sides are none that rays notice."""
        front, back = self.sector_of_side
        same = (self.floor[front] == self.floor[back]) & (self.ceiling[front] == self.ceiling[back])
        same &= (self.ceiling_sky[front] == self.ceiling_sky[back]) & (
            self.floor_sky[front] == self.floor_sky[back]
        )
        return np.flatnonzero(~(same & self.two_sided))

    def _make_lines(self, keep: Ints) -> Lines:
        """The lines with index ``keep``."""
        sectors, two_sided = self.sector_of_side[:, keep], self.two_sided[keep]
        floor, ceiling = self.floor[sectors], self.ceiling[sectors]
        floor[1, ~two_sided], ceiling[1, ~two_sided] = np.inf, -np.inf
        ceiling_sky = self.ceiling_sky[sectors]
        ceiling_sky[1] &= two_sided
        return Lines(
            self.start[keep],
            self.end[keep],
            floor,
            ceiling,
            ceiling_sky,
            self.floor_sky[sectors],
            two_sided,
        )

    def sector_at(self, x: float, y: float) -> int:
        """Return the index of the sector at a point, or -1 in the void.

        It is the side of the nearest line to the east.
        """
        ax, ay = self.vertices[:, self.start]
        bx, by = self.vertices[:, self.end]
        crosses = (ay <= y) != (by <= y)
        if not crosses.any():
            return -1
        index = np.flatnonzero(crosses)
        at = ax[index] + (y - ay[index]) / (by[index] - ay[index]) * (bx[index] - ax[index])
        at[at <= x] = np.inf
        nearest = int(np.argmin(at))
        if not np.isfinite(at[nearest]):
            return -1
        line = index[nearest]
        return int(
            self.sector_of_side[int(by[line] > ay[line]), line]
        )  # going up, the west is on the left: behind

    @cached_property
    def region_of_sector(self) -> Ints:
        """Return the connected region of each sector, (sectors,), for a walking player.

        Doors are as the map starts with; -1 where no region fits.
        """
        front, back = self.sector_of_side
        opening = np.minimum(self.ceiling[front], self.ceiling[back]) - np.maximum(
            self.floor[front], self.floor[back]
        )
        step = np.abs(self.floor[front] - self.floor[back])
        passable = (
            self.two_sided
            & (self.flags & BLOCKING == 0)
            & (opening >= PLAYER_HEIGHT)
            & (step <= STEP_HEIGHT)
        )
        label = np.arange(len(self.floor))
        a, b = front[passable], back[passable]
        while True:
            smaller = np.minimum(label[a], label[b])
            before = label.copy()
            np.minimum.at(label, a, smaller)
            np.minimum.at(label, b, smaller)
            label = label[label]
            if np.array_equal(label, before):
                return np.where(self.ceiling - self.floor >= PLAYER_HEIGHT, label, -1)

    @cached_property
    def region_area(self) -> Floats:
        """(sectors,) area, in square map units, of the walkable region that has each label."""
        ax, ay = self.vertices[:, self.start]
        bx, by = self.vertices[:, self.end]
        part = 0.5 * (
            bx * ay - ax * by
        )  # a sector's lines run clockwise around it: it lies on their right
        area = np.bincount(self.sector_of_side[0], part, len(self.floor))
        area -= np.bincount(
            self.sector_of_side[1, self.two_sided], part[self.two_sided], len(self.floor)
        )
        fits = self.region_of_sector >= 0
        total: Floats = np.bincount(
            self.region_of_sector[fits], area[fits], len(self.floor)
        ).astype(np.float64)
        return total

    def clearance(self, x: float, y: float) -> float:
        """Distance from a point to the nearest line that stops a player who stands there."""
        sector = self.sector_at(x, y)
        if sector < 0:
            return 0.0
        front, back = self.sector_of_side
        top = np.minimum(self.ceiling[front], self.ceiling[back])
        bottom = np.maximum(self.floor[front], self.floor[back])
        stops = (
            ~self.two_sided
            | (self.flags & BLOCKING != 0)
            | (top - np.maximum(bottom, self.floor[sector]) < PLAYER_HEIGHT)
        )
        stops |= bottom - self.floor[sector] > STEP_HEIGHT
        a, b = self.vertices[:, self.start[stops]], self.vertices[:, self.end[stops]]
        point, along = np.array([[x], [y]]), b - a
        t = np.clip(
            ((point - a) * along).sum(0) / np.maximum((along * along).sum(0), 1e-9), 0.0, 1.0
        )
        return float(np.sqrt(((a + t * along - point) ** 2).sum(0)).min(initial=np.inf))

    def cast(self, x: float, y: float, z: float, angle: float, right: Floats, up: Floats) -> Floats:
        """Return the distance to the first floor, ceiling or wall along each pixel's ray.

        x, y, z: the eye.
        right: (w,) ascending, lateral offset of each column's rays at distance one.
        up: (h,) upward offset of each row's rays.

        Returns (h, w) map units along the optical axis, inf for sky and for the void.
        """
        lines, width = self.lines, len(right)
        column, line, distance, side = self._crossings(lines, x, y, angle, right)
        floor = lines.floor[side, line] - z, lines.floor[1 - side, line] - z
        ceiling = lines.ceiling[side, line] - z, lines.ceiling[1 - side, line] - z
        low, high = np.maximum(*floor) / distance, np.minimum(*ceiling) / distance

        # Crossings are sorted by column, then distance; lay them out as a table of (order, column).
        first = np.searchsorted(column, np.arange(width + 1))
        order = np.arange(len(column)) - first[column]
        depth = int(order.max(initial=-1)) + 1
        slot = order * width + column
        blocked_below, blocked_above = (
            np.full((depth + 1, width), np.inf),
            np.full((depth + 1, width), -np.inf),
        )
        blocked_below.flat[slot], blocked_above.flat[slot] = low, high
        np.maximum.accumulate(blocked_below, 0, out=blocked_below)
        np.minimum.accumulate(blocked_above, 0, out=blocked_above)
        # A ray of slope s ends at the first crossing with s <= low or s >= high; both tables are
        # monotone, so counting finds it.
        passed = np.minimum(
            (blocked_below[:, None] < up[:, None]).sum(0),
            (blocked_above[:, None] > up[:, None]).sum(0),
        )
        hit = first[:-1] + passed
        void = hit >= first[1:]
        if void.all():
            return np.full(hit.shape, np.inf)
        hit = np.minimum(hit, len(column) - 1)
        return np.where(
            void, np.inf, self._distance_of_hit(hit, line, side, distance, floor, ceiling, up)
        )

    def cast_hung(self, x: float, y: float, angle: float, right: Floats, count: int = 3) -> Floats:
        """Return the distances of the nearest ``count`` lines with a hung picture in each column.

        Returns (count, w) along the optical axis, inf for none.
        """
        result = np.full((count, len(right)), np.inf)
        if len(self.hung.start):
            column, _, distance, _ = self._crossings(self.hung, x, y, angle, right)
            order = np.arange(len(column)) - np.searchsorted(column, column)
            near = order < count
            result[order[near], column[near]] = distance[near]
        return result

    def _crossings(
        self, lines: Lines, x: float, y: float, angle: float, right: Floats
    ) -> tuple[Ints, Ints, Floats, Ints]:
        """Return every crossing of a column's ray with a line, up to the first solid line.

        They are sorted by column and distance. Returns the column, the line, the distance along the
        axis and the side (0 front, 1 back) that faces the eye.
        """
        cos, sin = np.cos(angle), np.sin(angle)
        east, north = self.vertices[0] - x, self.vertices[1] - y
        lateral, ahead = east * sin - north * cos, east * cos + north * sin
        z1, z2 = ahead[lines.start], ahead[lines.end]
        seen = np.flatnonzero((z1 > NEAR) | (z2 > NEAR))
        z1, z2, start, end = z1[seen], z2[seen], lines.start[seen], lines.end[seen]
        x1, x2 = lateral[start], lateral[end]
        dx, dz = x2 - x1, z2 - z1
        cross = x1 * dz - z1 * dx  # negative: the eye is in front of the line
        # Where a line passes behind the eye, cut it at the near plane; shared vertices give
        # bit-equal slopes, so no gaps.
        t = np.where(z1 < NEAR, NEAR - z1, 0.0) / np.where(dz == 0, 1.0, dz)
        s1 = np.where(z1 < NEAR, (x1 + t * dx) / NEAR, x1 / np.maximum(z1, NEAR))
        t = np.where(z2 < NEAR, NEAR - z1, 0.0) / np.where(dz == 0, 1.0, dz)
        s2 = np.where(z2 < NEAR, (x1 + t * dx) / NEAR, x2 / np.maximum(z2, NEAR))
        begin, stop = (
            np.searchsorted(right, np.minimum(s1, s2)),
            np.searchsorted(right, np.maximum(s1, s2)),
        )
        count = np.where(lines.two_sided[seen] | (cross < 0), stop - begin, 0)

        which = np.repeat(np.arange(len(seen)), count)
        column = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + begin[which]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = cross[which] / (right[column] * dz[which] - dx[which])
        line = seen[which]
        side = (cross[which] >= 0).astype(np.int64)
        good = distance > 0
        nearest = np.full(len(right), np.inf)
        solid = good & ~lines.two_sided[line]
        np.minimum.at(nearest, column[solid], distance[solid])
        keep = np.flatnonzero(good & (distance <= nearest[column]))
        column, line, distance, side = column[keep], line[keep], distance[keep], side[keep]
        order = np.lexsort((distance, column))
        return column[order], line[order], distance[order], side[order]

    def _distance_of_hit(
        self,
        hit: Ints,
        line: Ints,
        side: Ints,
        distance: Floats,
        floor: tuple[Floats, Floats],
        ceiling: tuple[Floats, Floats],
        up: Floats,
    ) -> Floats:
        """Return what a ray that does not pass crossing ``hit`` met.

        It is the near sector's floor or ceiling on the way, or the wall itself.
        """
        wall = distance[hit]
        height = wall * up[:, None]
        near_floor, near_ceiling, far_ceiling = floor[0][hit], ceiling[0][hit], ceiling[1][hit]
        sky = self.lines.ceiling_sky
        near_sky, far_sky = sky[side, line][hit], sky[1 - side, line][hit]
        on_floor, on_ceiling = height <= near_floor, height >= near_ceiling
        with np.errstate(divide="ignore", invalid="ignore"):
            result = np.where(
                on_floor,
                near_floor / up[:, None],
                np.where(on_ceiling, near_ceiling / up[:, None], wall),
            )
        # An eye below the floor (it lags behind on a rising lift) or above the ceiling would look
        # out of the plane: see the wall.
        result = np.where(result > 0, result, wall)
        open_sky = on_ceiling & near_sky
        open_sky |= ~on_floor & (height >= far_ceiling) & near_sky & far_sky
        open_sky |= on_floor & self.lines.floor_sky[side, line][hit]
        result[open_sky] = np.inf
        return np.asarray(result)
