"""Whether each single action does what it does in the twin: a score per frame.

From the true history, the next frame is dreamed under every action. The score of a frame is the
share of the other actions whose dream is farther from the true next frame than that of the action
taken (ties count half): 1 if the dream obeys, 0.5 if actions make no difference. It is the area
under the ROC curve of telling the action taken from the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.evaluation.benchmark_set import TestSet
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.measure import start_walks
from worldsim.evaluation.metrics import moved_frames
from worldsim.world import World

FRAMES = 24
"""Frames per walk that are scored, the first after the history on."""
Tick = Callable[[], object]


def steps_of(history: int, actions: int) -> int:
    """Return how often :func:`measure` calls its ``tick``."""
    return history - 1 + FRAMES * actions


@torch.no_grad()
def measure(world: World, test: TestSet, tick: Tick = lambda: None) -> Tensor:
    """Return the scores (e, FRAMES) float32; NaN where the true camera did not move.

    Raises InvalidInputError for a world with continuous actions.
    """
    count, history = world.spec.actions, test.config.history
    if count < 2:
        raise InvalidInputError("the action score needs a world with discrete actions")
    state = start_walks(world, test)
    found = []
    for t in range(1, history + FRAMES):
        if t >= history:
            errors = []
            for action in range(count):
                act = torch.full_like(test.act[:, t - 1], action)
                rgb = world.step(state.clone(), act)[1].frame.rgb
                difference = rgb.int() - test.rgb[:, t].int()
                errors.append(difference.square().double().mean((1, 2, 3)))
                tick()
            found.append(share_farther(torch.stack(errors, 1), test.act[:, t - 1]).cpu())
        if t < history + FRAMES - 1:
            state = world.observe(state, test.act[:, t - 1], test.frame(t))
        if t < history:
            tick()
    moved = moved_frames(test.pose)[:, history - 1 : history - 1 + FRAMES].cpu()
    return torch.where(moved, torch.stack(found, 1), torch.nan)


def share_farther(errors: Tensor, act: Tensor) -> Tensor:
    """Return the share of the other actions with a larger error than the action taken.

    errors: (e, a) of each action. act: (e,) int64, the action taken.

    Returns (e,) float32.
    """
    own = errors.gather(1, act[:, None])
    farther = (errors > own).float() + 0.5 * (errors == own).float()
    # Its own tie is not counted.
    return (farther.sum(1) - 0.5) / (errors.shape[1] - 1)


def add(figures: Figures, scores: Tensor, act: Tensor, names: list[str]) -> None:
    """Add ``action_score.all`` and one for each action that was taken.

    act: (e, FRAMES) int64, the actions taken.
    """
    array, taken = scores.double().numpy(), act.numpy()
    known = np.isfinite(array)
    figures.mean("action_score.all", array, known)
    for action, name in enumerate(names):
        chosen = known & (taken == action)
        if chosen.any():
            figures.mean(f"action_score.{name}", array, chosen)
