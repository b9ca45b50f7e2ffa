"""Threads of the CPU: set for the process where environments ask for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.errors import InvalidInputError
from worldsim.runtime.threads import WAITING, page_threads


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "options", [{}, {"vectorization_mode": "vector_entry_point", "num_envs": 2}]
)
def test_environments_take_threads(world_folder: Path, options: dict[str, Any]) -> None:
    """Reproduces: beside another job a dream was many times slower, and nothing but a variable of
    OpenMP helped."""
    make: Any = gym.make_vec if options else gym.make
    make("worldsim/Dream-v0", world=world_folder, device="cpu", threads=2, **options)
    assert torch.get_num_threads() == 2
    make("worldsim/Dream-v0", world=world_folder, device="cpu", **options)
    assert torch.get_num_threads() == 2
    for wrong in (0, 2.5, "two", 100_000):
        with pytest.raises(InvalidInputError, match="threads = "):
            make("worldsim/Dream-v0", world=world_folder, device="cpu", threads=wrong, **options)


@pytest.mark.parametrize(
    ("given", "processors", "threads"), [(None, 1, 1), (None, 2, 1), (None, 3, None), (2, 2, 2)]
)
def test_a_page_leaves_one_of_two_processors_to_the_browser(
    given: int | None, processors: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)))
    assert page_threads(given) == threads


@pytest.mark.parametrize("agent", ["actor_critic", "cem", "mppi"])
def test_agents_that_are_run_as_programs_wait_passively(agent: str) -> None:
    """As commands do, before torch loads; imported, they leave the environment as it is."""
    code = f"""if True:
    import os, runpy, sys
    for name in {list(WAITING)}:
        os.environ.pop(name, None)
    sys.argv = ["agent", "--help"]
    import worldsim.agents.{agent}
    assert "OMP_WAIT_POLICY" not in os.environ
    try:
        runpy.run_module("worldsim.agents.{agent}", run_name="__main__", alter_sys=True)
    except SystemExit:
        print(os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"])
    """
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    )
    assert found.stdout.splitlines()[-1] == "PASSIVE 0"
