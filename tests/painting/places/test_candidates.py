"""Candidates of a place: their seeds, their order, and which one is painted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.painters import make_tiny_painter
from worldsim.errors import InvalidInputError
from worldsim.painting.places.candidates import (
    Candidate,
    CandidateConfig,
    best_of,
    candidate_seed,
)
from worldsim.painting.places.new_places import PlaceRequest, paint_request
from worldsim.painting.places.place import PlaceConfig
from worldsim.painting.words.recogniser import AttributeRecogniser


class Brightest(AttributeRecogniser):
    """Takes the brightness of a place for the probability of whatever is wanted."""

    def look(self, rgb: Tensor, wanted: Mapping[str, float]) -> dict[str, float]:
        return {name: float(rgb.float().mean()) / 255.0 for name in wanted}


def brightest(names: tuple[str, ...]) -> Brightest:
    return Brightest(names, (0.1,) * len(names), (0.5,) * len(names), channels=(8,), hidden=8)


def test_the_first_seed_is_the_places_own():
    seeds = [candidate_seed(5, i) for i in range(4)]
    assert seeds[0] == 5 and len(set(seeds)) == 4 and all(0 <= s < 2**63 for s in seeds)
    assert seeds == [candidate_seed(5, i) for i in range(4)]
    assert candidate_seed(6, 1) != seeds[1]


def test_agreement_is_a_geometric_mean():
    one = Candidate(0, {"brick": 0.9, "lava": 0.4})
    assert one.agreement == pytest.approx(0.6)
    assert Candidate(1, {}).agreement == 1.0
    assert Candidate(2, {"brick": 0.0}).agreement == pytest.approx(1e-4)
    assert best_of([one, Candidate(3, {"brick": 0.6})]) is one


def test_the_candidate_that_shows_most_is_painted():
    painter = make_tiny_painter()
    names = painter.spec.attributes
    request = PlaceRequest(
        prompt=names[0],
        config=PlaceConfig(headings=2, capacity=4096),
        recogniser=brightest(names),
        candidates=CandidateConfig(candidates=3, steps=99),
    )
    made = paint_request(painter, request, 4)
    assert [c.seed for c in made.candidates] == [candidate_seed(4, i) for i in range(3)]
    best = max(made.candidates, key=lambda c: c.agreement)
    assert made.seed == best.seed
    # The preview in all steps is the place that is painted.
    shown = float(made.place.frames.rgb.float().mean()) / 255.0
    assert best.shows[names[0]] == pytest.approx(shown, abs=1e-6)
    told = made.told()
    assert told["painted_seed"] == made.seed and len(told["candidates"]) == 3
    again = paint_request(painter, request, 4)
    assert torch.equal(again.place.frames.rgb, made.place.frames.rgb)
    alone = dataclasses.replace(request, candidates=CandidateConfig(candidates=1))
    first = paint_request(painter, alone, 4)
    assert first.seed == 4 and not first.candidates and "candidates" not in first.told()
    named = PlaceRequest(attributes={names[0]: 0.5}, recogniser=request.recogniser)
    assert not paint_request(
        painter, dataclasses.replace(named, config=request.config), 4
    ).candidates
    np.testing.assert_array_equal(first.attributes[names[0]], made.attributes[names[0]])


def test_settings_are_checked():
    with pytest.raises(InvalidInputError, match="candidates"):
        CandidateConfig(candidates=0)
