"""Follows paths over the ground at full speed, with forward steps and turns alone.

Measured results: docs/experiments/exploration.md

Pure pursuit (Coulter 1992): the walker heads for the furthest place of its path that it can reach
in a straight line. It imagines no candidates, so a step is cheap and momentum is kept; obstacles
that are not on the map are found by bumping into them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from worldsim.planning.ground import Ground
from worldsim.runtime.types import Array

Angle = TypeVar("Angle", float, Array)

FORWARD, BACKWARD, LEFT, RIGHT = 1, 2, 3, 4
"""Of ``Discrete(7)``, which every real twin that walks speaks."""


@dataclass(frozen=True)
class PursuitConfig:
    """Settings of :class:`Pursuit`, by default for Freedoom's player (up to 0.95 m per step)."""

    lookahead: float = 2.5
    """Metres of the way ahead within which the next place to head for lies."""
    loose: float = 11.0
    """Degrees off the way up to which it walks on."""
    turns: tuple[float, ...] = (7.0, 12.3, 14.1)
    """Degrees of the first, second and every further step of a turn."""
    slowest: float = 0.25
    """Metres that the second of two steps forward covers at least, unless something is in the
    way."""
    patience: int = 8
    """Steps forward without getting ``stay`` metres away, after which it is stuck."""
    stay: float = 0.75


class Pursuit:
    """Follows paths: receives its position at every step and remembers what it bumped into."""

    def __init__(self, config: PursuitConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.bumps: list[Array] = []
        """World x, y of what the map does not show."""
        self._bumped_at: list[Array] = []
        self._turned, self._forward, self._stayed = 0, 0, 0
        self._anchor: Array | None = None
        self._before: tuple[Array, float, int] | None = None
        self._recovery: list[int] = []

    def feel(self, place: Array, heading: float) -> tuple[bool, bool]:
        """Return whether the last step bumped into something, and whether the walker is stuck.

        place: (2,) world metres.
        heading: radians from east, counter-clockwise.
        """
        if self._anchor is None or np.linalg.norm(place - self._anchor) > self.config.stay:
            self._anchor, self._stayed = place, 0
        if self._before is None or self._before[2] != FORWARD:
            self._forward = 0
            return False, False
        start, before, _ = self._before
        self._forward, self._stayed = self._forward + 1, self._stayed + 1
        ahead = np.array([math.cos(before), math.sin(before)])
        bumped = self._forward >= 2 and float((place - start) @ ahead) < self.config.slowest
        if bumped:
            self._forward = 0
            self._bump(place, ahead)
        stuck = self._stayed >= self.config.patience
        if stuck:
            self._stayed = 0
            self._recovery = (
                [BACKWARD] * 3 + [(LEFT, RIGHT)[int(self.rng.integers(2))]] * 4 + [FORWARD] * 3
            )
        return bumped, stuck

    def _bump(self, place: Array, ahead: Array) -> None:
        """Mark an obstacle; the more often one was met nearby, the wider it is.

        A wall is then not tried along its whole length.
        """
        times = sum(bool(np.linalg.norm(at - place) < 1.5) for at in self._bumped_at)
        self._bumped_at.append(place)
        half = 1 + 2 * times
        aside = np.array([-ahead[1], ahead[0]])
        self.bumps += [place + 0.65 * ahead + 0.25 * k * aside for k in range(-half, half + 1)]

    def act(self, place: Array, heading: float, wanted: float) -> int:
        """The next action to go or look in the direction ``wanted``, radians."""
        if self._recovery:
            act, self._turned = self._recovery.pop(0), 0
        else:
            act = self._turn(wrap_angle(wanted - heading)) or FORWARD
        self._before = place, heading, act
        return act

    def _turn(self, off: float) -> int:
        """Return the turn towards ``off`` radians to the left; 0 if another turn would not help."""
        side, degrees = (1 if off > 0 else -1), abs(math.degrees(off))
        turning, last = self._turned != 0, self.config.turns[-1]
        size = self.config.turns[min(len(self.config.turns) - 1, abs(self._turned))]
        overshot = turning and side * self._turned < 0 and degrees < 1.8 * last
        if overshot or degrees <= (max(5.0, 0.55 * size) if turning else self.config.loose):
            self._turned = 0
            return 0
        self._turned = self._turned + side if side * self._turned > 0 else side
        return LEFT if off > 0 else RIGHT

    def steps(self, off: Array) -> Array:
        """Steps that turns by ``off`` radians take."""
        first, last = self.config.turns[0], self.config.turns[-1]
        degrees = np.abs(np.degrees(off))
        turns: Array = np.where(
            degrees < 5.0,
            0.0,
            np.where(degrees <= first, 1.0, 1.0 + np.ceil((degrees - first) / last)),
        )
        return turns

    def towards(self, ground: Ground, way: Array, place: Array) -> float:
        """Return the direction, radians, of the furthest place on the path that is straight ahead.

        way: field of paths, (nx, ny).
        """
        path, blocked = ground.places(ground.descent(way, place, 8.0)), ground.blocked()
        best = path[min(1, len(path) - 1)]
        for there in path[1:]:
            length = float(np.linalg.norm(there - place))
            if length > self.config.lookahead:
                break
            count = max(2, int(length / (0.5 * ground.config.cell)))
            cells = ground.cells(place + np.linspace(0.0, 1.0, count)[1:, None] * (there - place))
            hit = blocked[cells[:, 0], cells[:, 1]]
            # The walker itself may stand in touch with a wall.
            if hit.any() and not hit[:2].any():
                break
            best = there
        return math.atan2(best[1] - place[1], best[0] - place[0])


def wrap_angle(angle: Angle) -> Angle:
    """Angles in radians, brought to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
