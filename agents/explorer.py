"""Explores by frontiers of the remembered ground.

Measured results: docs/experiments/exploration.md

Frontiers (Yamauchi 1997): borders between ground that has been seen and ground that has not. The
explorer goes where most unseen ground per step can be looked at, walking there as fast as it can
(:mod:`worldsim.agents.pursuit`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import torch

from worldsim.agents.goal_walker import finite, ground_of
from worldsim.agents.pursuit import Pursuit, PursuitConfig, wrap_angle
from worldsim.agents.sightlines import RAYS, cast, require_points
from worldsim.errors import InvalidInputError
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.planning.objectives import Source
from worldsim.planning.planner import Imagination, action_space_of
from worldsim.runtime.types import Array, Env


@dataclass(frozen=True)
class FrontierConfig:
    """Settings of :class:`FrontierExplorer`, tuned on Freedoom maps that worlds are trained on."""

    ground: GroundConfig = field(
        default_factory=lambda: GroundConfig(cell=0.25, reach=24.0, near_cost=2.0, unknown_cost=1.2)
    )
    """The map that it walks by."""
    pursuit: PursuitConfig = field(default_factory=PursuitConfig)
    """How it walks."""
    remap: int = 5
    """Steps after which the map is drawn anew."""
    smallest: int = 4
    """Borders of fewer cells are gaps between points, not worth a walk."""
    spots: int = 60
    """Places on borders that are compared, drawn at random."""
    fade: float = 4.0
    """Metres into unseen ground at which a cell of it counts 1 / e: there may be a wall."""
    speed: float = 0.8
    """Metres a step of a walk."""
    pause: float = 4.0
    """Steps added to each choice: without them, what can be had in a step would always be taken
    first."""
    drop: float = 0.35
    """Share of what there was to see at a border, below which it is not worth the way any more."""
    better: float = 2.0
    """How many times better another choice must be, to change one's mind on the way."""
    least: float = 0.1
    """m2 a step for which a border is walked to; where none gives as much, it walks to where it has
    not been."""
    arrive: float = 2.0
    """Metres from a border at which the walker is there: all of it is in sight."""
    apart: float = 1.5
    """Metres around borders that were walked to which are left out from then on."""
    given_up: float = 2.0
    """Metres around borders that were not reached which are left out from then on."""
    patience: float = 2.5
    """How many times as long as expected a walk may take."""
    looked: float = 1.25
    """Metres around places from which it has looked in a direction, where there is nothing more to
    see in that direction."""
    look_apart: float = 3.0
    """Metres between places where it stands and looks around."""
    sure: float = 8.0
    """Metres up to which a look past where ground should be tells that there is none."""

    def __post_init__(self) -> None:
        if (
            self.remap < 1
            or self.spots < 1
            or not (self.fade > 0 and self.speed > 0 and self.pause > 0)
        ):
            raise InvalidInputError(
                f"FrontierConfig: remap and spots at least 1, fade, speed and pause above 0; got "
                f"{self}"
            )


@dataclass(frozen=True, eq=False)
class Aim:
    """Where the explorer goes: place (2,) world metres.

    kind: ``border``, ``look`` (from where it stands) or ``far`` (nothing is left to see nearby).
    heading: radians, where it would look there; gain: m2 that this would show. Both are of no
    meaning for ``far``.
    """

    place: Array
    kind: str
    heading: float = 0.0
    gain: float = 0.0


class FrontierExplorer:
    """Looks at borders of what is known, over and over; a :class:`worldsim.protocols.Policy`.

    source: a :class:`worldsim.world.tracker.Belief` that is told every step, or a dream, of a world
    with a point memory whose actions are the ``Discrete(7)`` of walking twins (no-op, forward,
    backward, turn left, turn right, strafe left, strafe right). It looks at the memory, the newest
    frame's depth and its own poses. Raises InvalidInputError for other actions.
    """

    def __init__(self, source: Env | Source, config: FrontierConfig | None = None) -> None:
        self.config = config or FrontierConfig()
        self.source = require_points(Imagination(source).source)
        space = action_space_of(self.source)
        if space != gym.spaces.Discrete(7):
            raise InvalidInputError(
                f"the frontier explorer walks by the Discrete(7) of walking twins, got "
                f"{space}: NoveltyExplorer "
                "takes any actions"
            )
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Forget the walk and reseed. ``None`` draws a fresh seed from the operating system."""
        self._rng = np.random.default_rng(seed)
        self._pursuit = Pursuit(self.config.pursuit, self._rng)
        self._void: set[tuple[int, int]] = set()
        self._sky: set[tuple[int, int]] = set()
        self._views: list[tuple[float, float, float]] = []
        self._visited: list[Array] = []
        self._vain: list[Array] = []
        self._aim: Aim | None = None
        self._last_look: Array | None = None
        self._since_map, self._left, self._looking = 0, 0.0, 0

    def act(self, obs: object) -> np.int64:
        """The next action; ``obs`` is not looked at, the source knows where it is."""
        newest = self.source.state.frame.pose
        assert newest is not None
        pose = newest[0].cpu().numpy().astype(np.float64)
        place, heading = pose[:2, 3], math.atan2(pose[1, 2], pose[0, 2])
        self._views.append((*place, heading))
        bumped, stuck = self._pursuit.feel(place, heading)
        if stuck and self._aim is not None:
            self._vain.append(self._aim.place)
            self._aim = None
        if self._done(place, heading):
            self._aim = None
        looking = self._aim is not None and self._aim.kind == "look"
        self._since_map -= 1
        if self._aim is None or bumped or (self._since_map <= 0 and not looking):
            self.look_around(place, heading)
            self._since_map = self.config.remap
        assert self._aim is not None
        looks = self._aim.kind == "look"
        wanted = (
            self._aim.heading if looks else self._pursuit.towards(self._ground, self._way, place)
        )
        return np.int64(self._pursuit.act(place, heading, wanted))

    def _done(self, place: Array, heading: float) -> bool:
        """Whether the aim has been reached."""
        aim = self._aim
        if aim is None:
            return False
        if aim.kind == "look":
            self._looking += 1
            return self._looking > 15 or abs(wrap_angle(aim.heading - heading)) < np.radians(15)
        there = bool(np.linalg.norm(place - aim.place) < self.config.arrive)
        if there and aim.kind == "border":
            self._visited.append(aim.place)
        return there

    def ground(self) -> Ground:
        """Return the map, with drops that were found marked as such and the sky as a wall."""
        bumps = self._pursuit.bumps
        ground = ground_of(self.source, self.config.ground, np.array(bumps) if bumps else None)
        seen = ground.known.copy()
        corner = np.round(ground.low / ground.config.cell).astype(np.int64)
        through, sky = self._seen_through(ground)
        self._void.update(map(tuple, (through + corner).tolist()))
        self._sky.update(map(tuple, (sky + corner).tolist()))
        for cells, mask in ((self._void, ground.known), (self._sky, ground.obstacle)):
            at = np.array(sorted(cells), np.int64).reshape(-1, 2) - corner
            at = at[((at >= 0) & (at < len(seen))).all(1)]
            at = at[~(seen & np.isfinite(ground.height))[at[:, 0], at[:, 1]]]
            mask[at[:, 0], at[:, 1]] = True
        return ground

    def _seen_through(self, ground: Ground) -> tuple[Array, Array]:
        """Return cells (k, 2) where the newest frame saw past the ground, and where it saw sky."""
        state = self.source.state
        assert state.frame.pose is not None and state.frame.depth is not None
        pose, depth = state.frame.pose[0].cpu(), state.frame.depth[0].cpu()
        cells = np.argwhere(np.isfinite(ground.height) & ~ground.known)
        height = ground.height[cells[:, 0], cells[:, 1]]
        places = torch.from_numpy(np.column_stack([ground.places(cells), height])).float()
        x, y, z = ((places - pose[:3, 3]) @ pose[:3, :3]).unbind(1)
        fx, fy, cx, cy = state.intrinsics[0].tolist()
        u, v = fx * x / z.clamp(min=0.1) + cx, fy * y / z.clamp(min=0.1) + cy
        inside = (
            (z > 0.5)
            & (z < self.config.sure)
            & (u >= 0)
            & (u < depth.shape[1])
            & (v >= 0)
            & (v < depth.shape[0])
        )
        there = depth[v.clamp(0, depth.shape[0] - 1).long(), u.clamp(0, depth.shape[1] - 1).long()]
        return cells[(inside & (there > 1.3 * z + 0.3)).numpy()], cells[
            (inside & torch.isinf(there)).numpy()
        ]

    def look_around(self, place: Array, heading: float) -> None:
        """Draw the map anew, keep the aim or choose another, and find the way there."""
        c, ground = self.config, self.ground()
        here = ground.cells(place)
        out = ground.field(here[None], outward=True)
        if np.isfinite(out).sum() < 30:
            out = ground.field(here[None], anyhow=True, outward=True)
        self._left -= c.remap
        if self._aim is not None and self._left < 0:
            self._vain.append(self._aim.place)
            self._aim = None
        spots = np.concatenate([here[None], self._borders(ground, out)])
        gain, directions = self._to_see(ground, spots)
        steps = self._steps(ground, spots, out, directions, place, heading)
        rate = gain / steps
        if self._last_look is not None and np.linalg.norm(place - self._last_look) < c.look_apart:
            rate[0] = 0.0
        if not self._keeps(ground, spots, gain, rate, directions, out):
            self._choose(ground, spots, gain, rate, directions, steps, out, place)
        assert self._aim is not None
        goal = ground.cells(self._aim.place)[None]
        way = ground.field(goal)
        x, y = (int(v) for v in here)
        if not np.isfinite(way[max(0, x - 2) : x + 3, max(0, y - 2) : y + 3]).any():
            way = ground.field(goal, anyhow=True)
        self._ground, self._way = ground, finite(way)

    def _borders(self, ground: Ground, out: Array) -> Array:
        """Return reachable frontier cells (k, 2) that have not been walked to; the aim first."""
        c = self.config
        cells, _ = ground.frontier(c.smallest)
        cells = cells[np.isfinite(out[cells[:, 0], cells[:, 1]])]
        for left_out, radius in ((self._vain, c.given_up), (self._visited, c.apart)):
            if left_out and len(cells):
                apart = np.linalg.norm(
                    ground.places(cells)[:, None] - np.array(left_out)[None], axis=2
                ).min(1)
                cells = cells[apart > radius]
        cells = cells[self._rng.permutation(len(cells))[: c.spots]]
        if self._aim is not None and self._aim.kind == "border":
            cells = np.concatenate([ground.cells(self._aim.place)[None], cells])
        return cells

    def _to_see(self, ground: Ground, spots: Array) -> tuple[Array, Array]:
        """Return the unseen ground that views from cells (k, 2) would show, (k, RAYS) m2.

        Also returns the directions of the views, (RAYS,) radians.
        """
        c = self.config
        gain = cast(ground, spots, c.fade)
        state = self.source.state
        view = 2 * math.atan(0.5 * self.source.world.spec.width / float(state.intrinsics[0, 0]))
        views, ray = np.array(self._views), np.arange(RAYS) * (2 * np.pi / RAYS)
        near = np.linalg.norm(ground.places(spots)[:, None] - views[None, :, :2], axis=2) < c.looked
        for k in np.flatnonzero(near.any(1)):
            headings = np.unique(views[near[k], 2].round(1))
            gain[k, (np.abs(wrap_angle(ray[:, None] - headings)) < 0.5 * view).any(1)] = 0.0
        width = round(RAYS * view / (2 * np.pi))
        total = np.cumsum(np.concatenate([np.zeros((len(gain), 1)), gain, gain[:, :width]], 1), 1)
        return total[:, width : width + RAYS] - total[:, :RAYS], (np.arange(RAYS) + 0.5 * width) * (
            2 * np.pi / RAYS
        )

    def _steps(
        self,
        ground: Ground,
        spots: Array,
        out: Array,
        directions: Array,
        place: Array,
        heading: float,
    ) -> Array:
        """(k, RAYS) steps until it has walked to each spot and looks in each direction."""
        c, turn = self.config, self._pursuit.steps
        away = ground.places(spots) - place
        metres = np.minimum(out[spots[:, 0], spots[:, 1]], 1e6)
        metres[0] = 0.0
        walks = metres > 0.5
        bearing = np.where(walks, np.arctan2(away[:, 1], away[:, 0]), heading)
        steps: Array = metres / c.speed + np.where(
            walks, 0.8 * turn(wrap_angle(bearing - heading)), 0.0
        )
        total: Array = steps[:, None] + turn(wrap_angle(directions - bearing[:, None])) + c.pause
        return total

    def _keeps(
        self, ground: Ground, spots: Array, gain: Array, rate: Array, directions: Array, out: Array
    ) -> bool:
        """Whether the aim is still worth it."""
        aim, c = self._aim, self.config
        if aim is None:
            return False
        if aim.kind == "far":
            x, y = (int(v) for v in ground.cells(aim.place))
            near = out[max(0, x - 2) : x + 3, max(0, y - 2) : y + 3]
            return bool(np.isfinite(near).any() and rate.max() < 3 * c.least)
        k, i = int(aim.kind == "border"), int(np.abs(wrap_angle(directions - aim.heading)).argmin())
        reached = aim.kind == "look" or bool(np.isfinite(out[tuple(spots[k])]))
        return bool(
            reached and gain[k, i] > c.drop * aim.gain and rate.max() < c.better * rate[k, i]
        )

    def _choose(
        self,
        ground: Ground,
        spots: Array,
        gain: Array,
        rate: Array,
        directions: Array,
        steps: Array,
        out: Array,
        place: Array,
    ) -> None:
        """The best view a step; where there is none, the place furthest from where it has been."""
        k, i = np.unravel_index(int(rate.argmax()), rate.shape)
        if rate[k, i] > self.config.least:
            kind = "border" if k else "look"
            self._aim = Aim(ground.places(spots[k]), kind, float(directions[i]), float(gain[k, i]))
            self._left, self._looking = self.config.patience * float(steps[k, i]) + 8.0, 0
            if kind == "look":
                self._last_look = place
            return
        open_ = np.argwhere(np.isfinite(out) & ~ground.blocked())
        if not len(open_):
            open_ = ground.cells(place)[None]
        away = np.full(len(open_), np.inf)
        for view in self._views[-400::4]:
            away = np.minimum(
                away, np.linalg.norm(ground.places(open_) - np.array(view[:2]), axis=1)
            )
        self._aim, self._left = Aim(ground.places(open_[int(away.argmax())]), "far"), 60.0
