"""Attributes on knots: hand-computed splines, quantiles, and an embedding that starts at zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.painting.knots import KnotEmbedding, hat_features, knots_of

pytestmark = pytest.mark.fast

KNOTS = ((0.0, 0.1, 0.5), (0.2, 0.4, 0.8))


def test_features_are_linear_between_knots_and_constant_beyond():
    values = torch.tensor([[0.0, 0.1], [0.05, 0.4], [0.3, 0.7], [0.9, 1.0]])
    wanted = [
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]],
        [[0.0, 0.5, 0.5], [0.0, 0.25, 0.75]],
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
    ]
    torch.testing.assert_close(hat_features(values, torch.tensor(KNOTS)), torch.tensor(wanted))


def test_shares_get_knots_for_absence_and_scales_get_quantiles_of_all_places():
    n = 1001
    share = np.zeros(n)
    share[:101] = np.linspace(0.2, 0.7, 101)
    scale = np.linspace(0.3, 0.8, n)
    shares, scales = knots_of(np.stack([share, scale], 1), 4)
    # The quantiles 0.1 and 0.98 of the places that show it: 0.2 + 0.5 * 0.1 and 0.2 + 0.5 * 0.98.
    assert shares == pytest.approx((0.0, 0.02, 0.25, 0.69))
    assert scales == pytest.approx((0.305, 0.4683, 0.6317, 0.795), abs=1e-4)


def test_equal_quantiles_become_increasing_knots():
    (row,) = knots_of(np.array([[0.0], [0.5], [0.5], [0.5]]), 5)
    assert row == pytest.approx((0.0, 0.02, 0.5, 0.504, 0.508))
    KnotEmbedding([row], 8)


def test_the_embedding_is_zero_at_first_and_ignores_what_is_not_given():
    torch.manual_seed(0)
    embedding = KnotEmbedding(KNOTS, 8)
    values, known = torch.tensor([[0.3, 0.5]]), torch.ones(1, 2)
    assert not embedding(values, known).any()
    torch.nn.init.normal_(embedding.layers[2].weight)
    other = torch.tensor([[0.3, 0.9]])
    assert not torch.equal(embedding(values, known), embedding(other, known))
    first = torch.tensor([[1.0, 0.0]])
    assert torch.equal(embedding(values, first), embedding(other, first))
    assert "knots" not in embedding.state_dict()


@pytest.mark.parametrize("knots", [((0.0, 0.5), (0.1, 0.2, 0.3)), ((0.0,),), ((0.0, 0.2, 0.2),)])
def test_other_knots_are_refused(knots: tuple[tuple[float, ...], ...]):
    with pytest.raises(InvalidInputError, match="knots"):
        KnotEmbedding(knots, 8)


def test_too_few_knots_or_places_are_refused():
    with pytest.raises(InvalidInputError, match="three or more"):
        knots_of(np.zeros((3, 1)), 2)
    with pytest.raises(InvalidInputError, match="at least one place"):
        knots_of(np.zeros((0, 1)))
