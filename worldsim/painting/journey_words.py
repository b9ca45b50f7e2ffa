"""The words of a journey: who writes them, and what a painter is told of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.painting.attributes import AttributePrior
from worldsim.painting.descriptions import GrammarDescriptions, ListedDescriptions
from worldsim.painting.journey import Describe
from worldsim.painting.words import parse_prompt
from worldsim.protocols import DescriptionGenerator
from worldsim.runtime.types import Array


class NoDescriptions:
    """Writes empty words, for painters without attributes."""

    def next(self, previous: Sequence[str], rng: np.random.Generator) -> str:
        """Return an empty text."""
        return ""


def descriptions_for(
    prompt: str | None, attributes: Sequence[str], length: int
) -> DescriptionGenerator:
    """Return who writes a journey's words.

    prompt: the places' words, separated by "then" and spread over ``length`` places; None for a
        seeded grammar.
    attributes: those of the painter.

    Raises InvalidInputError.
    """
    if not attributes:
        if prompt:
            raise InvalidInputError(
                f"this painter has no attributes and understands no words, got {prompt!r}: leave "
                "the prompt out."
            )
        return NoDescriptions()
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
        wanted = parse_prompt(words, attributes)
        if prior is not None:
            return prior.complete(wanted, rng), None
        values = np.array([wanted.get(name, 0.0) for name in attributes], np.float32)
        return values, np.array([name in wanted for name in attributes])

    return read
