"""Libraries that the tests do without, where they are installed: ``make test-interop``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim.world import World

DREAM, ROOM = "worldsim/FreedoomDream-v0", "worldsim/TinyRoom-v0"
pytestmark = pytest.mark.filterwarnings("ignore")

TIANSHOU = """
import gymnasium as gym
import numpy as np
import torch
from tianshou.env import DummyVectorEnv, ShmemVectorEnv, SubprocVectorEnv

import worldsim

torch.set_num_threads(2)

if __name__ == "__main__":
    for kind in (DummyVectorEnv, SubprocVectorEnv, ShmemVectorEnv):
        envs = kind([lambda: gym.make("worldsim/FreedoomDream-v0")] * 2)
        envs.seed(3)
        obs, _ = envs.reset()
        after = envs.step(np.array([1, 2]))[0]
        print(kind.__name__, obs.shape, obs.dtype, after.shape)
        envs.close()
"""


@pytest.mark.slow
def test_tianshou_vector_environments(threaded: Any) -> None:
    """Reproduces: ``ShmemVectorEnv`` never returned, since torch's threads do not survive its
    fork."""
    pytest.importorskip("tianshou")
    said = threaded(TIANSHOU)
    for kind in ("DummyVectorEnv", "SubprocVectorEnv", "ShmemVectorEnv"):
        assert f"{kind} (2, 64, 64, 3) uint8 (2, 64, 64, 3)" in said


def test_tianshou_collects(freedoom: World) -> None:
    pytest.importorskip("tianshou")
    from tianshou.algorithm.random import MARLRandomDiscreteMaskedOffPolicyAlgorithm as Random
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv

    envs = DummyVectorEnv([lambda: gym.make(DREAM, world=freedoom, max_episode_steps=3)] * 2)
    buffer = VectorReplayBuffer(16, 2)
    collector = Collector(Random.Policy(envs.action_space[0]), envs, buffer)
    collector.reset()
    stats = collector.collect(n_step=6, random=True)
    assert stats.n_collected_steps == len(buffer) == 6 and stats.n_collected_episodes == 2
    assert buffer.obs.shape[1:] == (64, 64, 3) and buffer.info.memory_coverage.dtype == np.float32


@pytest.mark.parametrize("batched", [False, True])
def test_skrl_wraps(freedoom: World, batched: bool) -> None:
    pytest.importorskip("skrl")
    import torch
    from skrl.envs.wrappers.torch import wrap_env

    made = (
        gym.make_vec(DREAM, num_envs=2, vectorization_mode="vector_entry_point", world=freedoom)
        if batched
        else gym.make(DREAM, world=freedoom)
    )
    env, n = wrap_env(made), 2 if batched else 1
    assert env.num_envs == n and env.action_space == gym.spaces.Discrete(7)
    states, _ = env.reset()
    after, reward, terminated, truncated, _ = env.step(torch.ones(n, 1, dtype=torch.int64))
    assert states.shape == after.shape == (n, 64 * 64 * 3) and states.dtype == torch.float32
    assert reward.shape == terminated.shape == truncated.shape == (n, 1)
    assert states.min() >= 0 and 1 < states.max() <= 255


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    # One of its own, whatever else runs here.
    ray.init("local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
    yield ray
    ray.shutdown()


def test_ray_carries_a_live_dream(ray: Any, freedoom: World) -> None:
    """Reproduces: ``ray.put`` could not pickle a live dream."""

    @ray.remote
    def step(env: gym.Env) -> np.ndarray:
        return env.step(1)[0]

    env = gym.make(DREAM, world=freedoom)
    env.reset(seed=0)
    there = ray.get(step.remote(ray.put(env)))
    # Another process may have another number of threads, and round otherwise.
    assert (np.abs(there.astype(int) - env.step(1)[0]) <= 2).mean() > 0.98


@pytest.mark.slow
def test_rllib_makes_its_own_environments(ray: Any) -> None:
    """The id with its module in front, in a process that has imported nothing of worldsim."""
    pytest.importorskip("ray.rllib")
    from ray.rllib.algorithms.ppo import PPOConfig

    config = (
        PPOConfig()
        .environment(f"worldsim:{ROOM}", env_config={"size": 64, "max_episode_steps": 8})
        .env_runners(num_env_runners=1, rollout_fragment_length=16)
    )
    algorithm = config.build_algo()
    try:
        spaces = algorithm.env_runner_group.get_spaces()
        assert any(gym.spaces.Discrete(7) in pair for pair in spaces.values())
        assert algorithm.env_runner_group.num_healthy_remote_workers() == 1
    finally:
        algorithm.stop()


def test_stable_worldmodel_evaluates(freedoom: World) -> None:
    try:
        import stable_worldmodel as swm
    except (ImportError, RuntimeError) as error:
        # It needs a torchvision that was built for this torch.
        pytest.skip(f"stable-worldmodel cannot be imported: {error}")
    world = swm.World(
        f"worldsim:{DREAM}", num_envs=2, image_shape=(64, 64), max_episode_steps=3, world=freedoom
    )
    world.set_policy(swm.policy.RandomPolicy())
    world.reset(seed=0)
    assert world.infos["pixels"].shape == (2, 1, 64, 64, 3) and world.infos["depth"].shape == (
        2,
        1,
        64,
        64,
    )
    assert (
        world.infos["memory_coverage"].dtype == np.float32
        and world.infos["generated"].dtype == np.bool_
    )
    assert len(world.evaluate(episodes=2, seed=0)["episode_successes"]) == 2
