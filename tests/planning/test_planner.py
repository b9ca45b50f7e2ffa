"""Futures, objectives, noise and the errors of planning, with hand-computed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from tests.helpers.worlds import make_tiny_world
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.planning.objectives import Futures, ImageGoal, Needs, PoseGoal, RewardSum
from worldsim.planning.planner import Imagination, action_bounds, coloured_noise, draw_choices


def at(*places: tuple[float, float, float]) -> torch.Tensor:
    """Poses (t, 4, 4) at places, all facing alike."""
    pose = torch.eye(4).repeat(len(places), 1, 1)
    pose[:, :3, 3] = torch.tensor(places)
    return pose


def dream(world_folder: Path, **kwargs: Any) -> WorldEnv:
    env = WorldEnv(world_folder, **kwargs)
    env.reset(seed=1)
    return env


def test_reward_sum_counts_what_comes_before_the_end() -> None:
    rew = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    alive = torch.tensor([[True, True, True], [True, True, False]])
    # 1 + 2 / 2 + 4 / 4 and 1 + 2 / 2: the lower cost is the better.
    assert RewardSum(gamma=0.5)(Futures(rew=rew, alive=alive)).tolist() == [-3.0, -2.0]


def test_pose_goal_adds_the_mean_and_the_last_distance() -> None:
    goal = PoseGoal(at((0.0, 4.0, 0.0))[0])
    futures = Futures(
        pose=torch.stack(
            [at((0.0, 0.0, 0.0), (0.0, 3.0, 0.0)), at((3.0, 0.0, 0.0), (3.0, 4.0, 0.0))]
        )
    )
    # Distances 4, 1 and 5, 3.
    assert goal(futures).tolist() == [1.0 + 2.5, 3.0 + 4.0]
    quarter = at((0.0, 4.0, 0.0))[0]
    quarter[:3, :3] = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    turning = PoseGoal(quarter, metres_per_radian=2.0)
    assert torch.allclose(turning(futures) - goal(futures), torch.full((2,), torch.pi), atol=1e-5)


def test_image_goal_is_zero_where_the_picture_is_seen_and_robust_elsewhere() -> None:
    picture = np.full((32, 32, 3), 100, np.uint8)
    seen = torch.full((2, 2, 3, 32, 32), 100, dtype=torch.uint8)
    seen[1] = 110
    seen[1, :, :, :, :8] = 255
    # A quarter of the cells is off by more than 64, which counts as 64; the others by 10. Twice:
    # the best and the last frame.
    assert ImageGoal(picture)(Futures(rgb=seen)).tolist() == [0.0, 2 * (0.25 * 64 + 0.75 * 10)]


def test_noise_is_standard_normal_and_lasts_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    for exponent, least, most in ((0.0, -0.03, 0.03), (2.0, 0.6, 0.95)):
        noise = coloured_noise(8000, 10, 2, exponent, generator)
        assert noise.shape == (8000, 10, 2)
        assert torch.allclose(noise.std(0), torch.ones(10, 2), atol=0.04)
        assert least < float((noise[:, 4] * noise[:, 5]).mean()) < most
    assert coloured_noise(4, 1, 3, 2.0, generator).shape == (4, 1, 3)


def test_choices_have_their_probabilities_whatever_the_noise() -> None:
    probability = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    for exponent in (0.0, 3.0):
        noise = coloured_noise(20000, 2, 3, exponent, torch.Generator().manual_seed(1))
        acts = draw_choices(probability, noise)
        shares = [(acts[:, 0] == a).float().mean() for a in range(3)]
        assert torch.allclose(torch.tensor(shares), probability[0], atol=0.02)
        assert bool((acts[:, 1] == 2).all())


def test_dreamed_futures_are_those_of_the_steps_and_leave_the_dream_where_it_is(
    world_folder: Path,
) -> None:
    env = dream(world_folder)
    before = env.snapshot()
    acts = torch.tensor([[1, 1, 3], [4, 1, 6]])
    futures = Imagination(env).futures(acts, Needs.FRAMES)
    assert (
        futures.rgb is not None
        and futures.pose is not None
        and futures.rew is not None
        and futures.alive is not None
    )
    assert (
        futures.rgb.shape == (2, 3, 3, 32, 32)
        and bool(futures.alive.all())
        and futures.rew.shape == (2, 3)
    )
    assert torch.equal(env.state.frame.rgb, before.state.frame.rgb)
    # One by one, as a fork of the same size does it: results are the same bit by bit inside a
    # bucket of batch sizes.
    forks = env.fork(2)
    for step in range(3):
        obs, _, _, _, infos = forks.step(acts[:, step].numpy())
        assert np.array_equal(obs, futures.rgb[:, step].permute(0, 2, 3, 1).numpy())
        assert np.array_equal(infos["pose"], futures.pose[:, step].numpy())


def test_imagined_motion_is_that_of_the_steps(world_folder: Path) -> None:
    env = dream(world_folder)
    acts = torch.tensor([[1, 1, 3], [4, 1, 6], [2, 2, 2]])
    imagination = Imagination(env)
    moved, drawn = imagination.futures(acts, Needs.MOTION), imagination.futures(acts, Needs.FRAMES)
    assert moved.rgb is None and moved.pose is not None and drawn.pose is not None
    # The first step differs by the rounding of the map alone; later ones by what the dream saw on
    # its way.
    assert float((moved.pose - drawn.pose)[:, 0, :3, 3].norm(dim=-1).max()) < 0.02


def test_candidates_in_batches(world_folder: Path) -> None:
    """Their futures are those of one batch, up to rounding; the places bit by bit."""
    env = dream(world_folder)
    acts = torch.tensor([[1, 1, 3], [4, 1, 6], [2, 2, 2]])
    whole, parts = Imagination(env), Imagination(env, batch=2)
    assert torch.equal(
        whole.futures(acts, Needs.MOTION).pose, parts.futures(acts, Needs.MOTION).pose
    )
    one, two = (x.futures(acts, Needs.FRAMES) for x in (whole, parts))
    torch.testing.assert_close(one.rew, two.rew, atol=1e-4, rtol=1e-4)
    assert float((one.rgb.float() - two.rgb.float()).abs().mean()) < 1.0
    with pytest.raises(InvalidInputError, match="batch = 0"):
        Imagination(env, batch=0)


def test_what_cannot_fork_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"TinyRoom cannot fork.*plan in a dream"):
        Imagination(gym.make("worldsim/TinyRoom-v0"))


def test_a_world_without_reward_head_is_named(world_folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="no reward head.*PoseGoal"):
        RewardSum().check(dream(world_folder))
    RewardSum().check(WorldEnv(make_tiny_world(rewards=True)))


def test_goals_that_cannot_be_used_are_named(world_folder: Path) -> None:
    env = dream(world_folder)
    here = env.state.frame.pose
    assert here is not None
    PoseGoal(here[0]).check(env)
    away = here[0].clone()
    away[:3, 3] += 500.0
    with pytest.raises(
        InvalidInputError,
        match=r"outside of the memory, which knows 0% of its view.*least_coverage=0",
    ):
        PoseGoal(away).check(env)
    PoseGoal(away, least_coverage=0.0).check(env)
    with pytest.raises(InvalidInputError, match=r"finite \(4, 4\)"):
        PoseGoal(torch.eye(3)).check(env)
    with pytest.raises(InvalidInputError, match=r"uint8 \(32, 32, 3\), got uint8 \(64, 64, 3\)"):
        ImageGoal(np.zeros((64, 64, 3), np.uint8)).check(env)
    flat = WorldEnv(make_tiny_world(geometry=False), scenes=None)
    flat.reset(seed=0, options={"frames": {"rgb": np.zeros((1, 32, 32, 3), np.uint8)}})
    with pytest.raises(MissingGeometryError, match="knows no poses.*ImageGoal"):
        PoseGoal(torch.eye(4)).check(flat)


def test_action_spaces_that_planners_cannot_handle_are_named() -> None:
    low, high = action_bounds(gym.spaces.Box(-1.0, 3.0, (2,), np.float32))
    assert low.tolist() == [-1.0, -1.0] and high.tolist() == [3.0, 3.0]
    for space in (
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        gym.spaces.Discrete(3, start=1),
    ):
        with pytest.raises(InvalidInputError, match="planners take Discrete"):
            action_bounds(space)
