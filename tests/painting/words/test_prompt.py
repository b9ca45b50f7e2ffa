"""Prompts: what words ask for, unknown and contradictory ones, and the documented vocabulary."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.painting.words import vocabulary
from worldsim.painting.words.prompt import (
    LONGEST_PROMPT,
    ParsedPrompt,
    parse_prompt,
    split_prompt,
    suggested_words,
    words_table,
)
from worldsim.painting.words.vocabulary import DARK, DIM, LIT, MUCH, NARROW, NONE, PLAIN, SOME, WIDE

pytestmark = pytest.mark.fast

WALLS = "brick stone rock metal tech panel wood marble flesh hot slimy door".split()
ATTRIBUTES = (*WALLS, *"water lava slime blood nature sky light openness stairs".split())
DOCS = Path(__file__).resolve().parents[3] / "docs/how_to/words.md"


def parse(prompt: str) -> ParsedPrompt:
    return parse_prompt(prompt, ATTRIBUTES)


@pytest.mark.parametrize(
    ("prompt", "amounts"),
    [
        ("brick", {"brick": PLAIN}),
        ("Bricks!", {"brick": PLAIN}),
        ("some bricks and stone", {"brick": SOME, "stone": SOME}),
        ("mostly wood, some metal", {"wood": MUCH, "metal": SOME}),
        ("a dark place", {"light": DARK}),
        ("dim light", {"light": DIM}),
        ("well-lit", {"light": LIT}),
        ("no light", {"light": 0.02}),
        ("wide open ground with lava", {"lava": PLAIN, "openness": 0.97}),
        ("a narrow room without doors", {"door": NONE, "sky": NONE, "openness": NARROW}),
        ("a doorless, narrow place", {"door": NONE, "openness": NARROW}),
        ("no lava, slime or water; brick", {"brick": PLAIN, "lava": 0, "slime": 0, "water": 0}),
        ("no lava but water", {"lava": NONE, "water": PLAIN}),
        ("a pool of nukage", {"slime": PLAIN}),
        ("a lake beside a lava pool", {"water": PLAIN, "lava": PLAIN}),
        ("flooded with blood", {"blood": PLAIN}),
        ("outdoors, mostly rocky", {"rock": MUCH, "sky": PLAIN, "openness": LIT}),
        ("stone steps", {"stone": PLAIN, "stairs": PLAIN}),
        ("a flight of stairs beside some water", {"water": SOME, "stairs": PLAIN}),
        ("many staircases, no lava", {"lava": NONE, "stairs": MUCH}),
        ("brick without a stairway or doors", {"brick": PLAIN, "door": NONE, "stairs": NONE}),
        ("a stairless metal place", {"metal": PLAIN, "stairs": NONE}),
    ],
)
def test_amounts(prompt: str, amounts: dict[str, float]):
    assert dict(parse(prompt)) == amounts


def test_the_example_of_the_command_line():
    parsed = parse("a dark brick hall with lava and a red sky")
    wanted = {"brick": PLAIN, "lava": PLAIN, "sky": PLAIN, "light": DARK, "openness": 0.7}
    assert dict(parsed) == wanted
    assert list(parsed) == [name for name in ATTRIBUTES if name in wanted]
    assert parsed.hinted == {"openness"} and parsed.ignored == ("red",)
    assert "'red'" in parsed.notice and parse("a brick hall").notice == ""


def test_degrees_move_quantiles():
    assert parse("very dark")["light"] == pytest.approx(0.4 * DARK)
    assert parse("mostly dark")["light"] == pytest.approx(0.4 * DARK)
    assert parse("slightly wide")["openness"] == pytest.approx((0.5 + WIDE) / 2)
    assert dict(parse("very dark brick")) == {"brick": PLAIN, "light": pytest.approx(0.4 * DARK)}
    assert dict(parse("many wide doors")) == {"door": MUCH, "openness": WIDE}


def test_kinds_of_places_give_way():
    assert dict(parse("a cave")) == {"rock": PLAIN, "sky": NONE}
    assert dict(parse("a cave under the sky, narrow")) == {
        "rock": PLAIN,
        "sky": PLAIN,
        "openness": NARROW,
    }
    assert dict(parse("a base")) == {"tech": PLAIN}
    assert dict(parse("a metal base")) == {"metal": PLAIN}
    assert dict(parse("a base with some metal")) == {"metal": SOME, "tech": PLAIN}


def test_everyday_words():
    parsed = parse("a cosy kitchen with windows")
    assert dict(parsed) == {"sky": NONE, "openness": NARROW} and parsed.ignored == ("windows",)
    assert parse("a damp cellar")["water"] == SOME
    assert parse("a damp lake")["water"] == PLAIN
    assert parse("a library with books")["wood"] == PLAIN
    assert dict(parse("a medium-sized living room")) == {"sky": NONE, "openness": 0.5}
    assert dict(parse("ruins in a swamp")) == {
        "stone": PLAIN,
        "water": PLAIN,
        "nature": PLAIN,
        "sky": PLAIN,
    }


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a drak hall", "an unknown word: 'drak' .near: dark"),
        ("a hal with windws", "2 unknown words: 'hal' .near: hall.*worldsim words"),
        ("漢字", "an unknown word: '漢字'"),
        ("3 doors", "'3'"),
        ("dark and bright", "'dark' and 'bright' .* contradict"),
        ("no sky under a red sky", "'no sky' and 'sky' .* contradict"),
        ("wide but cramped", "contradict"),
        ("some brick, mostly brick", "contradict"),
        ("indoors and outdoors", "contradict"),
        ("no lava and water", "two ways"),
        ("not dark", "leaves open"),
        ("no corridor", "leaves open"),
        ("red", "asks for nothing"),
        ("a place", "asks for nothing"),
        ("", "is empty"),
        (" \n ", "is empty"),
        ("brick " * LONGEST_PROMPT, "characters"),
    ],
)
def test_refused(prompt: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        parse(prompt)


def test_long_text_is_not_repeated_in_errors():
    with pytest.raises(InvalidInputError) as error:
        parse(" ".join(f"w{i}" for i in range(200)))
    assert "200 unknown words" in str(error.value) and len(str(error.value)) < 1000


def test_text_is_needed():
    with pytest.raises(InvalidInputError, match="a prompt is text, got bytes"):
        parse_prompt(b"brick", ATTRIBUTES)  # type: ignore[arg-type]


def test_only_the_painters_attributes():
    assert dict(parse_prompt("a brick cave", ("brick",))) == {"brick": PLAIN}
    with pytest.raises(InvalidInputError, match="'lava' asks for lava.*it has brick, sky"):
        parse_prompt("lava", ("brick", "sky"))
    with pytest.raises(InvalidInputError, match="'steps' asks for stairs.*Leave 'steps' out"):
        parse_prompt("a brick place with steps", ("brick", "sky"))
    with pytest.raises(InvalidInputError, match="'no stairs' asks for stairs.*it has brick"):
        parse_prompt("brick, no stairs", ("brick", "sky"))
    with pytest.raises(InvalidInputError, match="it has none"):
        parse_prompt("a cave", ())


def test_every_word_parses_alone_and_means_one_thing():
    spellings = [
        (spelling, term)
        for terms in vocabulary.GROUPS.values()
        for term in terms
        for spelling in term.spellings
    ]
    assert len({spelling for spelling, _ in spellings}) == len(spellings)
    for spelling, term in spellings:
        parsed = dict(parse(spelling))
        assert parsed == {**term.hints, **term.says}, spelling
        assert {*term.says, *term.hints} <= set(ATTRIBUTES)
    stop, silent = (
        set(", ".join(words).split(", "))
        for words in ([vocabulary.STOP_WORDS], [vocabulary.COLOURS, vocabulary.QUALITIES])
    )
    assert not stop & silent
    assert not (stop | silent) & {spelling for spelling, _ in spellings}


@settings(deadline=None)
@given(
    st.text(alphabet=string.printable + "äß漢", max_size=60)
    | st.lists(
        st.sampled_from(
            "no some mostly very dark bright brick lava pool of with or and , sky hall red".split()
        ),
        max_size=12,
    ).map(" ".join)
)
def test_any_text_gives_amounts_or_a_clear_error(prompt: str):
    try:
        parsed = parse(prompt)
    except InvalidInputError:
        return
    assert parsed and set(parsed) <= set(ATTRIBUTES)
    assert all(0.0 <= amount <= 1.0 for amount in parsed.values())


def test_split_prompt():
    assert split_prompt("corridors of stone, then open ground, then a metal base") == [
        "corridors of stone",
        "open ground",
        "a metal base",
    ]
    assert split_prompt("a; b\nThen c. Then d and then e;") == ["a", "b", "c", "d", "e"]
    assert split_prompt("a heathen strengthens") == ["a heathen strengthens"]


def test_suggested_words():
    words = suggested_words(("brick", "sky"))
    assert {"brick", "sky", "indoors"} <= set(words) and "lava" not in words


def test_the_vocabulary_is_documented():
    page = DOCS.read_text()
    assert words_table() in page
    for words in (
        vocabulary.COLOURS,
        vocabulary.QUALITIES,
        vocabulary.THINGS,
        vocabulary.FEELINGS,
    ):
        assert words.replace("\n", " ") in page.replace("\n", " ")
