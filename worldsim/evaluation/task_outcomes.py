"""Figures of the protocol ``task`` on rewards and terminations, from predictions of each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldsim.runtime.types import Array, JsonObject

NEAR_STEPS = 2
"""A predicted reward counts as found if a real one comes at most this many steps before or after
it."""
CALIBRATION_BOUNDS = (0.0, 0.002, 0.005, 0.02, 0.05, 0.1, 0.3, 0.6, 1.0)
"""Ranges of predicted probabilities in which ends are counted: most steps do not end."""


def usual_reward(rewards: Array) -> float | None:
    """Return the reward of more than half of all steps; None if no reward is that frequent."""
    values, counts = np.unique(rewards, return_counts=True)
    return float(values[counts.argmax()]) if 2 * counts.max() > len(rewards) else None


def match_events(real: Array, predicted: Array, near: int = NEAR_STEPS) -> int:
    """Return the largest number of pairs of a real and a predicted event at most ``near`` apart.

    Every event belongs to at most one pair.

    real, predicted: (n,) and (m,) steps, ascending.
    """
    i = j = pairs = 0
    while i < len(real) and j < len(predicted):
        if abs(int(real[i]) - int(predicted[j])) <= near:
            i, j, pairs = i + 1, j + 1, pairs + 1
        elif real[i] < predicted[j]:
            i += 1
        else:
            j += 1
    return pairs


def count_events(real: Sequence[Array], predicted: Sequence[Array]) -> Array | None:
    """Return events found, predicted and real of each episode, (e, 3) int64.

    An event is a step whose reward is not the usual one. It is predicted where the prediction is
    at least half as far from the usual reward as events are, in their median. None where rewards
    are dense, so that none is usual, and where they are all alike.

    real, predicted: rewards of each episode, (t,) each.
    """
    together = np.concatenate(real)
    usual = usual_reward(together)
    if usual is None or not (together != usual).any():
        return None
    least = 0.5 * float(np.median(np.abs(together - usual)[together != usual]))
    rows = []
    for truth, guess in zip(real, predicted, strict=True):
        happened = np.flatnonzero(truth != usual)
        expected = np.flatnonzero(np.abs(guess - usual) >= least)
        rows.append((match_events(happened, expected), len(expected), len(happened)))
    return np.array(rows, np.int64)


def f1_score(counts: Array) -> Array:
    """Return the harmonic mean of precision and recall, (...) for counts (..., 3).

    counts: events found, predicted and real.
    """
    found, predicted, real = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return 2.0 * found / np.maximum(predicted + real, 1.0)


def errors_of_constant(
    rewards: Sequence[Array], actions: Sequence[Array], discrete: bool
) -> list[Array]:
    """Return the errors of the best constant reward, for each step of each episode.

    The constant, the median, is fitted to these rewards themselves, for each discrete action
    apart. So it is a lower bound of what a predictor that sees no frames can reach.
    """
    together = np.concatenate(rewards)
    acts = np.concatenate(actions) if discrete else np.zeros(len(together), np.int64)
    medians = {int(a): float(np.median(together[acts == a])) for a in np.unique(acts)}
    errors = np.abs(together - np.array([medians[int(a)] for a in acts]))
    return np.split(errors, np.cumsum([len(r) for r in rewards])[:-1])


def calibration(predicted: Array, happened: Array) -> tuple[list[JsonObject], float]:
    """Return the calibration table of probabilities, and the mean calibration error.

    The table has, for each range of :data:`CALIBRATION_BOUNDS` with steps in it, their number, the
    mean prediction and the share that happened. The error is the mean over all steps of the
    difference of the two in the step's range (Naeini et al. 2015).

    predicted: (n,) in [0, 1]. happened: (n,) bool.
    """
    places = np.clip(
        np.searchsorted(CALIBRATION_BOUNDS, predicted, "right") - 1, 0, len(CALIBRATION_BOUNDS) - 2
    )
    rows, error = [], 0.0
    for i in np.unique(places):
        chosen = places == i
        mean, share = float(predicted[chosen].mean()), float(happened[chosen].mean())
        error += float(chosen.mean()) * abs(mean - share)
        rows.append(
            {
                "low": CALIBRATION_BOUNDS[i],
                "high": CALIBRATION_BOUNDS[i + 1],
                "steps": int(chosen.sum()),
                "predicted": mean,
                "observed": share,
            }
        )
    return rows, error
