"""Starts in the places of a journey that a painter makes from words.

::

    painter = open_painter()
    scene = Journey(painter, prompt="a dark stone corridor, then a metal base", length=6)
    env = gym.make("worldsim/FreedoomDream-v0", scenes=scene)
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldsim.errors import NotFoundError
from worldsim.painting.journeys.files import travel
from worldsim.painting.journeys.journey import JourneyConfig, JourneyMaker
from worldsim.painting.journeys.scene import scene_of, starts_of_trip
from worldsim.painting.journeys.trip import Trip
from worldsim.painting.journeys.words import descriptions_for, reader_of
from worldsim.painting.validation.validator import Validator
from worldsim.painting.words.attributes import AttributePrior
from worldsim.protocols import DescriptionGenerator, Painter
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.resampling import resample_scene, start_of


class Journey:
    """The places of one journey. It is made on first use, which takes minutes on a CPU.

    painter: paints the places.
    prompt: words of the places, separated by "then"; by default a grammar draws them.
    length: number of places.
    loop: whether the second half leads back through the first.
    seed: seed of all random numbers.
    config: further settings; ``length``, ``loop`` and ``seed`` replace its own.
    prior: completes the words to all attributes, see
        :func:`worldsim.painting.words.attributes.open_prior`. Without it, only named attributes
        are told.
    descriptions: writes the words instead of ``prompt``.
    validator: judges the views; by default that of the painter's views.
    folder: keeps the journey there place by place, so that it resumes.
    world: the world that starts from it. Environments fit scenes to their own world
        (:meth:`fit_to`).

    Raises InvalidInputError for words that the painter does not understand.
    """

    def __init__(
        self,
        painter: Painter,
        prompt: str | None = None,
        length: int = 12,
        loop: bool = False,
        seed: int = 0,
        config: JourneyConfig | None = None,
        prior: AttributePrior | None = None,
        descriptions: DescriptionGenerator | None = None,
        validator: Validator | None = None,
        folder: str | os.PathLike[str] | None = None,
        world: World | None = None,
    ) -> None:
        settings = replace(config or JourneyConfig(), length=length, loop=loop, seed=seed)
        names = painter.spec.attributes
        words = descriptions or descriptions_for(prompt, painter, length)
        self.maker = JourneyMaker(painter, words, reader_of(names, prior), settings, validator)
        self.prompt, self.world = prompt or "", world
        self.folder = None if folder is None else Path(folder)
        # Shared by copies for other worlds.
        self._made: list[Trip] = []
        self._starts: list[SceneStart] = []

    @property
    def trip(self) -> Trip:
        """The journey. Raises PaintingError if the painter's views are refused."""
        if not self._made:
            *_, trip = travel(self.maker, self.prompt, self.folder)
            self._made.append(trip)
        return self._made[0]

    def fit_to(self, world: World) -> Journey:
        """Return the same journey with the frame size, camera and memory of ``world``."""
        if world is self.world:
            return self
        other = copy.copy(self)
        other.world, other._starts = world, []
        return other

    def names(self) -> list[str]:
        """Names of the painted places, in order."""
        return [start.name for start in self._all()]

    def load(self, name: str) -> SceneStart:
        """Return the start at a place. Raises NotFoundError, which lists the names."""
        found = {start.name: start for start in self._all()}
        if name not in found:
            raise NotFoundError(f"no place {name!r} in this journey; there are: {', '.join(found)}")
        return found[name]

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return the start at one of the painted places, with equal probability."""
        starts = self._all()
        return starts[int(rng.integers(len(starts)))]

    def _all(self) -> list[SceneStart]:
        if not self._starts:
            scene = scene_of(self.trip, self.maker.painter.spec)
            if self.world is not None:
                scene = resample_scene(scene, self.world)
            self._starts = [
                replace(start_of(scene, at.first, at.count, self.world), name=f"place-{number}")
                for number, at in enumerate(starts_of_trip(self.trip), 1)
            ]
        return self._starts
