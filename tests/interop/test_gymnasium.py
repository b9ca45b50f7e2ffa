"""Gymnasium's own checks, wrappers and tools on the registered ids."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251  what other libraries do with environments; worldsim reads no pickle from a file
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import ClipAction, RescaleAction
from gymnasium.wrappers import vector as vector_wrappers

from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError
from worldsim.runtime.keyboard import ROW, exact_rate, keys_to_action, rates
from worldsim.world import World

DREAM, ROOM, REAL = "worldsim/FreedoomDream-v0", "worldsim/TinyRoom-v0", "worldsim/FreedoomReal-v0"


def make(env_id: str, **kwargs: Any) -> gym.Env:
    if env_id == REAL:
        pytest.importorskip("vizdoom")
    return gym.make(env_id, **kwargs)


def walk(env: Any, actions: list[Any]) -> list[Any]:
    """Observations, and all else that steps give."""
    return [env.step(action) for action in actions]


def assert_same(first: Any, second: Any) -> None:
    """Bit by bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        first, second = list(first.values()), list(second.values())
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("env_id", [DREAM, "worldsim/Dream-v0", ROOM, REAL])
def test_check_env(env_id: str) -> None:
    """Of the ids as they are; the dream of continuous actions stands for ``worldsim/Dream-v0``."""
    world = {"world": "carracing"} if env_id == "worldsim/Dream-v0" else {}
    env = make(env_id, render_mode="rgb_array", **world)
    check_env(env.unwrapped)
    env.close()


WRAPPERS: list[Callable[[Any], Any]] = [
    vector_wrappers.RecordEpisodeStatistics,
    vector_wrappers.DictInfoToList,
    vector_wrappers.FlattenObservation,
    vector_wrappers.GrayscaleObservation,
    lambda envs: vector_wrappers.ResizeObservation(envs, (32, 32)),
    lambda envs: vector_wrappers.DtypeObservation(envs, np.float32),
    lambda envs: vector_wrappers.ClipReward(envs, -1.0, 1.0),
    vector_wrappers.NormalizeReward,
]


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_vector_wrappers_in_all_autoreset_modes(freedoom: World, mode: AutoresetMode) -> None:
    """Each takes an end and what follows it. Some of Gymnasium's refuse a mode themselves."""
    refused = []
    for wrapper in WRAPPERS:
        envs = gym.make_vec(
            DREAM,
            num_envs=1,
            vectorization_mode="vector_entry_point",
            world=freedoom,
            max_episode_steps=2,
            autoreset_mode=mode,
        )
        try:
            envs = wrapper(envs)
        except (ValueError, AssertionError) as error:
            assert mode is AutoresetMode.SAME_STEP, (wrapper, error)  # noqa: PT017
            refused.append(wrapper)
            continue
        obs, _ = envs.reset(seed=0)
        assert envs.observation_space.contains(obs), wrapper
        for _ in range(3):
            obs, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
            assert envs.observation_space.contains(obs) and reward.shape == terminated.shape == (
                1,
            ), wrapper
            if mode is AutoresetMode.DISABLED and truncated.any():
                obs, _ = envs.reset(options={"reset_mask": truncated | terminated})
    # Those that change observations know nothing of the last ones of episodes.
    assert len(refused) == (4 if mode is AutoresetMode.SAME_STEP else 0)


def kinds(info: dict[str, Any]) -> dict[str, Any]:
    return {key: (value.dtype, value.shape) for key, value in info.items() if key != "map"}


@pytest.mark.parametrize("env_id", [DREAM, ROOM, REAL])
def test_infos_have_the_same_keys_and_dtypes_always(env_id: str) -> None:
    """Reproduces: Python floats in ``info``, which have no dtype."""
    env = make(env_id, **({"uncertainty": True} if env_id == DREAM else {}))
    _, first = env.reset(seed=0)
    infos = [first, *(step[4] for step in walk(env, [1, 0])), env.reset()[1]]
    assert all(kinds(info) == kinds(first) and info.keys() == first.keys() for info in infos)
    env.close()


def test_infos_of_vector_environments_are_alike(freedoom: World) -> None:
    """Reproduces: dtypes that differed between one batch and Gymnasium's vector of single
    environments."""
    batch = gym.make_vec(DREAM, num_envs=2, vectorization_mode="vector_entry_point", world=freedoom)
    row = gym.make_vec(DREAM, num_envs=2, vectorization_mode="sync", world=freedoom)
    (_, a), (_, b) = batch.reset(seed=0), row.reset(seed=0)
    assert kinds(a) == kinds(b)
    for _ in range(2):
        a, b = (envs.step(np.array([1, 3]))[4] for envs in (batch, row))
        assert kinds(a) == kinds(b)
    assert a["memory_coverage"].dtype == np.float32 and a["generated"].dtype == np.bool_


def test_actions_in_double_precision(carracing: World) -> None:
    """Reproduces: a single dream refused float64 actions, which ``ClipAction`` and
    ``RescaleAction`` pass on."""
    env = gym.make("worldsim/Dream-v0", world=carracing)
    env.reset(seed=0)
    exact = env.step(np.array([0.25, 0.5, 0.0], np.float32))[0]
    for given in (np.array([0.25, 0.5, 0.0]), [0.25, 0.5, 0.0]):
        env.reset(seed=0)
        np.testing.assert_array_equal(env.step(given)[0], exact)
    # A rounding beyond the bound, in double precision alone.
    env.step(np.array([1.0 + 1e-12, 0.0, 0.0]))
    batch = gym.make_vec(
        "worldsim/Dream-v0", num_envs=1, vectorization_mode="vector_entry_point", world=carracing
    )
    batch.reset(seed=0)
    batch.step(np.array([[1.0 + 1e-12, 0.0, 0.0]]))
    for wrapper in (ClipAction, lambda e: RescaleAction(e, np.float64(-2.0), np.float64(2.0))):
        wrapped = wrapper(gym.make("worldsim/Dream-v0", world=carracing, disable_env_checker=True))
        wrapped.reset(seed=0)
        wrapped.step(np.array([2.0, -2.0, 0.3]))


@pytest.mark.parametrize("env_id", ["worldsim/Dream-v0", ROOM])
def test_continuous_actions_that_are_none(carracing: World, env_id: str) -> None:
    """What is out of range or not finite stays an error that shows the action."""
    env = WorldEnv(carracing) if env_id != ROOM else gym.make(ROOM, continuous=True).unwrapped
    env.reset(seed=0)
    n = env.action_space.shape[0]
    for bad in (1.5, np.nan, np.inf, 1e300):
        with pytest.raises(InvalidInputError, match="outside Box"):
            env.step(np.full(n, bad))
    with pytest.raises(InvalidInputError, match="outside Box"):
        env.step(np.zeros(n + 1))
    for bad in (["left"] * n, None, np.zeros(n, complex)):
        with pytest.raises(InvalidInputError, match="no array of numbers"):
            env.step(bad)
    env.step(np.zeros(n))


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
def test_a_live_dream_is_copied_whole(way: str) -> None:
    """Reproduces: live dreams could not be pickled, as ``ray.put`` and SB3's
    ``SubprocVecEnv.get_attr`` do."""
    env = gym.make(DREAM)
    env.reset(seed=5)
    walk(env, [1, 3])
    other = COPIES[way](env)
    assert_same(walk(env, [1, 5, 0]), walk(other, [1, 5, 0]))
    # What the next reset draws, too.
    assert_same(env.reset(), other.reset())


@pytest.mark.parametrize("way", ["pickle"])
def test_a_live_batch_is_copied_whole(way: str) -> None:
    """Reproduces: the same of a batch, whose resets are copied with it."""
    envs = gym.make_vec(
        DREAM, num_envs=2, vectorization_mode="vector_entry_point", max_episode_steps=2
    )
    envs.reset(seed=5)
    acts = [np.array(act) for act in ([1, 3], [1, 5], [0, 2])]
    walk(envs, acts[:1])
    other = COPIES[way](envs)
    assert_same(walk(envs, acts[1:]), walk(other, acts[1:]))


@pytest.mark.parametrize("way", COPIES)
def test_a_world_is_copied_whole(freedoom: World, way: str) -> None:
    """Reproduces: a world that had been stepped could not be pickled. Its snapshots and memories
    can, too."""
    env = WorldEnv(freedoom)
    env.reset(seed=5)
    env.step(1)
    world, snapshot, memory = (COPIES[way](x) for x in (freedoom, env.snapshot(), env.memory))
    other = WorldEnv(world)
    other.restore(snapshot)
    np.testing.assert_array_equal(memory.pose, env.memory.pose)
    assert world.weights_id == freedoom.weights_id and world.folder == freedoom.folder
    assert_same(walk(env, [1, 4]), walk(other, [1, 4]))


def test_frame_rates_are_whole_numbers(freedoom: World) -> None:
    """Reproduces: a ``render_fps`` of 8.75, which ``gymnasium.utils.play`` refuses."""
    batch = gym.make_vec(DREAM, num_envs=1, vectorization_mode="vector_entry_point", world=freedoom)
    for metadata in (gym.make(DREAM, world=freedoom).metadata, batch.metadata, WorldEnv.metadata):
        assert metadata["render_fps"] == 9 and type(metadata["render_fps"]) is int
        assert metadata["steps_per_second"] == 8.75 == exact_rate(metadata)
    env = make(REAL)
    assert env.metadata["render_fps"] == 9 and env.metadata["steps_per_second"] == 8.75
    assert rates(0.2) == {"render_fps": 1, "steps_per_second": 0.2}
    assert exact_rate({"render_fps": 30}) == 30.0 and exact_rate({}) is None


@pytest.mark.filterwarnings("ignore:.*matplotlib")
def test_play(freedoom: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reproduces: ``gymnasium.utils.play`` failed on ``render_fps``, and there was no
    ``get_keys_to_action``."""
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    from gymnasium.utils.play import play

    keys, played = iter(("w", "a", None)), []

    def callback(before: Any, after: Any, action: Any, *rest: Any) -> None:
        """Each key after the one before is released; at last, the window is closed."""
        played.append(int(action))
        key = next(keys)
        if len(played) > 1:
            pygame.event.post(
                pygame.event.Event(pygame.KEYUP, key=ord("w" if len(played) == 2 else "a"))
            )
        what = {"type": pygame.QUIT} if key is None else {"type": pygame.KEYDOWN, "key": ord(key)}
        pygame.event.post(pygame.event.Event(what.pop("type"), **what))

    play(
        gym.make(DREAM, world=freedoom, render_mode="rgb_array"), callback=callback, seed=0, zoom=2
    )
    # Nothing is pressed at first; then forward, then a turn to the left.
    assert played == [0, 1, 3]


def test_keys(freedoom: World, carracing: World) -> None:
    """Of known twins by what their actions mean; of others the row of digits, or a pair of keys a
    number."""
    walking = {
        ("w",): 1,
        ("s",): 2,
        ("a",): 3,
        ("d",): 4,
        ("q",): 5,
        ("e",): 6,
        ("a", "w"): 3,
        ("d", "w"): 4,
    }
    for env in (WorldEnv(freedoom), gym.make(ROOM).unwrapped, make(REAL).unwrapped):
        assert env.get_keys_to_action() == walking
    driving = WorldEnv(carracing).get_keys_to_action()
    assert {key: driving[key].tolist() for key in (("a",), ("d", "w"), ("s",))} == {
        ("a",): [-1, 0, 0], ("d", "w"): [1, 1, 0], ("s",): [0, 0, 1],
    }  # fmt: skip
    assert (
        all(carracing.action_space.contains(action) for action in driving.values())
        and len(driving) == 3 * 2 * 2 - 1
    )
    assert keys_to_action(gym.spaces.Discrete(3)) == {("1",): 1, ("2",): 2}
    assert len(keys_to_action(gym.spaces.Discrete(99))) == len(ROW)
    pair = keys_to_action(gym.spaces.Box(1.0, 2.0, (1,)))
    assert {key: value.tolist() for key, value in pair.items()} == {("z",): [1.0], ("q",): [2.0]}
    for space in (
        gym.spaces.Box(-1.0, 1.0, (5,)),
        gym.spaces.Box(-np.inf, np.inf, (1,)),
        gym.spaces.MultiBinary(2),
    ):
        with pytest.raises(InvalidInputError, match="keys_to_action=..."):
            keys_to_action(space)


def test_what_is_no_part_of_gymnasium_behind_wrappers(freedoom: World) -> None:
    """Wrappers pass on what belongs to Gymnasium alone: both ways to the rest that the
    documentation names work."""
    env = gym.wrappers.FrameStackObservation(gym.make(DREAM, world=freedoom), 2)
    env.reset(seed=0)
    here = env.unwrapped.snapshot()
    first = env.step(1)[0][-1]
    env.get_wrapper_attr("restore")(here)
    np.testing.assert_array_equal(env.step(1)[0][-1], first)
    assert "env.unwrapped.snapshot()" in str(
        WorldEnv.__doc__
    ) and 'get_wrapper_attr("snapshot")' in str(WorldEnv.__doc__)
