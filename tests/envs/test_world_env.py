"""The single dream: Gymnasium's contract, starts, snapshots and forks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import worldsim  # noqa: F401  registers the environments
from worldsim.camera import snap_pose
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    OutOfMemoryError,
)
from worldsim.state import SceneStart, flatten
from worldsim.world import World

pytestmark = pytest.mark.fast

SIZE = 32
WALK = [1, 1, 3, 1, 4, 4, 2, 5, 6, 0]


@pytest.fixture
def env(world_folder: Path) -> WorldEnv:
    return WorldEnv(world_folder, render_mode="rgb_array")


def walk(env: Any, actions: list[int] = WALK) -> list[tuple[Any, ...]]:
    return [env.step(action) for action in actions]


def assert_same(first: Any, second: Any) -> None:
    """Bit by bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (tuple, list)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(first, second)


def given(scene: SceneStart) -> dict[str, Any]:
    """A scene as a user's arrays."""
    assert (
        scene.pose is not None and scene.intrinsics is not None and scene.inverse_depth is not None
    )
    depth = 65535 * 0.125 / np.maximum(scene.inverse_depth.numpy(), 1e-9)
    return {
        "rgb": scene.rgb.permute(0, 2, 3, 1).numpy(),
        "act": scene.act.numpy(),
        "depth": depth.astype(np.float32),
        "pose": scene.pose.numpy(),
        "intrinsics": scene.intrinsics.numpy(),
    }


def test_gymnasium_check_env(world_folder: Path) -> None:
    env = gym.make("worldsim/Dream-v0", world=str(world_folder), render_mode="rgb_array")
    check_env(env.unwrapped)


def test_stable_baselines3_check_env(env: WorldEnv) -> None:
    sb3_check_env(env)


def test_spaces_are_those_of_the_real_twin(env: WorldEnv) -> None:
    real = gym.make("worldsim/TinyRoom-v0", size=SIZE)
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space


def test_info_has_geometry_and_is_a_copy(env: WorldEnv) -> None:
    obs, info = env.reset(seed=0)
    assert set(info) == {"pose", "depth", "intrinsics", "memory_coverage", "generated"}
    assert info["pose"].shape == (4, 4) and info["pose"].dtype == np.float32
    assert info["depth"].shape == (SIZE, SIZE) and info["depth"].dtype == np.float32
    assert info["intrinsics"].tolist() == [16.0, 16.0, 16.0, 16.0]
    assert (
        info["generated"].dtype == np.bool_
        and info["generated"]
        and info["memory_coverage"].dtype == np.float32
    )
    before = env.snapshot()
    obs[:] = 0
    for value in (info["pose"], info["depth"], info["intrinsics"]):
        value[:] = 7
    assert_same(flatten(before.state), flatten(env.state))
    frame = env.render()
    assert frame is not None
    np.testing.assert_array_equal(frame, env.state.frame.rgb[0].permute(1, 2, 0).numpy())


def test_seed_decides_scene_and_dream(env: WorldEnv, world_folder: Path) -> None:
    other = WorldEnv(world_folder)
    first, second = env.reset(seed=3), other.reset(seed=3)
    assert_same(first, second)
    assert_same(walk(env), walk(other))
    # A reset without a seed goes on drawing from the generator that the seed began.
    assert_same(env.reset(), other.reset())
    seeds = {int(env.state.seed)}
    for seed in range(4):
        env.reset(seed=seed)
        seeds.add(int(env.state.seed))
    assert len(seeds) == 5


def test_another_dream_seed_gives_another_future_of_the_same_scene(env: WorldEnv) -> None:
    first, _ = env.reset(seed=0, options={"scene": "room-6-1"})
    a = walk(env)
    second, _ = env.reset(seed=1, options={"scene": "room-6-1"})
    np.testing.assert_array_equal(first, second)
    assert (a[-1][0] != walk(env)[-1][0]).any()


def test_all_scenes_can_be_drawn(env: WorldEnv, room_scene: SceneStart) -> None:
    starts = {env.reset(seed=seed)[0].tobytes() for seed in range(40)}
    assert len(starts) == 6
    obs, info = env.reset(options={"scene": "room-6-1"})
    np.testing.assert_array_equal(obs, room_scene.rgb[-1].permute(1, 2, 0).numpy())
    assert room_scene.pose is not None
    np.testing.assert_array_equal(info["pose"], snap_pose(room_scene.pose[-1:])[0].numpy())


def test_frames_as_start(env: WorldEnv, room_scene: SceneStart) -> None:
    named = env.reset(seed=5, options={"scene": "room-6-1"})
    after = walk(env)
    for frames in (
        room_scene,
        given(room_scene),
        {k: v.tolist() if k == "act" else v for k, v in given(room_scene).items()},
    ):
        assert_same(env.reset(seed=5, options={"frames": frames}), named)
        assert_same(walk(env), after)


def test_frames_under_a_known_name_are_not_mistaken(env: WorldEnv, room_scene: SceneStart) -> None:
    env.reset(options={"scene": room_scene.name})
    other = dataclasses.replace(room_scene, rgb=255 - room_scene.rgb)
    obs, _ = env.reset(options={"frames": other})
    np.testing.assert_array_equal(obs, other.rgb[-1].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"rgb": np.zeros((4, 48, 32, 3), np.uint8)}, "32, 32"),
        ({"rgb": np.zeros((4, 32, 32, 3), np.float32)}, "float32"),
        ({"rgb": np.zeros((32, 32, 3), np.uint8)}, "(32, 32, 3)"),
        ({"rgb": np.zeros((0, 32, 32, 3), np.uint8), "act": np.zeros(0, np.int64)}, "(0, "),
        ({"act": np.array([0, 1, 2, 7])}, "7"),
        ({"act": np.zeros(3, np.int64)}, "(3,)"),
        ({"act": np.zeros(4, np.float32)}, "float32"),
        ({"depth": np.full((4, 32, 32), -1.0, np.float32)}, "-1"),
        ({"depth": np.full((4, 32, 32), np.nan, np.float32)}, "depth"),
        ({"pose": np.zeros((4, 4, 4), np.float32)}, "orthonormal"),
        ({"pose": np.full((4, 4, 4), np.nan, np.float32)}, "finite"),
        ({"intrinsics": np.zeros(4, np.float32)}, "positive"),
        ({"colour": 1}, "colour"),
    ],
)
def test_bad_frames(
    env: WorldEnv, room_scene: SceneStart, change: dict[str, Any], names: str
) -> None:
    env.reset(seed=0)
    before = env.snapshot()
    with pytest.raises(InvalidInputError) as caught:
        env.reset(options={"frames": given(room_scene) | change})
    assert names in str(caught.value)
    assert_same(flatten(before.state), flatten(env.state))


def test_frames_without_depth(env: WorldEnv, room_scene: SceneStart) -> None:
    frames = given(room_scene)
    del frames["depth"]
    with pytest.raises(MissingGeometryError, match="depth"):
        env.reset(options={"frames": frames})


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"map": "MAP30"}, InvalidInputError, "'map'"),
        ({"scene": "MAP99-1"}, NotFoundError, "MAP99-1.*room-6-1"),
        ({"scene": 3}, InvalidInputError, "3"),
        ({"frames": 3}, InvalidInputError, "int"),
        ({"frames": {}}, InvalidInputError, "rgb"),
        ({"scene": "room-6-1", "frames": {}}, InvalidInputError, "exclude"),
    ],
)
def test_bad_options(
    env: WorldEnv, options: dict[str, Any], error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        env.reset(options=options)


@pytest.mark.parametrize("action", [7, -1, 1.0, None, "forward", np.array([1, 2])])
def test_bad_action(env: WorldEnv, action: Any) -> None:
    env.reset(seed=0)
    before = env.snapshot()
    with pytest.raises(InvalidInputError, match=r"Discrete\(7\)"):
        env.step(action)
    assert_same(flatten(before.state), flatten(env.state))


@pytest.mark.parametrize(
    "verb", [lambda e: e.step(0), lambda e: e.render(), lambda e: e.snapshot(), lambda e: e.fork(2)]
)
def test_everything_needs_a_reset(env: WorldEnv, verb: Any) -> None:
    with pytest.raises(ResetNeeded):
        verb(env)


def test_bad_arguments(world_folder: Path, tmp_path: Path, tiny_world: World) -> None:
    with pytest.raises(NotFoundError, match="no-such-world"):
        WorldEnv("no-such-world")
    with pytest.raises(NotFoundError, match=r"world\.json"):
        WorldEnv(tmp_path)
    with pytest.raises(InvalidInputError, match="human"):
        WorldEnv(world_folder, render_mode="human")
    with pytest.raises(InvalidInputError, match="0"):
        WorldEnv(world_folder, num_inference_steps=0)
    with pytest.raises(NotFoundError, match=r"worldsim\.scenes\.nowhere"):
        WorldEnv(world_folder, scenes="worldsim.scenes.nowhere:Nowhere")
    with pytest.raises(NotFoundError, match="start scenes"):
        WorldEnv(tiny_world).reset()
    with pytest.raises(NotFoundError, match="start scenes"):
        WorldEnv(tiny_world, scenes=tmp_path).reset()


def test_damaged_scene(tmp_path: Path, tiny_world: World, scenes_folder: Path) -> None:
    folder = tmp_path / "room-6-1"
    folder.mkdir()
    for file in (scenes_folder / "room-6-1").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "frames.webp").write_bytes((folder / "frames.webp").read_bytes()[:-40])
    with pytest.raises(DamagedFileError, match=r"frames\.webp"):
        WorldEnv(tiny_world, scenes=tmp_path).reset()


def test_scenes_as_an_object(tiny_world: World, room_scene: SceneStart) -> None:
    class Always:
        def start(self, rng: np.random.Generator) -> SceneStart:
            return room_scene

    env = WorldEnv(tiny_world, scenes=Always())
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs, room_scene.rgb[-1].permute(1, 2, 0).numpy())
    with pytest.raises(InvalidInputError, match="by name"):
        env.reset(options={"scene": "room-6-1"})


def test_snapshot_brings_back_every_future(env: WorldEnv) -> None:
    env.reset(seed=0)
    walk(env)
    snapshot = env.snapshot()
    kept = {name: tensor.clone() for name, tensor in flatten(snapshot.state).items()}
    first = walk(env, WALK * 2), env.reset()
    env.restore(snapshot)
    assert_same((walk(env, WALK * 2), env.reset()), first)
    # Neither the walk nor the restored environment has changed the snapshot.
    assert_same(flatten(snapshot.state), kept)
    env.restore(snapshot)
    assert_same(walk(env, WALK * 2), first[0])


def test_snapshot_in_another_environment(env: WorldEnv, world_folder: Path) -> None:
    env.reset(seed=0)
    snapshot = env.snapshot()
    other = WorldEnv(world_folder)
    other.restore(snapshot)
    assert_same(walk(other), walk(env))


def test_restore_of_something_else(env: WorldEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="int"):
        env.restore(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="3 environments"):
        env.restore(env.fork(3).snapshot())


def test_common_fork_has_the_same_futures(env: WorldEnv) -> None:
    env.reset(seed=0)
    walk(env)
    before = env.snapshot()
    fork = env.fork(5)
    assert fork.num_envs == 5 and fork.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert_same(flatten(before.state), flatten(env.state))
    for action in WALK:
        obs, _, _, _, info = fork.step(np.full(5, action))
        assert_same([o for o in obs], [obs[0]] * 5)
        assert_same([p for p in info["pose"]], [info["pose"][0]] * 5)
    obs, *_ = fork.step(np.arange(5))
    assert len({o.tobytes() for o in obs}) == 5


def test_two_common_forks_agree_bit_by_bit(env: WorldEnv) -> None:
    env.reset(seed=0)
    a, b = env.fork(4), env.fork(4)
    actions = np.array([[1, 2, 3, 4], [5, 1, 6, 0], [1, 1, 1, 1]])
    for act in actions:
        assert_same(a.step(act), b.step(act))


def test_independent_fork(env: WorldEnv) -> None:
    env.reset(seed=0)
    snapshot = env.snapshot()
    fork = env.fork(4, randomness="independent")
    assert len(set(fork.state.seed[:4].tolist())) == 4
    obs, *_ = fork.step(np.ones(4, np.int64))
    assert len({o.tobytes() for o in obs}) == 4
    env.restore(snapshot)
    assert fork.state.seed.tolist() == env.fork(4, randomness="independent").state.seed.tolist()


@pytest.mark.parametrize(
    ("n", "randomness"),
    [(0, "common"), (-1, "common"), (2.5, "common"), (2, "both"), (True, "common")],
)
def test_bad_fork(env: WorldEnv, n: Any, randomness: str) -> None:
    env.reset(seed=0)
    with pytest.raises(
        InvalidInputError, match=repr(randomness) if randomness == "both" else repr(n)
    ):
        env.fork(n, randomness=randomness)


def test_time_limit_is_gymnasiums(world_folder: Path) -> None:
    env = gym.make("worldsim/Dream-v0", world=str(world_folder), max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(3)] == [False, False, True]
    assert gym.spec("worldsim/Dream-v0").max_episode_steps == 500


def test_sampling_steps_can_be_chosen(world_folder: Path) -> None:
    one, two = WorldEnv(world_folder), WorldEnv(world_folder, num_inference_steps=2)
    one.reset(seed=0), two.reset(seed=0)
    assert (one.step(1)[0] != two.step(1)[0]).any()


def test_temperature_can_be_chosen(world_folder: Path) -> None:
    one, two = (WorldEnv(world_folder, temperature=0.0) for _ in range(2))
    one.reset(seed=0), two.reset(seed=0)
    # The first frame's own noise has no say; the context's has, which later frames see.
    two._state = dataclasses.replace(two.state, seed=two.state.seed + 1)
    assert (one.step(1)[0] == two.step(1)[0]).all()
    with pytest.raises(InvalidInputError, match="temperature = -1"):
        WorldEnv(world_folder, temperature=-1.0)


def test_not_enough_memory(env: WorldEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env.reset(seed=0)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(env.world, "step", full)
    with pytest.raises(OutOfMemoryError, match="1 environments.*fewer"):
        env.step(0)
