"""Snapshots on disk: the same future bit by bit in another process, and never half a world."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import worldsim  # noqa: F401  registers the environments
from tests.helpers.launching import launched
from tests.helpers.worlds import make_tiny_world
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.memory import PointMemory, PointMemoryConfig, RadianceMemory, RadianceMemoryConfig
from worldsim.state import checksum, flatten
from worldsim.world import World, snapshots
from worldsim.world.snapshots import OpenedSnapshot, fingerprint, open_snapshot, world_name

WALK, AFTER = [1, 1, 3, 1, 4], [2, 5, 6, 1, 3, 1]


@pytest.fixture
def env(world_folder: Path) -> WorldEnv:
    env = WorldEnv(world_folder)
    env.reset(seed=3)
    for action in WALK:
        env.step(action)
    return env


def future(env: Any) -> list[Any]:
    """Frames, poses, coverage and what the next reset draws."""
    steps = [env.step(action) for action in AFTER]
    frames = [
        (obs, info["pose"], info["depth"], info["memory_coverage"]) for obs, _, _, _, info in steps
    ]
    return [*frames, (env.reset()[0],)]


def assert_same(first: list[Any], second: list[Any]) -> None:
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_another_process_goes_on_bit_by_bit(
    env: WorldEnv, world_folder: Path, tmp_path: Path
) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    expected = future(env)
    code = f"""
import numpy as np
from worldsim.envs.world_env import WorldEnv
env = WorldEnv({str(world_folder)!r})
env.load({str(path)!r})
frames = [env.step(action)[0] for action in {AFTER}] + [env.reset()[0]]
np.save({str(tmp_path / "frames.npy")!r}, np.stack(frames))
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    np.testing.assert_array_equal(
        np.load(tmp_path / "frames.npy"), np.stack([step[0] for step in expected])
    )


def test_loading_needs_no_reset_and_can_be_repeated(
    env: WorldEnv, world_folder: Path, tmp_path: Path
) -> None:
    path = env.save(tmp_path / "deep" / "walk.safetensors")
    expected = future(env)
    other = WorldEnv(world_folder)
    for _ in range(2):
        other.load(path)
        assert_same(future(other), expected)


def test_vector_environments(world_folder: Path, tmp_path: Path) -> None:
    def made() -> Any:
        return gym.make_vec(
            "worldsim/Dream-v0",
            num_envs=3,
            vectorization_mode="vector_entry_point",
            world=str(world_folder),
        )

    venv = made()
    venv.reset(seed=0)
    venv.step(np.array([1, 3, 4]))
    path = venv.unwrapped.save(tmp_path / "three.safetensors")
    expected = [venv.step(np.array([1, 1, a]))[0] for a in (1, 2, 3)]
    other = made()
    other.reset(seed=9)
    other.unwrapped.load(path)
    for obs, a in zip(expected, (1, 2, 3), strict=True):
        np.testing.assert_array_equal(other.step(np.array([1, 1, a]))[0], obs)
    with pytest.raises(InvalidInputError, match="3 environments"):
        WorldEnv(world_folder).load(path)


def test_a_file_cut_short(env: WorldEnv, tmp_path: Path) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    whole = path.read_bytes()
    for size in (0, 7, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError, match="walk.safetensors"):
            env.load(path)


def test_a_changed_byte(env: WorldEnv, tmp_path: Path) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    before = env.snapshot()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="checksum"):
        env.load(path)
    env.restore(before)  # nothing has been loaded: the environment goes on


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": "4"}, DamagedFileError, "upgrade worldsim"),
        ({"version": "one"}, DamagedFileError, "'one'"),
        ({"format": "worldsim-dataset"}, DamagedFileError, "not a snapshot"),
        ({"world": "0" * 64}, InvalidInputError, "another world"),
        ({"generators": "[{}]"}, DamagedFileError, "checksum"),
    ],
)
def test_other_headers(
    env: WorldEnv, tmp_path: Path, changes: dict[str, str], error: type[Exception], message: str
) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, **changes})
    with pytest.raises(error, match=message):
        env.load(path)


def test_a_missing_part(env: WorldEnv, tmp_path: Path) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["state.motion"]
    save_file(tensors, path, metadata)
    with pytest.raises(DamagedFileError, match=r"checksum|state\.motion"):
        env.load(path)


def test_no_file(env: WorldEnv, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        env.load(tmp_path / "nowhere")


def test_the_fingerprint_leaves_out_settings_that_came_later() -> None:
    """So that snapshots from before load: a network whose tokens are averaged has the fingerprint
    that it always had."""
    world = make_tiny_world()
    before = fingerprint(world)
    settings = dict(world.network.config)
    settings.pop("pooling")
    world.network._internal_dict = FrozenDict(settings)
    assert fingerprint(world) == before


def test_the_fingerprint_knows_weights_and_settings() -> None:
    world = make_tiny_world()
    assert fingerprint(world) == fingerprint(make_tiny_world())
    assert fingerprint(world) != fingerprint(make_tiny_world(seed=1))
    assert fingerprint(world) != fingerprint(world.with_dynamics(num_inference_steps=2))


def test_a_world_keeps_its_fingerprint_when_it_is_saved_and_loaded(tmp_path: Path) -> None:
    """Files know lists where settings made in memory are tuples."""
    world = make_tiny_world()
    world.save_pretrained(tmp_path / "world")
    assert fingerprint(World.from_pretrained(tmp_path / "world", "cpu")) == fingerprint(world)


def test_a_setting_that_came_later_counts_where_it_is_set() -> None:
    """Snapshots of before it still belong to their world."""
    config = PointMemoryConfig(capacity=4096)
    world, same, other = (
        make_tiny_world(memory=dataclasses.replace(config, colour_tolerance=t))
        for t in (None, None, 48)
    )
    assert "colour_tolerance" not in repr(config)
    assert fingerprint(world) == fingerprint(same) != fingerprint(other)
    assert "temperature" not in repr(world.config)
    assert fingerprint(world.with_dynamics(temperature=1.0)) == fingerprint(world)
    assert fingerprint(world.with_dynamics(temperature=0.5)) != fingerprint(world)
    assert world.with_dynamics(temperature=None) is world


def test_killed_while_saving(world_folder: Path, tmp_path: Path) -> None:
    """A process that saves again and again is killed at some moment: the file is whole, whichever
    snapshot it is."""
    path = tmp_path / "walk.safetensors"
    program = tmp_path / "program.py"
    program.write_text(f"""
from worldsim.envs.world_env import WorldEnv
env = WorldEnv({str(world_folder)!r})
env.reset(seed=3)
while True:
    env.save({str(path)!r})
    print("saved", flush=True)
    env.step(1)
""")
    for delay in (0.0, 0.003, 0.011):
        with launched(program) as process:
            while "saved" not in process.printed:
                assert process.is_running(), process.printed
                time.sleep(0.01)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        env = WorldEnv(world_folder)
        env.load(path)
        env.step(1)


def test_the_generators_are_plain_json(env: WorldEnv, tmp_path: Path) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    with safe_open(path, "np") as file:
        generators = json.loads(file.metadata()["generators"])
    assert generators[0]["bit_generator"] == "PCG64"


def rewritten(path: Path, keep: Any, **changes: str) -> None:
    """The file with the tensors that ``keep`` says and other headers, and a checksum that fits
    them; empty ones are left out."""
    with safe_open(path, "pt") as file:
        metadata = {k: v for k, v in {**file.metadata(), **changes}.items() if v and k != "sha256"}
    tensors = {name: value for name, value in load_file(path).items() if keep(name)}
    total = (
        checksum(tensors)
        if metadata["version"] in ("1", "2")
        else snapshots._checksum(tensors, metadata)
    )
    save_file(tensors, path, {**metadata, "sha256": total})


def as_version_1(path: Path) -> None:
    rewritten(path, lambda name: not name.startswith("journey."), version="1", name="", memory="")


def test_the_walk_is_in_the_file(env: WorldEnv, world_folder: Path, tmp_path: Path) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    before = env.trajectory
    other = WorldEnv(world_folder)
    other.load(path)
    for name in ("rgb", "inverse_depth", "pose", "intrinsics"):
        assert torch.equal(getattr(other.trajectory, name), getattr(before, name))
    rewritten(path, lambda name: name != "journey.pose")
    with pytest.raises(DamagedFileError, match="pose"):
        other.load(path)


def test_files_of_version_1_load(env: WorldEnv, world_folder: Path, tmp_path: Path) -> None:
    path = env.save(tmp_path / "walk.safetensors")
    as_version_1(path)
    expected = future(env)
    other = WorldEnv(world_folder)
    other.load(path)
    assert len(other.trajectory) == 1
    assert_same(future(other), expected)
    opened = open_snapshot(path)
    assert (
        opened.trajectory is None
        and opened.world == ""
        and opened.memory.statistics()["points"] > 100
    )


def test_opened_without_the_world(env: WorldEnv, world_folder: Path, tmp_path: Path) -> None:
    """Memory and walk need the file alone: here in a process that has no weights to load."""
    path = env.save(tmp_path / "walk.safetensors")
    opened = open_snapshot(path)
    assert opened.world == world_folder.name and opened.environments == 1
    assert opened.env_id == env.world.config.env_id
    assert opened.memory.kind.config == env.world.memory.config  # type: ignore[attr-defined]
    assert opened.memory.step == int(env.state.step[0])
    picture, own = opened.memory.render(size=(96, 96)), env.memory.render(size=(96, 96))
    np.testing.assert_array_equal(picture.rgb, own.rgb)
    np.testing.assert_array_equal(picture.depth, own.depth)
    assert opened.trajectory is not None and torch.equal(opened.trajectory.rgb, env.trajectory.rgb)


def test_a_radiance_field_is_opened_and_restored(world_folder: Path, tmp_path: Path) -> None:
    """Field, kept frames and points, without the world; and with it the same future, bit by bit."""
    points = PointMemory(PointMemoryConfig(capacity=4096))
    memory = RadianceMemory(points, RadianceMemoryConfig(32, 32, shape=(24, 24, 12), keyframes=6))
    world = World.from_pretrained(world_folder, device="cpu").with_memory(memory)
    env, other = WorldEnv(world), WorldEnv(world)
    env.reset(seed=3)
    for action in WALK:
        env.step(action)
    snapshot = env.snapshot()
    fitted = memory.fit(snapshot.state.memory, 20)
    env.restore(
        dataclasses.replace(snapshot, state=dataclasses.replace(snapshot.state, memory=fitted))
    )
    env.step(1)
    path = env.save(tmp_path / "field.safetensors")
    opened = open_snapshot(path)
    assert (
        isinstance(opened.memory.kind, RadianceMemory)
        and opened.memory.kind.config == memory.config
    )
    own = flatten(env.state.memory)
    for name, value in flatten(opened.memory.data).items():
        assert torch.equal(value, own[name][:1]), name
    assert int(opened.memory.data.fitted) >= 0
    picture, live = opened.memory.render(size=(48, 48)), env.memory.render(size=(48, 48))
    np.testing.assert_array_equal(picture.rgb, live.rgb)
    np.testing.assert_array_equal(picture.normals, live.normals)
    # The field fills what points leave open.
    assert (
        picture.mask.sum()
        > points.render(own_points(opened), opened.memory.camera(size=(48, 48))).mask.sum()
    )
    assert opened.memory.statistics()["points"] > 100 and len(opened.memory.points()) > 100
    expected = future(env)
    other.load(path)
    assert_same(future(other), expected)


def own_points(opened: OpenedSnapshot) -> Any:
    return opened.memory.data.points


def test_one_of_several_is_opened(world_folder: Path, tmp_path: Path) -> None:
    venv = WorldVectorEnv(3, world_folder)
    venv.reset(seed=0)
    path = venv.save(tmp_path / "three.safetensors")
    opened = open_snapshot(path, index=2)
    np.testing.assert_array_equal(opened.memory.render().rgb, venv.memory_of(2).render().rgb)
    assert opened.trajectory is None and opened.environments == 3
    for index in (-1, 3):
        with pytest.raises(InvalidInputError, match="3 environments"):
            open_snapshot(path, index=index)


def test_what_cannot_be_opened(env: WorldEnv, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        open_snapshot(tmp_path / "nowhere")
    blind = WorldEnv(make_tiny_world(geometry=False))
    blind.reset(seed=0, options={"frames": {"rgb": np.zeros((1, 32, 32, 3), np.uint8)}})
    with pytest.raises(MissingGeometryError, match="without scene memory"):
        open_snapshot(blind.save(tmp_path / "blind.safetensors"))
    path = env.save(tmp_path / "walk.safetensors")
    rewritten(path, lambda name: name != "state.memory.colour")
    with pytest.raises(DamagedFileError, match="colour"):
        open_snapshot(path)
    path = env.save(path)
    rewritten(path, lambda name: True, memory='{"kind": "clouds"}')
    with pytest.raises(DamagedFileError, match="clouds"):
        open_snapshot(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="cut short"):
        open_snapshot(path)


def test_shipped_worlds_are_named() -> None:
    assert world_name(World.from_pretrained("freedoom-tiny", device="cpu")) == "freedoom-tiny"
    assert world_name(make_tiny_world()) == ""
