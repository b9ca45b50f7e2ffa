"""Recorded scenes: drawing, names, and what is missing."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.errors import NotFoundError
from worldsim.protocols import Scene
from worldsim.scenes.recorded import RecordedScenes


def test_names_and_draws(scenes_folder: Path) -> None:
    scenes = RecordedScenes(scenes_folder)
    assert isinstance(scenes, Scene)
    assert scenes.names() == [f"room-{room}-{i}" for room in (6, 7) for i in (1, 2, 3)]
    drawn = [scenes.start(np.random.default_rng(seed)).name for seed in range(40)]
    assert set(drawn) == set(scenes.names())
    assert drawn == [scenes.start(np.random.default_rng(seed)).name for seed in range(40)]
    assert scenes.load("room-7-2").name == "room-7-2"


def test_missing(scenes_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"MAP30-9.*room-6-1, room-6-2"):
        RecordedScenes(scenes_folder).load("MAP30-9")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError, match="no start scenes"):
            RecordedScenes(folder).start(np.random.default_rng(0))


@pytest.mark.slow
def test_the_readmes_first_dream_shows_a_place() -> None:
    """Reproduces: reset with seed 0 was nearly black, and fog after the first turn: the memory knew one view alone."""
    env = gym.make("worldsim/FreedoomDream-v0")
    obs, _ = env.reset(seed=0)
    assert obs.mean() > 36.0
    coverage = []
    for _ in range(26):
        obs, _, _, _, info = env.step(3)
        coverage.append(float(info["memory_coverage"]))
        assert obs.mean() > 20.0
    # Once around.
    assert min(coverage) > 0.5 and np.mean(coverage) > 0.7
