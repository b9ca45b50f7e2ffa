"""Figures on rewards and terminations by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.evaluation.metrics import changed_psnr
from worldsim.evaluation.task_outcomes import (
    calibration,
    count_events,
    errors_of_constant,
    f1_score,
    match_events,
    usual_reward,
)

pytestmark = pytest.mark.fast


def test_events_are_matched_once() -> None:
    """Within two steps, each at most once: a late guess does not serve two rewards."""
    assert match_events(np.array([3, 10]), np.array([5, 13])) == 1
    assert match_events(np.array([3, 4]), np.array([4])) == 1
    assert match_events(np.array([3, 4]), np.array([1, 6])) == 2
    assert match_events(np.array([]), np.array([1])) == 0


def test_f1_of_rewards() -> None:
    """One of two rewards of 10 is found, and one guess of 6 is wrong: precision and recall 1/2."""
    real = [np.array([0.0, 0, 10, 0, 0, 0, 0, 0, 0]), np.array([0.0, 0, 0, 0, 10])]
    guess = [np.array([0.0, 0, 0, 7, 0, 0, 0, 6, 0]), np.array([0.0, 0, 0, 0, 4.9])]
    counts = count_events(real, guess)
    assert counts is not None and counts.tolist() == [[1, 2, 1], [0, 0, 1]]
    assert f1_score(counts.sum(0)) == pytest.approx(0.5)
    assert f1_score(counts).tolist() == pytest.approx([2 / 3, 0.0])


def test_dense_and_constant_rewards_have_no_events() -> None:
    assert usual_reward(np.array([1.0, 1.0, 2.0])) == 1.0
    assert usual_reward(np.array([1.0, 2.0])) is None
    dense, constant = [np.array([0.1, 0.2, 0.3])], [np.ones(3)]
    assert count_events(dense, dense) is None and count_events(constant, dense) is None


def test_the_best_constant_is_the_median_of_each_action() -> None:
    rewards = [np.array([1.0, 5.0, 1.0]), np.array([3.0, 7.0])]
    acts = [np.array([0, 1, 0]), np.array([0, 1])]
    found = errors_of_constant(rewards, acts, discrete=True)
    assert [one.tolist() for one in found] == [[0.0, 1.0, 0.0], [2.0, 1.0]]
    # 1, 1, 3, 5, 7: the median is 3, whatever the continuous actions are.
    found = errors_of_constant(rewards, [a[:, None] for a in acts], discrete=False)
    assert [one.tolist() for one in found] == [[2.0, 2.0, 2.0], [0.0, 4.0]]


def test_calibration() -> None:
    rows, error = calibration(
        np.array([0.01, 0.01, 0.8, 1.0]), np.array([False, False, True, False])
    )
    assert [(row["low"], row["high"], row["steps"]) for row in rows] == [
        (0.005, 0.02, 2),
        (0.6, 1.0, 2),
    ]
    assert rows[1]["predicted"] == pytest.approx(0.9) and rows[1]["observed"] == 0.5
    assert error == pytest.approx(0.5 * 0.01 + 0.5 * 0.4)


def test_psnr_of_what_changed() -> None:
    """Of four pixels one changes by 100; it is predicted 10 too dark. Others do not count."""
    before = torch.full((3, 2, 2), 50, dtype=torch.uint8)
    truth, guess = before.clone(), before.clone()
    truth[:, 0, 0], guess[:, 0, 0], guess[:, 1, 1] = 150, 140, 255
    found = changed_psnr(guess, truth, before)
    assert float(found) == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert torch.isnan(changed_psnr(guess, before, before))
