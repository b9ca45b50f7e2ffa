"""What a world tells of its own uncertainty: the same dream as without, each environment's own, and
a limit that cuts episodes."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import worldsim  # noqa: F401  registers the environments
from worldsim.diffusion.dynamics import colour_difference
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError
from worldsim.world import World
from worldsim.world.scene_files import load_scene


@pytest.fixture
def world(world_folder: Path) -> World:
    return World.from_pretrained(world_folder)


def test_difference_by_hand() -> None:
    one, other = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    one[0, :3] = 1.0
    # Half of the pixels of the second differ by 0.5 of 2, its depth does not count; what is beyond
    # 1 is 1.
    one[1, :3, 0], one[1, 3] = 0.5, 1.0
    other[0, :3] = -3.0
    torch.testing.assert_close(colour_difference(one, other), torch.tensor([1.0, 0.25 * 0.5**0.5]))


def test_frames_stay_the_same(world: World, scenes_folder: Path) -> None:
    scenes = [load_scene(scenes_folder / name) for name in ("room-6-1", "room-7-1")]
    telling = world.with_uncertainty()
    assert (
        telling.with_uncertainty() is telling
        and telling.with_dynamics(num_inference_steps=2).tells_uncertainty
    )
    a, b = world.initial(scenes, [1, 2]), telling.initial(scenes, [1, 2])
    for step in range(6):
        act = torch.tensor([step % 7, 1])
        (a, plain), (b, told) = world.step(a, act), telling.step(b, act)
        assert torch.equal(plain.frame.rgb, told.frame.rgb) and torch.equal(
            plain.frame.pose, told.frame.pose
        )
        assert plain.uncertainty is None
        assert (
            told.uncertainty is not None
            and bool((told.uncertainty > 0).all())
            and bool((told.uncertainty < 1).all())
        )


def test_it_is_the_distance_of_two_draws(world: World, scenes_folder: Path) -> None:
    """Against draws by hand: a step's frame, and the same step's with the other draw's noise."""
    from worldsim.runtime.rng import Purpose, normal

    telling = world.with_uncertainty()
    state = telling.initial([load_scene(scenes_folder / "room-6-1")], [5])
    act = torch.tensor([1])
    _, told = telling.step(state.clone(), act)
    n = world.network.config
    inputs = world.running.inner.inputs(state, act)
    condition = world.dynamics.condition_on(state.context, inputs)
    one, other = (
        world.dynamics.sample(
            state.context,
            condition,
            normal(state.seed, state.step, p, (n.channels, n.height, n.width)),
        )[0]
        for p in (Purpose.NOISE, Purpose.UNCERTAINTY)
    )
    torch.testing.assert_close(
        told.uncertainty, colour_difference(one, other), atol=1e-5, rtol=1e-4
    )


def test_single_environments_tell_it(world: World) -> None:
    silent = WorldEnv(world)
    assert "uncertainty" not in silent.reset(seed=0)[1] and "uncertainty" not in silent.step(1)[4]
    env = WorldEnv(world, uncertainty=True)
    _, info = env.reset(seed=0)
    assert info["uncertainty"] == 0.0
    *_, trunc, info = env.step(1)
    assert 0.0 < info["uncertainty"] < 1.0 and not trunc
    check_env(WorldEnv(world, uncertainty_limit=0.5), skip_render_check=True)


def test_vector_environments_tell_the_same(world: World) -> None:
    n = 3
    mine = WorldVectorEnv(n, world, uncertainty=True, max_episode_steps=4)
    sync = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.TimeLimit(WorldEnv(world, uncertainty=True), 4)] * n
    )
    a, b = mine.reset(seed=7)[1], sync.reset(seed=7)[1]
    for step in range(6):
        assert a["uncertainty"].dtype == b["uncertainty"].dtype and a["_uncertainty"].all()
        np.testing.assert_allclose(a["uncertainty"], b["uncertainty"], rtol=0.02)
        assert (a["uncertainty"] > 0).all() == (step not in (0, 5))
        acts = np.full(n, step)
        a, b = mine.step(acts)[4], sync.step(acts)[4]


def test_each_environments_own(world: World) -> None:
    """Bit by bit, whatever the neighbours do."""
    told = []
    for others in (1, 4):
        envs = WorldVectorEnv(4, world, uncertainty=True)
        envs.reset(seed=3)
        told.append(
            [
                envs.step(np.array([2, others, others, others]))[4]["uncertainty"][0]
                for _ in range(4)
            ]
        )
    assert told[0] == told[1]


def test_a_limit_cuts_episodes(world: World) -> None:
    env = WorldEnv(world, uncertainty=True)
    env.reset(seed=0)
    seen = [env.step(1)[4]["uncertainty"] for _ in range(8)]
    limit = sorted(seen)[4]
    first = next(i for i, value in enumerate(seen) if value > limit)
    cut = WorldEnv(world, uncertainty_limit=limit)
    cut.reset(seed=0)
    signals = [cut.step(1)[2:4] for _ in range(first + 1)]
    assert signals == [(False, False)] * first + [(False, True)]
    fork = cut.fork(2)
    assert fork.uncertainty_limit == limit
    envs = WorldVectorEnv(2, world, uncertainty_limit=1e-6, output="torch")
    envs.reset(seed=0)
    _, rew, term, trunc, info = envs.step(torch.tensor([1, 1]))
    assert trunc.tolist() == [True, True] and term.tolist() == [False, False]
    _, _, _, trunc, info = envs.step(torch.tensor([1, 1]))
    assert trunc.tolist() == [False, False] and info["uncertainty"].tolist() == [0.0, 0.0]


def test_bad_input(world: World) -> None:
    for limit in (0.0, -1.0, "high"):
        with pytest.raises(InvalidInputError, match="uncertainty_limit must be more than 0"):
            WorldEnv(world, uncertainty_limit=limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="temperature above 0"):
        WorldVectorEnv(2, world, temperature=0.0, uncertainty=True)


@pytest.mark.slow
def test_it_tells_the_true_error() -> None:
    """Over the frames of a few real walks on test maps: docs/experiments/uncertainty.md has more of
    them."""
    pytest.importorskip("vizdoom")
    from worldsim.evaluation.agreement import spearman
    from worldsim.shipped.policies import make_policy
    from worldsim.state import Frame
    from worldsim.world.scene_files import scene_of

    world = World.from_pretrained("freedoom-tiny", "cpu").with_uncertainty()
    env = gym.make(world.config.env_id)
    policy = make_policy("persistent", env.action_space)
    error, told = [], []
    for seed in range(3):
        policy.reset(seed)
        obs, info = env.reset(seed=seed, options={"split": "test"})
        visits = [(obs, 0, info)]
        for _ in range(22):
            act = policy.act(obs)
            obs, _, _, _, info = env.step(act)
            visits.append((obs, act, info))
        state = world.initial([scene_of(visits[:8], True)], [seed])
        for t in range(8, 22):
            now = scene_of(visits[t : t + 1], True)
            _, transition = world.step(state.clone(), now.act)
            error.append(
                float((transition.frame.rgb.float() - now.rgb.float()).square().mean().sqrt())
            )
            told.append(float(transition.uncertainty))
            state = world.observe(state, now.act, Frame(now.rgb, now.inverse_depth, now.pose))
    env.close()
    assert spearman(np.array([told, error])) > 0.5
