"""Small view sets, and a store that holds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.camera import quantise_depth
from worldsim.painting.training.store import ViewStore
from worldsim.painting.training.views import ViewSets


def wall_sets(count: int, views: int, size: int, seed: int) -> ViewSets:
    """Random pictures of a wall two metres ahead with a sky above, cameras a little apart."""
    rng = np.random.default_rng(seed)
    pose = np.tile(np.eye(4, dtype=np.float32), (count, views, 1, 1))
    pose[:, :, 0, 3] = rng.uniform(-0.5, 0.5, (count, views))
    code = quantise_depth(torch.full((count, views, size, size), 2.0)).numpy().astype(np.uint16)
    code[:, :, : size // 4] = 0
    return ViewSets(
        rgb=rng.integers(0, 256, (count, views, size, size, 3), dtype=np.uint8),
        inverse_depth=code,
        pose=pose,
        intrinsics=np.array([size / 2] * 4, np.float32),
        attributes=rng.uniform(0, 1, (count, views, 2)).astype(np.float32),
        names=("brick", "sky"),
        maps=tuple(f"MAP{i}" for i in range(count)),
    )


@pytest.fixture
def sets() -> ViewSets:
    return wall_sets(5, 14, 16, 0)


@pytest.fixture
def store(sets: ViewSets) -> ViewStore:
    store = ViewStore(sets, 8, torch.device("cpu"))
    store.add(sets)
    return store
