"""Prompts: free text to amounts of a painter's attributes.

The vocabulary is closed (:mod:`worldsim.painting.words.vocabulary`). Stop words are skipped. Words
such as colours, for which no painter has an attribute, are reported. Unknown words are an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from worldsim.errors import InvalidInputError
from worldsim.painting.words import vocabulary as v
from worldsim.painting.words.lexicon import Lexicon, Modifier, lexicon, singulars
from worldsim.painting.words.vocabulary import NONE, PLAIN, SCALES, Term

LONGEST_PROMPT = 2000
"""Characters."""
EXAMPLE = "a dark brick hall with lava"
LISTED = "The command `worldsim words` lists all words"
MOST_SHOWN = 8
"""Unknown words in an error."""
_TOKEN = re.compile(r"[^\W_]+|[,.;:!?()\n]")
_PUNCTUATION = frozenset(",.;:!?()\n")
_ENDERS = frozenset({"but", "yet", "while", "with", "has", "have", "having", *_PUNCTUATION} - {","})
_ARTICLES = frozenset({"a", "an", "the"})
_MATERIALS = frozenset(name for term in v.MATERIALS for name in term.says) - {"door"}
STRONGER, WEAKER = 0.6, 0.5
"""Shares by which "very" moves a quantile to the end of its scale, "slightly" to the middle."""


@dataclass(frozen=True, eq=False)
class ParsedPrompt(Mapping[str, float]):
    """What a prompt asks for: a mapping from attributes to amounts in [0, 1].

    Amounts are relative to real places (:mod:`worldsim.painting.words.vocabulary`).
    :meth:`worldsim.painting.words.attributes.AttributePrior.complete` converts them to a whole
    vector.
    """

    prompt: str
    """The text."""
    amounts: Mapping[str, float]
    """Amounts by attribute, in the painter's order."""
    hinted: frozenset[str] = frozenset()
    """Attributes that only kinds of places hint at, such as the rock of a cave."""
    ignored: tuple[str, ...] = ()
    """Words that ask for something the painter has no attribute for, such as colours."""

    def __getitem__(self, attribute: str) -> float:
        return self.amounts[attribute]

    def __iter__(self) -> Iterator[str]:
        return iter(self.amounts)

    def __len__(self) -> int:
        return len(self.amounts)

    @property
    def notice(self) -> str:
        """A sentence for the user about ignored words; empty if there are none."""
        if not self.ignored:
            return ""
        return (
            f"not understood by this painter, which has no attribute for that: "
            f"{_quoted(self.ignored)} in the prompt {_short(self.prompt)!r}."
        )


@dataclass(frozen=True)
class _Request:
    """An amount that a part of the prompt asks for."""

    text: str
    amount: float
    modified: bool = False


def parse_prompt(prompt: str, attributes: Sequence[str]) -> ParsedPrompt:
    """Parse ``prompt`` into amounts of ``attributes``, those of a painter.

    Raises InvalidInputError for an empty prompt, unknown words, words for attributes that the
    painter does not have, contradictions and negations that cannot be resolved.
    """
    tokens = _tokens(prompt)
    if _PUNCTUATION.issuperset(tokens):
        raise InvalidInputError(
            f"the prompt {_short(prompt)!r} is empty: write what the place shows, such as "
            f"{EXAMPLE!r}."
        )
    return _Parser(prompt, tokens, tuple(attributes)).parse()


def split_prompt(prompt: str) -> list[str]:
    """Split the prompt of a journey, as "a, then b, then c", into those of its places.

    Parts are separated by "then", semicolons and line breaks.
    """
    _check_text(prompt)
    parts = re.split(r"[,.]?\s*\b(?:and\s+)?then\b\s*,?|[;\n]", prompt, flags=re.IGNORECASE)
    return [part.strip(" ,.\t") for part in parts if part.strip(" ,.\t")]


def suggested_words(attributes: Sequence[str]) -> list[str]:
    """Return the first spelling of every term that asks for something ``attributes`` have."""
    return [
        term.spellings[0]
        for terms in v.GROUPS.values()
        for term in terms
        if {*term.says, *term.hints} & set(attributes)
    ]


def words_table() -> str:
    """Return the vocabulary as a Markdown table: subject, words, what they ask for."""
    rows = ["| subject | words | asks for |", "|---|---|---|"]
    for subject, terms in v.GROUPS.items():
        for term in terms:
            rows.append(f"| {subject} | {term.words} | {_asked(term)} |")
    return "\n".join(rows)


def _asked(term: Term) -> str:
    """Describe the amounts of a term, hints in parentheses."""
    said = [f"{name} {amount:g}" for name, amount in term.says.items()]
    hinted = [f"{name} {amount:g}" for name, amount in term.hints.items()]
    return " ".join([", ".join(said), *([f"({', '.join(hinted)})"] if hinted else [])]).strip()


def _short(prompt: str) -> str:
    """Return a prompt for messages, which may be cut."""
    return prompt if len(prompt) <= 200 else f"{prompt[:197]}..."


def _check_text(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise InvalidInputError(
            f"a prompt is text, got {type(prompt).__name__}: write what the place shows, such as "
            f"{EXAMPLE!r}."
        )
    if len(prompt) > LONGEST_PROMPT:
        raise InvalidInputError(
            f"the prompt has {len(prompt)} characters: give at most {LONGEST_PROMPT}, for one "
            "place at a time."
        )


def _tokens(prompt: str) -> list[str]:
    _check_text(prompt)
    return _TOKEN.findall(prompt.casefold())


class _Parser:
    """Reads the tokens of one prompt from left to right."""

    def __init__(self, prompt: str, tokens: list[str], attributes: tuple[str, ...]) -> None:
        self.prompt, self.tokens, self.attributes = prompt, tokens, attributes
        self.shown = _short(prompt)
        self.lexicon = lexicon()
        self.said: dict[str, list[_Request]] = {}
        self.hints: dict[str, list[float]] = {}
        self.ignored: list[str] = []
        self.unknown: list[str] = []

    def parse(self) -> ParsedPrompt:
        """Return the result or raise InvalidInputError."""
        self._read()
        if self.unknown:
            raise InvalidInputError(_unknown_message(self.unknown, self.lexicon))
        amounts = {name: self._settle(name, asked) for name, asked in self.said.items()}
        if any(amounts.get(name, NONE) >= PLAIN for name in _MATERIALS):
            # A metal base is of metal, not half of what bases are usually made of.
            self.hints = {k: a for k, a in self.hints.items() if k not in _MATERIALS}
        hinted = {
            name: sum(values) / len(values) if name in SCALES else max(values)
            for name, values in self.hints.items()
            if name not in amounts
        }
        found = {**hinted, **amounts}
        if not found:
            raise InvalidInputError(
                f"the prompt {self.shown!r} asks for nothing that this painter has an "
                f"attribute for (it has {', '.join(self.attributes) or 'none'}). {LISTED}."
            )
        ordered = {name: found[name] for name in self.attributes if name in found}
        return ParsedPrompt(
            self.prompt, ordered, frozenset(hinted), tuple(dict.fromkeys(self.ignored))
        )

    def _read(self) -> None:
        """Collect what each word asks for."""
        at, modifier, used, linked = 0, None, False, ""
        while at < len(self.tokens):
            token = self.tokens[at]
            length, term = self._match(at)
            if term is not None:
                text = " ".join(self.tokens[at : at + length])
                direct = modifier is not None and not used
                if not self._repeats_neighbour(term, at, length):
                    self._ask(term, text, modifier, direct, linked)
                used = True
                if modifier is not None and modifier.next_only:
                    modifier = None
                at += length
                linked = ""
                continue
            length, found = self._modifier(at)
            if found is not None:
                modifier, used, at, linked = found, False, at + length, ""
                continue
            at += 1
            if token == ",":
                if modifier and not (modifier.amount == NONE and self._or_follows(at)):
                    modifier = None
            elif token in _ENDERS or (token in _ARTICLES and used):
                modifier = None
            elif token in ("and", "or", "nor"):
                linked = token
            elif any(word in self.lexicon.ignored for word in singulars(token)):
                self.ignored.append(token)
            elif not self._is_empty(token) and not self._without_suffix(token):
                self.unknown.append(token)

    def _is_empty(self, token: str) -> bool:
        """Whether a token has no content."""
        stop_words = self.lexicon.stop_words
        return token in _PUNCTUATION or any(word in stop_words for word in singulars(token))

    def _match(self, at: int) -> tuple[int, Term | None]:
        """Return the longest term at a token, and its length."""
        for length in range(self.lexicon.longest, 0, -1):
            words = tuple(self.tokens[at : at + length])
            if len(words) < length:
                continue
            if length == 1 and words[0] in self.lexicon.stop_words:
                return 0, None
            for last in singulars(words[-1]):
                term = self.lexicon.terms.get((*words[:-1], last))
                if term is not None:
                    return length, term
        return 0, None

    def _modifier(self, at: int) -> tuple[int, Modifier | None]:
        for length in range(self.lexicon.longest, 0, -1):
            found = self.lexicon.modifiers.get(tuple(self.tokens[at : at + length]))
            if found is not None:
                return length, found
        return 0, None

    def _or_follows(self, at: int) -> bool:
        """Whether the list goes on to an "or": "no lava, slime or water"."""
        for i in range(at, len(self.tokens)):
            if self.tokens[i] in ("or", "nor"):
                return True
            if self.tokens[i] in _ENDERS | _ARTICLES | {"and"} or self._modifier(i)[1]:
                return False
        return False

    def _repeats_neighbour(self, term: Term, at: int, length: int) -> bool:
        """Whether a word only supports its neighbour, as in "a lava pool" and "dim light"."""
        others = v.FLOORS if term is v.WATERS else v.LIGHTS if term in v.LIT_TERMS else ()
        before = self._match(at - 1)[1] if at > 0 else None
        after, behind = at + length, None
        if self.tokens[after : after + 1] in (["of"], ["with"]):
            while after < len(self.tokens) and self.tokens[after] in self.lexicon.stop_words:
                after += 1
            behind = self._match(after)[1]
        return before in others or behind in others

    def _without_suffix(self, token: str) -> bool:
        """Read words such as "doorless"."""
        term = self.lexicon.terms.get((token.removesuffix("less"),))
        if not token.endswith("less") or term is None or term.absent is None:
            return False
        self._ask(term, token, Modifier("no", NONE), True, "")
        return True

    def _ask(
        self, term: Term, text: str, modifier: Modifier | None, direct: bool, linked: str
    ) -> None:
        """Note what a term asks for, as changed by a modifier before it.

        direct: whether no other term stands between the two.
        linked: the conjunction before the term.
        """
        scale = any(name in SCALES for name in term.says)
        if modifier is not None and modifier.amount == NONE:
            if linked == "and" and not scale and term.says:
                raise InvalidInputError(
                    f"{self.shown!r} can be read in two ways: write '{modifier.text} ... or "
                    f"{text}' if {text!r} is negated too, or '{modifier.text} ..., {text}' if not."
                )
            if direct or not scale:
                self._negate(term, text, modifier)
                return
            modifier = None
        if modifier is not None and scale and not (direct and (modifier.adverb or term.absent)):
            modifier = None
        if term.says and not any(name in self.attributes for name in term.says):
            raise self._lacking(term, text)
        for name, amount in term.says.items():
            changed = amount if modifier is None else _change(name, amount, modifier.amount)
            shown = f"{modifier.text} {text}" if modifier is not None and direct else text
            self._note(name, _Request(shown, changed, modifier is not None))
        for name, amount in term.hints.items():
            if name in self.attributes:
                self.hints.setdefault(name, []).append(amount)

    def _negate(self, term: Term, text: str, modifier: Modifier) -> None:
        if term.absent is None:
            raise InvalidInputError(
                f"'{modifier.text} {text}' in the prompt leaves open what is wanted: write what "
                "the place is instead, such as 'bright' for 'not dark'."
            )
        if not any(name in self.attributes for name in term.absent):
            raise self._lacking(term, f"{modifier.text} {text}")
        for name, amount in term.absent.items():
            self._note(name, _Request(f"{modifier.text} {text}", amount, True))

    def _note(self, name: str, request: _Request) -> None:
        if name in self.attributes:
            self.said.setdefault(name, []).append(request)

    def _lacking(self, term: Term, text: str) -> InvalidInputError:
        return InvalidInputError(
            f"{text!r} asks for {' and '.join(term.says)}, which this painter has no attribute "
            f"for: it has {', '.join(self.attributes) or 'none'}. Leave {text!r} out, or use a "
            "painter that has it."
        )

    def _settle(self, name: str, asked: list[_Request]) -> float:
        """Return the amount that several requests for one attribute agree on."""
        least = min(asked, key=lambda request: request.amount)
        most = max(asked, key=lambda request: request.amount)
        if name in SCALES:
            if least.amount < 0.5 < most.amount:
                raise self._contradiction(name, least, most)
            return max((r.amount for r in asked), key=lambda amount: abs(amount - 0.5))
        if least.amount == NONE < most.amount:
            raise self._contradiction(name, least, most)
        modified = [request for request in asked if request.modified]
        if len({request.amount for request in modified}) > 1:
            raise self._contradiction(name, least, most)
        return modified[0].amount if modified else most.amount

    def _contradiction(self, name: str, one: _Request, other: _Request) -> InvalidInputError:
        return InvalidInputError(
            f"{one.text!r} and {other.text!r} in the prompt contradict each other ({name}): keep "
            "one of them, or describe two places, '..., then ...'."
        )


def _change(name: str, amount: float, level: float) -> float:
    """Return the amount of an attribute behind a modifier of this level."""
    if name not in SCALES:
        return level if amount == PLAIN else amount
    if level > PLAIN:
        end = 0.0 if amount < 0.5 else 1.0
        return amount + STRONGER * (end - amount)
    return amount + WEAKER * (0.5 - amount)


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words)


def _nearest(word: str, known: Lexicon) -> list[str]:
    """Return up to three known words like ``word``.

    Of equally near ones, those that ask for something come first.
    """

    def rank(other: str) -> tuple[float, bool]:
        nearness = difflib.SequenceMatcher(None, other, word).ratio()
        return -round(nearness, 2), other in known.ignored

    return sorted(difflib.get_close_matches(word, known.known, n=8), key=rank)[:3]


def _unknown_message(unknown: Sequence[str], known: Lexicon) -> str:
    told = []
    for word in dict.fromkeys(unknown):
        near = _nearest(word, known)
        told.append(f"{word!r} (near: {', '.join(near)})" if near else f"{word!r}")
    count = "an unknown word" if len(told) == 1 else f"{len(told)} unknown words"
    more = f" and {len(told) - MOST_SHOWN} more" if len(told) > MOST_SHOWN else ""
    return f"the prompt has {count}: {', '.join(told[:MOST_SHOWN])}{more}. {LISTED}."
