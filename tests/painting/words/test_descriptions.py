"""Generators of descriptions: a grammar, a list and a callable."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.painting.words.descriptions import (
    FEATURES,
    WALL_ADJECTIVES,
    CallableDescriptions,
    GrammarDescriptions,
    ListedDescriptions,
)
from worldsim.painting.words.prompt import parse_prompt
from worldsim.painting.words.vocabulary import attributes
from worldsim.protocols import DescriptionGenerator

pytestmark = pytest.mark.fast

ATTRIBUTES = attributes()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def journey(generator: DescriptionGenerator, length: int, seed: int = 0) -> list[str]:
    draw, places = rng(seed), []
    for _ in range(length):
        places.append(generator.next(places, draw))
    return places


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(ATTRIBUTES), unique=True),
    st.integers(0, 2**32 - 1),
)
def test_sentences_of_the_grammar_parse(names: list[str], seed: int):
    try:
        generator = GrammarDescriptions(names)
    except InvalidInputError:
        assert not set(names) & {*WALL_ADJECTIVES, "light", "openness", "sky"}
        return
    for sentence in journey(generator, 8, seed):
        assert not parse_prompt(sentence, names).ignored


def test_the_grammar_names_everything_and_walls_change():
    places = journey(GrammarDescriptions(ATTRIBUTES), 300)
    parsed = [parse_prompt(place, ATTRIBUTES) for place in places]
    named = {name for one in parsed for name, amount in one.items() if amount > 0}
    assert named == {*WALL_ADJECTIVES, *FEATURES, "sky", "light", "openness"}
    walls = [{name for name in one if name in WALL_ADJECTIVES} - one.hinted for one in parsed]
    assert not any(a & b for a, b in itertools.pairwise(walls))
    assert len(set(places)) > 200


def test_the_grammar_is_seeded():
    generator = GrammarDescriptions(ATTRIBUTES)
    assert journey(generator, 10, 1) == journey(GrammarDescriptions(ATTRIBUTES), 10, 1)
    assert journey(generator, 10, 1) != journey(generator, 10, 2)
    assert isinstance(generator, DescriptionGenerator)


def test_the_grammar_goes_on_after_another_generator():
    assert GrammarDescriptions(ATTRIBUTES).next(["something else entirely"], rng())


@pytest.mark.parametrize("names", [(), ("lava",)])
def test_painters_that_the_grammar_cannot_describe(names: Sequence[str]):
    with pytest.raises(InvalidInputError, match="ListedDescriptions"):
        GrammarDescriptions(names)


PROMPT = "corridors of stone, then open ground, then a metal base"


def test_lists():
    generator = ListedDescriptions(PROMPT, ATTRIBUTES)
    stone, ground, base = "corridors of stone", "open ground", "a metal base"
    assert journey(generator, 5) == [stone, ground, base, base, base]
    spread = ListedDescriptions(PROMPT, ATTRIBUTES, length=7)
    assert journey(spread, 7) == [stone, stone, stone, ground, ground, base, base]


@pytest.mark.parametrize(
    ("prompt", "length", "message"),
    [
        (PROMPT, 2, "3 places and the journey has 2"),
        ("", None, "describes no place"),
        (" then ", None, "describes no place"),
        ("a brick hall, then a spaceshp", None, "'spaceshp'"),
    ],
)
def test_wrong_lists(prompt: str, length: int | None, message: str):
    with pytest.raises(InvalidInputError, match=message):
        ListedDescriptions(prompt, ATTRIBUTES, length)


def test_a_callable_is_asked_again():
    requests: list[str] = []
    answers = iter(["a purpel palace", "dark and bright", '"A marble palace under the sky"\n'])

    def ask(request: str) -> str:
        requests.append(request)
        return next(answers)

    generator = CallableDescriptions(ask, ATTRIBUTES)
    assert generator.next(["a stone hall"], rng()) == "A marble palace under the sky"
    assert "a stone hall" in requests[0] and "lava" in requests[0]
    assert "refused" not in requests[0]
    assert "'a purpel palace'" in requests[1] and "'purpel' (near: purple" in requests[1]
    assert "contradict" in requests[2] and "purpel" not in requests[2]


def test_a_callable_that_never_answers_well():
    generator = CallableDescriptions(lambda request: "blurb", ATTRIBUTES, tries=2)
    with pytest.raises(InvalidInputError, match="in 2 calls.*'blurb'"):
        generator.next([], rng())
    none: CallableDescriptions = CallableDescriptions(lambda request: None, ATTRIBUTES)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidInputError, match="got NoneType"):
        none.next([], rng())


def test_errors_of_the_callable_are_its_own():
    def ask(request: str) -> str:
        raise TimeoutError("no connection")

    with pytest.raises(TimeoutError, match="no connection"):
        CallableDescriptions(ask, ATTRIBUTES).next([], rng())


def test_wrong_callables():
    with pytest.raises(InvalidInputError, match="give a callable"):
        CallableDescriptions("model", ATTRIBUTES)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="tries = 0"):
        CallableDescriptions(lambda request: "a hall", ATTRIBUTES, tries=0)
