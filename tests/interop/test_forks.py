"""Dreams in processes that are forked after torch has computed with several threads."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "register_at_fork"), reason="this system does not fork"
)

FORKED = """
import multiprocessing

import gymnasium as gym
import numpy as np
import torch

import worldsim

torch.set_num_threads(2)


def dreamed(seed):
    env.reset(seed=seed)
    return env.step(1)[0]


if __name__ == "__main__":
    envs = gym.make_vec(
        "worldsim/FreedoomDream-v0", num_envs=2, vectorization_mode="async",
        vector_kwargs={"context": "fork"},
    )
    first, _ = envs.reset(seed=3)
    after = envs.step(np.array([1, 1]))[0]
    envs.close()
    print("async", first.shape, after.shape)

    env = gym.make("worldsim/FreedoomDream-v0")
    here = [dreamed(seed) for seed in (3, 4)]
    assert torch.get_num_threads() == 2
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map(dreamed, [3, 4])
    # Another number of threads may round otherwise.
    pairs = [*zip(here, there), *zip(here, after)]
    alike = [np.mean(np.abs(a.astype(int) - b) <= 2) > 0.98 for a, b in pairs]
    print("pool", alike)
"""

ROOM = """
import multiprocessing

import gymnasium as gym
import torch

import worldsim

torch.set_num_threads(2)
env = gym.make("worldsim/TinyRoom-v0", size=512)
env.reset(seed=0)
torch.rand(1000, 1000) @ torch.rand(1000, 1000)


def computed(_):
    return float((torch.ones(1000, 1000) @ torch.ones(1000, 1000)).mean())


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.map(computed, [0]))
"""


@pytest.mark.slow
def test_async_vector_environment_and_pool(threaded: Callable[[str], str]) -> None:
    """Reproduces: ``gym.make_vec(..., vectorization_mode="async")`` never returned, nor did
    ``multiprocessing.Pool``."""
    said = threaded(FORKED)
    assert "async (2, 64, 64, 3) (2, 64, 64, 3)" in said
    assert "pool [True, True, True, True]" in said.replace("np.True_", "True")


def test_rooms_too(threaded: Callable[[str], str]) -> None:
    """Reproduces: the same of an environment that uses torch and loads no world."""
    assert "[1000.0]" in threaded(ROOM)
