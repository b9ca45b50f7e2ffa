"""What importers of recordings from elsewhere share: action spaces, episodes, outcomes of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from worldsim.data.dataset import INDEX_FILE
from worldsim.data.episode import Episode
from worldsim.errors import InvalidInputError
from worldsim.runtime.spaces import MOST_ACTIONS
from worldsim.runtime.types import Array, JsonObject


@dataclass(frozen=True)
class Rows:
    """The steps of an episode, one a row; n rows.

    act: (n,) int64 or (n, k) float32.
    rew, term, trunc: (n,) float32, bool, bool.
    """

    act: Array
    rew: Array
    term: Array
    trunc: Array

    def __len__(self) -> int:
        return len(self.act)

    def of_frames(self, frames: int, source: str) -> Rows:
        """Return one row a step of an episode of ``frames`` frames.

        One row a frame is accepted, too: the action of the last one leads to a frame that is not
        there. If it ends the episode, its reward and its end go to the step before.

        source: names both files, for the error.

        Raises InvalidInputError for any other number of rows.
        """
        if frames < 2:
            raise InvalidInputError(f"{source}: {frames} frames are no episode, at least 2 are")
        if len(self) == frames - 1:
            return self
        if len(self) != frames:
            raise InvalidInputError(
                f"{source}: {frames:,} frames and {len(self):,} actions do not fit: there must be "
                f"one action a step ({frames - 1:,}), or one a frame ({frames:,})"
            )
        act, rew, term, trunc = (x[:-1].copy() for x in (self.act, self.rew, self.term, self.trunc))
        if self.term[-1] or self.trunc[-1]:
            rew[-1], term[-1], trunc[-1] = self.rew[-1], self.term[-1], self.trunc[-1]
        return Rows(act, rew, term, trunc)

    def part(self, first: int, last: int) -> Rows:
        """Return the steps from ``first`` to ``last``, without the latter."""
        return Rows(*(x[first:last] for x in (self.act, self.rew, self.term, self.trunc)))


def require_new(out: Path) -> None:
    """Raise InvalidInputError if a folder holds a recording."""
    if (out / INDEX_FILE).exists():
        raise InvalidInputError(f"{out} holds a recording already: import into another folder")


def require_actions(act: Array, source: object) -> Array:
    """Return actions as they are stored: (n,) int64, or (n, k) float32.

    Raises InvalidInputError unless they are whole numbers of at least 0, or finite numbers.
    """
    if act.dtype.kind in "iub" and act.size == len(act):
        flat = act.reshape(len(act)).astype(np.int64)
        if len(flat) and not 0 <= flat.min() <= flat.max() < MOST_ACTIONS:
            wrong = int(flat[(flat < 0) | (flat >= MOST_ACTIONS)][0])
            raise InvalidInputError(
                f"{source}: action {wrong} is none of 0 to {MOST_ACTIONS - 1}: number actions from "
                f"0, or write them as decimal numbers if they are amounts"
            )
        return flat
    if act.dtype.kind not in "iubf":
        raise InvalidInputError(f"{source}: actions are {act.dtype}, numbers are needed")
    values = act.reshape(len(act), -1).astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise InvalidInputError(
            f"{source}: number {column} of action {row} is {values[row, column]}: it must be finite"
        )
    return values


def describe_actions(actions: Sequence[Array], count: int | None, source: object) -> JsonObject:
    """Return the smallest action space of what :func:`require_actions` returned.

    count: number of discrete actions, if more than those that occur.

    Raises InvalidInputError if the actions have several kinds, or ``count`` is too small.
    """
    kinds = {(act.dtype.name, act.shape[1:]) for act in actions}
    if len(kinds) != 1:
        raise InvalidInputError(
            f"{source}: actions of {len(kinds)} kinds ({', '.join(map(str, sorted(kinds)))}): one "
            f"recording has one, import them into several"
        )
    every = np.concatenate(actions)
    if every.dtype == np.int64:
        seen = int(every.max()) + 1
        if count is not None and count < seen:
            raise InvalidInputError(
                f"{source}: action {seen - 1} occurs, and --actions is {count}: at least {seen}"
            )
        return {"type": "Discrete", "n": count or seen}
    if count is not None:
        raise InvalidInputError(
            f"{source}: --actions {count} is for discrete actions, and these are continuous: leave "
            f"it out"
        )
    return {"type": "Box", "low": every.min(0).tolist(), "high": every.max(0).tolist()}


def make_episode(rgb: Array, rows: Rows, info: JsonObject) -> Episode:
    """Return an episode; one without an end is truncated at its last frame.

    rgb: (t, h, w, 3) uint8. rows: t - 1 of them.
    """
    trunc = rows.trunc.copy()
    trunc[-1] |= not rows.term[-1]

    def padded(values: Array) -> Array:
        return np.concatenate([values, np.zeros_like(values[:1])])

    return Episode(
        rgb, padded(rows.act), padded(rows.rew), padded(rows.term), padded(trunc), info=info
    )


def split(
    frames: Iterator[Array], rows: Rows, steps: int | None, info: JsonObject, source: str
) -> Iterator[Episode]:
    """Yield the episodes of at most ``steps`` steps that frames and rows make up.

    The last frame of an episode is the first of the next. Frames are read as they are needed.
    """
    rest, first, last = frames, 0, None
    while True:
        most = None if steps is None else steps + 1
        chunk = [] if last is None else [last]
        for frame in rest:
            chunk.append(frame)
            if len(chunk) == most:
                break
        following = next(rest, None) if most is not None and len(chunk) == most else None
        if following is None:
            # All of it is here: now the rows can be counted.
            own = rows.of_frames(first + len(chunk), source)
            yield make_episode(np.stack(chunk), own.part(first, len(own)), info)
            return
        if len(rows) < first + len(chunk):
            total = first + len(chunk) + 1 + sum(1 for _ in rest)
            rows.of_frames(total, source)
        yield make_episode(np.stack(chunk), rows.part(first, first + len(chunk) - 1), info)
        first, last, rest = first + len(chunk) - 1, chunk[-1], chain([following], rest)
