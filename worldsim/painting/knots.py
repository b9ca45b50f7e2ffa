"""Attributes as features of a network: where a value lies among knots.

Attributes are unlike in range. Half of the real places of Freedoom have a ``light`` between 0.56
and 0.69, and most have no wood at all. As plain numbers such values hardly differ for a linear
layer. Knots at quantiles of real places spread them out, and absence has a knot of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array

TRACE = 0.02
"""A place with at least this value shows an attribute."""
EVERYWHERE = 0.99
"""An attribute that at least this share of the places shows is a scale, and has no absence."""
LEAST_GAP = 0.004
"""Smallest distance of two knots: the step of an attribute table."""


def knots_of(values: Array, count: int = 8) -> tuple[tuple[float, ...], ...]:
    """Return ``count`` knots for each attribute of real places.

    The first two are 0 and :data:`TRACE`, the others quantiles of the places that show the
    attribute. Scales such as light have quantiles of all places.

    values: (n, a) in [0, 1].

    Raises InvalidInputError for fewer than three knots or no places.
    """
    if count < 3 or not len(values):
        raise InvalidInputError(
            f"{count} knots of {len(values)} places: give three or more, and at least one place."
        )
    rows = []
    for column in np.asarray(values, np.float64).T:
        shown = column[column >= TRACE]
        if len(shown) >= EVERYWHERE * len(column):
            row = np.quantile(column, np.linspace(0.01, 0.99, count)).tolist()
        else:
            parts = np.linspace(0.1, 0.98, count - 2)
            some = shown if len(shown) else np.linspace(TRACE, 1.0, count)
            row = [0.0, TRACE, *np.quantile(some, parts).tolist()]
        for i in range(1, count):
            row[i] = max(row[i], row[i - 1] + LEAST_GAP)
        rows.append(tuple(round(float(x), 4) for x in row))
    return tuple(rows)


def hat_features(values: Tensor, knots: Tensor) -> Tensor:
    """Return the linear B-splines of values on knots, (..., a, k) float32.

    Features of a value sum to 1. A value at a knot has 1 there, a value between two knots has
    parts at both, and a value beyond the last knot has 1 at it.

    values: (..., a) float.
    knots: (a, k) float, increasing along each row.
    """
    low, high = knots[:, :-1], knots[:, 1:]
    share = ((values[..., None] - low) / (high - low)).clamp(0.0, 1.0)
    before = torch.ones_like(share[..., :1])
    return torch.cat([before, share], -1) - torch.cat([share, torch.zeros_like(before)], -1)


class KnotEmbedding(nn.Module):
    """Embeds the given attributes of a set. It is zero at first, so a trained network can get it.

    knots: values of each attribute, increasing, equally many for each.
    dim: size of the embedding.

    Raises InvalidInputError for other knots.
    """

    knots: Tensor

    def __init__(self, knots: Sequence[Sequence[float]], dim: int) -> None:
        super().__init__()
        if len({len(row) for row in knots}) != 1 or len(knots[0]) < 2:
            raise InvalidInputError(
                f"attributes have {sorted({len(row) for row in knots})} knots: give equally many "
                "for each, two or more."
            )
        if any(not a < b for row in knots for a, b in pairwise(row)):
            raise InvalidInputError("knots of an attribute must increase: give each value once.")
        table = torch.tensor([list(row) for row in knots], dtype=torch.float32)
        # The settings hold the knots. They are no weights.
        self.register_buffer("knots", table, persistent=False)
        self.layers = nn.Sequential(nn.Linear(table.numel(), dim), nn.SiLU(), nn.Linear(dim, dim))
        for parameter in self.layers[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, attributes: Tensor, known: Tensor) -> Tensor:
        """Return embeddings (b, dim) of attributes (b, a), those where ``known`` (b, a) is 1."""
        features = hat_features(attributes.float(), self.knots) * known.float()[..., None]
        embedding: Tensor = self.layers(features.flatten(1))
        return embedding
