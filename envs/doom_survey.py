"""Looking around in Freedoom's maps: the real engine, put at any place, seen at many headings."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from worldsim.envs.doom import (
    ACTIONS,
    EYE_HEIGHT,
    MIN_CLEARANCE,
    UNITS_PER_METRE,
    FreedoomReal,
    _geometry,
    engine_folder,
    intrinsics,
)
from worldsim.envs.doom_geometry import MapGeometry
from worldsim.envs.doom_textures import ATTRIBUTES, MapTextures
from worldsim.painting.training.lookaround import LookAround
from worldsim.runtime.types import Array

ARRIVE_TICS = 3
"""Tics after a warp in which the engine moves the eye to its height; the turn takes one more."""
DISPLACED_TRIES, SHRINK = 24, 0.85
"""Draws of a displaced camera, each at most this much of the reach of the one before."""
WALL_MARGIN = 24.0
"""Map units that must be free behind a displaced camera."""
AHEAD_SHARE, BACK_SHARE, HEADING_SPREAD = 0.6, 0.15, 30.0
"""Displaced cameras that look on along their way, and back at the place, both with this spread in
degrees; the others look anywhere."""


@lru_cache(maxsize=8)
def _textures(name: str) -> MapTextures:
    game, level = name.split("/")
    return MapTextures(engine_folder() / f"{game}.wad", level, _geometry(name))


class DoomSurveyor(FreedoomReal):
    """A :class:`worldsim.painting.training.lookaround.Surveyor` of Freedoom's maps.

    height, width: of the views in pixels.
    """

    names = ATTRIBUTES

    def __init__(self, height: int = 64, width: int = 64) -> None:
        super().__init__(height, width)
        self.intrinsics = intrinsics(height, width)

    def begin(self, split: str, rng: np.random.Generator) -> str:
        """Load a map of ``split``, drawn with ``rng``; returns its name."""
        _, info = self.reset(seed=int(rng.integers(2**31)), options={"split": split})
        return str(info["map"])

    def look_around(
        self, headings: int, displaced: int, reach: tuple[float, float], rng: np.random.Generator
    ) -> LookAround | None:
        """Look around at a place drawn with ``rng``; None where the engine does not stand as asked.

        reach: least and largest distance of the displaced cameras in metres. Call ``begin`` first.
        """
        self.np_random = rng
        geometry = _geometry(self._map)
        x, y, start = self._draw_start(geometry)
        cameras = [(x, y, start + i * 360.0 / headings) for i in range(headings)]
        for _ in range(displaced):
            camera = self._draw_displaced(geometry, x, y, reach, rng)
            if camera is None:
                return None
            cameras.append(camera)
        seen = []
        for i, (at_x, at_y, angle) in enumerate(cameras):
            if i == 0 or i >= headings:
                self._game.send_game_command(f"warp {at_x} {at_y}")
                self._wait(ARRIVE_TICS)
            self._turn_to(angle)
            if self._is_finished() or not self._stands_at(geometry, at_x, at_y):
                return None
            seen.append(self._view())
        return LookAround(*(np.stack(part) for part in zip(*seen, strict=True)))

    def _wait(self, tics: int) -> None:
        """Let time pass without drawing."""
        self._game.set_action([0.0] * len(ACTIONS))
        self._game.advance_action(tics, True)

    def _turn_to(self, angle: float) -> None:
        turn = (angle - np.rad2deg(self._camera()[3]) + 180.0) % 360.0 - 180.0
        self._press(0, 1, turn=-turn)

    def _draw_displaced(
        self,
        geometry: MapGeometry,
        x: int,
        y: int,
        reach: tuple[float, float],
        rng: np.random.Generator,
    ) -> tuple[int, int, float] | None:
        """Place and heading in degrees of a camera in free sight of (x, y), on walkable floor."""
        region = geometry.region_of_sector[geometry.sector_at(x, y)]
        eye = geometry.floor[geometry.sector_at(x, y)] + EYE_HEIGHT
        low, high = (metres * UNITS_PER_METRE for metres in reach)
        for attempt in range(DISPLACED_TRIES):
            way = float(rng.uniform(0.0, 2 * np.pi))
            distance = float(rng.uniform(low, high)) * SHRINK**attempt
            to_x, to_y = (
                round(v) for v in (x + distance * np.cos(way), y + distance * np.sin(way))
            )
            sector = geometry.sector_at(to_x, to_y)
            if sector < 0 or geometry.region_of_sector[sector] != region:
                continue
            free = geometry.cast(x, y, eye, way, np.zeros(1), np.array([1e-6]))[0, 0]
            if free < distance + WALL_MARGIN or geometry.clearance(to_x, to_y) < MIN_CLEARANCE:
                continue
            things = geometry.things
            if (
                np.min(np.maximum(np.abs(things["x"] - to_x), np.abs(things["y"] - to_y)))
                < MIN_CLEARANCE
            ):
                continue
            kind = rng.random()
            turn = rng.normal(0.0, HEADING_SPREAD) + 180.0 * (kind > 1.0 - BACK_SHARE)
            if AHEAD_SHARE <= kind <= 1.0 - BACK_SHARE:
                turn = rng.uniform(0.0, 360.0)
            return to_x, to_y, float(np.rad2deg(way) + turn)
        return None

    def _view(self) -> tuple[Array, ...]:
        self._look()
        assert self._observation is not None
        x, y, z, heading = self._camera()
        depth = self._info["depth"]
        words = _textures(self._map).describe(
            x, y, z, heading, self._horizon, self._up, depth.astype(np.float64) * UNITS_PER_METRE
        )
        return self._observation, depth, self._info["pose"], words
