"""Explores by novelty of imagined views.

Measured results: docs/experiments/exploration.md

Candidate walks are imagined without drawing, the memory is asked what it knows of the views at
their ends, and the walk that ends where it knows least is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldsim.agents.cem import CemConfig, CemPolicy
from worldsim.agents.sightlines import require_points
from worldsim.camera import Camera
from worldsim.errors import InvalidInputError
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT, view_of
from worldsim.planning.objectives import Dreaming, Futures, Needs, Source, require_dreaming
from worldsim.planning.planner import Imagination
from worldsim.runtime.types import Env
from worldsim.state import WorldState, map_tensors


@dataclass(frozen=True)
class NoveltyConfig:
    """Settings of :class:`NoveltyExplorer`."""

    planner: CemConfig = field(
        default_factory=lambda: CemConfig(
            horizon=12, candidates=24, iterations=2, elites=4, replan=4
        )
    )
    pixels: int = 16
    """Pixels a side of the views that are asked for."""
    looks: tuple[float, ...] = (0.5, 1.0)
    """Shares of the way at which it looks."""
    reach: float = 16.0
    """Metres to each side within which the memory is asked."""
    grain: float = 0.2
    """Of points nearer to one another than about this many metres, one is asked: small views need
    no more."""
    travel: float = 0.02
    """What a metre from the start of the plan counts, in shares of a view: so that equals are left
    behind."""

    def __post_init__(self) -> None:
        if not self.looks or not all(0 < look <= 1 for look in self.looks) or self.pixels < 4:
            raise InvalidInputError(
                f"NoveltyConfig: looks {self.looks} must be in (0, 1], pixels {self.pixels} at "
                f"least 4"
            )


class Novelty:
    """An objective: views that the memory knows little of. source: what is planned in."""

    needs = Needs.MOTION

    def __init__(self, source: Dreaming, config: NoveltyConfig) -> None:
        self.source, self.config = source, config
        self._thin: tuple[WorldState, Points] | None = None

    def check(self, source: Source) -> None:
        require_points(source)

    def __call__(self, futures: Futures) -> Tensor:
        assert futures.pose is not None
        steps = futures.pose.shape[1]
        at = [max(1, round(look * steps)) - 1 for look in self.config.looks]
        pose = futures.pose[:, at]
        known = torch.stack([self._known(pose[:, k]) for k in range(len(at))]).mean(0)
        newest = self.source.state.frame.pose
        assert newest is not None
        start = newest[0, :3, 3]
        return known - self.config.travel * (futures.pose[:, -1, :3, 3] - start).norm(dim=-1)

    def _known(self, pose: Tensor) -> Tensor:
        """(n,) share of small views at poses (n, 4, 4) that the memory knows."""
        c, state = self.config, self.source.state
        n, width = len(pose), self.source.world.spec.width
        part = map_tensors(lambda x: x.expand(n, *x.shape[1:]), self._thin_points())
        camera = Camera(
            pose, (state.intrinsics * (c.pixels / width)).expand(n, 4), c.pixels, c.pixels
        )
        return view_of(part.position, part.colour, part.kind, part.source, camera).coverage

    def _thin_points(self) -> Points:
        """What the memory knows around, a batch of one; thinned once a state."""
        state, c = self.source.state, self.config
        if self._thin is None or self._thin[0] is not state:
            assert state.frame.pose is not None
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
    """Takes the imagined walk whose views the memory covers least.

    A :class:`worldsim.protocols.Policy`.
    """

    def __init__(self, source: Env | Source, config: NoveltyConfig | None = None) -> None:
        config = config or NoveltyConfig()
        dreaming = require_dreaming(Imagination(source).source, "explorers")
        super().__init__(source, Novelty(dreaming, config), config.planner)
