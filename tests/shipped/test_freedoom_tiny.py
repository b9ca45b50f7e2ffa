"""The shipped world itself: what its card promises, the two twins side by side, and that it beats
simple baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import worldsim
from worldsim.errors import InvalidInputError
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.world import World
from worldsim.world.files import find_world
from worldsim.world.scene_files import scene_names

DREAM, REAL = "worldsim/FreedoomDream-v0", "worldsim/FreedoomReal-v0"


@pytest.fixture(scope="module")
def world() -> World:
    return World.from_pretrained("freedoom-tiny", device="cpu")


def test_it_is_small_and_starts_in_test_maps() -> None:
    folder = find_world("freedoom-tiny")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 8_000_000
    names = scene_names(folder / "scenes")
    assert len(names) >= 32
    assert {name.split("-")[0] for name in names} == {"MAP28", "MAP29", "MAP30", "MAP31", "MAP32"}
    assert all(
        sum(f.stat().st_size for f in (folder / "scenes" / name).iterdir()) <= 200_000
        for name in names
    )


def test_its_card_names_data_licence_and_results(world: World) -> None:
    from worldsim.envs.doom import TRAIN_MAPS

    assert set(world.card["train_maps"]) == set(TRAIN_MAPS)
    assert "Freedoom" in world.card["licence"]
    assert world.card["results"]["next_frame_psnr"] > world.card["results"]["warp_last_psnr"]
    assert all(run["hardware"] and run["minutes"] > 0 for run in world.card["training"]["runs"])


def test_both_twins_keep_the_contract() -> None:
    for env_id in (DREAM, REAL):
        env = gym.make(env_id, render_mode="rgb_array")
        check_env(env.unwrapped)
        sb3_check_env(env)
        env.close()


def test_twins_have_the_same_spaces_and_limits() -> None:
    dream, real = gym.make(DREAM), gym.make(REAL)
    assert dream.observation_space == real.observation_space
    assert dream.action_space == real.action_space
    assert dream.spec is not None and real.spec is not None
    assert dream.spec.max_episode_steps == real.spec.max_episode_steps == 500
    infos = [env.reset(seed=0)[1] for env in (dream, real)]
    assert {"pose", "depth", "intrinsics"} <= set(infos[0]) & set(infos[1])
    assert np.array_equal(infos[0]["intrinsics"], infos[1]["intrinsics"])
    real.close()


def test_the_readme_snippet() -> None:
    env: Any = gym.make(DREAM, render_mode="rgb_array")
    obs, info = env.reset(seed=0)
    assert obs.shape == (64, 64, 3) and info["generated"] and 0 < info["memory_coverage"] <= 1
    env.step(1)
    snapshot = env.unwrapped.snapshot()
    first = [env.step(a)[0] for a in (1, 3, 5)]
    env.unwrapped.restore(snapshot)
    assert all(
        np.array_equal(env.step(a)[0], frame) for a, frame in zip((1, 3, 5), first, strict=True)
    )
    futures = env.unwrapped.fork(8)
    frames = futures.step(np.arange(8) % 7)[0]
    assert frames.shape == (8, 64, 64, 3)
    assert np.array_equal(frames[0], frames[7]) and not np.array_equal(frames[1], frames[3])


def test_vector_environment() -> None:
    envs: Any = gym.make_vec(DREAM, num_envs=2, vectorization_mode="vector_entry_point")
    obs, info = envs.reset(seed=3)
    assert obs.shape == (2, 64, 64, 3) and info["pose"].shape == (2, 4, 4)
    obs, rew, term, trunc, info = envs.step(np.array([1, 4]))
    assert obs.shape == (2, 64, 64, 3) and not term.any() and not trunc.any() and (rew == 0).all()


def test_turning_left_turns_the_dream_left() -> None:
    """Four steps of turning left: the heading grows (counter-clockwise) as in the real twin, within
    two degrees."""
    turned = []
    for env_id in (DREAM, REAL):
        env = gym.make(env_id)
        _, before = env.reset(seed=1)
        env.step(0), env.step(0)
        _, _, _, _, before = env.step(0)
        for _ in range(4):
            _, _, _, _, after = env.step(3)
        a, b = before["pose"][:2, 2], after["pose"][:2, 2]
        turned.append(np.degrees(np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b)))
        env.close()
    assert turned[1] > 10
    assert abs(turned[0] - turned[1]) < 2


def test_an_action_outside_the_space() -> None:
    env = gym.make(DREAM)
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="7"):
        env.unwrapped.step(7)


@pytest.mark.slow
def test_it_beats_copying_and_warping(tmp_path: Path) -> None:
    """A quick look at two short walks through test maps: margins far under those of the full
    protocol, whose figures are in the card."""
    results = evaluate(
        EvaluateConfig(
            world="freedoom-tiny",
            json=tmp_path / "results.json",
            episodes=2,
            history=24,
            horizon=16,
            device="cpu",
            workers=1,
        )
    )
    assert results["next_frame_psnr"] > results["copy_last_psnr"] + 2
    assert results["next_frame_psnr"] > results["warp_last_psnr"]
    assert results["action_gap_psnr"] > 2
    assert results["heading_error_deg_all"] < 3
    assert (tmp_path / "results.json").is_file()


def test_world_is_a_public_name() -> None:
    assert worldsim.World is World
