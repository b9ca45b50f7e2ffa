"""The table of real attributes: amounts as quantiles, completed vectors, and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.painting.painter import DEFAULT_PAINTER
from worldsim.painting.words.attributes import (
    CARD,
    PRESENT,
    TABLE,
    AttributePrior,
    CompletionConfig,
    open_prior,
)
from worldsim.painting.words.prompt import parse_prompt
from worldsim.painting.words.vocabulary import MUCH, PLAIN, SOME, attributes
from worldsim.runtime.json_config import read_json
from worldsim.world.files import WORLDS_FOLDER

NAMES = ("brick", "stone", "lava", "light")


def some_prior() -> AttributePrior:
    """100 places: a third of brick, the rest of stone; every tenth has lava; light from 0 to 99."""
    index = np.arange(100)
    brick = np.where(index % 3 == 0, 200, 0)
    stone = np.where(index % 3 == 0, 40, 220)
    lava = np.where(index % 10 == 0, 51 + index, 0)
    table = np.stack([brick, stone, lava, index], 1).astype(np.uint8)
    return AttributePrior(table, NAMES, [("brick", "stone")])


def test_amounts_are_quantiles_of_places_that_show_an_attribute():
    prior = some_prior()
    # Ten places show lava: 51, 61 ... 141.
    values = prior.values({"lava": 1 / 9, "light": 0.5, "brick": 0.0})
    assert values == {
        "lava": pytest.approx(61 / 255),
        "light": pytest.approx(49.5 / 255),
        "brick": 0.0,
    }
    assert prior.values({"lava": 1.0})["lava"] == pytest.approx(141 / 255)


def test_the_rest_comes_from_a_real_place_like_what_is_wanted():
    prior, rng = some_prior(), np.random.default_rng(0)
    for _ in range(20):
        found = prior.complete({"brick": 0.7, "light": 0.9}, rng)
        assert found.shape == (4,) and found.dtype == np.float32
        np.testing.assert_allclose(found[[0, 3]], [200 / 255, 89.1 / 255], atol=1e-6)
        assert found[1] == pytest.approx(40 / 255)


def test_draws_differ_and_depend_on_the_generator_alone():
    prior = some_prior()
    draws = [prior.complete({"lava": 0.0}, np.random.default_rng(i)) for i in range(8)]
    assert len({draw.tobytes() for draw in draws}) > 3
    again = prior.complete({"lava": 0.0}, np.random.default_rng(5))
    np.testing.assert_array_equal(draws[5], again)


def test_without_words_any_real_place_is_drawn():
    prior, rng = some_prior(), np.random.default_rng(1)
    draws = {prior.complete({}, rng).tobytes() for _ in range(200)}
    rows = {(row / np.float32(255)).tobytes() for row in prior.table.astype(np.float32)}
    assert draws <= rows and len(draws) > 60


def test_exclusive_attributes_give_way():
    """No real place has 80% of brick beside 86% of stone."""
    prior, rng = some_prior(), np.random.default_rng(0)
    found = prior.complete({"stone": 0.9, "brick": 0.9}, rng)
    assert found[0] + found[1] == pytest.approx(1.0)
    assert found[0] / found[1] == pytest.approx(200 / 220)
    table = np.tile(np.array([[100, 150, 0, 9]], np.uint8), (4, 1))
    table[0] = [240, 0, 0, 9]
    prior = AttributePrior(table, NAMES, [("brick", "stone")])
    found = prior.complete({"brick": 1.0}, np.random.default_rng(3))
    assert found[0] == pytest.approx(240 / 255) and found[0] + found[1] <= 1.0 + 1e-6


def test_values_are_stretched_beyond_the_quantiles():
    """The median of light is 49.5, and its quantile 0.9 is 89.1: twice as far it is 128.7."""
    prior, rng = some_prior(), np.random.default_rng(0)
    config = CompletionConfig(scale_stretch=2.0, share_stretch=1.5)
    found = prior.complete({"light": 0.9, "lava": 1.0, "brick": 0.7}, rng, config)
    np.testing.assert_allclose(found[[0, 2, 3]] * 255, [255, 1.5 * 141, 128.7], atol=1e-3)
    dark = prior.complete({"light": 0.1}, rng, CompletionConfig(scale_stretch=9.0))
    assert dark[3] == 0.0
    with pytest.raises(InvalidInputError, match="scale_stretch"):
        CompletionConfig(scale_stretch=0.0)


def test_a_plain_place_has_nothing_striking_that_nobody_asked_for():
    prior = some_prior()
    # The nearest places are those of light 60, which has lava, and its neighbours.
    draws = [
        prior.complete({"light": 60 / 99}, np.random.default_rng(i), CompletionConfig(plain=plain))
        for plain in (False, True)
        for i in range(40)
    ]
    assert any(draw[2] > 0 for draw in draws[:40])
    assert not any(draw[2] > 0 for draw in draws[40:])
    asked = prior.complete({"lava": 1.0}, np.random.default_rng(0), CompletionConfig(plain=True))
    assert asked[2] == pytest.approx(141 / 255)


def test_the_opposite_of_a_place():
    prior = some_prior()
    wanted = {"brick": 0.7, "lava": 0.0, "light": 0.9}
    found = prior.complete(wanted, np.random.default_rng(0))
    against = prior.opposite(found, wanted)
    # Lava as usual is the quantile 0.7 of 51, 61 ... 141: 114. Light lies as far below 49.5.
    np.testing.assert_allclose(against[[0, 2, 3]] * 255, [0, 114, 99 - 89.1], atol=1e-3)
    assert against[1] == found[1]
    with pytest.raises(InvalidInputError, match="'water' is not an attribute"):
        prior.opposite(found, {"water": 0.5})


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(0.0, 1.0)),
    st.integers(0, 2**32 - 1),
)
def test_every_wish_gives_a_vector_in_range(wanted: dict[str, float], seed: int):
    prior = some_prior()
    found = prior.complete(wanted, np.random.default_rng(seed))
    assert ((found >= 0) & (found <= 1)).all() and found[0] + found[1] <= 1.0 + 1e-6
    for name, value in prior.values(wanted).items():
        if name not in ("brick", "stone"):
            assert found[NAMES.index(name)] == pytest.approx(value, abs=1e-6)


def test_amounts_that_no_place_shows():
    table = np.zeros((3, 4), np.uint8)
    table[:, 0] = PRESENT - 1
    prior = AttributePrior(table, NAMES)
    assert prior.values({"brick": 0.7, "lava": 0.25}) == {"brick": 0.7, "lava": 0.25}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"water": 0.5}, "'water' is not an attribute of this painter: it has brick, stone"),
        ({"brick": 1.5}, "amount of 'brick' is 1.5"),
        ({"brick": float("nan")}, "amount of 'brick' is nan"),
    ],
)
def test_wrong_wishes(wanted: dict[str, float], message: str):
    with pytest.raises(InvalidInputError, match=message):
        some_prior().complete(wanted, np.random.default_rng(0))


def test_wrong_tables():
    with pytest.raises(InvalidInputError, match="shape"):
        AttributePrior(np.zeros((3, 2), np.uint8), NAMES)
    with pytest.raises(InvalidInputError, match="float64"):
        AttributePrior(np.zeros((3, 4)), NAMES)
    with pytest.raises(InvalidInputError, match="empty"):
        AttributePrior(np.zeros((0, 4), np.uint8), NAMES)
    with pytest.raises(InvalidInputError, match="'rock'"):
        AttributePrior(np.zeros((3, 4), np.uint8), NAMES, [("brick", "rock")])


def test_files(tmp_path: Path):
    prior = some_prior()
    prior.save(tmp_path, {"maps": ["MAP01"]})
    loaded = AttributePrior.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.table, prior.table)
    assert (loaded.names, loaded.exclusive) == (prior.names, prior.exclusive)
    first = (tmp_path / CARD).read_bytes(), (tmp_path / TABLE).read_bytes()
    prior.save(tmp_path, {"maps": ["MAP01"]})
    assert first == ((tmp_path / CARD).read_bytes(), (tmp_path / TABLE).read_bytes())


def test_damaged_files(tmp_path: Path):
    with pytest.raises(NotFoundError, match="attributes.json"):
        AttributePrior.from_pretrained(tmp_path)
    some_prior().save(tmp_path)
    content = bytearray((tmp_path / TABLE).read_bytes())
    content[-1] ^= 1
    (tmp_path / TABLE).write_bytes(content)
    with pytest.raises(DamagedFileError, match=TABLE):
        AttributePrior.from_pretrained(tmp_path)
    some_prior().save(tmp_path)
    text = (tmp_path / CARD).read_text()
    (tmp_path / CARD).write_text(text.replace("lava", "java"))
    with pytest.raises(DamagedFileError, match=CARD):
        AttributePrior.from_pretrained(tmp_path)


def test_the_shipped_table():
    """Its places are of train maps, and every attribute that words ask for has values in it."""
    prior = open_prior()
    assert len(prior) <= 4096 and set(prior.names) <= set(attributes())
    card = read_json(WORLDS_FOLDER / DEFAULT_PAINTER / CARD)
    assert not set(card["maps"]) & {f"freedoom2/MAP{number}" for number in range(28, 33)}
    for name in prior.names:
        some, plain, mostly = (prior.values({name: q})[name] for q in (SOME, PLAIN, MUCH))
        assert 0.0 < some < plain <= mostly <= 1.0
    wanted = parse_prompt("a dark brick hall with lava and a red sky", prior.names)
    found = dict(zip(prior.names, prior.complete(wanted, np.random.default_rng(0)), strict=True))
    values = prior.values(wanted)
    assert {name: found[name] for name in values} == pytest.approx(values)
    assert sum(found[name] for name in prior.exclusive[0]) <= 1.0 + 1e-6


def test_painters_without_a_table(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no table of attributes"):
        open_prior(tmp_path)
