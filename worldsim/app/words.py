"""``worldsim words``: lists the words of prompts, or shows what a prompt asks for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldsim.painting.painter import DEFAULT_PAINTER
from worldsim.painting.words import vocabulary
from worldsim.painting.words.attributes import open_prior
from worldsim.painting.words.prompt import parse_prompt
from worldsim.runtime.json_config import write_json
from worldsim.runtime.types import JsonObject


@dataclass(frozen=True)
class WordsConfig:
    """List the words of prompts, or show what a prompt asks for."""

    prompt: str | None = None
    """Show what this prompt asks for, such as "a dark brick hall with lava"."""
    painter: str = DEFAULT_PAINTER
    """Painter that the words are for: a shipped name, or a folder with a table of attributes."""
    json: Path | None = None
    """Also write the result to this file."""


def words(config: WordsConfig) -> None:
    """Print the vocabulary, or the amounts of a prompt.

    Raises InvalidInputError for a prompt that cannot be parsed, NotFoundError or DamagedFileError.
    """
    names = open_prior(config.painter).names
    prompt = config.prompt
    found = describe_words(names) if prompt is None else describe_prompt(prompt, names)
    if config.json:
        write_json(config.json, found)
    print(_listed(found) if config.prompt is None else _told(found))


def describe_words(attributes: Sequence[str]) -> JsonObject:
    """Return the words of each subject, with synonyms in one text.

    attributes: those of the painter. Words for others are listed apart.
    """
    listed: dict[str, list[str]] = {}
    lacking: list[str] = []
    for subject, terms in vocabulary.GROUPS.items():
        for term in terms:
            known = not term.says or any(name in attributes for name in term.says)
            (listed.setdefault(subject, []) if known else lacking).append(term.words)
    quantities = {str(amount): text for amount, text in vocabulary.QUANTITIES.items()}
    return {
        **listed,
        "amounts": [vocabulary.NEGATIONS, *quantities.values(), *vocabulary.DEGREES.values()],
        "accepted, but not painted": [
            vocabulary.COLOURS,
            vocabulary.QUALITIES,
            vocabulary.THINGS,
            vocabulary.FEELINGS,
        ],
        **({"an error, as this painter has no attribute for it": lacking} if lacking else {}),
    }


def describe_prompt(prompt: str, attributes: Sequence[str]) -> JsonObject:
    """Return the amounts that a prompt asks for, and the words that ask for nothing.

    attributes: those of the painter.
    """
    parsed = parse_prompt(prompt, attributes)
    return {
        "prompt": prompt,
        "amounts": {name: round(amount, 4) for name, amount in parsed.items()},
        "hinted": sorted(parsed.hinted),
        "ignored": list(parsed.ignored),
        "notice": parsed.notice,
    }


def _listed(found: JsonObject) -> str:
    paragraphs = []
    for subject, terms in found.items():
        lines = [
            textwrap.fill(term, 96, initial_indent="  ", subsequent_indent="      ")
            for term in terms
        ]
        paragraphs.append("\n".join([subject, *lines]))
    return "\n\n".join(paragraphs)


def _told(found: JsonObject) -> str:
    lines = [
        f"{name} {amount:g}{' (hinted)' if name in found['hinted'] else ''}"
        for name, amount in found["amounts"].items()
    ]
    return "\n".join([*lines, *([found["notice"]] if found["notice"] else [])])
