"""The words of a journey: who writes them, and what a painter is told of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.painting.journeys.journey import Describe
from worldsim.painting.places.new_places import attributes_of
from worldsim.painting.words.attributes import AttributePrior
from worldsim.painting.words.descriptions import GrammarDescriptions, ListedDescriptions
from worldsim.painting.words.prompt import split_prompt
from worldsim.protocols import DescriptionGenerator, Painter, PromptPainter
from worldsim.runtime.types import Array


class FreeDescriptions:
    """Returns the parts of a prompt in turn, for painters that read text themselves.

    prompt: descriptions separated by "then"; empty for painters without words.
    length: number of places over which they are spread evenly.
    """

    def __init__(self, prompt: str, length: int) -> None:
        self.places = split_prompt(prompt) if prompt else [""]
        self.length = max(length, len(self.places))

    def next(self, previous: Sequence[str], rng: np.random.Generator) -> str:
        """Return the words of the next place."""
        at = len(previous) * len(self.places) // self.length
        return self.places[min(at, len(self.places) - 1)]


def descriptions_for(prompt: str | None, painter: Painter, length: int) -> DescriptionGenerator:
    """Return who writes a journey's words.

    prompt: the places' words, separated by "then" and spread over ``length`` places; None for a
        seeded grammar.
    painter: understands them: by its attributes, or as free text
        (:class:`worldsim.protocols.PromptPainter`).

    Raises InvalidInputError.
    """
    attributes = painter.spec.attributes
    if not attributes:
        if prompt and not isinstance(painter, PromptPainter):
            raise InvalidInputError(
                f"this painter has no attributes and understands no words, got {prompt!r}: leave "
                "the prompt out."
            )
        return FreeDescriptions(prompt or "", length)
    if prompt is None:
        return GrammarDescriptions(attributes)
    return ListedDescriptions(prompt, attributes, length)


def reader_of(attributes: Sequence[str], prior: AttributePrior | None = None) -> Describe:
    """Return what converts words to a painter's attributes.

    prior: completes them to a whole vector of a real place. Without it, only attributes that the
        words name are told.
    """

    def read(words: str, rng: np.random.Generator) -> tuple[Array | None, Array | None]:
        if not attributes:
            return None, None
        return attributes_of(words, attributes, rng, prior)

    return read
