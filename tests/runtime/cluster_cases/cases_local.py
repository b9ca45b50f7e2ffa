"""A cluster that an environment starts for itself. Run by tests/runtime/test_cluster.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ray

from worldsim.envs.ray_vector import RayVectorEnv


def test_futures_outlive_what_they_were_forked_from(world_folder: Path) -> None:
    """They share its process and its cluster, which ends with the last of them."""
    env = RayVectorEnv(1, 1, "local", world=str(world_folder), device="cpu")
    env.reset(seed=1)
    futures = env.fork(0, 2)
    env.close()
    frames, *_ = futures.step(np.array([1, 2]))
    assert frames.shape[0] == 2 and not np.array_equal(*frames)
    futures.close()
    assert not ray.is_initialized()
