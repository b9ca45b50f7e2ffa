"""``worldsim words``: lists the words of prompts, or shows what a prompt asks for."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from worldsim.painting.words import vocabulary
from worldsim.painting.words.prompt import parse_prompt
from worldsim.runtime.json_config import write_json
from worldsim.runtime.types import JsonObject


@dataclass(frozen=True)
class WordsConfig:
    """List the words of prompts, or show what a prompt asks for."""

    prompt: str | None = None
    """Show what this prompt asks for, such as "a dark brick hall with lava"."""
    json: Path | None = None
    """Also write the result to this file."""


def words(config: WordsConfig) -> None:
    """Print the vocabulary, or the amounts of a prompt.

    Raises InvalidInputError for a prompt that cannot be parsed.
    """
    found = describe_words() if config.prompt is None else describe_prompt(config.prompt)
    if config.json:
        write_json(config.json, found)
    print(_listed(found) if config.prompt is None else _told(found))


def describe_words() -> JsonObject:
    """Return the words of each subject, with synonyms in one text."""
    listed = {
        subject: [term.words for term in terms] for subject, terms in vocabulary.GROUPS.items()
    }
    quantities = {str(amount): text for amount, text in vocabulary.QUANTITIES.items()}
    return {
        **listed,
        "amounts": [vocabulary.NEGATIONS, *quantities.values(), *vocabulary.DEGREES.values()],
        "accepted, but not painted": [vocabulary.COLOURS, vocabulary.QUALITIES],
    }


def describe_prompt(prompt: str) -> JsonObject:
    """Return the amounts that a prompt asks for, and the words that ask for nothing."""
    parsed = parse_prompt(prompt, vocabulary.attributes())
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
