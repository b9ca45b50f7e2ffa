"""Devices by name: what there is, and what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.app import cli
from worldsim.errors import InvalidInputError
from worldsim.runtime.devices import resolve_device


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu' cannot be used here: did you mean 'cuda'\\? there are cpu"),
        ("GPU:1", "did you mean 'cuda:1'\\?"),
        ("cudo", "did you mean 'cuda'\\?"),
        ("cpu0", "did you mean 'cpu'\\?"),
        ("cuda:77", "device 'cuda:77' cannot be used here: there are cpu"),
        ("meta", "device 'meta': worlds run on cpu and cuda"),
        ("abacus", "device 'abacus' cannot be used here: there are cpu"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    """Reproduces: ``device="gpu"`` gave torch's own text."""
    with pytest.raises(InvalidInputError, match=message):
        resolve_device(name)


def test_names_that_are_some() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    "options", [{}, {"vectorization_mode": "vector_entry_point", "num_envs": 2}]
)
def test_environments_name_the_device(world_folder: Path, options: dict[str, Any]) -> None:
    make: Any = gym.make_vec if options else gym.make
    with pytest.raises(InvalidInputError, match="did you mean 'cuda'"):
        make("worldsim/Dream-v0", world=world_folder, device="gpu", **options)


@pytest.mark.parametrize(
    "command", ["bench", "evaluate", "demo", "agreement", "watch", "evaluate-agent"]
)
def test_commands_name_the_device(
    command: str, world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "demo": ["--world", str(world_folder), "--out", str(tmp_path)],
        "watch": ["random", "--world", str(world_folder), "--out", str(tmp_path / "w.mp4")],
        "evaluate-agent": ["random", "--world", str(world_folder)],
    }.get(command, [str(world_folder)])
    assert cli.main([command, *arguments, "--device", "gpu"]) == 2
    assert "did you mean 'cuda'" in capsys.readouterr().err
