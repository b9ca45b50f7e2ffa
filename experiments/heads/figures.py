"""Figures of heads against the truth: log loss of ends, calibration, reward errors, each beside who
knows nothing of the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.statistics import bootstrap_ci
from worldsim.evaluation.task_outcomes import calibration

Array = NDArray[Any]

CELLS = 4
"""Equal parts of each dimension of a continuous action, for the best constant of each cell."""
LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logarithm is taken, as ``worldsim
evaluate`` does."""


@dataclass(frozen=True)
class Truth:
    """True episodes: of each the actions (t, ...), rewards (t,) and whether each transition ended
    it (t,) bool."""

    act: Sequence[Array]
    rew: Sequence[Array]
    ended: Sequence[Array]


def figures(
    truth: Truth, ending: Sequence[Array], rew: Sequence[Array], draws: int = 2000
) -> dict[str, Any]:
    """What one head says of true episodes.

    ending: (t,) probability of an end at each transition of each episode. rew: (t,) expected reward
    of going on. Intervals are 95%, by bootstrap over episodes, of each ratio.
    """
    n = len(truth.rew)
    losses = [log_loss(p, e) for p, e in zip(ending, truth.ended, strict=True)]
    share = float(np.concatenate(truth.ended).mean())
    constant = [log_loss(np.full(len(e), share), e) for e in truth.ended]
    on = [~e for e in truth.ended]
    absolute = [np.abs(r - t)[k] for r, t, k in zip(rew, truth.rew, on, strict=True)]
    squared = [np.square(r - t)[k] for r, t, k in zip(rew, truth.rew, on, strict=True)]
    base = constants(truth)
    return {
        "steps": int(sum(map(len, truth.rew))),
        "ends": int(sum(e.sum() for e in truth.ended)),
        "ending_log_loss": pooled(losses),
        "ending_log_loss_of_share": pooled(constant),
        "ending_ratio": over(pooled(losses), pooled(constant)),
        "ending_ratio_ci95": ratio_ci(losses, constant, n, draws) if share > 0 else None,
        "mean_ending": float(np.concatenate(ending).mean()),
        "share": share,
        "reward_error": pooled(absolute),
        "reward_error_ratio": {
            name: over(pooled(absolute), pooled(each)) for name, (each, _) in base.items()
        },
        "reward_error_ratio_ci95": ratio_ci(absolute, base["constant per action"][0], n, draws),
        "reward_squared_error_ratio": {
            name: over(pooled(squared), pooled(each)) for name, (_, each) in base.items()
        },
        "reliability": reliability(np.concatenate(ending), np.concatenate(truth.ended)),
    }


def over(above: float, below: float) -> float | None:
    """A ratio; None where nothing of the kind happened, as terminations in endless games."""
    return above / below if below > 0 else None


def rewarded(
    truth: Truth, rew: Sequence[Array], least: float = 0.5, within: int = 2
) -> dict[str, Any]:
    """Whether steps of at least ``least`` reward are predicted, at most ``within`` steps off.

    rew: (t,) expected reward of going on, by episode. Each true step matches one predicted one and
    each predicted step one true one; of steps in a row that are predicted, the highest counts.

    Returns precision, recall, F1 and the counts, and the sums of predicted and of true rewards.
    """
    hits = said = happened = 0
    for predicted, true in zip(rew, truth.rew, strict=True):
        tops = peaks(predicted, least)
        steps = np.flatnonzero(true >= least)
        said, happened = said + len(tops), happened + len(steps)
        free = list(tops)
        for step in steps:
            near = [top for top in free if abs(top - step) <= within]
            if near:
                hits += 1
                free.remove(min(near, key=lambda top: abs(top - step)))
    return {
        "said": said,
        "happened": happened,
        "hits": hits,
        "precision": over(hits, said),
        "recall": over(hits, happened),
        "f1": over(2 * hits, said + happened),
        "sum_said": float(sum(np.sum(r) for r in rew)),
        "sum_happened": float(sum(np.sum(r) for r in truth.rew)),
    }


def peaks(values: Array, least: float) -> list[int]:
    """The highest place of each run of values of at least ``least``."""
    above = np.flatnonzero(values >= least)
    runs = np.split(above, np.flatnonzero(np.diff(above) > 1) + 1) if len(above) else []
    return [int(run[np.argmax(values[run])]) for run in runs]


def log_loss(ending: Array, ended: Array) -> Array:
    """Nats of each transition: (t,) probabilities and whether it ended."""
    return -np.log(np.clip(np.where(ended, ending, 1.0 - ending), LEAST, 1.0))


def pooled(values: Sequence[Array]) -> float:
    """Mean over all transitions."""
    return float(np.concatenate(values).mean())


def ratio_ci(
    above: Sequence[Array], below: Sequence[Array], episodes: int, draws: int
) -> list[float]:
    """95% interval of a ratio of two means over the same transitions, by bootstrap over
    episodes."""
    one, other = (np.array([np.sum(v) for v in values]) for values in (above, below))
    return list(bootstrap_ci(lambda counts: (counts @ one) / (counts @ other), episodes, draws))


def reliability(ending: Array, ended: Array) -> list[dict[str, float]]:
    """A row for each bin of probabilities: how many, what was said on average, what share ended."""
    names = {
        "from": "low",
        "to": "high",
        "steps": "steps",
        "said": "predicted",
        "happened": "observed",
    }
    rows, _ = calibration(ending, ended)
    return [{name: row[key] for name, key in names.items()} for row in rows]


def constants(truth: Truth) -> dict[str, tuple[list[Array], list[Array]]]:
    """Absolute and squared errors, by episode, of who sees no frames: fitted to these very rewards,
    so as good as it gets.

    ``constant``: one number. ``constant per action``: one for each discrete action, or each cell of
    continuous ones. ``linear in action``: for continuous actions; least squares, and least absolute
    deviations by reweighting.
    """
    on = np.concatenate([~e for e in truth.ended])
    sizes = np.cumsum([int((~e).sum()) for e in truth.ended])[:-1]
    rew, act = np.concatenate(truth.rew)[on], np.concatenate(truth.act)[on]
    cell = act if act.ndim == 1 else cells(act)
    said = {"constant": (np.full(len(rew), np.median(rew)), np.full(len(rew), rew.mean()))}
    each = np.zeros((2, len(rew)))
    for one in np.unique(cell):
        each[:, cell == one] = np.array([[np.median(rew[cell == one])], [rew[cell == one].mean()]])
    said["constant per action"] = (each[0], each[1])
    if act.ndim > 1:
        design = np.concatenate([act, np.ones((len(act), 1))], 1).astype(np.float64)
        squares = design @ np.linalg.lstsq(design, rew, rcond=None)[0]
        absolute = squares
        for _ in range(50):
            weight = 1.0 / np.sqrt(np.maximum(np.abs(rew - absolute), 1e-4))
            absolute = (
                design @ np.linalg.lstsq(design * weight[:, None], rew * weight, rcond=None)[0]
            )
        said["linear in action"] = (absolute, squares)
    return {
        name: (np.split(np.abs(rew - median), sizes), np.split(np.square(rew - mean), sizes))
        for name, (median, mean) in said.items()
    }


def cells(act: Array) -> Array:
    """The number of each continuous action's cell, (n, d) to (n,): ``CELLS`` equal parts of each
    dimension's range."""
    low, high = act.min(0), act.max(0)
    part = np.clip(
        ((act - low) / np.maximum(high - low, 1e-9) * CELLS).astype(np.int64), 0, CELLS - 1
    )
    return (part * CELLS ** np.arange(act.shape[1])).sum(1)


def table(results: dict[str, dict[str, Any]]) -> str:
    """A line for each head."""
    head = ("ends: ratio", "95%", "said/share", "reward MAE", "per action", "linear", "MSE p.a.")
    lines = [" " * 42 + "".join(f"{name:>14}" for name in head)]
    for name, r in results.items():
        error, low_high = (
            r["reward_error_ratio"],
            "[{:.2f}, {:.2f}]".format(*(r["ending_ratio_ci95"] or (np.nan, np.nan))),
        )
        values = (
            r["mean_ending"] / max(r["share"], 1e-9),
            r["reward_error"],
            error["constant per action"],
            error.get("linear in action", float("nan")),
            r["reward_squared_error_ratio"]["constant per action"],
        )
        shown = "".join(f"{value:>14.3f}" for value in values)
        ended = np.nan if r["ending_ratio"] is None else r["ending_ratio"]
        lines.append(f"{name:<42}{ended:>14.3f}{low_high:>14}{shown}")
    return "\n".join(lines)
