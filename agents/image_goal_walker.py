"""Walks to where a picture was taken.

Measured results: docs/experiments/goal_walks.md
"""

from __future__ import annotations

from dataclasses import dataclass, field

from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.agents.goal_walker import GoalWalkerConfig, Walker
from worldsim.planning.ground import Ground
from worldsim.planning.locate import LocateConfig, candidates
from worldsim.planning.objectives import Source, ground_distance
from worldsim.runtime.types import Action, Array, Env


@dataclass(frozen=True)
class ImageGoalConfig:
    """Settings of :class:`ImageGoalWalker`."""

    walker: GoalWalkerConfig = field(default_factory=GoalWalkerConfig)
    locate: LocateConfig = field(default_factory=LocateConfig)
    """How places that look like the picture are searched for."""
    places: int = 6
    """How many of them at most, before the memory is asked anew."""
    arrived: float = 0.5
    """Metres from a place at which it has been looked at."""
    give_up: int = 40
    """Steps after which a place that cannot be come to is given up."""


class ImageGoalWalker(Walker):
    """Walks to where a picture was taken; a :class:`worldsim.protocols.Policy`.

    It goes to the likeliest of the places that look so. Episodes end at their goal: where it has
    come to a place and the episode goes on, that was another, and it goes on to the next; after the
    last one it searches again in what has been seen by then.

    picture: (h, w, 3) uint8, as the world's frames are. Raises InvalidInputError for other shapes,
    MissingGeometryError without a point memory.
    """

    def __init__(
        self, source: Env | Source, picture: ArrayLike, config: ImageGoalConfig | None = None
    ) -> None:
        self.search, self.picture = config or ImageGoalConfig(), picture
        self.found: list[Tensor] = []
        super().__init__(source, self.search.walker)
        self.found = self._look_for()
        self._left = list(self.found)

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._left, self._been, self._walked = list(self.found), list[Tensor](), 0

    @property
    def goal(self) -> Tensor:
        """The place that it is going to, (4, 4) camera-to-world."""
        return self._left[0]

    def act(self, obs: object) -> Action:
        there = ground_distance(self.source, self.goal) < self.search.arrived
        if there or self._walked >= self.search.give_up:
            self._been.append(self._left.pop(0))
            self._left = self._left or self._look_for()
            self._walked, self._since_map = 0, 0
        self._walked += 1
        return super().act(obs)

    def sources(self, ground: Ground) -> tuple[Array, Array | None]:
        return ground.cells(self.goal[:2, 3].numpy())[None], None

    def _look_for(self) -> list[Tensor]:
        """Return unvisited places that look like the picture; all, if none is left."""
        search = self.search
        most = search.places + len(self._been)
        found = list(
            candidates(self.source.world, self.source.state, self.picture, most, search.locate)
        )
        fresh = [
            x
            for x in found
            if all(float((x[:2, 3] - y[:2, 3]).norm()) >= search.locate.apart for y in self._been)
        ]
        if not fresh:
            self._been.clear()
        return (fresh or found)[: search.places]
