"""Every adapter keeps the contracts: as dynamics, as a Gymnasium environment, in snapshots."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from tests.helpers.video_pipelines import PIPELINES, TEXT
from tests.helpers.video_worlds import FORWARD, LEFT, SIZE, Brightness, scene
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.memory.slots import PointMemoryConfig
from worldsim.pretrained.adapter import ClipConfig
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.pretrained.loading import model_of
from worldsim.pretrained.worlds import world_of
from worldsim.testing import check_dynamics

pytest.importorskip("transformers", reason="needs the extra pretrained")

STEPS = 32
CLIPS = {
    "wan-vace": ClipConfig(past=1, frames=4, num_inference_steps=1),
    "ltx-condition": ClipConfig(past=1, frames=8, num_inference_steps=1),
    "anyflow-far": ClipConfig(past=5, frames=4, num_inference_steps=1),
    "skyreels-forcing": ClipConfig(past=5, frames=4, num_inference_steps=1),
    "stable-video": ClipConfig(past=1, frames=2, num_inference_steps=1),
    "sana-wm": ClipConfig(past=1, frames=8, num_inference_steps=1),
}


@cache
def dynamics(name: str) -> PretrainedDynamics:
    embeddings = torch.randn(1, 6, TEXT, generator=torch.Generator().manual_seed(0))
    arguments: dict[str, object] = {"prompt_embeds": embeddings}
    if name == "ltx-condition":
        arguments["prompt_attention_mask"] = torch.ones(1, 6)
    if name == "stable-video":
        arguments = {}
    if name == "sana-wm":
        arguments = {
            key: value
            for kind in ("prompt", "negative_prompt")
            for key, value in (
                (f"{kind}_embeds", embeddings[:, None]),
                (f"{kind}_attention_mask", torch.ones(1, 6)),
            )
        }
    model = model_of(PIPELINES[name](), CLIPS[name], arguments)
    return PretrainedDynamics(model, Brightness(), SIZE, SIZE, actions=7)


def environment(name: str, **settings: Any) -> WorldEnv:
    world = world_of(dynamics(name), memory=PointMemoryConfig(capacity=16384))
    return WorldEnv(world, scenes=scene(), **settings)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_contract_of_dynamics_holds(name: str) -> None:
    check_dynamics(dynamics(name))


@pytest.mark.parametrize("name", PIPELINES)
def test_walks_with_memory_repeat_and_resume(name: str, tmp_path: Path) -> None:
    """A seed, a snapshot in the middle of a chunk, a file and forks give the same frames."""
    env = environment(name)
    env.reset(seed=3)
    actions = [FORWARD, FORWARD, LEFT, LEFT, LEFT, FORWARD]
    walked = [env.step(action)[0] for action in actions]
    assert len({frame.tobytes() for frame in walked}) == len(walked)

    env.reset(seed=3)
    for action, frame in zip(actions[:4], walked[:4], strict=True):
        obs, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(obs, frame)
        assert info["depth"].shape == (SIZE, SIZE) and info["memory_coverage"] > 0.3
    snapshot = env.snapshot()
    forks = env.fork(2)
    env.save(tmp_path / "walk.safetensors")
    for action, frame in zip(actions[4:], walked[4:], strict=True):
        np.testing.assert_array_equal(env.step(action)[0], frame)
        np.testing.assert_array_equal(forks.step(np.full(2, action))[0][1], frame)
    env.restore(snapshot)
    np.testing.assert_array_equal(env.step(actions[4])[0], walked[4])
    again = environment(name)
    again.load(tmp_path / "walk.safetensors")
    np.testing.assert_array_equal(again.step(actions[4])[0], walked[4])

    # On to 32 steps: the memory keeps what it has, and shows it.
    points = env.memory.statistics()["points"]
    while (step := int(again.state.step)) < STEPS:
        _, _, _, _, info = again.step(LEFT if step < STEPS - 4 else FORWARD)
    assert again.memory.statistics()["points"] >= points and info["memory_coverage"] > 0.3
    assert np.isfinite(info["depth"]).any()


@pytest.mark.parametrize("name", PIPELINES)
def test_it_is_an_environment(name: str) -> None:
    check_env(environment(name), skip_render_check=True)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_vector_environment_gives_the_same(name: str) -> None:
    world = world_of(dynamics(name), memory=PointMemoryConfig(capacity=16384))
    envs = WorldVectorEnv(2, world, scenes=scene(), max_episode_steps=50)
    first, _ = envs.reset(seed=[3, 4])
    env = environment(name)
    np.testing.assert_array_equal(env.reset(seed=4)[0], first[1])
    for action in (FORWARD, LEFT):
        together = envs.step(np.array([LEFT, action]))[0]
        np.testing.assert_array_equal(together[1], env.step(action)[0])
