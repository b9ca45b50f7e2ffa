"""A batch of dreams on a cluster of two nodes. Run by tests/runtime/test_cluster.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from worldsim.envs.ray_vector import RayVectorEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError

SETTINGS: dict[str, Any] = {"device": "cpu", "max_episode_steps": 5}


@pytest.fixture(scope="module")
def envs(cluster: Any, world_folder: Path) -> Iterator[tuple[RayVectorEnv, WorldVectorEnv]]:
    """Four dreams in two processes, and the same four in this one: batches of one computed size."""
    settings = {**SETTINGS, "world": str(world_folder), "autoreset_mode": "SameStep"}
    spread = RayVectorEnv(4, 2, cluster.address, snapshot_every=4, **settings)
    yield spread, WorldVectorEnv(4, **settings)
    spread.close()


def assert_same(mine: Any, other: Any) -> None:
    """Nested dicts, tuples and arrays are equal, objects in arrays included."""
    if isinstance(other, dict):
        assert mine.keys() == other.keys()
        for key in other:
            assert_same(mine[key], other[key])
    elif isinstance(other, tuple) or getattr(other, "dtype", None) is np.dtype(object):
        assert len(mine) == len(other)
        for one, two in zip(mine, other, strict=True):
            assert_same(one, two)
    else:
        np.testing.assert_array_equal(mine, other)


def actions(step: int) -> np.ndarray:
    return np.array([step % 7, 1, (step + 3) % 7, 2])


def test_the_same_dreams_as_in_one_process(envs: tuple[RayVectorEnv, WorldVectorEnv]) -> None:
    """Frames, rewards, infos, and the final observations of episodes that end."""
    spread, whole = envs
    assert spread.single_observation_space == whole.single_observation_space
    assert spread.metadata == whole.metadata
    assert_same(spread.reset(seed=3), whole.reset(seed=3))
    for step in range(6):
        assert_same(spread.step(actions(step)), whole.step(actions(step)))
    mask = np.array([True, False, False, False])
    for env in envs:
        env.reset(seed=8)
    assert_same(*(e.reset(seed=9, options={"reset_mask": mask.copy()}) for e in envs))


def test_a_lost_process_goes_on_as_if_nothing_had_happened(
    envs: tuple[RayVectorEnv, WorldVectorEnv],
) -> None:
    """After a snapshot and some steps; its next observation is the one it would have given."""
    spread, whole = envs
    for env in envs:
        env.reset(seed=4)
    losses = spread.losses
    for step in range(7):
        if step == 6:
            ray.kill(spread._hosts[1]._actor, no_restart=True)
        assert_same(spread.step(actions(step)), whole.step(actions(step)))
    assert spread.losses == losses + 1


def test_snapshots_and_forks(envs: tuple[RayVectorEnv, WorldVectorEnv], tmp_path: Path) -> None:
    """Between processes and numbers of workers, and in files."""
    spread, whole = envs
    for env in envs:
        env.reset(seed=5)
        env.step(actions(1))
    path = spread.save(tmp_path / "walk.safetensors")
    whole.load(path)
    expected = whole.step(actions(2))
    assert_same(spread.step(actions(2)), expected)
    spread.load(path)
    assert_same(spread.step(actions(2)), expected)

    spread.load(path)
    whole.load(path)
    futures, other = spread.fork(2, 4), whole.fork(2, 4)
    spread.step(actions(3))
    assert_same(futures.step(actions(4)), other.step(actions(4)))
    futures.close()


def test_bad_input(envs: tuple[RayVectorEnv, WorldVectorEnv]) -> None:
    """Found before any process has stepped."""
    spread, whole = envs
    for env in envs:
        env.reset(seed=6)
    with pytest.raises(InvalidInputError, match="4 actions"):
        spread.step(np.array([0, 0, 0, 7]))
    with pytest.raises(InvalidInputError, match="4 environments"):
        spread.restore(whole.fork(0, 2).snapshot())
    with pytest.raises(InvalidInputError, match="reset_mask"):
        spread.reset(options={"reset_mask": np.array([True])})
    assert_same(spread.step(actions(0)), whole.step(actions(0)))
