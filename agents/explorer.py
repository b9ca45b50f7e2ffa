"""Explorers: frontiers of the remembered ground, or novelty of imagined views. Measured results: docs/experiments/exploration.md

Frontiers (Yamauchi 1997): the border between ground that has been seen and ground that has not; the explorer walks to the one
that is worth its way, by :class:`worldsim.agents.goal_walker.Walker`. Novelty: candidate walks are imagined without drawing, the
memory is asked what it knows of the views at their ends, and the walk that ends where it knows least is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.agents.cem import CemConfig, CemPolicy
from worldsim.agents.goal_walker import GoalWalkerConfig, Walker
from worldsim.camera import Camera
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.ground import Ground, GroundConfig
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT, view_of
from worldsim.planning import Futures, Needs, require_dreaming
from worldsim.state import map_tensors

Array = NDArray[Any]


@dataclass(frozen=True)
class FrontierConfig:
    """Settings of :class:`FrontierExplorer`."""

    walker: GoalWalkerConfig = field(
        default_factory=lambda: GoalWalkerConfig(
            icem=CemConfig(horizon=8, candidates=32, iterations=2, elites=6, replan=3), ground=GroundConfig(reach=20.0), remap=6
        )
    )
    """How it walks there. Its map reaches further than a goal walker's."""
    smallest: int = 8
    """Borders of fewer cells are gaps between points, not worth a walk."""
    worth: float = 8.0
    """Metres of way that a border of ten times the length is worth."""
    look: float = 2.0
    """Metres that looking away from where the way leads counts: what is walked to backwards is not seen."""
    sure: float = 8.0
    """Metres up to which a look past where ground should be tells that there is none."""
    given_up: float = 2.0
    """Metres around a border that was walked to in vain which are left out from then on."""
    patience: int = 40
    """Steps after which a walk to one border is in vain."""


class FrontierExplorer(Walker):
    """Walks to the border of what is known, over and over; a :class:`worldsim.protocols.Policy`.

    source: a :class:`worldsim.belief.Belief` that is told every step, or a dream, of a world with a point memory.
    """

    def __init__(self, source: Any, config: FrontierConfig | None = None) -> None:
        self.explorer = config or FrontierConfig()
        self._vain: list[Array] = []
        self._aim: Array | None = None
        self._walked = 0
        super().__init__(source, self.explorer.walker)
        self.objective.look = self.explorer.look
        require_points(self.source)

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._vain, self._aim, self._walked = [], None, 0
        self._void: set[tuple[int, int]] = set()

    def ground(self, bumps: Array | None) -> Ground:
        """The map, on which places that were looked at and have no ground (drops, sky) are known."""
        ground = super().ground(bumps)
        cell = ground.config.cell
        corner = np.round(ground.low / cell).astype(np.int64)
        self._void.update(map(tuple, (self._seen_through(ground) + corner).tolist()))
        if self._void:
            at = np.array(sorted(self._void)) - corner
            at = at[((at >= 0) & (at < ground.height.shape[0])).all(1)]
            ground.known[at[:, 0], at[:, 1]] = True
        return ground

    def _seen_through(self, ground: Ground) -> Array:
        """Cells (k, 2) at which the newest frame saw something beyond where their ground should be."""
        state = self.source.state
        pose, depth = state.frame.pose[0].cpu(), state.frame.depth[0].cpu()
        cells = np.argwhere(np.isfinite(ground.height) & ~ground.known)
        height = ground.height[cells[:, 0], cells[:, 1]]
        places = torch.from_numpy(np.column_stack([ground.places(cells), height])).float()
        x, y, z = ((places - pose[:3, 3]) @ pose[:3, :3]).unbind(1)
        fx, fy, cx, cy = state.intrinsics[0].tolist()
        u, v = fx * x / z.clamp(min=0.1) + cx, fy * y / z.clamp(min=0.1) + cy
        inside = (z > 0.5) & (z < self.explorer.sure) & (u >= 0) & (u < depth.shape[1]) & (v >= 0) & (v < depth.shape[0])
        there = depth[v.clamp(0, depth.shape[0] - 1).long(), u.clamp(0, depth.shape[1] - 1).long()]
        return cells[(inside & (there > 1.3 * z + 0.3)).numpy()]

    def look_around(self, place: Array) -> None:
        """Draw the map anew and choose a border; one that shows nothing new for long is given up."""
        super().look_around(place)
        assert self.objective.ground is not None and self.objective.way is not None
        ground = self.objective.ground
        end = ground.places(ground.descent(self.objective.way, place, 100.0)[-1])
        near = self._aim is not None and float(np.linalg.norm(end - self._aim)) < self.explorer.given_up
        self._walked = self._walked + self.config.remap if near else 0
        self._aim = end
        if self._walked > self.explorer.patience:
            self.give_up(place)

    def give_up(self, place: Array) -> None:
        """Leave out the border that was walked to, from now on; what was bumped into here may be no more than that."""
        self._bumps = [bump for bump in self._bumps if np.linalg.norm(bump - place) > self.explorer.given_up]
        if self._aim is not None:
            self._vain.append(self._aim)
        self._walked = 0

    def sources(self, ground: Ground) -> tuple[Array, Array | None]:
        cells, size = ground.frontier(self.explorer.smallest)
        if len(self._vain) and len(cells):
            apart = np.linalg.norm(ground.places(cells)[:, None] - np.array(self._vain)[None], axis=2).min(1)
            cells, size = cells[apart > self.explorer.given_up], size[apart > self.explorer.given_up]
        if not len(cells):
            # Nothing is left here: far off, wherever the ground goes on.
            edge = np.argwhere(np.isfinite(ground.height) & ~ground.blocked())
            edge = edge[(edge < 2).any(1) | (edge >= ground.height.shape[0] - 2).any(1)]
            return (edge, None) if len(edge) else (ground.cells(self._start)[None], None)
        gain = self.explorer.worth * np.log10(size)
        return cells, (gain.max() - gain).astype(np.float32)


def require_points(source: Any) -> None:
    """Raise MissingGeometryError unless the source's world has a point memory."""
    require_dreaming(source, "explorers")
    if not isinstance(source.state.memory, Points):
        raise MissingGeometryError("explorers look into a point memory, and this world has none: use one with geometry")


@dataclass(frozen=True)
class NoveltyConfig:
    """Settings of :class:`NoveltyExplorer`."""

    planner: CemConfig = field(default_factory=lambda: CemConfig(horizon=12, candidates=24, iterations=2, elites=4, replan=4))
    pixels: int = 16
    """Pixels a side of the views that are asked for."""
    looks: tuple[float, ...] = (0.5, 1.0)
    """Shares of the way at which it looks."""
    reach: float = 16.0
    """Metres to each side within which the memory is asked."""
    grain: float = 0.2
    """Of points nearer to one another than about this many metres, one is asked: small views need no more."""
    travel: float = 0.02
    """What a metre from the start of the plan counts, in shares of a view: so that equals are left behind."""

    def __post_init__(self) -> None:
        if not self.looks or not all(0 < look <= 1 for look in self.looks) or self.pixels < 4:
            raise InvalidInputError(f"NoveltyConfig: looks {self.looks} must be in (0, 1], pixels {self.pixels} at least 4")


class Novelty:
    """An objective: views that the memory knows little of. source: what is planned in."""

    needs = Needs.MOTION

    def __init__(self, source: Any, config: NoveltyConfig) -> None:
        self.source, self.config = source, config
        self._thin: tuple[Any, Points] | None = None

    def check(self, source: Any) -> None:
        require_points(source)

    def __call__(self, futures: Futures) -> Tensor:
        assert futures.pose is not None
        steps = futures.pose.shape[1]
        at = [max(1, round(look * steps)) - 1 for look in self.config.looks]
        pose = futures.pose[:, at]
        known = torch.stack([self._known(pose[:, k]) for k in range(len(at))]).mean(0)
        start = self.source.state.frame.pose[0, :3, 3]
        return known - self.config.travel * (futures.pose[:, -1, :3, 3] - start).norm(dim=-1)

    def _known(self, pose: Tensor) -> Tensor:
        """(n,) share of small views at poses (n, 4, 4) that the memory knows."""
        c, state = self.config, self.source.state
        n, width = len(pose), self.source.world.network.config.width
        part = map_tensors(lambda x: x.expand(n, *x.shape[1:]), self._thinned())
        camera = Camera(pose, (state.intrinsics * (c.pixels / width)).expand(n, 4), c.pixels, c.pixels)
        return view_of(part.position, part.colour, part.kind, part.source, camera).coverage

    def _thinned(self) -> Points:
        """What the memory knows around, a batch of one; thinned once a state."""
        state, c = self.source.state, self.config
        if self._thin is None or self._thin[0] is not state:
            position, kind = state.memory.position[0], state.memory.kind[0]
            near = (position[:2] - state.frame.pose[0, :2, 3, None]).abs().amax(0) <= c.reach
            chosen = (((kind == POINT) & near) | (kind > POINT)).nonzero()[:, 0]
            # Directions are of unit length or so: a finer grain keeps them apart.
            grain = torch.where(kind[chosen] == POINT, c.grain, 0.1)
            cell = torch.floor(position[:, chosen] / grain).to(torch.int64) + 2**19
            key = (kind[chosen].to(torch.int64) << 60) | (cell[0] << 40) | (cell[1] << 20) | cell[2]
            order = key.argsort(stable=True)
            first = torch.ones_like(order, dtype=torch.bool)
            first[1:] = key[order][1:] != key[order][:-1]
            slots = chosen[order[first]]
            self._thin = state, map_tensors(lambda x: x[..., slots].contiguous(), state.memory)
        return self._thin[1]


class NoveltyExplorer(CemPolicy):
    """Takes the imagined walk whose views the memory knows least of; a :class:`worldsim.protocols.Policy`."""

    def __init__(self, source: Any, config: NoveltyConfig | None = None) -> None:
        config = config or NoveltyConfig()
        unwrapped = getattr(source, "unwrapped", source)
        super().__init__(source, Novelty(unwrapped, config), config.planner)
