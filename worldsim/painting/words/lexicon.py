"""All words of prompts, by what they do: terms, modifiers, words without content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from worldsim.painting.words import vocabulary as v
from worldsim.painting.words.vocabulary import NONE, Term


@dataclass(frozen=True)
class Modifier:
    """A word that changes the amounts of those behind it."""

    text: str
    amount: float
    next_only: bool = False
    adverb: bool = False


@dataclass(frozen=True)
class Lexicon:
    """Everything that a prompt may contain, by its words."""

    terms: Mapping[tuple[str, ...], Term]
    modifiers: Mapping[tuple[str, ...], Modifier]
    ignored: frozenset[str]
    stop_words: frozenset[str]
    longest: int

    @property
    def known(self) -> list[str]:
        """Words to suggest for unknown ones."""
        return sorted({" ".join(k) for k in self.terms} | self.ignored)


def _listed(words: str) -> list[tuple[str, ...]]:
    return [tuple(word.split()) for word in words.split(", ")]


@cache
def lexicon() -> Lexicon:
    """Return the words of :mod:`worldsim.painting.words.vocabulary`."""
    terms = {
        tuple(spelling.split()): term
        for group in v.GROUPS.values()
        for term in group
        for spelling in term.spellings
    }
    modifiers = {k: Modifier(" ".join(k), NONE) for k in _listed(v.NEGATIONS)}
    for amount, words in v.QUANTITIES.items():
        for k in _listed(words):
            modifiers[k] = Modifier(" ".join(k), amount, adverb=k[0] in v.ADVERBS)
    for amount, words in v.DEGREES.items():
        for k in _listed(words):
            modifiers[k] = Modifier(" ".join(k), amount, next_only=True, adverb=True)
    nothing = (v.COLOURS, v.QUALITIES, v.THINGS, v.FEELINGS)
    ignored = frozenset(" ".join(k) for words in nothing for k in _listed(words))
    stop = frozenset(" ".join(k) for k in _listed(v.STOP_WORDS))
    longest = max(len(k) for k in (*terms, *modifiers))
    return Lexicon(terms, modifiers, ignored, stop, longest)


def singulars(word: str) -> Iterator[str]:
    """Yield ``word`` and what it may be the plural of."""
    yield word
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]
