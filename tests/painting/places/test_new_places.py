"""What a painter receives for a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.painters import make_tiny_painter
from worldsim.painting.places.new_places import PlaceRequest, conditions_of
from worldsim.painting.words.attributes import AttributePrior

pytestmark = pytest.mark.fast


def test_words_ask_for_more_than_the_quantile_and_nothing_striking_is_added():
    """All places with bricks have 51 of 255 of them, and half of those have water."""
    painter = make_tiny_painter()
    table = np.array([[51, 200, 100], [51, 0, 120]] * 20 + [[0, 200, 90]] * 20, np.uint8)
    prior = AttributePrior(table, painter.spec.attributes)
    request = PlaceRequest(prompt="brick", prior=prior)
    for seed in range(8):
        found = conditions_of(request, painter, np.random.default_rng(seed))
        assert found is not None and found.told.all() and dict(found.wanted) == {"brick": 0.7}
        np.testing.assert_allclose(found.values * 255, [102, 0, 120], atol=1e-3)
        assert found.away is not None
        np.testing.assert_allclose(found.away * 255, [0, 0, 120], atol=1e-3)


def test_attributes_override_words():
    painter = make_tiny_painter()
    request = PlaceRequest(prompt="brick, dark", attributes={"brick": 0.3})
    found = conditions_of(request, painter, np.random.default_rng(0))
    assert found is not None and set(found.wanted) == {"light"} and found.away is None
    assert found.values[0] == pytest.approx(0.3) and list(found.told) == [True, False, True]
