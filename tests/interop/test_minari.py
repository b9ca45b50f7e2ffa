"""Recordings as Minari datasets that know their environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim.data.minari import (
    ExportMinariConfig,
    ImportMinariConfig,
    export_minari,
    import_minari,
)
from worldsim.data.record import RecordConfig, record

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore:`")

NAME = "mine/data-v0"


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def recorded(folder: Path, env_id: str, **kwargs: Any) -> Any:
    """A recording of two episodes."""
    settings: dict[str, Any] = {
        "frames": 12,
        "episode_steps": 5,
        "min_travel": 0.0,
        "workers": 0,
        "policy": "random",
        "seed": 5,
    }
    return record(RecordConfig(env_id, folder / "data", **{**settings, **kwargs}))


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("worldsim/FreedoomDream-v0", {}),
        ("worldsim/FreedoomReal-v0", {}),
        ("worldsim/TinyRoom-v0", {"env_kwargs": {"size": 16, "max_episode_steps": 50}}),
        # A part of a Dict observation, resized; then what is rendered.
        ("VizdoomTakeCover-v1", {"size": (16, 24), "env_kwargs": {"frame_skip": 4}}),
        ("CartPole-v1", {"size": (16, 24), "render": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_environment_is_recovered(tmp_path: Path, env_id: str, kwargs: dict[str, Any]) -> None:
    """Reproduces: exports had no ``env_spec``, so "Environment cannot be recovered"."""
    for name, package in (("Real", "vizdoom"), ("Vizdoom", "vizdoom"), ("CartPole", "pygame")):
        if name in env_id:
            pytest.importorskip(package)
    before = recorded(tmp_path, env_id, **kwargs)
    export_minari(ExportMinariConfig(tmp_path / "data", NAME))
    dataset = minari.load_dataset(NAME)
    env = dataset.recover_environment()
    assert env.spec is not None and env.spec.id == env_id
    assert (
        env.observation_space == dataset.observation_space
        and env.action_space == dataset.action_space
    )
    limit = {"worldsim/TinyRoom-v0": 50, "VizdoomTakeCover-v1": None}.get(env_id, 500)
    assert env.spec.max_episode_steps == limit
    # The same episode begins with the same seed.
    episode = dataset[0]
    obs, _ = env.reset(seed=before[0].info["seed"])
    env.close()
    np.testing.assert_array_equal(obs, episode.observations[0])
    after = import_minari(ImportMinariConfig(NAME, tmp_path / "back"))
    assert after.info.env_id == before.info.env_id
    np.testing.assert_array_equal(after[0].rgb, before[0].rgb)


class Bars(gym.Env):
    """An environment that no file may make."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, where: str = "") -> None:
        self.where = where

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros((16, 16, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, False, {}


def test_why_an_environment_is_not_recovered(tmp_path: Path) -> None:
    """The warning gives the reason, here an argument that a file may not choose, and the data are
    exported."""
    gym.register("Bars-v0", entry_point=Bars)
    try:
        recorded(tmp_path, "Bars-v0", env_kwargs={"where": "/tmp"})
        with pytest.warns(
            UserWarning,
            match=r"does not name its environment 'Bars-v0' \(.*where = "
            r"'/tmp'.*recover_environment",
        ):
            export_minari(ExportMinariConfig(tmp_path / "data", NAME))
    finally:
        del gym.registry["Bars-v0"]
    assert minari.load_dataset(NAME).total_episodes == 2
