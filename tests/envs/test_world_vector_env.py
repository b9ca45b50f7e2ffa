"""The batched dream: autoreset as Gymnasium's own vector environments do it, seeds, independence,
snapshots and forks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

import worldsim  # noqa: F401  registers the environments
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.state import flatten
from worldsim.world import World, rows
from worldsim.world.heads import OutcomeHead

SIZE = 32
MODES = list(AutoresetMode)


@pytest.fixture
def world(world_folder: Path) -> World:
    return World.from_pretrained(world_folder)


@pytest.fixture
def ending_world(world: World) -> World:
    """A world whose episodes end at random."""
    torch.manual_seed(1)
    outcome = OutcomeHead(dim=32, hidden=8)
    with torch.no_grad():
        outcome.mlp[-1].weight.normal_(0.0, 3.0)
        outcome.mlp[1].weight.normal_(0.0, 3.0)
    config = dataclasses.replace(world.config, has_rewards=True, has_terminations=True)
    return World(world.network, config, world.ego_motion, outcome, folder=world.folder)


def draws(n: int, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(7, size=(steps, n))


def assert_same(first: Any, second: Any) -> None:
    """Bit by bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, tuple):
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(first, second)


def test_make_vec_gives_one(world_folder: Path) -> None:
    envs = gym.make_vec(
        "worldsim/Dream-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        world=str(world_folder),
    )
    assert isinstance(envs.unwrapped, WorldVectorEnv)
    assert envs.unwrapped.max_episode_steps == 500
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.single_observation_space == gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    assert envs.single_action_space == gym.spaces.Discrete(7)
    obs, info = envs.reset(seed=0)
    assert obs in envs.observation_space and obs.shape == (3, SIZE, SIZE, 3)
    obs, rew, term, trunc, info = envs.step(envs.action_space.sample())
    assert obs in envs.observation_space
    assert (rew.shape, rew.dtype, term.shape, term.dtype, trunc.shape, trunc.dtype) == (
        (3,),
        float,
        (3,),
        bool,
        (3,),
        bool,
    )
    assert (
        info["pose"].shape == (3, 4, 4)
        and info["depth"].shape == (3, SIZE, SIZE)
        and info["intrinsics"].shape == (3, 4)
    )
    assert info["memory_coverage"].shape == (3,) and info["generated"].all()
    assert all(
        info[f"_{key}"].tolist() == [True] * 3
        for key in ("pose", "depth", "intrinsics", "memory_coverage", "generated")
    )


@pytest.mark.parametrize("mode", MODES)
def test_like_gymnasiums_own_vector_environment(world: World, mode: AutoresetMode) -> None:
    """The same seeds in SyncVectorEnv: same resets, same signals at the same steps, same structure
    of info."""
    n, limit = 3, 4
    mine = WorldVectorEnv(n, world, max_episode_steps=limit, autoreset_mode=mode)
    sync = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.TimeLimit(WorldEnv(world), limit) for _ in range(n)],
        autoreset_mode=mode,
    )
    first, second = mine.reset(seed=7), sync.reset(seed=7)
    assert_same(first, second)
    for step, act in enumerate(draws(n, 10)):
        a, b = mine.step(act), sync.step(act)
        assert_same(a[1:4], b[1:4])
        assert a[4].keys() == b[4].keys()
        for key, value in a[4].items():
            if key not in ("final_obs", "final_info"):
                assert (value.shape, value.dtype) == (b[4][key].shape, b[4][key].dtype), key
        if mode is AutoresetMode.NEXT_STEP and step in (4, 9):
            assert_same(a, b)
        if mode is AutoresetMode.SAME_STEP and step in (3, 7):
            assert_same(a[0], b[0])
            assert a[4]["final_info"].keys() == b[4]["final_info"].keys()
            assert a[4]["_final_obs"].all() and a[4]["final_obs"][0].shape == (SIZE, SIZE, 3)
            assert (a[4]["final_obs"][0] != a[0][0]).any()
        if mode is AutoresetMode.DISABLED and a[3].any():
            mask = {"reset_mask": np.ones(n, bool)}
            assert_same(mine.reset(options=dict(mask)), sync.reset(options=dict(mask)))


def test_next_step_autoreset_of_some(ending_world: World) -> None:
    envs = WorldVectorEnv(8, ending_world)
    envs.reset(seed=0)
    ended = np.zeros(8, bool)
    seen = 0
    for act in draws(8, 12):
        obs, rew, term, trunc, info = envs.step(act)
        assert not trunc.any()
        assert (rew[ended] == 0).all() and not term[ended].any()
        starts = [
            envs._starts.scenes.load(name).rgb[-1].permute(1, 2, 0).numpy()
            for name in envs._starts.scenes.names()
        ]
        for i in np.flatnonzero(ended):
            assert any((obs[i] == start).all() for start in starts)
        seen += int(ended.sum())
        ended = term
    assert seen > 3 and not ended.all()


def test_same_step_reports_the_end(ending_world: World) -> None:
    ends, plain = (
        WorldVectorEnv(8, ending_world, autoreset_mode=mode) for mode in ("SameStep", "Disabled")
    )
    ends.reset(seed=0), plain.reset(seed=0)
    for act in draws(8, 12):
        a, b = ends.step(act), plain.step(act)
        assert_same(a[1:4], b[1:4])
        if a[2].any():
            done = a[2]
            assert_same(a[4]["_final_obs"], done)
            assert all(a[4]["final_obs"][i] is None for i in np.flatnonzero(~done))
            for i in np.flatnonzero(done):
                assert_same(a[4]["final_obs"][i], b[0][i])
                assert_same(a[4]["final_info"]["pose"][i], b[4]["pose"][i])
            assert_same(a[4]["final_info"]["_pose"], done)
            assert (a[4]["final_info"]["pose"][~done] == 0).all()
            assert_same(a[0][~done], b[0][~done])
            return
    raise AssertionError("no episode ended")


def test_finished_dreams_go_on_without_autoreset(ending_world: World) -> None:
    envs = WorldVectorEnv(
        2, ending_world, max_episode_steps=2, autoreset_mode=AutoresetMode.DISABLED
    )
    envs.reset(seed=0)
    truncs = [envs.step(np.ones(2, np.int64))[3].tolist() for _ in range(4)]
    assert truncs == [[False] * 2, [True] * 2, [True] * 2, [True] * 2]


def test_partial_reset(world: World) -> None:
    envs = WorldVectorEnv(3, world, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=3)
    envs.reset(seed=0)
    obs, *_ = envs.step(np.ones(3, np.int64))
    mask = np.array([False, True, False])
    after, info = envs.reset(
        seed=[None, 42, None], options={"reset_mask": mask, "scene": "room-7-1"}
    )
    assert_same(after[~mask], obs[~mask])
    single = WorldEnv(world)
    expected, expected_info = single.reset(seed=42, options={"scene": "room-7-1"})
    assert_same(after[1], expected)
    assert_same(info["pose"][1], expected_info["pose"])
    assert info["_pose"].tolist() == [False, True, False] and (info["pose"][0] == 0).all()
    assert [envs.step(np.ones(3, np.int64))[3].tolist() for _ in range(3)] == [
        [False, False, False], [True, False, True], [True, True, True],
    ]  # fmt: skip


def test_each_environment_is_seeded_by_its_own(world: World) -> None:
    envs = WorldVectorEnv(3, world)
    first, _ = envs.reset(seed=10)
    listed, _ = WorldVectorEnv(3, world).reset(seed=[10, 11, 12])
    assert_same(first, listed)
    assert envs.np_random_seed == (10, 11, 12)
    for i in range(3):
        single = WorldEnv(world)
        assert_same(single.reset(seed=10 + i)[0], first[i])
        assert int(single.state.seed) == int(envs.state.seed[i])


def test_no_dream_feels_its_neighbours(world: World) -> None:
    """Bit by bit: other actions, other scenes, another number of environments in the same bucket,
    another place in it."""
    acts, others = draws(5, 12, 0), draws(8, 12, 1)
    a, b = WorldVectorEnv(5, world), WorldVectorEnv(8, world)
    a.reset(seed=[1, 2, 3, 4, 5])
    b.reset(seed=[9, 8, 7, 6, 5, 4, 3, 2])
    for step in range(12):
        others[step, [4, 6]] = acts[step, [4, 2]]
        first, second = a.step(acts[step]), b.step(others[step])
        for mine, its in ((4, 4), (2, 6)):
            assert_same(first[0][mine], second[0][its])
            assert_same(first[4]["pose"][mine], second[4]["pose"][its])
            assert_same(first[4]["depth"][mine], second[4]["depth"][its])


def test_batch_sizes_agree_up_to_rounding(world: World) -> None:
    """Across buckets sums are rounded differently: colours differ by at most 2 of 255 for nearly
    all pixels, over 8 steps."""
    acts = draws(12, 8)
    wide, single = WorldVectorEnv(12, world), WorldEnv(world)
    wide.reset(seed=0), single.reset(seed=11)
    for act in acts:
        obs, _, _, _, info = wide.step(act)
        alone, _, _, _, its = single.step(int(act[11]))
        differs = np.abs(obs[11].astype(int) - alone.astype(int)).max(-1) > 2
        assert differs.mean() < 0.02
        np.testing.assert_allclose(info["pose"][11], its["pose"], atol=2e-3)


def test_padding_is_invisible(world: World) -> None:
    envs = WorldVectorEnv(3, world, render_mode="rgb_array")
    envs.reset(seed=0)
    assert len(envs.state) == 8
    obs, *_ = envs.step(np.ones(3, np.int64))
    frames = envs.render()
    assert frames is not None and len(frames) == 3
    assert_same(np.stack(frames), obs)
    obs[:] = 0
    assert (envs.state.frame.rgb[:3] != 0).any()


def test_torch_output_is_not_copied(world: World) -> None:
    envs, arrays = (
        WorldVectorEnv(3, world, output="torch", max_episode_steps=2),
        WorldVectorEnv(3, world, max_episode_steps=2),
    )
    obs, info = envs.reset(seed=0)
    assert obs.data_ptr() == envs.state.frame.rgb.data_ptr()
    assert_same(obs.numpy(), arrays.reset(seed=0)[0])
    for act in draws(3, 4):
        given = envs.step(torch.from_numpy(act))
        wanted = arrays.step(act)
        assert all(isinstance(x, torch.Tensor) for x in (*given[:4], *given[4].values()))
        assert_same(tuple(x.numpy() for x in given[:4]), wanted[:4])
        assert_same({k: v.numpy() for k, v in given[4].items()}, wanted[4])


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_snapshot_brings_back_every_future(ending_world: World, mode: AutoresetMode) -> None:
    envs = WorldVectorEnv(3, ending_world, max_episode_steps=5, autoreset_mode=mode)
    envs.reset(seed=0)
    for act in draws(3, 5, 1):
        envs.step(act)
    snapshot = envs.snapshot()
    acts = draws(3, 13, 2)
    first = [envs.step(act)[:4] for act in acts]
    envs.restore(snapshot)
    for act, wanted in zip(acts, first, strict=True):
        assert_same(envs.step(act)[:4], wanted)
    other = WorldVectorEnv(3, ending_world, max_episode_steps=5, autoreset_mode=mode)
    other.restore(snapshot)
    assert_same(other.step(acts[0])[:4], first[0])
    with pytest.raises(InvalidInputError, match="3 environments"):
        WorldVectorEnv(4, ending_world).restore(snapshot)


def test_fork_of_one_environment(world: World) -> None:
    envs = WorldVectorEnv(8, world, max_episode_steps=4)
    envs.reset(seed=0)
    envs.step(np.arange(8) % 7)
    before = flatten(envs.snapshot().state)
    fork = envs.fork(6, 8)
    assert_same(flatten(envs.state), before)
    act = np.full(8, 3)
    wanted, *_ = envs.step(act)
    obs, *_ = fork.step(act)
    for i in range(8):
        assert_same(obs[i], wanted[6])
    fork.step(act)
    assert fork.step(act)[3].all()
    with pytest.raises(InvalidInputError, match="8"):
        envs.fork(8, 2)


def test_continuous_actions(world_folder: Path) -> None:
    """Bounds are those of the world's card."""
    from worldsim.diffusion.network import SpaceTimeTransformer
    from worldsim.world.config import WorldConfig

    sizes = {"dim": 32, "depth": 1, "heads": 2, "levels": (8, 8, 16), "window": 4}
    network = SpaceTimeTransformer(
        height=32, width=32, channels=3, view_channels=0, actions=0, action_dim=2, **sizes
    )
    config = WorldConfig(memory=None, action_low=(-2.0, 0.0), action_high=(2.0, 1.0))
    envs = WorldVectorEnv(2, World(network, config))
    assert envs.single_action_space == gym.spaces.Box(
        np.array([-2, 0], np.float32), np.array([2, 1], np.float32)
    )
    frames = {"rgb": np.full((2, 32, 32, 3), 90, np.uint8), "act": np.zeros((2, 2), np.float32)}
    obs, info = envs.reset(seed=0, options={"frames": frames})
    assert (obs == 90).all() and set(info) == {
        "memory_coverage",
        "_memory_coverage",
        "generated",
        "_generated",
    }
    obs, *_ = envs.step(np.array([[2.0, 1.0], [-2.0, 0.0]], np.float32))
    assert obs.shape == (2, 32, 32, 3)
    with pytest.raises(InvalidInputError, match=r"1\.5"):
        envs.step(np.array([[0.0, 1.5], [0.0, 0.0]]))
    with pytest.raises(InvalidInputError, match="nan"):
        envs.step(np.array([[0.0, np.nan], [0.0, 0.0]]))


@pytest.mark.parametrize(
    "actions",
    [[0, 1], [0, 1, 7], [0, -1, 2], [0.0, 1.0, 2.0], [[0], [1], [2]], [True, False, True]],
)
def test_bad_actions(world: World, actions: Any) -> None:
    envs = WorldVectorEnv(3, world)
    envs.reset(seed=0)
    before = flatten(envs.snapshot().state)
    with pytest.raises(InvalidInputError, match=r"Discrete\(7\)"):
        envs.step(actions)
    assert_same(flatten(envs.state), before)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"num_envs": 0}, "0"),
        ({"num_envs": 2.0}, r"2\.0"),
        ({"output": "jax"}, "jax"),
        ({"autoreset_mode": "Always"}, "Always"),
        ({"max_episode_steps": 0}, "0"),
        ({"render_mode": "human"}, "human"),
    ],
)
def test_bad_arguments(world: World, arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidInputError, match=names):
        WorldVectorEnv(**{"num_envs": 2, "world": world, **arguments})


def test_bad_resets(world: World) -> None:
    envs = WorldVectorEnv(2, world)
    for verb in (lambda: envs.step([0, 0]), envs.snapshot, lambda: envs.fork(0, 2)):
        with pytest.raises(ResetNeeded):
            verb()
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    for mask in (np.ones(3, bool), np.ones(2, int), np.zeros(2, bool), "all"):
        with pytest.raises(InvalidInputError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(InvalidInputError, match="seeds"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(InvalidInputError, match="'map'"):
        envs.reset(options={"map": "MAP30"})


@pytest.mark.parametrize(
    "seed", [lambda: 0, 3.5, -1, [1, "a", 2], [1, 1.5, 2], [True, 1, 2], [1, 2], "abc"]
)
def test_bad_seeds(world: World, seed: Any) -> None:
    envs = WorldVectorEnv(3, world)
    with pytest.raises(InvalidInputError, match="seed"):
        envs.reset(seed=seed)
    envs.reset(seed=[np.int64(4), None, 2**40])
    assert envs.np_random_seed[0] == 4 and envs.np_random_seed[2] == 2**40


def test_not_enough_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = WorldVectorEnv(9, world)
    envs.reset(seed=0)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(world, "step", full)
    with pytest.raises(OutOfMemoryError, match="9 environments .computed as 32.*fewer"):
        envs.step(np.zeros(9, np.int64))


def test_too_many_environments_are_refused_with_how_many_fit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "free_memory", lambda device: 300 * world.step_bytes())
    assert WorldVectorEnv(200, world).memory_bytes == world.state_bytes() < world.step_bytes()
    with pytest.raises(
        OutOfMemoryError,
        match="300 environments .computed as 512.*about 256 would fit, so make 256 or fewer",
    ):
        WorldVectorEnv(300, world)
    monkeypatch.setattr(rows, "free_memory", lambda device: 3000 * world.step_bytes())
    with pytest.raises(OutOfMemoryError, match="about 2048 would fit"):
        WorldVectorEnv(5000, world)
    monkeypatch.setattr(rows, "free_memory", lambda device: 1)
    with pytest.raises(OutOfMemoryError, match="fewer are not sure to fit either: free memory"):
        WorldVectorEnv(1, world)
