"""Means and their 95% intervals by bootstrap over episodes, and how reports show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worldsim.runtime.types import Array

LEAST_EPISODES = 5
"""Fewer episodes give no interval: resampling two of them gives their two values, however far
others would be."""


def pooled_mean(values: Sequence[Array]) -> float:
    """Return the mean over all values of all episodes; NaN without any."""
    flat = (
        np.concatenate([np.asarray(v, np.float64).ravel() for v in values])
        if len(values)
        else np.zeros(0)
    )
    return float(flat.mean()) if flat.size else float("nan")


def bootstrap_ci(
    statistic: Callable[[Array], Array],
    episodes: int,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over resampled episodes (Efron 1979).

    statistic: takes counts (draws, episodes), how often each episode is drawn, and returns (draws,)
        values. Draws with a value that is not finite are left out.

    Returns (low, high), both NaN if no draw is finite.
    """
    if episodes == 0:
        return float("nan"), float("nan")
    counts = np.random.default_rng(seed).multinomial(
        episodes, np.full(episodes, 1.0 / episodes), draws
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(counts)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def interval(
    statistic: Callable[[Array], Array],
    episodes: int,
    draws: int = 2000,
    seed: int = 0,
    least: int = LEAST_EPISODES,
) -> list[float] | None:
    """Return :func:`bootstrap_ci` as reports show it: [low, high] to four decimals.

    None where it is undefined, or for fewer than ``least`` episodes.
    """
    if episodes < least:
        return None
    low, high = bootstrap_ci(statistic, episodes, draws, seed)
    return None if np.isnan(low) else [round(low, 4), round(high, 4)]


def interval_text(found: Sequence[float] | None, digits: int = 2) -> str:
    """Return an :func:`interval` as reports show it; empty if there is none."""
    return "" if found is None else f"[{found[0]:.{digits}f}, {found[1]:.{digits}f}]"


def report(lines: Sequence[str], episodes: int) -> str:
    """Return the lines of a report; adds a line if there are too few episodes for intervals."""
    return "\n".join([*lines, *filter(None, [too_few(episodes)])])


def too_few(episodes: int) -> str:
    """Return the text of reports in place of intervals; empty if there are enough episodes."""
    return (
        f"too few episodes for intervals: {episodes} of at least {LEAST_EPISODES}"
        if episodes < LEAST_EPISODES
        else ""
    )


def mean_statistic(values: Sequence[Array]) -> Callable[[Array], Array]:
    """Return the statistic for :func:`bootstrap_ci` that averages all values of the drawn episodes.

    values: one array per episode.
    """
    sums = np.array([np.sum(v, dtype=np.float64) for v in values])
    sizes = np.array([np.size(v) for v in values], np.float64)
    return lambda counts: (counts @ sums) / (counts @ sizes)


def quantile_statistic(values: Array, q: float) -> Callable[[Array], Array]:
    """Return the statistic for :func:`bootstrap_ci` that takes the ``q`` quantile.

    values: one value per episode, NaN for none.
    """

    def statistic(counts: Array) -> Array:
        drawn = [np.repeat(values, row) for row in counts]
        kept = [d[np.isfinite(d)] for d in drawn]
        return np.array([np.quantile(k, q) if len(k) else np.nan for k in kept])

    return statistic
