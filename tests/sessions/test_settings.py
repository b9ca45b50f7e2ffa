"""Settings that change during a walk: rewinds, replays, resumes and snapshots keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import worldsim
from tests.helpers.serving import Serving, serving
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError
from worldsim.sessions.client import RemoteEnv
from worldsim.world import World

RAW = {"views": ["rgb"], "format": "raw"}
CALM = {"num_inference_steps": 2, "temperature": 0.5}


def change(env: RemoteEnv, **settings: object) -> dict[str, object]:
    told: dict[str, object] = env.ask({"type": "settings", "settings": settings})[0]["session"]
    return told


def settings_of(env: RemoteEnv) -> dict[str, object]:
    """The settings of the present moment that are not the world's own."""
    told = env.ask({"type": "look", "views": []})[0]["settings"]
    return {name: value for name, value in told.items() if value not in (None, False)}


def walk(env: RemoteEnv) -> list[np.ndarray]:
    """Two steps, other settings, two steps."""
    env.reset(seed=3)
    frames = [env.step(1)[0] for _ in range(2)]
    change(env, **CALM)
    return frames + [env.step(1)[0] for _ in range(2)]


def test_a_change_is_part_of_the_walk(served: Serving) -> None:
    """Rewinding goes back behind it, a branch has its own, and a replay repeats it."""
    env, plain = (worldsim.connect(served.url, "room") for _ in range(2))
    frames = walk(env)
    plain.reset(seed=3)
    unchanged = [plain.step(1)[0] for _ in range(4)]
    np.testing.assert_array_equal(frames[:2], unchanged[:2])
    assert not np.array_equal(frames[2], unchanged[2])
    # Equal to an environment that is made with these settings, from the same state.
    env.rewind(1)
    assert settings_of(env) == {}
    other = [env.step(1)[0] for _ in range(3)]
    np.testing.assert_array_equal(other, unchanged[1:])
    env.rewind(4, branch=0)
    np.testing.assert_array_equal(env._obs, frames[3])
    assert settings_of(env) == CALM
    told = env.ask({"type": "walk"})[0]["walk"]
    assert told["settings"]["temperature"] is None
    assert [entry["settings"]["temperature"] for entry in told["branches"][0]["entries"][2:3]] == [
        0.5
    ]
    status, made, _ = served.request("POST", "/sessions", {"world": "room", "walk": told})
    assert status == 201 and made["settings"]["num_inference_steps"] == 2
    again = RemoteEnv(served.url, session=made["id"])
    for step, frame in ((4, frames[3]), (2, frames[1]), (3, frames[2])):
        np.testing.assert_array_equal(again.rewind(step, branch=0)[0], frame)
    (fork,) = env.fork(1)
    assert settings_of(fork) == CALM
    np.testing.assert_array_equal(fork.step(1)[0], env.step(1)[0])
    for one in (again, fork, env, plain):
        one.close()


def test_a_snapshot_tells_its_settings(served: Serving, world_folder: Path, tmp_path: Path) -> None:
    """A session takes them over; a local environment with others says what differs."""
    env, other = (worldsim.connect(served.url, "room") for _ in range(2))
    walk(env)
    content = env.snapshot()
    expected = env.step(1)[0]
    other.restore(content)
    assert settings_of(other) == CALM
    np.testing.assert_array_equal(other.step(1)[0], expected)
    status, root, _ = served.request("GET", f"/sessions/{env.session}/snapshot")
    assert status == 200 and len(root) > 1000
    path = tmp_path / "calm.safetensors"
    path.write_bytes(content)
    local = WorldEnv(world_folder, **CALM)
    local.load(path)
    np.testing.assert_array_equal(local.step(1)[0], expected)
    with pytest.raises(InvalidInputError, match='"temperature": 0.5'):
        WorldEnv(world_folder).load(path)
    env.close(), other.close()


def test_settings_that_do_not_fit(served: Serving) -> None:
    """They are refused, and the session has its former ones."""
    env = worldsim.connect(served.url, "room")
    env.reset(seed=1)
    with pytest.raises(InvalidInputError, match="temperature"):
        change(env, temperature=0.0, uncertainty=True)
    assert settings_of(env) == {}
    env.close()


def test_a_resumed_session_has_them(room: World, tmp_path: Path) -> None:
    with serving({"room": room}, state=tmp_path) as server:
        env = worldsim.connect(server.url, "room")
        frames = walk(env)
        session, then = env.session, env.step(3)[0]
        env.rewind(4)
    with serving({"room": room}, state=tmp_path) as server:
        status, told, _ = server.request("POST", f"/saved/{session}/resume")
        assert status == 201 and told["settings"]["temperature"] == 0.5
        again = RemoteEnv(server.url, session=session)
        np.testing.assert_array_equal(again._obs, frames[3])
        np.testing.assert_array_equal(again.step(3)[0], then)
        again.rewind(1, branch=0)
        assert settings_of(again) == {}
        again.close()
