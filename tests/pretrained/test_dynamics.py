"""What a video model is asked for, when, and how often. The model here paints what it receives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.video_worlds import FORWARD, LEFT, SIZE, Brightness, scene
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.slots import PointMemoryConfig
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.pretrained.worlds import world_of
from worldsim.protocols import VideoInputs, VideoSpec
from worldsim.testing import check_dynamics
from worldsim.world.kinematics import KinematicMotion


class Recorder:
    """Returns the control, and random colours in its holes; keeps what it was asked for."""

    def __init__(self, past: int = 2, frames: int = 4, approach: bool = False) -> None:
        self.spec = VideoSpec(past, frames, approach)
        self.asked: list[VideoInputs] = []

    def check_size(self, height: int, width: int) -> None:
        if height % 8:
            raise InvalidInputError("multiples of 8")

    def identify(self) -> str:
        return f"recorder {self.spec}"

    def generate(self, inputs: VideoInputs) -> torch.Tensor:
        self.asked.append(inputs)
        generator = torch.Generator().manual_seed(inputs.seed)
        noise = torch.randint(0, 256, inputs.control.shape, generator=generator, dtype=torch.uint8)
        return torch.where(inputs.known[:, None], inputs.control, noise)


def walker(model: Recorder, **settings: Any) -> WorldEnv:
    dynamics = PretrainedDynamics(model, Brightness(), SIZE, SIZE, actions=7)
    env = WorldEnv(world_of(dynamics, memory=PointMemoryConfig(capacity=16384)), scenes=scene())
    env.reset(seed=3)
    return env


def ratio(env: WorldEnv) -> float:
    dynamics = env.world.dynamics
    return float(dynamics.generated_per_emitted(env.state.context)[0])


def test_the_contract_holds() -> None:
    check_dynamics(PretrainedDynamics(Recorder(approach=True), Brightness(), 16, 24, actions=7))
    check_dynamics(PretrainedDynamics(Recorder(), Brightness(), 16, 24, action_dim=2))


def test_a_chunk_serves_until_the_action_changes() -> None:
    model = Recorder(frames=4)
    env = walker(model)
    for _ in range(8):
        env.step(FORWARD)
    assert len(model.asked) == 2 and ratio(env) == 1.0
    for action in (LEFT, FORWARD, LEFT, FORWARD):
        env.step(action)
    assert len(model.asked) == 6 and ratio(env) == 6 * 4 / 12


def test_emitted_frames_are_fed_back_and_the_memory_is_the_control() -> None:
    model = Recorder(past=2, frames=3)
    env = walker(model)
    start = env.state.frame.rgb[0]
    first = torch.from_numpy(env.step(FORWARD)[0]).permute(2, 0, 1)
    assert torch.equal(model.asked[0].past, torch.stack([start, start]))
    second = torch.from_numpy(env.step(LEFT)[0]).permute(2, 0, 1)
    asked = model.asked[1]
    assert torch.equal(asked.past[0], start) and torch.equal(asked.past[1], first)
    # What the memory shows at the first planned camera is what the step renders.
    assert asked.known[0].float().mean() > 0.5
    assert torch.equal(torch.where(asked.known[0], asked.control[0], second), second)
    # The walls of the start were seen, and turning left leads to what was not.
    shares = asked.known.flatten(1).float().mean(1)
    assert shares[0] > shares[1] > shares[2]


def test_the_approach_ends_with_the_newest_frame() -> None:
    model = Recorder(past=3, approach=True)
    env = walker(model)
    env.step(FORWARD)
    approach = model.asked[0].approach
    assert approach is not None and approach.shape == (3, 3, SIZE, SIZE)
    assert torch.equal(approach[-1], model.asked[0].past[-1])
    assert not torch.equal(approach[0], approach[-1])


def test_cameras_of_a_chunk_are_told_relative_to_the_newest_frame() -> None:
    model = Recorder(frames=3)
    model.spec = dataclasses.replace(model.spec, cameras=True)
    env = walker(model)
    env.step(LEFT)
    env.step(FORWARD)
    cameras, intrinsics = model.asked[1].cameras, model.asked[1].intrinsics
    assert cameras is not None and intrinsics is not None
    torch.testing.assert_close(cameras[0], torch.eye(4), atol=1e-6, rtol=0)
    # A step forward is 0.25 m along the optical axis, whatever the heading.
    expected = torch.tensor([[0.0, 0, z] for z in (0.0, 0.25, 0.5, 0.75)])
    torch.testing.assert_close(cameras[:, :3, 3], expected, atol=1e-3, rtol=0)
    assert intrinsics.tolist() == [32, 32, 32, 32]


def test_equal_rows_are_generated_once() -> None:
    model = Recorder()
    env = walker(model)
    env.step(FORWARD)
    forks = env.fork(5)
    model.asked.clear()
    forks.step(np.full(5, LEFT))
    assert len(model.asked) == 1
    # The first two continue their chunk, and so do the copies of the first one that fill the batch.
    forks.step(np.array([LEFT, LEFT, FORWARD, FORWARD, 5]))
    assert len(model.asked) == 3


def test_an_edit_of_the_memory_drops_the_chunk() -> None:
    model = Recorder()
    env = walker(model)
    env.step(FORWARD)
    env.edit(env.memory.remove(((-9, -9, -9), (9, 9, 9))))
    model.asked.clear()
    env.step(FORWARD)
    assert len(model.asked) == 1
    assert model.asked[0].known[0].float().mean() < 0.9


def test_depth_lies_on_what_the_memory_shows() -> None:
    env = walker(Recorder())
    _, _, _, _, info = env.step(FORWARD)
    # A wall at 3 m, a step of 0.25 m nearer.
    np.testing.assert_allclose(np.median(info["depth"]), 2.75, atol=0.1)


def test_action_vectors_move_the_camera() -> None:
    """Two components: metres forward, radians to the right."""
    steps = [(0.0, 0, 0.5, 0, 0, 0), (0.0, 0, 0, 0, 1.0, 0)]
    dynamics = PretrainedDynamics(Recorder(), Brightness(), SIZE, SIZE, action_dim=2)
    motion = KinematicMotion.of(steps, continuous=True)
    env = WorldEnv(world_of(dynamics, motion), scenes=scene())
    _, info = env.reset(seed=0)
    start = info["pose"]
    _, _, _, _, info = env.step(np.array([0.5, 0.25], np.float32))
    np.testing.assert_allclose(info["pose"][:3, 3] - start[:3, 3], [0.25, 0, 0], atol=1e-3)
    looks = info["pose"][:3, 2]
    np.testing.assert_allclose(looks, [np.cos(0.25), -np.sin(0.25), 0], atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="give one of them"):
        PretrainedDynamics(Recorder(), Brightness(), SIZE, SIZE)
    with pytest.raises(InvalidInputError, match="multiples of 8"):
        PretrainedDynamics(Recorder(), Brightness(), 60, 64, actions=7)
    dynamics = PretrainedDynamics(Recorder(), Brightness(), SIZE, SIZE, actions=5)
    with pytest.raises(InvalidInputError, match="7 discrete actions, the dynamics 5"):
        world_of(dynamics)
    for steps in ([], [[1.0, 2.0]], [[float("nan")] * 6], "fast"):
        with pytest.raises(InvalidInputError, match="the motions of the actions"):
            KinematicMotion.of(steps)  # type: ignore[arg-type]

    class Wrong(Recorder):
        def generate(self, inputs: VideoInputs) -> torch.Tensor:
            return super().generate(inputs)[:1]

    env = walker(Wrong())
    with pytest.raises(InvalidInputError, match=r"Wrong.generate returns torch.uint8 \(1, 3"):
        env.step(FORWARD)
    model = Recorder()
    dynamics = PretrainedDynamics(model, Brightness(), SIZE, SIZE, actions=7)
    world = walker(model).world
    state = world.initial([scene().fit_to(world).start(np.random.default_rng(0))], [0])
    flat = world.running.inner.inputs(state, torch.tensor([FORWARD]))
    with pytest.raises(MissingGeometryError, match="through the camera"):
        dynamics.predict(state.context, dataclasses.replace(flat, pose=None))
