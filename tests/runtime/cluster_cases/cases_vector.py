"""A batch of dreams on a cluster of two nodes. Run by tests/runtime/test_cluster.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from gymnasium.vector import AutoresetMode

from worldsim.envs import ray_hosts
from worldsim.envs.ray_vector import RayVectorEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import (
    EngineError,
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
)
from worldsim.runtime.cluster_connection import versions_here

SETTINGS: dict[str, Any] = {"device": "cpu", "max_episode_steps": 5}


@pytest.fixture(scope="module")
def envs(cluster: Any, world_folder: Path) -> Iterator[tuple[RayVectorEnv, WorldVectorEnv]]:
    """Four dreams in two processes, and the same four in this one: batches of one computed size."""
    settings = {**SETTINGS, "world": str(world_folder), "autoreset_mode": "SameStep"}
    spread = RayVectorEnv(4, 2, cluster.address, num_cpus=0.5, snapshot_every=4, **settings)
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
    """Between processes and numbers of workers, and in files; a loss takes both back."""
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
    assert_same(spread.step(actions(3)), whole.step(actions(3)))
    assert_same(futures.step(actions(4)), other.step(actions(4)))
    losses = spread.losses
    ray.kill(spread._hosts[1]._actor, no_restart=True)
    assert_same(futures.step(actions(5)), other.step(actions(5)))
    assert_same(spread.step(actions(6)), whole.step(actions(6)))
    assert spread.losses == losses + 1
    futures.close()


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_autoreset_modes(
    cluster: Any, envs: tuple[RayVectorEnv, WorldVectorEnv], world_folder: Path, mode: str
) -> None:
    """As Gymnasium defines them: the step after the last one resets, or a masked reset does."""
    settings = {**SETTINGS, "world": str(world_folder), "autoreset_mode": mode}
    spread, whole = RayVectorEnv(2, 1, num_cpus=0.5, **settings), WorldVectorEnv(2, **settings)
    assert spread.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert_same(spread.reset(seed=3), whole.reset(seed=3))
    for step in range(6):
        found = spread.step(actions(step)[:2])
        assert_same(found, whole.step(actions(step)[:2]))
        # Five steps are an episode. Without autoreset it stays over.
        assert found[3].tolist() == [step == 4 or (step == 5 and mode == "Disabled")] * 2
        assert "final_obs" not in found[4]
    if mode == "Disabled":
        options = {"reset_mask": np.array([False, True])}
        again = spread.reset(options=dict(options))
        assert_same(again, whole.reset(options=dict(options)))
    spread.close()


def test_a_process_that_cannot_come_back(
    envs: tuple[RayVectorEnv, WorldVectorEnv], world_folder: Path, tmp_path: Path
) -> None:
    """Its machine has lost the world: the error says what is lost, and nothing is made up."""
    shutil.copytree(world_folder, tmp_path / "world")
    settings = {**SETTINGS, "world": str(tmp_path / "world")}
    with closing(RayVectorEnv(2, 1, num_cpus=0.5, **settings)) as env:
        env.reset(seed=1)
        env.step(actions(0)[:2])
        shutil.rmtree(tmp_path / "world")
        ray.kill(env._hosts[0]._actor, no_restart=True)
        lost = r"Lost are 2 calls of 2 dreams since their last reset"
        with pytest.raises(EngineError, match=lost):
            env.step(actions(1)[:2])


def test_relative_worlds_and_steps_that_cannot_be_repeated(
    cluster: Any, world_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated step that fails ends in an error, not in another dream; then it can go on."""
    monkeypatch.chdir(world_folder.parent)
    settings = {**SETTINGS, "world": f"./{world_folder.name}"}
    whole = WorldVectorEnv(2, **settings)
    with closing(RayVectorEnv(2, 1, num_cpus=0.5, **settings)) as env:
        assert_same(env.reset(seed=1), whole.reset(seed=1))
        assert_same(env.step(actions(0)[:2]), whole.step(actions(0)[:2]))
        log = env._hosts[0]._logs[env._number]
        log.calls.insert(1, ("step", (np.array([99, 99]),)))
        ray.kill(env._hosts[0]._actor, no_restart=True)
        with pytest.raises(EngineError, match="cannot be started again"):
            env.step(actions(1)[:2])
        del log.calls[1]
        assert_same(env.step(actions(1)[:2]), whole.step(actions(1)[:2]))


def test_a_call_that_one_process_could_not_do(
    envs: tuple[RayVectorEnv, WorldVectorEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are a step ahead: nothing but a reset or a snapshot brings them together."""
    spread, whole = envs
    for env in envs:
        env.reset(seed=7)
    with monkeypatch.context() as patch:
        patch.setattr(ray_hosts, "TRIES", 1)
        ray.kill(spread._hosts[0]._actor, no_restart=True)
        with pytest.raises(EngineError, match="Lost are 1 calls of 2 dreams"):
            spread.step(actions(0))
    with pytest.raises(EngineError, match="different steps"):
        spread.step(actions(0))
    assert_same(spread.reset(seed=7), whole.reset(seed=7))
    assert_same(spread.step(actions(0)), whole.step(actions(0)))


def test_what_a_cluster_cannot_do(
    envs: tuple[RayVectorEnv, WorldVectorEnv], world_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the machine and the next step; no process stays behind."""
    world = str(world_folder)
    with pytest.raises(InvalidInputError, match="room for 2 of 3 processes of 1 CPU each"):
        RayVectorEnv(3, 3, **SETTINGS, world=world)
    with pytest.raises(InvalidInputError, match="room for 0 of 1 processes of 1 CPU and 1 GPU"):
        RayVectorEnv(1, 1, num_gpus=1, **SETTINGS, world=world)
    with pytest.raises(NotFoundError, match=r"nowhere.*on machine .* of the cluster"):
        RayVectorEnv(1, 1, num_cpus=0.5, world="nowhere")
    other = {**versions_here(), "torch": "0.1"}
    monkeypatch.setattr(ray_hosts, "versions_here", lambda: other)
    with pytest.raises(MissingDependencyError, match=r"has torch .* instead of 0\.1"):
        RayVectorEnv(1, 1, num_cpus=0.5, world=world)


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
