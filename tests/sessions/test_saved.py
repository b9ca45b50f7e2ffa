"""Sessions on disk: saved by themselves, and resumed after the server was killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import worldsim
from tests.helpers.ports import free_port
from tests.helpers.serving import PATIENCE, serving
from worldsim.errors import DamagedFileError, NotFoundError
from worldsim.sessions.client import RemoteEnv
from worldsim.sessions.saved import SavedSessions
from worldsim.world import World


def wait_for(path: Path, branches: int) -> None:
    """Until the file tells of so many branches."""
    until = time.monotonic() + PATIENCE
    while not path.exists() or (
        len(json.loads(path.read_text())["walk"].get("branches", [])) < branches
    ):
        assert time.monotonic() < until, f"{path} was not written"
        time.sleep(0.05)


@contextlib.contextmanager
def process(world: Path, state: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The command itself, in a process that can be killed."""
    port = free_port()
    command = [sys.executable, "-m", "worldsim", "serve", "--worlds", str(world), "--threads", "1"]
    command += ["--port", str(port), "--state", str(state), "--save-seconds", "0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/api/v1/health", timeout=PATIENCE).read()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until
                time.sleep(0.05)
        yield url, server
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_sessions_outlive_kill_9(world_folder: Path, tmp_path: Path) -> None:
    """The branch and the frames that follow are those of a server that went on."""
    world, state = tmp_path / "room", tmp_path / "state"
    shutil.copytree(world_folder, world)
    with process(world, state) as (url, server):
        env = worldsim.connect(url, "room")
        env.reset(seed=3)
        for action in (1, 1, 3):
            env.step(action)
        env.rewind(2)
        env.step(4)
        wait_for(state / env.session / "session.json", branches=2)
        expected = [env.step(action)[0] for action in (1, 5)]
        session = env.session
        server.send_signal(signal.SIGKILL)
        server.wait()
    with process(world, state) as (url, _):
        saved = json.loads(urllib.request.urlopen(f"{url}/api/v1/saved").read())
        assert [one["id"] for one in saved] == [session] and saved[0]["world"] == "room"
        request = urllib.request.Request(f"{url}/api/v1/saved/{session}/resume", method="POST")
        told = json.loads(urllib.request.urlopen(request, timeout=PATIENCE).read())
        assert told["id"] == session
        again = RemoteEnv(url, session=session)
        again.rewind(3, branch=1)
        for action, frame in zip((1, 5), expected, strict=True):
            np.testing.assert_array_equal(again.step(action)[0], frame)
        branches = again.ask({"type": "history"})[0]["branches"]
        assert [branch["at"] for branch in branches][:2] == [0, 2]


def test_closed_sessions_can_be_resumed_and_deleted_ones_not(room: World, tmp_path: Path) -> None:
    with serving({"room": room}, state=tmp_path) as server:
        kept, deleted = (worldsim.connect(server.url, "room") for _ in range(2))
        kept.reset(seed=1), deleted.reset(seed=2)
        frame = kept.step(1)[0]
        deleted.close()
    with serving({"room": room}, state=tmp_path) as server:
        assert [one["id"] for one in server.request("GET", "/saved")[1]] == [kept.session]
        status, told, _ = server.request("POST", f"/saved/{kept.session}/resume")
        assert status == 201 and told["position"] == {"branch": 0, "step": 1}
        assert server.request("GET", "/saved")[1] == []
        again = RemoteEnv(server.url, session=kept.session)
        np.testing.assert_array_equal(again._obs, frame)
        again.close()
        assert server.request("POST", f"/saved/{kept.session}/resume")[0] == 404
        assert server.request("DELETE", "/saved/..%2f..")[0] == 404


def test_twins_crates_and_settings_are_resumed(room: World, tmp_path: Path) -> None:
    """What a file names by its kind comes back: the start beside the twin, an edit, a change."""
    start = {"kind": "twin", "history": 4, "options": {"map": "room-6"}, "seed": 3}
    with serving({"room": room}, state=tmp_path) as server:
        made = {"world": "room", "seed": 3, "start": start, "twin": True}
        _, told, _ = server.request("POST", "/sessions", made)
        path = f"/sessions/{told['id']}"
        for name, body in (
            ("step", {"action": 1}),
            ("edit", {"edit": {"kind": "crate"}}),
            ("settings", {"settings": {"temperature": 0.5}}),
            ("step", {"action": 3}),
        ):
            status, content, _ = server.request("POST", f"{path}/{name}", body)
            assert status == 200, content
        frame = server.manager.session(told["id"]).now.rgb
    with serving({"room": room}, state=tmp_path) as server:
        status, told, _ = server.request("POST", f"/saved/{told['id']}/resume")
        assert status == 201, told
        assert told["start"]["kind"] == "twin" and told["twin"]
        again = server.manager.session(told["id"])
        np.testing.assert_array_equal(again.now.rgb, frame)
        kinds = [type(entry).__name__ for entry in again.history.branches[0].entries]
        assert kinds == ["ActionEntry", "EditEntry", "SettingsEntry", "ActionEntry"]


def test_a_crash_between_two_files_loses_one_save(
    room: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer snapshot without its JSON file is not taken for the older one."""
    with serving({"room": room}, state=tmp_path / "state") as server:
        env = worldsim.connect(server.url, "room")
        env.reset(seed=1)
        frame = env.step(1)[0]
        manager = server.manager
        session = manager.session(env.session)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(manager.save(session))
        env.step(2)

        def crash(*_: object) -> None:
            raise OSError("no power")

        monkeypatch.setattr("worldsim.sessions.saved.write_json", crash)
        with pytest.raises(OSError, match="no power"):
            loop.run_until_complete(manager.save(session))
        loop.close()
        shutil.copytree(tmp_path / "state", tmp_path / "crashed")
        monkeypatch.undo()
    with serving({"room": room}, state=tmp_path / "crashed") as server:
        told = server.request("POST", f"/saved/{env.session}/resume")[1]
        assert told["position"] == {"branch": 0, "step": 1}
        again = RemoteEnv(server.url, session=env.session)
        np.testing.assert_array_equal(again._obs, frame)
        again.step(2)


def test_damaged_files_are_left_out(room: World, tmp_path: Path) -> None:
    saved = SavedSessions(tmp_path)
    for name, content in (("a" * 22, "{"), ("b" * 22, "{}"), ("c" * 22, '{"v": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "session.json").write_text(content)
        with pytest.raises(DamagedFileError):
            saved.open(name)
    (tmp_path / "not a session").mkdir()
    assert saved.list() == []
    for name in ("d" * 22, "..", "a/b", ""):
        with pytest.raises(NotFoundError):
            saved.open(name)
