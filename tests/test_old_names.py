"""Old names: files, arguments and options from before a renaming work, and say the new name."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open

from worldsim.agents.actor_critic_args import Args
from worldsim.app import cli
from worldsim.diffusion.dynamics import DynamicsConfig
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.planning.objectives import RewardSum
from worldsim.runtime.json_config import from_json, to_json, write_sealed
from worldsim.runtime.old_names import with_new_names, with_new_options
from worldsim.shipped.agent_files import load_agent
from worldsim.state import SceneStart
from worldsim.training.config import TrainConfig
from worldsim.world import World
from worldsim.world.files import shipped_worlds
from worldsim.world.snapshots import fingerprint
from worldsim.world.starts import Starts

TINY_CHECKPOINT = {
    "data": ["recording"],
    "out": "run",
    "preset": "debug",
    "sampling_steps": 2,
    "steps": 30,
    "objective": {"context_level": 0.2, "last_frame_level": 0.0, "energy": 0.5},
}
"""Settings in a checkpoint of version 0.1, the ones that differ from the defaults."""


def renamed_back(folder: Path, **dynamics: Any) -> None:
    """Make a world's file one of version 2: other names of the dynamics' settings."""
    path = folder / "world.json"
    meta = json.loads(path.read_text())
    now = meta["config"]["dynamics"]
    meta["config"]["dynamics"] = {
        "steps": now.pop("num_inference_steps"),
        "context_level": now.pop("context_sigma"),
        **now,
        **dynamics,
    }
    write_sealed(path, meta | {"version": 2})


def test_a_world(tiny_world: World, tmp_path: Path) -> None:
    changed = tiny_world.with_dynamics(num_inference_steps=3, context_sigma=0.1)
    folder = changed.save_pretrained(tmp_path / "world")
    renamed_back(folder)
    with pytest.warns(DeprecationWarning, match="is called") as caught:
        loaded = World.from_pretrained(folder, "cpu")
    assert loaded.config == changed.config
    assert [str(one.message) for one in caught] == [
        "dynamics.steps is called num_inference_steps now",
        "dynamics.context_level is called context_sigma now",
    ]
    renamed_back(changed.save_pretrained(folder), num_inference_steps=1)
    with pytest.raises(DamagedFileError, match="steps is the old name of num_inference_steps"):
        World.from_pretrained(folder, "cpu")


def test_shipped_files_have_new_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in shipped_worlds():
            World.from_pretrained(name, "cpu")
        # Agents' training settings are told, not read: they stay as they were.
        space = gym.spaces.Box(np.float32([-1, 0, 0]), np.float32([1, 1, 1]))
        load_agent("carracing", space)


def test_a_snapshot(world_folder: Path, tmp_path: Path) -> None:
    """The fingerprint that snapshots hold is that of version 0.1, and the walk is where it was."""
    assert fingerprint(World.from_pretrained("carracing", "cpu")) == (
        "ed189e1db6aaaa27129fd2c64f894dd143bdd1089678ea71e4fcf1da85815f7b"
    )
    env = WorldEnv(world_folder)
    env.reset(seed=1)
    env.step(1)
    with safe_open(env.save(tmp_path / "walk.safetensors"), "pt") as file:
        assert {
            "journey.rgb",
            "journey.inverse_depth",
            "journey.pose",
            "journey.intrinsics",
        } <= set(file.keys())


def test_settings_of_a_checkpoint() -> None:
    with pytest.warns(DeprecationWarning, match="is called") as caught:
        config = from_json(TrainConfig, TINY_CHECKPOINT)
    assert (config.num_inference_steps, config.steps) == (2, 30)
    assert (config.loss.context_sigma, config.loss.last_frame_sigma, config.loss.energy) == (
        0.2,
        0.0,
        0.5,
    )
    assert [str(one.message) for one in caught] == [
        "sampling_steps is called num_inference_steps now",
        "objective is called loss now",
        "loss.context_level is called context_sigma now",
        "loss.last_frame_level is called last_frame_sigma now",
    ]
    with pytest.warns(DeprecationWarning, match="context_sigma"):
        values = with_new_names(TrainConfig, TINY_CHECKPOINT)
    loss = {"context_sigma": 0.2, "last_frame_sigma": 0.0, "energy": 0.5}
    assert values.pop("loss") == loss and values == {
        name: to_json(config)[name] for name in ("data", "out", "preset", *values)
    }


def test_an_agents_settings(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"discount is called gamma now"):
        args = Args("world", tmp_path, discount=0.9, trace=0.8, clip=0.1, sampling_steps=2)  # type: ignore[call-arg]
    assert args == Args(
        "world", tmp_path, gamma=0.9, gae_lambda=0.8, clip_coef=0.1, num_inference_steps=2
    )
    with pytest.warns(DeprecationWarning, match="trace is called gae_lambda now"):
        told = with_new_names(Args, {"trace": 0.8, "seed": 3})
    assert told == {"gae_lambda": 0.8, "seed": 3}


def test_arguments(world_folder: Path, tiny_world: World) -> None:
    with pytest.warns(DeprecationWarning, match="steps is called num_inference_steps now"):
        env = WorldEnv(world_folder, steps=2, journey=5)
    assert env.world.config.dynamics.num_inference_steps == 2
    env.reset(seed=0)
    with pytest.warns(DeprecationWarning, match="WorldEnv.journey is called trajectory now"):
        assert len(env.journey) == len(env.trajectory) == 4
    with pytest.warns(DeprecationWarning, match="num_inference_steps"):
        envs = WorldVectorEnv(2, world_folder, steps=2)
    assert envs.world.config.dynamics.num_inference_steps == 2
    with pytest.warns(DeprecationWarning, match="with_dynamics: steps is called"):
        assert tiny_world.with_dynamics(steps=3).config.dynamics.num_inference_steps == 3
    with pytest.warns(DeprecationWarning, match="context_level is called context_sigma now"):
        config = DynamicsConfig(context_level=0.2)  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="DynamicsConfig.context_level is called"):
        assert config.context_level == config.context_sigma == 0.2  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="discount is called gamma now"):
        assert RewardSum(discount=0.5) == RewardSum(gamma=0.5)  # type: ignore[call-arg]
    with pytest.raises(InvalidInputError, match="give num_inference_steps alone"):
        DynamicsConfig(steps=2, num_inference_steps=2)  # type: ignore[call-arg]


def test_methods_and_attributes(tiny_world: World, room_scene: SceneStart) -> None:
    class OldScene:
        def fitted(self, world: Any) -> OldScene:
            self.world = world
            return self

        def start(self, rng: Any) -> SceneStart:
            return room_scene

    scene: Any = OldScene()
    with pytest.warns(DeprecationWarning, match="OldScene.fitted is called fit_to now"):
        starts = Starts(tiny_world, scene)
    assert starts.scenes is scene and scene.world is tiny_world
    state = tiny_world.initial([room_scene], [0])
    with pytest.warns(DeprecationWarning, match="World.owned is called own now"):
        state = tiny_world.owned(state)
    _, transition = tiny_world.step(state, torch.tensor([0]))
    with pytest.warns(DeprecationWarning, match="Transition.ending is called termination_prob now"):
        assert transition.ending is transition.termination_prob


@pytest.mark.parametrize(
    ("command", "options", "field", "value"),
    [
        ("evaluate", ["w", "--steps", "2"], "num_inference_steps", 2),
        ("bench", ["w", "--steps=2"], "num_inference_steps", 2),
        ("compare", ["w", "--out", "o.mp4", "--sampling-steps", "2"], "num_inference_steps", 2),
        ("compare", ["w", "--out", "o.mp4", "--steps", "9"], "steps", 9),
        ("distil", ["w", "--data", "d", "--out", "o", "--steps", "1"], "num_inference_steps", 1),
    ],
)
def test_options(
    command: str, options: list[str], field: str, value: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert getattr(cli.parse(command, options), field) == value
    told = capsys.readouterr().err
    assert (told == "") == (field == "steps")
    assert field == "steps" or "steps is called --num-inference-steps now" in told


def test_options_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--data",
        "d",
        "--out",
        "o",
        "--objective.context-level=0.3",
        "--objective.energy",
        "1",
    ]
    config = cli.parse("train", given)
    assert (config.loss.context_sigma, config.loss.energy) == (0.3, 1.0)
    assert capsys.readouterr().err.splitlines() == [
        "warning: --objective.context-level is called --loss.context-sigma now",
        "warning: --objective.energy is called --loss.energy now",
    ]


def test_new_names_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    values = to_json(DynamicsConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert from_json(DynamicsConfig, values) == DynamicsConfig()
        assert dataclasses.replace(DynamicsConfig(), temperature=0.5).temperature == 0.5
    assert with_new_options(TrainConfig, ["--steps", "3", "out"]) == ["--steps", "3", "out"]
    assert capsys.readouterr().err == ""
