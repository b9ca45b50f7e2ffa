"""A new place at every reset: painted from words, attributes or pictures when an episode starts.

A place takes the painter 0.1 s on a GPU and some ten seconds on a CPU. For places that are painted
once and kept, see ``worldsim generate``::

    painter = open_painter("freedoom-painter")
    env = gym.make("worldsim/FreedoomDream-v0", scenes=GeneratedPlace(painter, "a brick hall"))
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from worldsim.painting.places.new_places import PlaceRequest, conditions_of, paint_request
from worldsim.painting.places.pictures import Pictures
from worldsim.painting.places.place import Place, PlaceConfig
from worldsim.painting.words.attributes import AttributePrior
from worldsim.painting.words.recogniser import AttributeRecogniser
from worldsim.protocols import Painter
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.resampling import resample_scene, start_of

SEED_LIMIT = 2**63 - 1


class GeneratedPlace:
    """A place that is painted anew for every start.

    painter: paints it.
    prompt: words; attributes: values in [0, 1] by the painter's names, which override the words.
    pictures: pictures of the place (:func:`worldsim.painting.places.pictures.open_pictures`).
    prior: attributes of real places, which complete the words
    (:func:`worldsim.painting.words.attributes.open_prior`).
    config: headings and memory.
    world: the world that starts from it. Environments fit it to their own world (:meth:`fit_to`).
    recogniser: compares candidates with the words
    (:func:`worldsim.painting.words.recogniser.open_recogniser`), which takes longer. None paints
    the first one.

    Raises InvalidInputError for words and attributes that the painter does not know.
    """

    def __init__(
        self,
        painter: Painter,
        prompt: str = "",
        attributes: Mapping[str, float] | None = None,
        pictures: Pictures | None = None,
        config: PlaceConfig | None = None,
        prior: AttributePrior | None = None,
        world: World | None = None,
        recogniser: AttributeRecogniser | None = None,
    ) -> None:
        self.painter, self.world = painter, world
        self.request = PlaceRequest(
            prompt, attributes or {}, pictures, config or PlaceConfig(), prior, recogniser
        )
        conditions_of(self.request, painter, np.random.default_rng(0))

    def fit_to(self, world: World) -> GeneratedPlace:
        """Return the same scene for ``world``: its frame size, camera and memory."""
        if world is self.world:
            return self
        r = self.request
        return GeneratedPlace(
            self.painter,
            r.prompt,
            r.attributes,
            r.pictures,
            r.config,
            r.prior,
            world,
            r.recogniser,
        )

    def paint(self, rng: np.random.Generator) -> Place:
        """Paint a place with random numbers of ``rng``."""
        return paint_request(self.painter, self.request, int(rng.integers(SEED_LIMIT))).place

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Paint a place; the start is its first view, with the memory of the whole place."""
        place = self.paint(rng)
        frames = place.frames
        scene = SceneStart(
            rgb=frames.rgb,
            act=torch.zeros(len(frames.rgb), dtype=torch.int64),
            inverse_depth=frames.inverse_depth,
            pose=frames.pose,
            intrinsics=place.intrinsics,
            memory=place.memory.trim(place.data),
        )
        if self.world is not None:
            scene = resample_scene(scene, self.world)
        return start_of(scene, 0, 1, self.world)
