"""Walks to a place by paths over the remembered ground.

Measured results: docs/experiments/goal_walks.md

The scene memory gives a map of the walkable ground (:mod:`worldsim.planning.ground`), and the map
gives the length of the path from every place to the goal. The planner imagines walks with the
ego-motion head, including walls and momentum, and takes the one that comes closest by that length.
No frame is drawn.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from worldsim.agents.cem import CemConfig, CemPolicy
from worldsim.agents.mppi import MppiConfig, MppiPolicy
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.slots import points_of
from worldsim.memory.splat import POINT
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.planning.objectives import (
    Dreaming,
    Futures,
    Needs,
    Source,
    check_goal_pose,
    ground_distance,
    require_dreaming,
)
from worldsim.runtime.types import Action, Array, Env


def ground_of(
    source: Dreaming, config: GroundConfig | None = None, bumps: Array | None = None
) -> Ground:
    """Return the ground that a point memory shows around its walker.

    Raises MissingGeometryError for worlds without one.
    """
    state = source.state
    memory, pose = points_of(source.world.memory, state.memory), state.frame.pose
    if memory is None or pose is None:
        raise MissingGeometryError(
            "ways are found in a point memory, and this world has none: use one with geometry"
        )
    position = memory.position[0][:, memory.kind[0] == POINT]
    return Ground.of(position.cpu().numpy(), pose[0, :3, 3].cpu().numpy(), config, bumps)


@dataclass(eq=False)
class WayGoal:
    """Objective: descend a field of paths and look ahead. The walker keeps it up to date."""

    ground: Ground | None = None
    way: Array | None = None
    """(nx, ny) metres to go from each cell, finite."""
    ahead: Array | None = None
    """(2,) unit vector, world x and y, of where the way leads."""
    look: float = 0.5
    """Metres that looking the other way counts."""

    needs = Needs.MOTION

    def check(self, source: Source) -> None:
        require_dreaming(source, "ways over the ground")

    def __call__(self, futures: Futures) -> Tensor:
        assert futures.pose is not None and self.ground is not None and self.way is not None
        pose = futures.pose.cpu()
        cells = self.ground.cells(pose[..., :2, 3].numpy())
        left = torch.from_numpy(self.way[cells[..., 0], cells[..., 1]])
        cost = left[:, -1] + left.min(1).values + left.mean(1)
        if self.ahead is not None and self.look:
            facing = pose[:, -1, :2, 2] @ torch.from_numpy(self.ahead).float()
            cost = cost + self.look * (1.0 - facing)
        return cost


@dataclass(frozen=True)
class GoalWalkerConfig:
    """Settings of :class:`GoalWalker`."""

    planner: Literal["icem", "mppi"] = "icem"
    """What finds the next steps."""
    icem: CemConfig = field(
        default_factory=lambda: CemConfig(
            horizon=8, candidates=40, iterations=2, elites=6, replan=2
        )
    )
    mppi: MppiConfig = field(default_factory=lambda: MppiConfig(horizon=8, candidates=72, replan=2))
    ground: GroundConfig = field(default_factory=GroundConfig)
    remap: int = 4
    """Steps after which the map is drawn anew."""
    least_coverage: float = 0.0
    """Share of the goal's view that the memory must know, else the goal is refused; 0 allows goals
    in places never seen."""
    hits: int = 2
    """Steps in a row that came less than a third as far as the ego-motion head foretold, after
    which what lies ahead is taken for an obstacle that cannot be seen."""
    patience: int = 12
    """Steps within ``stay`` metres after which a walker gives the way ahead up: the planner sees no
    way where the map shows one."""
    stay: float = 0.75
    escape: int = 24
    """Steps that it then walks at random, each action held for ``hold``, as far as the map's and
    the head's errors reach."""
    hold: int = 4
    within: float = 0.5
    """Metres from the goal, on the ground, at which it has been reached."""


class Walker:
    """Base of goal walkers and explorers: walks down a path over the remembered ground.

    Subclasses define ``sources``, where paths end.

    source: a :class:`worldsim.world.tracker.Belief` that receives every step, or a dream.
    """

    def __init__(self, source: Env | Source, config: GoalWalkerConfig | None = None) -> None:
        self.config, self.objective = config or GoalWalkerConfig(), WayGoal()
        kinds: dict[str, type[CemPolicy] | type[MppiPolicy]] = {
            "icem": CemPolicy,
            "mppi": MppiPolicy,
        }
        if self.config.planner not in kinds:
            raise InvalidInputError(
                f"planner must be 'icem' or 'mppi', got {self.config.planner!r}"
            )
        self.planner = kinds[self.config.planner](
            source, self.objective, getattr(self.config, self.config.planner)
        )
        self.source = require_dreaming(self.planner.imagination.source, "walkers")
        self.reset(0)

    def sources(self, ground: Ground) -> tuple[Array, Array | None]:
        """Where ways shall end: cells (k, 2), and metres that each begins with (or None)."""
        raise NotImplementedError

    def ground(self, bumps: Array | None) -> Ground:
        """The map around the walker, with what it bumped into, (k, 2) world x, y."""
        return ground_of(self.source, self.config.ground, bumps)

    def reset(self, seed: int | None = None) -> None:
        """Forget the walk and reseed. ``None`` draws a fresh seed from the operating system."""
        self.planner.reset(seed)
        self._since_map = 0
        self._bumps: list[Array] = []
        self._start: Array | None = None
        self._before: tuple[Array, Array] | None = None
        self._hits, self._stayed, self._escaping = 0, 0, 0
        self._held: Action | None = None
        self.action_space = copy.deepcopy(self.planner.action_space)
        self.action_space.seed(seed)
        self._anchor: Array | None = None

    def act(self, obs: object) -> Action:
        """The next action; ``obs`` is not looked at, the source knows where it is."""
        pose = self.source.state.frame.pose
        assert pose is not None
        place = pose[0, :2, 3].cpu().numpy().astype(np.float64)
        self._start = place if self._start is None else self._start
        bumped = self._feel(place) or self._waits(place)
        if self._since_map == 0 or bumped:
            self.look_around(place)
            self._since_map = self.config.remap
        self._since_map -= 1
        act = self._escapes() if self._escaping else self.planner.act(obs)
        self._before = place, self._foretold(act)
        return act

    def _foretold(self, act: Action) -> Array:
        """World x, y that an action should add, metres."""
        state = self.source.state
        assert state.frame.pose is not None
        given = torch.as_tensor(np.asarray(act), device=state.act.device)[None].to(state.act.dtype)
        motion = self.source.world.predict_motion(state, given)[0, :3]
        moved: Array = (state.frame.pose[0, :2, :3] @ motion).cpu().numpy().astype(np.float64)
        return moved

    def _feel(self, place: Array) -> bool:
        """Return whether an unmapped obstacle was found just now, and map it."""
        if self._before is None:
            return False
        start, foretold = self._before
        length = float(np.linalg.norm(foretold))
        if length < 0.25:
            return False
        self._hits = self._hits + 1 if float((place - start) @ foretold) < length**2 / 3 else 0
        if self._hits < self.config.hits:
            return False
        self._hits = 0
        self._bump(place, foretold / length)
        return True

    def _waits(self, place: Array) -> bool:
        """Whether it has stayed where it is for so long that what is ahead is given up."""
        if self._anchor is None or np.linalg.norm(place - self._anchor) > self.config.stay:
            self._anchor, self._stayed = place, 0
            return False
        self._stayed += 1
        if self._stayed < self.config.patience:
            return False
        self._stayed, self._escaping = 0, self.config.escape
        self.give_up(place)
        return True

    def _escapes(self) -> Action:
        """A random action, held for some steps."""
        if self._escaping % self.config.hold == 0 or self._held is None:
            self._held = self.action_space.sample()
        assert self._held is not None
        self._escaping -= 1
        return copy.copy(self._held)

    def give_up(self, place: Array) -> None:
        """Take what is ahead for an obstacle."""
        if self.objective.ahead is not None:
            self._bump(place, self.objective.ahead)

    def _bump(self, place: Array, ahead: Array) -> None:
        aside = np.array([-ahead[1], ahead[0]])
        self._bumps += [place + 0.65 * ahead + offset * aside for offset in (-0.25, 0.0, 0.25)]

    def look_around(self, place: Array) -> None:
        """Update the map and the path; if there is none, take one through assumed obstacles."""
        ground = self.ground(np.array(self._bumps) if self._bumps else None)
        cells, costs = self.sources(ground)
        # A walker may touch what it must not walk into: the nearest open place is where its way
        # begins.
        way = ground.field(cells, costs)
        here = ground.cells(place)
        if not np.isfinite(_around(way, here, 4)).any():
            way = ground.field(cells, costs, anyhow=True)
        self.objective.ground, self.objective.way = ground, finite(way)
        path = ground.places(ground.descent(self.objective.way, place, 2.0))
        ahead = path[-1] - place
        length = float(np.linalg.norm(ahead))
        self.objective.ahead = ahead / length if length > 0.2 else None


class GoalWalker(Walker):
    """Walks to a goal pose (4, 4) camera-to-world; a :class:`worldsim.protocols.Policy`.

    Raises InvalidInputError for a goal that is no pose or, with ``least_coverage``, outside of the
    memory.
    """

    def __init__(
        self, source: Env | Source, goal: Tensor, config: GoalWalkerConfig | None = None
    ) -> None:
        super().__init__(source, config)
        check_goal_pose(self.source, goal, self.config.least_coverage)
        self.goal = goal

    @property
    def arrived(self) -> bool:
        """Whether the goal has been reached: time to stop calling ``act``."""
        return ground_distance(self.source, self.goal) <= self.config.within

    def sources(self, ground: Ground) -> tuple[Array, Array | None]:
        return ground.cells(self.goal[:2, 3].cpu().numpy())[None], None


def _around(way: Array, cell: Array, reach: int) -> Array:
    x, y = (int(v) for v in cell)
    return way[max(0, x - reach) : x + reach + 1, max(0, y - reach) : y + reach + 1]


def finite(way: Array, steep: float = 0.75, reach: int = 8) -> Array:
    """Return ``way`` with finite values everywhere.

    From open ground it rises by ``steep`` metres per cell into obstacles, so that a walker that
    touches a wall is led away; further in, it is higher than anywhere else.
    """
    known = np.isfinite(way)
    if not known.any():
        return np.zeros_like(way)
    for _ in range(reach):
        risen = cv2.erode(way, np.ones((3, 3), np.uint8)) + np.float32(steep)
        way = np.where(np.isfinite(way), way, risen)
    highest = float(way[np.isfinite(way)].max())
    return np.where(np.isfinite(way), way, highest + 2.0).astype(np.float32)
