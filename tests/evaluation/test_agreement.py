"""Agreement of dream and real returns: hand-computed correlations, the list of policies, the
report."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.errors import InvalidInputError
from worldsim.evaluation.agreement import (
    AgreementConfig,
    agreement,
    correlations,
    pearson,
    policies,
    spearman,
)


def test_correlations_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / 2.
    assert pearson(np.array([[1.0, 2.0, 3.0], [0.0, 2.0, 1.0]])) == pytest.approx(0.5)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert spearman(np.array([[0.0, 5.0, 5.0, 9.0], [1.0, 10.0, 11.0, 100.0]])) == pytest.approx(
        4.5 / np.sqrt(22.5)
    )
    assert np.isnan(pearson(np.array([[1.0, 1.0], [0.0, 2.0]])))


def test_intervals() -> None:
    skill = np.linspace(0, 10, 10)[:, None]
    noise = np.random.default_rng(0).normal(size=(2, 10, 20))
    figures = correlations(skill + noise, draws=200, seed=0)
    low, high = figures["ci95"]
    assert 0.95 < low <= figures["pearson"] <= high <= 1.0
    assert figures == correlations(skill + noise, draws=200, seed=0)
    assert correlations(np.zeros((2, 8, 3)), 50, 0) == {
        "pearson": None,
        "spearman": None,
        "ci95": None,
        "spearman_ci95": None,
    }


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (gym.spaces.Discrete(7), 9),
        (gym.spaces.Discrete(2), 8),
        (gym.spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32)), 10),
    ],
)
def test_there_are_at_least_eight(space: gym.Space, count: int) -> None:
    specs = policies(AgreementConfig("w"), space)
    assert len(specs) == len({spec.name for spec in specs}) == count
    with_agents = policies(AgreementConfig("w", agents=("a", "b")), space)
    assert (
        len(with_agents) == 12
        and with_agents[1].name == "a with 0.1 chance"
        and with_agents[-1].name == "persistent"
    )


def test_report(goal_folder: Path, tmp_path: Path) -> None:
    config = AgreementConfig(
        str(goal_folder), json=tmp_path / "a.json", episodes=2, max_steps=3, workers=0, bootstrap=50
    )
    results = agreement(config)
    assert json.loads((tmp_path / "a.json").read_text()) == results
    assert {"pearson", "spearman", "ci95", "policies"} <= results.keys()
    assert len(results["policies"]) == 9
    assert {"name", "real_return_mean", "real_return_ci95", "dream_return_mean"} <= results[
        "policies"
    ][0].keys()


def test_bad_input(world_folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="no reward head"):
        agreement(AgreementConfig(str(world_folder)))
    with pytest.raises(InvalidInputError, match="episodes = 0"):
        AgreementConfig("w", episodes=0)
