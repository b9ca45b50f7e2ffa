"""The action score by hand."""

from __future__ import annotations

import pytest
import torch

from worldsim.evaluation.figures import Figures
from worldsim.evaluation.twin.actions import add, share_farther


def test_share_of_farther_actions() -> None:
    errors = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 3.0], [2.0, 1.0, 1.0], [5.0, 5.0, 5.0]])
    # Nearest; one of two tied and one nearer; one of two tied; actions that make no difference.
    score = share_farther(errors, torch.tensor([0, 2, 1, 0]))
    assert score.tolist() == pytest.approx([1.0, 0.25, 0.75, 0.5])


def test_means_by_action_leave_out_still_cameras() -> None:
    figures = Figures(1, 10, 0)
    scores, act = torch.tensor([[1.0, 0.5, torch.nan, 0.0]]), torch.tensor([[0, 1, 1, 0]])
    add(figures, scores, act, ["forward", "left", "right"])
    assert figures.values["action_score"] == {"all": 0.5, "forward": 0.5, "left": 0.5}
