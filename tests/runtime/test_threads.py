"""Threads of the CPU: set for the process where environments ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.errors import InvalidInputError


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{}, {"vectorization_mode": "vector_entry_point", "num_envs": 2}])
def test_environments_take_threads(world_folder: Path, options: dict[str, Any]) -> None:
    """Reproduces: beside another job a dream was many times slower, and nothing but a variable of OpenMP helped."""
    make: Any = gym.make_vec if options else gym.make
    make("worldsim/Dream-v0", world=world_folder, device="cpu", threads=2, **options)
    assert torch.get_num_threads() == 2
    make("worldsim/Dream-v0", world=world_folder, device="cpu", **options)
    assert torch.get_num_threads() == 2
    for wrong in (0, 2.5, "two", 100_000):
        with pytest.raises(InvalidInputError, match="threads = "):
            make("worldsim/Dream-v0", world=world_folder, device="cpu", threads=wrong, **options)
