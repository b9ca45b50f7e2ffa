"""Ratios and paired differences of figures, with 95% intervals by bootstrap over places."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from worldsim.evaluation.figures import Figures
from worldsim.evaluation.frechet import Distance
from worldsim.runtime.types import Array

Statistic = Callable[[Array], Array]
"""Takes counts (d, s), how often each place is drawn, and returns (d,) values."""


def column(x: Tensor) -> Array:
    """Return a tensor (s, ...) as float64 NumPy, one row a place: (s, n)."""
    return np.asarray(x.detach().cpu().double().reshape(len(x), -1).numpy())


def ratio_of_sums(top: Array, bottom: Array) -> Statistic:
    """Return the statistic sum(top) / sum(bottom) over the drawn places.

    top, bottom: (s, n).
    """
    a, b = top.sum(1), bottom.sum(1)
    return lambda counts: np.asarray((counts @ a) / (counts @ b))


def difference_of_means(a: Array, b: Array) -> Statistic:
    """Return the statistic mean(a) - mean(b) over the drawn places; a, b: (s, n)."""
    gap = a.mean(1) - b.mean(1)
    return lambda counts: np.asarray((counts @ gap) / counts.sum(1))


def add(figures: Figures, key: str, statistic: Statistic) -> None:
    """Add the statistic of all places, with its interval."""
    once = np.ones((1, figures.episodes), np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(once)[0])
    figures.add(key, value, statistic)


def add_distances(
    figures: Figures, group: str, found: Mapping[str, Distance], of: str = ""
) -> None:
    """Add distances with their intervals as ``group.fd``, or ``group.OF_fd``."""
    target = figures.values.setdefault(group, {})
    for name, distance in found.items():
        key = f"{of}_{name}" if of else name
        target[key] = round(distance.value, 4)
        figures.ci95[f"{group}.{key}"] = [round(distance.low, 4), round(distance.high, 4)]


def add_over(figures: Figures, group: str, key: str, top: Distance, bottom: Distance) -> None:
    """Add a distance over another one; the interval is that of the first."""
    scale = 1.0 / bottom.value if bottom.value > 0 else float("nan")
    figures.values[group][key] = _rounded(top.value * scale)
    figures.ci95[f"{group}.{key}"] = (
        None if np.isnan(scale) else [round(top.low * scale, 4), round(top.high * scale, 4)]
    )


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
