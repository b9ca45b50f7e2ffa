"""An environment over the network: Gymnasium's contract, and the frames of a local one."""

from __future__ import annotations

import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import worldsim
from tests.helpers.ports import free_port
from tests.helpers.serving import Serving, serving
from tests.helpers.worlds import make_tiny_world
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError, NotFoundError, WorldsimError
from worldsim.sessions.client import RemoteEnv
from worldsim.state import checksum, flatten
from worldsim.world import World
from worldsim.world.snapshots import load_snapshot

WALK = [1, 1, 3, 1, 5, 0, 2, 4, 1]


def same_info(mine: dict, other: dict) -> None:
    assert set(mine) == set(other)
    for name, value in mine.items():
        expected = np.asarray(other[name])
        assert np.asarray(value).dtype == expected.dtype, name
        np.testing.assert_array_equal(value, expected, err_msg=name)


def same_step(mine: tuple, other: tuple) -> None:
    np.testing.assert_array_equal(mine[0], other[0])
    assert mine[1:4] == other[1:4]
    same_info(mine[4], other[4])


def test_check_env(served: Serving) -> None:
    env = worldsim.connect(served.url, world="room", render_mode="rgb_array")
    check_env(env)
    env.close()


def test_frames_of_a_local_environment(served: Serving, room: World) -> None:
    """Rewards and infos, too; with a seed, without one, and for a scene by name."""
    remote, local = worldsim.connect(served.url, "room"), WorldEnv(room)
    assert remote.action_space == local.action_space
    assert remote.observation_space == local.observation_space
    assert remote.metadata == local.metadata
    for seed, options in ((3, None), (None, None), (None, {"scene": "room-7-1"})):
        mine, other = (env.reset(seed=seed, options=options) for env in (remote, local))
        np.testing.assert_array_equal(mine[0], other[0])
        same_info(mine[1], other[1])
        for action in WALK:
            same_step(remote.step(action), local.step(action))
    remote.close()


def test_start_from_frames(served: Serving, room: World) -> None:
    local = WorldEnv(room)
    scene = local._starts.scenes.load("room-6-1")  # type: ignore[union-attr]
    remote = worldsim.connect(served.url, "room")
    mine, other = (env.reset(seed=5, options={"frames": scene}) for env in (remote, local))
    np.testing.assert_array_equal(mine[0], other[0])
    same_step(remote.step(1), local.step(1))
    remote.close()


def test_rewards_terminations_and_uncertainty(goal_folder: Path) -> None:
    world = World.from_pretrained(goal_folder, "cpu")
    with serving({"goal": world}) as server:
        remote = worldsim.connect(server.url, "goal", uncertainty=True)
        local = WorldEnv(world, uncertainty=True)
        remote.reset(seed=1), local.reset(seed=1)
        steps = [(remote.step(action), local.step(action)) for action in WALK * 2]
        for mine, other in steps:
            same_step(mine, other)
        assert len({other[1] for _, other in steps}) > 1
        assert any(other[4]["uncertainty"] > 0 for _, other in steps)


def test_continuous_actions(scenes_folder: Path) -> None:
    world = make_tiny_world(geometry=False, action_dim=2, env_id="")
    with serving({"drive": world}) as server:
        remote, local = worldsim.connect(server.url, "drive"), WorldEnv(world, scenes=None)
        assert remote.action_space == local.action_space
        frames = {"rgb": np.zeros((4, 32, 32, 3), np.uint8), "act": np.zeros((4, 2), np.float32)}
        frames["rgb"][:, 8:] = 200
        for env in (remote, local):
            env.reset(seed=2, options={"frames": frames})
        for action in ([0.1, -0.7], [1.0, 1.0], np.array([0.3, 0.2])):
            same_step(remote.step(np.asarray(action)), local.step(np.asarray(action)))
        with pytest.raises(InvalidInputError, match="outside"):
            remote.step(np.array([2.0, 0.0]))


def test_equal_beside_seven_others(served: Serving, room: World) -> None:
    """In bucket 8 as a local batch of 8, whatever the others do and whenever they do it."""
    batch = WorldVectorEnv(8, room)
    batch.reset(seed=list(range(8)))
    walks = np.random.default_rng(0).integers(0, 7, (6, 8))
    expected = []
    for actions in walks:
        expected.append(batch.step(actions)[0])
    alone = WorldEnv(room)
    alone.reset(seed=0)
    single = [alone.step(int(action))[0] for action in walks[:, 0]]
    failures: list[BaseException] = []

    def drive(row: int) -> None:
        try:
            env = worldsim.connect(served.url, "room", bucket=8)
            env.reset(seed=row)
            for actions, frames in zip(walks, expected, strict=True):
                np.testing.assert_array_equal(env.step(int(actions[row]))[0], frames[row])
            env.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=drive, args=(row,)) for row in range(8)]
    one = worldsim.connect(served.url, "room")
    one.reset(seed=0)
    for thread in threads:
        thread.start()
    # A ninth in bucket 1, at the same time.
    for actions, frame in zip(walks, single, strict=True):
        np.testing.assert_array_equal(one.step(int(actions[0]))[0], frame)
    for thread in threads:
        thread.join()
    assert failures == []
    one.close()


def test_snapshots_are_those_of_environments(served: Serving, room: World, tmp_path: Path) -> None:
    remote, local = worldsim.connect(served.url, "room"), WorldEnv(room)
    remote.reset(seed=4), local.reset(seed=4)
    for action in WALK[:4]:
        remote.step(action), local.step(action)
    content = remote.snapshot()
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    mine, other = (
        load_snapshot(one, room) for one in (path, local.save(tmp_path / "other.safetensors"))
    )
    assert checksum(flatten(mine.state)) == checksum(flatten(other.state))
    assert mine.generators == other.generators and mine.elapsed == other.elapsed
    for one, another in zip(mine.frames, other.frames, strict=True):
        assert checksum(flatten(one)) == checksum(flatten(another))
    loaded = WorldEnv(room)
    loaded.load(path)
    ahead = [local.step(action) for action in WALK]
    for action, expected in zip(WALK, ahead, strict=True):
        same_step(loaded.step(action), expected)
    remote.step(2)
    obs, _ = remote.restore(path.read_bytes())
    for action, expected in zip(WALK, ahead, strict=True):
        same_step(remote.step(action), expected)
    assert obs.shape == (32, 32, 3)
    with pytest.raises(WorldsimError, match="the snapshot"):
        remote.restore(b"no snapshot at all")
    remote.step(1)
    remote.close()


def test_forks(served: Serving) -> None:
    env = worldsim.connect(served.url, "room")
    env.reset(seed=6)
    env.step(1)
    same, other = env.fork(2), env.fork(1, "independent")[0]
    mine = env.step(3)
    for fork in same:
        same_step(fork.step(3), mine)
    assert not np.array_equal(other.step(3)[0], mine[0])
    for fork in (*same, other):
        fork.close()
    env.step(1)
    env.close()


def test_rewinding(served: Serving) -> None:
    env = worldsim.connect(served.url, "room")
    env.reset(seed=7)
    frames = [env.step(action)[0] for action in WALK]
    obs, _ = env.rewind(3)
    np.testing.assert_array_equal(obs, frames[2])
    np.testing.assert_array_equal(env.step(WALK[3])[0], frames[3])
    np.testing.assert_array_equal(env.rewind(len(WALK), branch=0)[0], frames[-1])
    env.close()


def test_errors_name_the_next_step(served: Serving) -> None:
    with pytest.raises(NotFoundError, match="it has room"):
        worldsim.connect(served.url, "nowhere")
    with pytest.raises(InvalidInputError, match="name of a world"):
        RemoteEnv(served.url)
    with pytest.raises(InvalidInputError, match="bucket"):
        worldsim.connect(served.url, "room", bucket=5)
    with pytest.raises(NotFoundError, match="worldsim serve"):
        worldsim.connect(f"http://127.0.0.1:{free_port()}", "room")
    with pytest.raises(InvalidInputError, match="http://"):
        worldsim.connect("room", "room")
    env = worldsim.connect(served.url, "room")
    with pytest.raises(ResetNeeded):
        env.step(1)
    with pytest.raises(NotFoundError, match="no start scene"):
        env.reset(options={"scene": "cellar"})
    with pytest.raises(InvalidInputError, match="reset options"):
        env.reset(options={"map": 1})
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="outside"):
        env.step(7)
    env.close()
    with pytest.raises(WorldsimError, match="closed"):
        env.step(1)


def test_a_session_can_be_attached_to(served: Serving) -> None:
    first = worldsim.connect(served.url, "room")
    first.reset(seed=8)
    frame = first.step(1)[0]
    second = RemoteEnv(served.url, session=first.session)
    np.testing.assert_array_equal(second._obs, frame)
    with pytest.raises(WorldsimError, match="another window or program"):
        first.step(1)
    second.step(1)
    second.close()


def test_lazy_name() -> None:
    assert worldsim.connect.__module__ == "worldsim.sessions.client"
    assert issubclass(RemoteEnv, gym.Env)
