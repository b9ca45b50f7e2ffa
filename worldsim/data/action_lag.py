"""Which action leads from a frame to the next: found from frames and actions alone.

Recordings from elsewhere often store the action that led *to* a frame, or one of a later clock
tick. Training on them converges to a worse world without an error.

:func:`measure_action_lag` asks of every shift s from -2 to 2: how much of the action ``act[t + s]``
does the change from frame t to t + 1 explain, beyond what the change before and all other actions
explain? Actions after the one that causes the change have left no trace yet, so their shares are
0. Earlier actions may have a share, since motion has momentum. So the shift of the actions is the
largest one with a share worth mentioning, also where actions are held for many steps (Granger's
criterion of causes, doi:10.2307/1912791, asked of the action).

Both regressions are linear (ridge), over statistics of small grey pictures: differences, their
amounts, and their products with the picture's slopes, in cells and as a whole. Shares are measured
on episodes that the regression has not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array

SHIFTS = (-2, -1, 0, 1, 2)
"""Shifts that are tried; ``act[t + shift]`` as the cause of the change from frame t to t + 1."""
MARGIN = 3
"""Actions on both sides that are held fixed; one more than the largest shift."""
MOST_STEPS = 4000
"""Steps that are looked at, spread over the recording."""
FEWEST_STEPS = 300
"""With fewer usable steps, nothing is said."""
PICTURE, CELLS = 32, 8
"""Height and width in pixels of the small pictures, and cells along each of their sides."""
BLOCK = 50
"""Steps in a row whose errors count as one sample: neighbouring steps are alike."""
FOLDS = 4
PENALTIES = (0.02, 0.2, 2.0)
"""Ridge penalties of standardised features, per step; the best on held-out steps is used."""
LEAST_GAIN, LEAST_GAIN_STEPS, LEAST_Z = 0.004, 12.0, 2.5
"""An action has a visible effect if its share is at least the first, and the second divided by the
number of steps, and this many standard errors over blocks. Of 100 shares between the actions of one
episode and the changes of another, the largest is 0.2% (docs/experiments/recordings.md)."""
RIVAL = 0.3
"""A share is worth mentioning if it is at least this part of the largest one."""


class Steps(Protocol):
    """Frames and the actions between them, such as a :class:`worldsim.data.episode.Episode`."""

    @property
    def rgb(self) -> Array:
        """(t, h, w, 3) uint8."""
        ...

    @property
    def act(self) -> Array:
        """(t, ...) int64 or float32; the last one is padding."""
        ...

    def __len__(self) -> int: ...


StepsT = TypeVar("StepsT", bound=Steps)


@dataclass(frozen=True)
class ActionLag:
    """The result of :func:`measure_action_lag`.

    gains: by shift, the share of ``act[t + shift]`` that only the change from frame t to t + 1
        explains, on held-out steps; about 0, or below, if it explains nothing. Empty if there are
        too few steps.
    shift: the shift of the actions, 0 if they are right; None if no action has a visible effect,
        or there are too few steps.
    steps: number of steps that were looked at.
    note: a sentence if nothing can be said: too few steps, or no visible effect.
    problem: a sentence, with the next step, if the shift is not 0.
    """

    gains: dict[int, float]
    shift: int | None
    steps: int
    note: str = ""
    problem: str = ""


def measure_action_lag(episodes: Iterable[Steps], steps: int = MOST_STEPS) -> ActionLag:
    """Measure at which shift the actions explain the changes between frames.

    episodes: of one action space, or an ``EpisodeDataset``; of a sequence, about ``steps`` steps
        of episodes spread evenly are read.

    Needs varied actions. A policy that answers to what it sees makes actions after a change depend
    on it: prefer episodes of random actions.

    Raises InvalidInputError if there are no episodes.
    """
    chosen = list(spread(episodes, steps))
    if not chosen:
        raise InvalidInputError("measure_action_lag: no episodes were given.")
    categories = (
        np.unique(np.concatenate([e.act[:-1] for e in chosen]))
        if chosen[0].act.dtype == np.int64
        else None
    )
    parts = [
        _windows(change_features(e.rgb), _action_targets(e.act[:-1], categories)) for e in chosen
    ]
    parts = [part for part in parts if len(part[0])]
    count = sum(len(part[0]) for part in parts)
    if count < FEWEST_STEPS:
        return ActionLag(
            {}, None, count, f"actions: {count} steps are too few to tell; record {FEWEST_STEPS}"
        )
    groups = _target_groups(parts[0][2].shape[2], categories is not None)
    if categories is not None and len(categories) < 2:
        return ActionLag({}, None, count, "actions: there is one action only")
    blocks = np.concatenate(
        [i * 1_000_000 + np.arange(len(part[0])) // BLOCK for i, part in enumerate(parts)]
    )
    change, before, actions = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return _decide(change, before, actions, groups, np.unique(blocks, return_inverse=True)[1])


def spread(episodes: Iterable[StepsT], steps: int) -> Iterator[StepsT]:
    """Yield episodes of about ``steps`` steps together; those of a sequence are spread evenly."""
    if isinstance(episodes, Sequence):
        count = len(episodes)
        if not count:
            return
        # Bit-reversed order visits the whole sequence, however few of it are needed.
        bits = max(1, (count - 1).bit_length())
        order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
        every = episodes
        episodes = (every[i] for i in order if i < count)
    total = 0
    for episode in episodes:
        yield episode
        total += len(episode) - 1
        if total >= steps:
            return


def change_features(rgb: Array) -> Array:
    """Return statistics of the change from each frame to the next.

    rgb: (t, h, w, 3) uint8. Returns (t - 1, k) float64.
    """
    grey = _small_grey(rgb)
    change, mean = np.diff(grey, axis=0), (grey[1:] + grey[:-1]) / 2
    down, right = (
        np.gradient(mean, axis=axis) if mean.shape[axis] > 1 else np.zeros_like(mean)
        for axis in (1, 2)
    )
    # A moving edge changes the picture by its slope times the way: the product has the sign of the
    # way, whatever the edge's own.
    steep = down**2 + right**2 + 1e-3
    maps = [change, np.abs(change), change * right / steep**0.5, change * down / steep**0.5]
    cells = [_cells(one) for one in maps]
    moved = np.abs(change) > 0.02
    whole = [
        np.abs(change).mean((1, 2)),
        np.square(change).mean((1, 2)),
        moved.mean((1, 2)),
        np.abs(change).max((1, 2)),
        *(x.sum((1, 2)) / (steep.sum((1, 2))) for x in (change * right, change * down)),
        *(x.mean((1, 2)) for x in maps),
    ]
    features = np.concatenate([*cells, np.stack(whole, 1)], 1)
    # The tails of products are heavy: roots keep few large changes from being all that counts.
    return np.sign(features) * np.sqrt(np.abs(features))


def _small_grey(rgb: Array) -> Array:
    """Return brightness (t, h, w) float64 in [0, 1], at most :data:`PICTURE` pixels a side."""
    import cv2

    height, width = (min(PICTURE, n) for n in rgb.shape[1:3])
    grey = np.asarray(rgb).astype(np.float32).mean(-1) / 255.0
    small = [
        cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) if one.size else one
        for one in grey
    ]
    return np.stack(small).astype(np.float64)


def _cells(maps: Array) -> Array:
    """Return means over cells, (t, cells)."""
    t, height, width = maps.shape
    rows, columns = min(CELLS, height), min(CELLS, width)
    cut = maps[:, : height // rows * rows, : width // columns * columns]
    cut = cut.reshape(t, rows, height // rows, columns, width // columns)
    return cut.mean((2, 4)).reshape(t, -1)


def _action_targets(act: Array, categories: Array | None) -> Array:
    """Return (n, k) float64: one-hot if discrete, else values and then squares."""
    flat = act.reshape(len(act), -1)
    if categories is not None:
        return (flat[:, :1] == categories).astype(np.float64)
    values = flat.astype(np.float64)
    return np.concatenate([values, values**2], 1)


def _target_groups(count: int, discrete: bool) -> list[list[int]]:
    """Return which targets are one action's: all, or a dimension's value and square."""
    if discrete:
        return [list(range(count))]
    half = count // 2
    return [[i, half + i] for i in range(half)]


def _windows(changes: Array, actions: Array) -> tuple[Array, Array, Array]:
    """Return the changes, the changes before, and the actions around each usable step.

    (n, k), (n, k) and (n, 2 * MARGIN + 1, targets).
    """
    times = np.arange(MARGIN, len(changes) - MARGIN)
    around = times[:, None] + np.arange(-MARGIN, MARGIN + 1)
    return changes[times], changes[times - 1], actions[around]


def _decide(
    change: Array, before: Array, actions: Array, groups: list[list[int]], blocks: Array
) -> ActionLag:
    errors = _errors(change, before, actions, groups, blocks)
    gains, scores = {}, {}
    for shift, (without, with_change) in errors.items():
        # (groups of targets, blocks).
        # A number that never varies leaves nothing to explain.
        left = without.sum(1)
        gain = np.where(
            left > 1e-6 * len(change), 1.0 - with_change.sum(1) / np.maximum(left, 1e-9), 0.0
        )
        best = int(gain.argmax())
        saved = without[best] - with_change[best]
        gains[shift] = float(gain[best])
        scores[shift] = float(saved.mean() / max(saved.std(ddof=1) / len(saved) ** 0.5, 1e-12))
    rounded = {shift: round(gain, 4) for shift, gain in gains.items()}
    least = max(LEAST_GAIN, LEAST_GAIN_STEPS / len(change))
    telling = [s for s in SHIFTS if gains[s] >= least and scores[s] >= LEAST_Z]
    if not telling:
        return ActionLag(rounded, None, len(change), "actions have no visible effect")
    largest = max(gains[s] for s in telling)
    found = max(s for s in telling if gains[s] >= RIVAL * largest)
    return ActionLag(rounded, found, len(change), problem=_problem(found, gains) if found else "")


def _problem(shift: int, gains: dict[int, float]) -> str:
    side = "late" if shift > 0 else "early"
    frames = f"{abs(shift)} frame{'s' if abs(shift) > 1 else ''}"
    return (
        f"Actions come {frames} {side}: the change from frame t to t + 1 explains "
        f"{gains[shift]:.1%} of act[t {'+' if shift > 0 else '-'} {abs(shift)}] and "
        f"{max(gains[0], 0.0):.1%} of act[t], which must lead from frame t to frame t + 1. "
        f"Shift the actions by {-shift:+d}, unless the environment itself answers late or the "
        f"policy answers to what it sees."
    )


def _errors(
    change: Array, before: Array, actions: Array, groups: list[list[int]], blocks: Array
) -> dict[int, tuple[Array, Array]]:
    """Return by shift the held-out squared errors without and with the change.

    Each (groups, blocks), relative to the variance of each target.
    """
    n, targets = len(change), actions.shape[2]
    # The last column is the constant.
    flat = np.concatenate([_standard(actions.reshape(n, -1)), np.ones((n, 1))], 1)
    x = np.concatenate([_standard(change), _standard(before), flat], 1)
    first, last = change.shape[1], x.shape[1] - flat.shape[1]
    inputs = {"without": slice(first, last), "with": slice(0, last)}
    fold = blocks % FOLDS
    grams = np.stack([x[fold == f].T @ x[fold == f] for f in range(FOLDS)])
    best: dict[tuple[str, int], Array] = {}
    for name, chosen in inputs.items():
        for penalty in PENALTIES:
            residual = {shift: np.empty((n, targets)) for shift in SHIFTS}
            for f in range(FOLDS):
                held = fold == f
                for shift, own, weights in _fits(
                    grams.sum(0) - grams[f], chosen, slice(last, None), penalty * n, targets
                ):
                    residual[shift][held] = x[held][:, last:][:, own] - x[held] @ weights
            for shift in SHIFTS:
                squares = np.square(residual[shift])
                if (name, shift) not in best or squares.sum() < best[name, shift].sum():
                    best[name, shift] = squares
    return {
        shift: (
            _sums(best["without", shift], groups, blocks),
            _sums(best["with", shift], groups, blocks),
        )
        for shift in SHIFTS
    }


def _fits(
    gram: Array, chosen: slice, free: slice, penalty: float, targets: int
) -> Iterator[tuple[int, Array, Array]]:
    """Yield for every shift which of the columns ``free`` are its action, and the weights of all.

    gram: (c, c) of all columns. chosen: columns of frames, with the penalty. free: columns of
    actions and the constant, of which a shift's own are regressed on the others and ``chosen``.

    The frames' part of the system is solved once for all shifts (Schur complement).
    """
    inner = gram[chosen, chosen] + penalty * np.eye(gram[chosen, chosen].shape[0])
    solved = np.linalg.solve(inner, gram[chosen, free])
    count = gram[free, free].shape[0]
    # Actions are few: their penalty only keeps the system solvable.
    outer = gram[free, free] - gram[free, chosen] @ solved
    outer += 1e-4 * gram[-1, -1] * np.eye(count)
    for shift in SHIFTS:
        own = np.arange((shift + MARGIN) * targets, (shift + MARGIN + 1) * targets)
        others = np.setdiff1d(np.arange(count), own)
        of_others = np.linalg.solve(outer[np.ix_(others, others)], outer[np.ix_(others, own)])
        weights = np.zeros((len(gram), targets))
        weights[chosen] = solved[:, own] - solved[:, others] @ of_others
        weights[free][others] = of_others
        yield shift, own, weights


def _sums(squares: Array, groups: list[list[int]], blocks: Array) -> Array:
    """Return squared errors summed over blocks and the targets of each group, (groups, blocks)."""
    return np.stack([np.bincount(blocks, weights=squares[:, g].sum(1)) for g in groups])


def _standard(values: Array) -> Array:
    """Return columns with mean 0 and variance 1, cut at 5; columns that do not vary are 0."""
    spread_of = values.std(0)
    scaled = (values - values.mean(0)) / np.where(spread_of > 1e-9, spread_of, np.inf)
    return np.clip(scaled, -5.0, 5.0)
