"""What a view of a Freedoom map shows, in words: textures, liquids, sky, light, openness, stairs.

All is read off the map's own lumps along the horizon of a view. Names follow the texture names of
the original game, which Freedoom keeps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.envs.doom_geometry import NO_SIDE, MapGeometry, read_lumps
from worldsim.envs.doom_stairs import stairs_share

WALLS: dict[str, tuple[str, ...]] = {
    "brick": ("BRICK", "BIGBRIK", "BSTONE"),
    "stone": ("STONE", "GSTONE", "GRAY", "CEMENT", "AQCONC", "GSTVINE", "STUCCO"),
    "rock": ("ROCK", "TANROCK", "ASHWALL", "ZIMMER", "SP_ROCK", "A-"),
    "metal": ("METAL", "SHAWN", "SILVER", "BRONZE", "SUPPORT", "AQ", "PIPE", "EGSUPRT", "SW1MET"),
    "tech": ("TEK", "COMP", "STAR", "SPACEW", "LITE", "PLAT"),
    "panel": ("BROWN", "BROVINE", "STEP", "TAN"),
    "wood": ("WOOD", "PANEL", "PANCASE", "PANBORD", "CRAT"),
    "marble": ("MARB", "MODWALL"),
    "flesh": ("SKIN", "SKSNAKE", "SKSPINE", "SKULWALL", "SKULL", "SP_FACE", "SP_DUDE"),
    "hot": ("SP_HOT", "FIRE", "REDWALL", "CRACKLE"),
    "slimy": ("SLADWALL", "NUK", "ICKWALL", "SLADRIP", "BFALL", "SFALL", "WFALL"),
    "door": ("DOOR", "BIGDOOR", "SPCDOOR", "WDOOR"),
}
"""Families of wall textures by the beginnings of their names; the first that fits counts."""
LIQUIDS: dict[str, tuple[str, ...]] = {
    "water": ("FWATER", "SWATER"),
    "lava": ("LAVA",),
    "slime": (
        "NUKAGE",
        "SLIME01",
        "SLIME02",
        "SLIME03",
        "SLIME04",
        "SLIME05",
        "SLIME06",
        "SLIME07",
    ),
    "blood": ("BLOOD",),
    "nature": ("GRASS", "RROCK", "GRNROCK", "MFLR8", "FLAT10"),
}
"""Kinds of floors by the beginnings of their names."""
ATTRIBUTES = (*WALLS, *LIQUIDS, "sky", "light", "openness", "stairs")
"""Names of the attributes, in order. New ones are appended: recordings and painters of earlier
versions have the first of them."""
LIGHT = 255.0
OPEN_HALF = 256.0
"""Map units of median depth at which a place is half open."""
NEAR_LIQUID = 1024.0
"""Floors beyond this, in map units, do not count."""


def _kinds(names: NDArray[np.bytes_], families: dict[str, tuple[str, ...]]) -> NDArray[np.int64]:
    """Index of each name's family, -1 where none fits."""
    unique, inverse = np.unique(names, return_inverse=True)
    kinds = np.full(len(unique), -1)
    for i, name in enumerate(unique.tolist()):
        for j, starts in enumerate(families.values()):
            if name.decode("ascii", "replace").startswith(starts):
                kinds[i] = j
                break
    return kinds[inverse]


class MapTextures:
    """The textures of one map, and which of them a view shows."""

    def __init__(self, wad: Path, name: str, geometry: MapGeometry) -> None:
        lumps = read_lumps(wad, name)
        self.geometry = geometry
        sides, lines, sectors = lumps["SIDEDEFS"], lumps["LINEDEFS"], lumps["SECTORS"]
        self.wall = {part: _kinds(sides[part], WALLS) for part in ("upper", "lower", "middle")}
        self.side_of_line = np.stack([lines["front"], lines["back"]]).astype(np.int64)
        self.floor = _kinds(sectors["floor_flat"], LIQUIDS)
        self.light = sectors["light"].astype(np.float64) / LIGHT

    def describe(
        self,
        x: float,
        y: float,
        z: float,
        angle: float,
        right: NDArray[np.float64],
        up: NDArray[np.float64],
        depth: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """The attributes of a view in the order of ATTRIBUTES, (21,) float32 in [0, 1].

        Families of walls and kinds of floors: the share of the view's columns in whose horizon they
        lie. sky: share of pixels that are sky. light: of the sectors, weighted alike. openness:
        d / (d + 256) of the median depth d. stairs: see :func:`stairs_share`.

        x, y, z, angle, right, up: as of :meth:`MapGeometry.cast`.
        depth: (h, w) map units.
        """
        geometry, lines = self.geometry, self.geometry.lines
        crossings = geometry._crossings(lines, x, y, angle, right)
        column, line, distance, side = crossings
        low = np.maximum(lines.floor[side, line], lines.floor[1 - side, line]) >= z
        high = np.minimum(lines.ceiling[side, line], lines.ceiling[1 - side, line]) <= z
        solid = ~lines.two_sided[line]
        blocked = low | high | solid
        ends = np.full(len(right), len(column))
        at = np.flatnonzero(blocked)
        np.minimum.at(ends, column[at], at)
        hit = ends[ends < len(column)]
        walls = self._walls_at(line[hit], side[hit], solid[hit], low[hit])
        before = (np.arange(len(column)) <= ends[column]) & (distance < NEAR_LIQUID)
        number = geometry.noticed[line[before]]
        sector = geometry.sector_of_side[side[before], number]
        own = geometry.sector_at(x, y)
        floors = np.zeros(len(LIQUIDS))
        for kind in range(len(LIQUIDS)):
            columns = np.unique(column[before][self.floor[sector] == kind])
            floors[kind] = 1.0 if self.floor[own] == kind else len(columns) / len(right)
        light = self.light[np.append(sector, own)].mean()
        finite = np.minimum(depth, 1e6)
        median = float(np.median(finite))
        stairs = stairs_share(geometry, crossings, z, right, up)
        rest = [float(np.isinf(depth).mean()), light, median / (median + OPEN_HALF), stairs]
        return np.concatenate([walls / len(right), floors, rest]).clip(0, 1).astype(np.float32)

    def _walls_at(
        self,
        line: NDArray[np.int64],
        side: NDArray[np.int64],
        solid: NDArray[np.bool_],
        low: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Columns that end at each family, (len(WALLS),)."""
        facing = self.side_of_line[side, self.geometry.noticed[line]]
        facing = np.where(facing == NO_SIDE, 0, facing)
        kind = np.where(
            solid,
            self.wall["middle"][facing],
            np.where(low, self.wall["lower"][facing], self.wall["upper"][facing]),
        )
        return np.bincount(kind[kind >= 0], minlength=len(WALLS)).astype(np.float64)
