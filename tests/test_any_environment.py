"""Third-party environments from one end to the other: recorded, trained on, dreamed in, with their
real twins beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.record import RecordConfig, record
from worldsim.training.train import TrainConfig, train
from worldsim.world import World
from worldsim.world.twin import make_twin

TIME = {"max_episode_steps": 60}
SKIP: dict[str, Any] = {"frame_skip": 4, **TIME}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "package", "actions"),
    [
        ("VizdoomTakeCover-v1", SKIP, "vizdoom", gym.spaces.Discrete(3)),
        ("VizdoomHealthGathering-v1", SKIP, "vizdoom", gym.spaces.Discrete(4)),
        ("VizdoomMyWayHome-v1", SKIP, "vizdoom", gym.spaces.Discrete(6)),
        (
            "CarRacing-v3",
            TIME,
            "Box2D",
            gym.spaces.Box(np.array([-1.0, 0, 0], np.float32), np.ones(3, np.float32)),
        ),
    ],
)
def test_from_recording_to_dream(
    tmp_path: Path, env_id: str, kwargs: dict[str, Any], package: str, actions: gym.Space[Any]
) -> None:
    pytest.importorskip(package)
    data, out = tmp_path / "data", tmp_path / "run"
    record(
        RecordConfig(
            env_id,
            data,
            frames=130,
            workers=0,
            env_kwargs=kwargs,
            size=(16, 16),
            episode_steps=60,
            fps=8.75,
        )
    )
    train(
        TrainConfig(
            data,
            out,
            preset="debug",
            steps=2,
            batch_size=2,
            window=12,
            warmup=1,
            memory=False,
            colour=0.0,
            mixed_precision="no",  # type: ignore[arg-type]
        )
    )
    env = gym.make("worldsim/Dream-v0", world=out / "world", max_episode_steps=8)
    world = env.unwrapped.world
    assert env.action_space == actions and env.observation_space == gym.spaces.Box(
        0, 255, (16, 16, 3), np.uint8
    )
    dataset = EpisodeDataset(data)
    obs, _ = env.reset(seed=0)
    assert any(np.array_equal(obs, e.rgb[0]) for e in dataset)
    env.action_space.seed(0)
    for _ in range(8):
        obs, rew, term, trunc, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs) and np.isfinite(rew)
        if term or trunc:
            break
    assert term or trunc
    # Rewards in the environment's own units, before anything is learned: near the recording's mean
    # of going on.
    going_on = np.concatenate([e.rew[:-1][~e.term[:-1]] for e in dataset])
    if not term:
        assert abs(rew - going_on.mean()) < 0.2 + going_on.std()
    twin = make_twin(World.from_pretrained(out / "world", "cpu"))
    assert (twin.observation_space, twin.action_space) == (env.observation_space, env.action_space)
    first, _ = twin.reset(seed=dataset[0].info["seed"])
    np.testing.assert_array_equal(first, dataset[0].rgb[0])
    for t, act in enumerate(dataset[0].act[:5]):
        obs, rew, *_ = twin.step(act)
        np.testing.assert_array_equal(obs, dataset[0].rgb[t + 1])
        assert np.float32(rew) == dataset[0].rew[t]
    twin.close()
    venv = gym.make_vec(
        "worldsim/Dream-v0", world=world, num_envs=4, vectorization_mode="vector_entry_point"
    )
    venv.reset(seed=0)
    obs, rew, *_ = venv.step(venv.action_space.sample())
    assert obs.shape == (4, 16, 16, 3) and rew.shape == (4,)
