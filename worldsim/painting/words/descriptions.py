"""Generators of descriptions: what the next place of a journey looks like, in words.

They implement :class:`worldsim.protocols.DescriptionGenerator`. All descriptions that they return
can be parsed by :func:`worldsim.painting.words.prompt.parse_prompt`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.painting.words.prompt import parse_prompt, split_prompt, suggested_words

WALL_ADJECTIVES = {
    "brick": "brick",
    "stone": "stone",
    "rock": "rocky",
    "metal": "metal",
    "tech": "high-tech",
    "panel": "panelled",
    "wood": "wooden",
    "marble": "marble",
    "flesh": "fleshy",
    "hot": "fiery",
    "slimy": "slimy",
}
FEATURES = {
    "water": ("a pool of water", "a little water", "water on the floor"),
    "lava": ("lava", "a stream of lava", "some lava"),
    "slime": ("pools of acid", "nukage", "some slime on the floor"),
    "blood": ("a pool of blood", "some blood on the floor"),
    "nature": ("grass", "a grassy floor", "some moss"),
    "door": ("doors", "a door", "many doors"),
    "stairs": ("stairs", "some steps", "a staircase"),
}
INSIDE = ("hall", "corridor", "room", "chamber", "passage", "gallery", "tunnel")
OUTSIDE = ("courtyard", "yard", "plaza")
SIZES = {"small": INSIDE, "narrow": INSIDE, "large": INSIDE, "wide": INSIDE + OUTSIDE}
LIGHTS = ("dark", "dim", "bright", "well lit")
SKY_PHRASES = ("under an open sky", "under the sky")
LIGHT_SHARE, SIZE_SHARE, FEATURE_SHARE, SECOND_WALL_SHARE, OUTSIDE_SHARE = 0.6, 0.4, 0.6, 0.3, 0.35
"""Probabilities of the optional parts of a sentence."""


class GrammarDescriptions:
    """Writes descriptions such as "a dark brick hall with lava" from a seeded grammar.

    The material of the walls differs from those of the newest place. Only attributes of the painter
    are named, and equal generators draw equal sentences.

    attributes: those of the painter.

    Raises InvalidInputError if the painter has no attribute that the grammar can name.
    """

    def __init__(self, attributes: Sequence[str]) -> None:
        self.attributes = tuple(attributes)
        self.walls = [name for name in WALL_ADJECTIVES if name in self.attributes]
        self.features = [name for name in FEATURES if name in self.attributes]
        if not self.walls and not {"light", "openness", "sky"} & set(self.attributes):
            raise InvalidInputError(
                f"the grammar names walls, light, size and sky, and this painter has only "
                f"{', '.join(self.attributes) or 'no attributes'}: describe places yourself, with "
                "ListedDescriptions or CallableDescriptions."
            )

    def next(self, previous: Sequence[str], rng: np.random.Generator) -> str:
        """Return the description of the next place."""
        outside = "sky" in self.attributes and rng.random() < OUTSIDE_SHARE
        place = _one(OUTSIDE if outside else INSIDE, rng)
        walls = self._walls(previous, rng)
        adjectives = [*self._adjectives(place, rng), *walls[:1]]
        parts = [*walls[1:], *self._features(rng)]
        if not adjectives and not parts and not outside:
            # Kinds of places alone may ask for nothing that this painter has.
            adjectives = self._adjectives(place, rng, always=True) or ["roofless"]
        sentence = " ".join([*adjectives, place])
        sentence = f"{'an' if sentence[0] in 'aeiou' else 'a'} {sentence}"
        if parts:
            sentence += f" with {' and '.join(parts)}"
        return f"{sentence} {_one(SKY_PHRASES, rng)}" if outside else sentence

    def _walls(self, previous: Sequence[str], rng: np.random.Generator) -> list[str]:
        """Draw an adjective for the place, and perhaps a second material with a noun."""
        used = self._named(previous[-1]) if previous else set()
        free = [name for name in self.walls if name not in used] or self.walls
        if not free:
            return []
        order = [free[i] for i in rng.permutation(len(free))]
        found = [WALL_ADJECTIVES[order[0]]]
        if len(order) > 1 and rng.random() < SECOND_WALL_SHARE:
            found.append(f"some {WALL_ADJECTIVES[order[1]]} walls")
        return found

    def _named(self, description: str) -> set[str]:
        """Return the attributes that a description names; none if it is not of this vocabulary."""
        try:
            parsed = parse_prompt(description, self.attributes)
        except InvalidInputError:
            return set()
        return {name for name, amount in parsed.items() if amount > 0}

    def _adjectives(self, place: str, rng: np.random.Generator, always: bool = False) -> list[str]:
        found = []
        if "light" in self.attributes and (always or rng.random() < LIGHT_SHARE):
            found.append(_one(LIGHTS, rng))
        sizes = [size for size, places in SIZES.items() if place in places]
        if "openness" in self.attributes and (always or rng.random() < SIZE_SHARE):
            found.append(_one(sizes, rng))
        return found

    def _features(self, rng: np.random.Generator) -> list[str]:
        if not self.features or rng.random() >= FEATURE_SHARE:
            return []
        return [_one(FEATURES[_one(self.features, rng)], rng)]


class ListedDescriptions:
    """Returns the descriptions of a prompt such as "a stone corridor, then a metal base" in turn.

    prompt: descriptions separated by "then", semicolons or line breaks.
    attributes: those of the painter. All descriptions are parsed at once, so that mistakes show
        before anything is painted.
    length: number of places over which the descriptions are spread evenly, in order. By default,
        each describes one place, and the last one all further places.

    Raises InvalidInputError.
    """

    def __init__(self, prompt: str, attributes: Sequence[str], length: int | None = None) -> None:
        self.places = split_prompt(prompt)
        if not self.places:
            raise InvalidInputError(
                f"the prompt {prompt!r} describes no place: write one, such as 'a dark brick "
                "hall', or several, separated by 'then'."
            )
        if length is not None and length < len(self.places):
            raise InvalidInputError(
                f"the prompt describes {len(self.places)} places and the journey has {length}: "
                "make it longer, or describe fewer."
            )
        for place in self.places:
            parse_prompt(place, attributes)
        self.length = length

    def next(self, previous: Sequence[str], rng: np.random.Generator) -> str:
        """Return the description of the next place."""
        at = len(previous)
        if self.length is not None:
            at = at * len(self.places) // self.length
        return self.places[min(at, len(self.places) - 1)]


class CallableDescriptions:
    """Asks a callable, such as a language model of the user's, for each description.

    Nothing is downloaded or called but the callable. A description that cannot be parsed is asked
    for again, with the reason.

    ask: called with a request, a text that states the task, the painter's words and the newest
        descriptions, and asks for one line. Returns the description.
    attributes: those of the painter.
    tries: largest number of calls for one description.
    remembered: number of earlier descriptions that the request repeats.
    """

    def __init__(
        self,
        ask: Callable[[str], str],
        attributes: Sequence[str],
        tries: int = 3,
        remembered: int = 5,
    ) -> None:
        if not callable(ask):
            raise InvalidInputError(
                f"ask is {ask!r}: give a callable that takes the request and returns a description."
            )
        if tries < 1:
            raise InvalidInputError(f"tries = {tries}: give at least 1.")
        self.ask, self.attributes = ask, tuple(attributes)
        self.tries, self.remembered = tries, remembered

    def next(self, previous: Sequence[str], rng: np.random.Generator) -> str:
        """Return the description of the next place.

        Reproducible only if the callable is. Raises InvalidInputError after ``tries`` answers that
        cannot be parsed. Errors of the callable itself are not caught.
        """
        request, problem = self.request(previous), ""
        for _ in range(self.tries):
            answer = self.ask(f"{request}\n{problem}" if problem else request)
            try:
                if isinstance(answer, str):
                    answer = answer.strip().strip("\"'").strip()
                parse_prompt(answer, self.attributes)
                return answer
            except InvalidInputError as error:
                problem = f"Your last answer was {str(answer)[:500]!r}. It was refused: {error}"
        raise InvalidInputError(
            f"the callable gave no description that can be parsed in {self.tries} calls. {problem}"
        )

    def request(self, previous: Sequence[str]) -> str:
        """Return the request for the place after ``previous``."""
        lines = [
            "Describe the next place of a journey in one short line, such as 'a dark brick hall "
            "with lava'. Use only these words, and ordinary words such as 'a', 'with' and 'under':",
            ", ".join(suggested_words(self.attributes)) + ".",
            "'some', 'mostly' and 'no' before a word change its amount.",
        ]
        if newest := list(previous[-self.remembered :]) if self.remembered else []:
            lines.append("The newest places were: " + "; ".join(newest) + ".")
        return "\n".join(lines)


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
