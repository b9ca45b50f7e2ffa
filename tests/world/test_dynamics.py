"""A second dynamics drives everything that the first one does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from tests.helpers.worlds import SIZE
from tests.world.warp_last_frame import WarpLastFrame
from worldsim.diffusion.dynamics import DiffusionDynamics
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError, UntrustedFileError
from worldsim.protocols import Dynamics
from worldsim.runtime.registries import DYNAMICS
from worldsim.testing import ContractError, check_dynamics
from worldsim.world import World
from worldsim.world.snapshots import load_snapshot, save_snapshot


@pytest.fixture
def warped(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The tiny world with the other dynamics, registered as a program of a user's would do it."""
    monkeypatch.setattr(DYNAMICS, "_entries", dict(DYNAMICS._entries))
    DYNAMICS.register("warp-last-frame", WarpLastFrame)
    settings = {"height": SIZE, "width": SIZE, "actions": tiny_world.spec.actions}

    config = dataclasses.replace(
        tiny_world.config, dynamics_name="warp-last-frame", dynamics_settings=settings
    )
    return World(WarpLastFrame(**settings), config, tiny_world.ego_motion)


def test_both_keep_the_contract(tiny_world: World) -> None:
    check_dynamics(tiny_world.dynamics)
    check_dynamics(WarpLastFrame(16, 24, 7))
    assert isinstance(tiny_world.dynamics, Dynamics) and isinstance(
        tiny_world.dynamics, DiffusionDynamics
    )


def test_the_contract_names_what_is_broken() -> None:
    class Careless(WarpLastFrame):
        def predict(self, context: Any, inputs: Any) -> Any:
            inputs.last.rgb.zero_()
            return super().predict(context, inputs)

    class Sociable(WarpLastFrame):
        def predict(self, context: Any, inputs: Any) -> Any:
            found, context = super().predict(context, inputs)
            found.frame.rgb[0] = found.frame.rgb[1]
            return found, context

    class Elsewhere(WarpLastFrame):
        def predict(self, context: Any, inputs: Any) -> Any:

            return super().predict(context, dataclasses.replace(inputs, pose=inputs.pose + 1.0))

    for broken, complaint in (
        (Careless, "predict changed its arguments"),
        (Sociable, "depends on its neighbours"),
        (Elsewhere, "pose is not the pose"),
    ):
        with pytest.raises(ContractError, match=complaint):
            check_dynamics(broken(16, 24, 7))


def test_it_drives_an_environment(warped: World, scenes_folder: Path) -> None:
    env = gym.wrappers.TimeLimit(WorldEnv(warped, scenes=scenes_folder), 6)
    check_env(env, skip_render_check=True)
    first, _ = env.reset(seed=3)
    walked = [env.step(action)[0] for action in (1, 3, 1, 1)]
    assert any(not np.array_equal(first, obs) for obs in walked)
    env.reset(seed=3)
    again = [env.step(action)[0] for action in (1, 3, 1, 1)]
    np.testing.assert_array_equal(walked, again)


def test_a_vector_environment_gives_the_same(warped: World, scenes_folder: Path) -> None:
    envs = WorldVectorEnv(3, warped, scenes=scenes_folder, max_episode_steps=5)
    observations, _ = envs.reset(seed=[4, 5, 6])
    env = gym.wrappers.TimeLimit(WorldEnv(warped, scenes=scenes_folder), 5)
    alone, _ = env.reset(seed=5)
    np.testing.assert_array_equal(observations[1], alone)
    for action in (1, 4, 1, 3, 1):
        observations, *_ = envs.step(np.full(3, action))
        np.testing.assert_array_equal(observations[1], env.step(action)[0])


def test_forks_and_snapshots(warped: World, scenes_folder: Path, tmp_path: Path) -> None:
    env = WorldEnv(warped, scenes=scenes_folder)
    env.reset(seed=1)
    env.step(1)
    snapshot = env.snapshot()
    forks = env.fork(4)
    ahead = env.step(3)[0]
    np.testing.assert_array_equal(forks.step(np.full(4, 3))[0][2], ahead)
    env.restore(snapshot)
    np.testing.assert_array_equal(env.step(3)[0], ahead)
    env.restore(snapshot)
    env.save(tmp_path / "walk.safetensors")
    again = WorldEnv(warped, scenes=scenes_folder)
    again.load(tmp_path / "walk.safetensors")
    np.testing.assert_array_equal(again.step(3)[0], ahead)


def test_infos_tell_the_coverage(
    tiny_world: World, warped: World, scenes_folder: Path, tmp_path: Path
) -> None:
    """Reproduces: 0 for every dynamics whose context holds no memory views."""
    _, other = WorldEnv(tiny_world, scenes=scenes_folder).reset(seed=1)
    env = WorldEnv(warped, scenes=scenes_folder)
    _, info = env.reset(seed=1)
    assert info["memory_coverage"] == other["memory_coverage"] > 0.3
    snapshot = env.snapshot()
    _, transition = warped.step(env.state, torch.tensor([3]))
    assert transition.view is not None
    _, _, _, _, info = env.step(3)
    assert info["memory_coverage"] == transition.view.mask.float().mean() > 0
    env.save(tmp_path / "walk.safetensors")
    assert float(warped.coverage(env.state)) == info["memory_coverage"]

    env.restore(snapshot)
    assert float(warped.coverage(env.state)) == other["memory_coverage"]
    env.load(tmp_path / "walk.safetensors")
    assert float(warped.coverage(env.state)) == info["memory_coverage"]
    _, edited = env.edit(env.memory.remove(((-9, -9, -9), (9, 9, 9))))
    assert edited["memory_coverage"] < info["memory_coverage"]

    envs = WorldVectorEnv(2, warped, scenes=scenes_folder)
    _, infos = envs.reset(seed=[1, 1])
    np.testing.assert_array_equal(infos["memory_coverage"], [other["memory_coverage"]] * 2)
    _, _, _, _, infos = envs.step(np.array([3, 0]))
    assert infos["memory_coverage"][0] == info["memory_coverage"]


def test_a_snapshot_from_before_the_coverage_loads(
    warped: World, scenes_folder: Path, tmp_path: Path
) -> None:
    env = WorldEnv(warped, scenes=scenes_folder)
    env.reset(seed=1)
    before = env.snapshot()
    old = dataclasses.replace(before, state=dataclasses.replace(before.state, coverage=None))
    loaded = load_snapshot(save_snapshot(old, warped, tmp_path / "old.safetensors"), warped)
    assert loaded.state.coverage is not None and loaded.state.coverage.tolist() == [0.0]
    ahead = env.step(3)[0]
    env.restore(loaded)
    np.testing.assert_array_equal(env.step(3)[0], ahead)


def test_its_name_is_all_that_a_world_file_holds(warped: World, tmp_path: Path) -> None:
    folder = warped.save_pretrained(tmp_path / "warped")
    held = json.loads((folder / "world.json").read_text())["config"]
    assert held["dynamics_name"] == "warp-last-frame"
    assert not (folder / "dynamics").exists()
    found = World.from_pretrained(folder, device="cpu")
    assert isinstance(found.dynamics, WarpLastFrame) and found.weights_id == warped.weights_id
    DYNAMICS._entries.pop("warp-last-frame")
    with pytest.raises(UntrustedFileError, match="names the dynamics 'warp-last-frame'"):
        World.from_pretrained(folder, device="cpu")


def test_what_only_networks_have_is_refused(warped: World) -> None:
    with pytest.raises(InvalidInputError, match="have no network"):
        _ = warped.network
    with pytest.raises(InvalidInputError, match="with_uncertainty"):
        warped.with_uncertainty()
    with pytest.raises(InvalidInputError, match="only diffusion"):
        warped.with_dynamics(temperature=0.5)
    with pytest.raises(InvalidInputError, match="is no dynamics"):
        World(torch.nn.Linear(2, 2), warped.config)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*no network to compile")
def test_engines_leave_it_as_it_is(warped: World, scenes_folder: Path) -> None:
    frames = []
    for engine in ("plain", "compiled"):
        env = gym.make("worldsim/Dream-v0", world=warped.with_engine(engine), scenes=scenes_folder)
        env.reset(seed=2)
        frames.append(env.step(1)[0])
    np.testing.assert_array_equal(*frames)
