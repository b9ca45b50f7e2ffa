"""A real server over HTTP and WebSocket: what it answers, refuses and survives."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

import worldsim
from tests.helpers.serving import PATIENCE, Serving, serving
from tests.helpers.worlds import make_tiny_world
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.sessions.batcher import Held
from worldsim.sessions.client import RemoteEnv
from worldsim.sessions.protocol import MEDIA_TYPE, SessionError, unpack
from worldsim.sessions.server import OPERATIONS
from worldsim.world import World

RAW = {"views": ["rgb"], "format": "raw"}


@contextmanager
def talking(served: Serving, **headers: str) -> Iterator[ClientConnection]:
    address = served.url.replace("http", "ws", 1) + "/api/v1/ws?protocol=1"
    with open_socket(address, additional_headers=headers, compression=None, proxy=None) as socket:
        yield socket


def receive(socket: ClientConnection) -> dict[str, Any]:
    content = socket.recv(timeout=PATIENCE)
    return json.loads(content) if isinstance(content, str) else unpack(content)[0]


def ask(socket: ClientConnection, message: dict[str, Any] | str | bytes) -> dict[str, Any]:
    socket.send(json.dumps(message) if isinstance(message, dict) else message)
    return receive(socket)


def create(served: Serving, **more: Any) -> dict[str, Any]:
    status, told, _ = served.request("POST", "/sessions", {"world": "room", "seed": 1, **more})
    assert status == 201, told
    return told


# HTTP.


def test_a_session_over_http(served: Serving) -> None:
    told = create(served, title="A walk")
    path = f"/sessions/{told['id']}"
    assert told["title"] == "A walk" and told["position"] == {"branch": 0, "step": 0}
    status, content, headers = served.request("POST", f"{path}/step", {"action": 1, **RAW})
    header, blobs, parts = unpack(content)
    assert status == 200 and headers["Content-Type"] == MEDIA_TYPE
    assert (header["step"], header["action"], header["generated"]) == (1, 1, True)
    env = worldsim.connect(served.url, "room")
    env.reset(seed=1)
    frame = env.step(1)[0]
    assert blobs["rgb"] == frame.tobytes() and parts["rgb"].shape == [32, 32, 3]
    env.close()
    _, snapshot, _ = served.request("GET", f"{path}/snapshot")
    served.request("POST", f"{path}/step", {"action": 2, "views": []})
    status, content, _ = served.request("PUT", f"{path}/snapshot", snapshot)
    assert status == 200 and unpack(content)[0]["step"] == 0
    assert served.request("GET", path)[1]["start"] == {"kind": "snapshot"}
    assert served.request("DELETE", path)[0] == 204
    status, told, _ = served.request("GET", path)
    assert status == 404 and told["error"]["code"] == "not_found"


def test_worlds_and_scenes(served: Serving) -> None:
    (world,) = served.request("GET", "/worlds")[1]
    assert world["name"] == "room" and world["height"] == 32 and not world["error"]
    assert world["actions"]["names"][1] == "forward"
    assert {"keys": ["w"], "action": 1} in world["keys"] and world["rest"] == 0
    scenes = served.request("GET", "/worlds/room/scenes")[1]
    assert [scene["name"] for scene in scenes] == world["scenes"] != []
    status, picture, _ = served.request("GET", f"/worlds/room/scenes/{scenes[0]['name']}.webp")
    assert status == 200 and Image.open(io.BytesIO(picture)).size == (32, 32)
    assert served.request("GET", "/worlds/room/scenes/..%2f..%2fworld.webp")[0] == 404
    assert served.request("GET", "/worlds/moon")[0] == 404


def test_interface_is_described(served: Serving) -> None:
    described = served.request("GET", "/openapi.json")[1]
    for name in OPERATIONS:
        assert f"/api/v1/sessions/{{session}}/{name}" in described["paths"]
    step = described["components"]["schemas"]["Step"]["properties"]
    assert {"action", "actions", "agent", "views", "format"} <= step.keys()


def test_http_errors(served: Serving) -> None:
    told = create(served)
    path = f"/sessions/{told['id']}"
    for body, code, status in (
        ({"action": 9}, "invalid_input", 400),
        ({"action": "up"}, "bad_message", 400),
        ({}, "invalid_input", 400),
        ({"agent": "os:system"}, "not_found", 404),
        ({"agent": "/etc"}, "not_found", 404),
    ):
        found, answer, _ = served.request("POST", f"{path}/step", body)
        assert (found, answer["error"]["code"]) == (status, code), answer
    assert served.request("POST", f"{path}/rewind", {"step": 3})[0] == 400
    assert served.request("POST", f"{path}/fly", {})[0] == 404
    assert served.request("PUT", f"{path}/snapshot", b"nothing")[0] == 422
    assert served.request("POST", "/sessions", b"x" * (5 * 2**20))[0] == 413
    fresh = create(served, start=None)
    status, answer, _ = served.request("POST", f"/sessions/{fresh['id']}/look", {})
    assert (status, answer["error"]["code"]) == (409, "not_reset")
    for session in (told, fresh):
        served.request("DELETE", f"/sessions/{session['id']}")


# Views, edits, branches.


def test_views_and_formats(served: Serving) -> None:
    env = worldsim.connect(served.url, "room")
    env.reset(seed=2)
    env.step(1)
    every = ["rgb", "depth", "memory", "twin", "painted", "map"]
    header, parts = env.ask({"type": "look", "views": every, "format": "raw"})
    assert set(parts) == {"rgb", "depth", "memory", "painted", "map"}
    assert parts["memory"].shape == (32, 32, 4) and parts["depth"].dtype == np.float32
    assert not parts["painted"].any() and header["map"]["resolution"] == 0.1
    _, pictures = env.ask({"type": "look", "views": every, "format": "png"})
    for name in ("rgb", "memory"):
        shown = np.asarray(Image.open(io.BytesIO(pictures[name])))
        np.testing.assert_array_equal(shown, parts[name])
    for kind in ("webp", "jpeg"):
        _, pictures = env.ask({"type": "look", "views": every, "format": kind})
        shown = np.asarray(Image.open(io.BytesIO(pictures["rgb"])), np.float64)
        # These frames are nearly noise, which lossy pictures keep badly.
        assert np.corrcoef(shown.ravel(), parts["rgb"].ravel())[0, 1] > 0.8
    header, drawn = env.ask({"type": "render", "height": 16, "width": 24, "format": "raw"})
    assert drawn["rgb"].shape == (16, 24, 4) and len(header["pose"]) == 16
    header, found = env.ask({"type": "points"})
    assert header["count"] == header["total"] == len(found["position"]) > 0
    later, newer = env.ask({"type": "points", "since": 0})
    assert later["count"] < header["count"] and set(newer["slot"]) <= set(found["slot"])
    env.close()


def test_a_crate_and_an_eraser(served: Serving) -> None:
    env = worldsim.connect(served.url, "room")
    before, _ = env.reset(seed=3)
    header, parts = env.ask({"type": "edit", "edit": {"kind": "crate", "size": 0.5}, **RAW})
    assert header["step"] == 0 and not np.array_equal(parts["rgb"], before)
    after, _ = env.step(0)[:2]
    erase = {"kind": "erase", "pixel": [16, 20], "radius": 0.3}
    env.ask({"type": "edit", "edit": erase, **RAW})
    with pytest.raises(InvalidInputError, match="one of position and pixel"):
        env.ask({"type": "edit", "edit": {"kind": "erase"}, **RAW})
    # Rewinding replays edits, too.
    walked = [env.step(action)[0] for action in (1, 3, 1)]
    env.rewind(0)
    np.testing.assert_array_equal(env.step(0)[0], after)
    np.testing.assert_array_equal(env.rewind(4, branch=0)[0], walked[-1])
    env.close()


def test_branches(served: Serving) -> None:
    env = worldsim.connect(served.url, "room")
    env.reset(seed=4)
    first = [env.step(action)[0] for action in (1, 1, 1)]
    env.rewind(1)
    second = [env.step(action)[0] for action in (3, 3)]
    assert not np.array_equal(first[1], second[0])
    env.ask({"type": "name", "branch": 1, "name": "to the left"})
    told, _ = env.ask({"type": "history"})
    assert [(b["parent"], b["at"], b["steps"]) for b in told["branches"]] == [
        (None, 0, 3),
        (0, 1, 3),
    ]
    assert told["branches"][1]["name"] == "to the left"
    np.testing.assert_array_equal(env.rewind(3, branch=0)[0], first[-1])
    np.testing.assert_array_equal(env.rewind(3, branch=1)[0], second[-1])
    walk = env.ask({"type": "walk"})[0]["walk"]
    status, made, _ = served.request("POST", "/sessions", {"world": "room", "walk": walk})
    assert status == 201 and made["position"] == {"branch": 1, "step": 3} and not made["warnings"]
    again = RemoteEnv(served.url, session=made["id"])
    np.testing.assert_array_equal(again._obs, second[-1])
    np.testing.assert_array_equal(again.rewind(2, branch=0)[0], first[1])
    other = {**walk, "weights_id": "of another world"}
    _, warned, _ = served.request("POST", "/sessions", {"world": "room", "walk": other})
    assert "other weights" in warned["warnings"][0]
    served.request("DELETE", f"/sessions/{warned['id']}")
    status, picture, headers = served.request("GET", f"/sessions/{env.session}/thumbnails/0/3.webp")
    assert status == 200 and headers["X-Step"] == "3" and picture[:4] == b"RIFF"
    again.close(), env.close()


def test_marks_and_settings(served: Serving) -> None:
    env = worldsim.connect(served.url, "room")
    env.reset(seed=5)
    env.step(1)
    mark = env.ask({"type": "mark"})[0]
    expected = env.step(3)[0]
    env.ask({"type": "settings", "settings": {"temperature": 0.0}})
    still = env.step(3)[0]
    env.ask({"type": "restore", "mark": mark["mark"], **RAW})
    np.testing.assert_array_equal(env.step(3)[0], expected)
    env.rewind(3, branch=0)
    np.testing.assert_array_equal(env._obs, still)
    env.ask({"type": "drop", "mark": mark["mark"]})
    with pytest.raises(InvalidInputError, match="no mark"):
        env.ask({"type": "restore", "mark": mark["mark"], **RAW})
    env.close()


def test_many_actions_and_agents(served: Serving) -> None:
    env = worldsim.connect(served.url, "room")
    env.reset(seed=6)
    single = [env.step(action)[0] for action in (1, 4, 1)]
    env.rewind(0)
    header, parts = env.ask({"type": "step", "actions": [1, 4, 1], **RAW})
    assert header["steps_taken"] == 3
    np.testing.assert_array_equal(parts["rgb"], single[-1])
    header, _ = env.ask({"type": "step", "agent": "persistent", **RAW})
    assert header["agent"] == "persistent" and header["action"] in range(7)
    agents = served.request("GET", f"/sessions/{env.session}/agents")[1]
    names = {agent["name"]: agent["kind"] for agent in agents}
    assert names["random"] == "policy" and names["explorer"] == "planner"
    assert "road-follower" not in names
    env.close()


def test_the_real_twin(served: Serving) -> None:
    start = {"kind": "twin", "history": 4, "options": {"map": "room-6"}, "policy": "persistent"}
    with talking(served) as socket:
        told = ask(socket, {"type": "create", "world": "room", "start": start, "twin": True})
        assert told["session"]["twin"], told
        assert receive(socket)["twin"]["alive"]
        both = {"views": ["rgb", "twin"], "format": "raw"}
        frames = []
        for action in (1, 3, 1):
            socket.send(json.dumps({"type": "step", "action": action, **both}))
            content = socket.recv(timeout=PATIENCE)
            assert isinstance(content, bytes)
            header, blobs, _ = unpack(content)
            assert header["twin"]["psnr"] > 0
            frames.append(blobs["twin"])
        assert len(set(frames)) == 3
        socket.send(json.dumps({"type": "rewind", "step": 2, **both}))
        while isinstance(content := socket.recv(timeout=PATIENCE), str):
            assert json.loads(content)["type"] == "progress"
        assert unpack(content)[1]["twin"] == frames[1]
        # A fork's own twin repeats the walk, and goes on as this one does.
        told = ask(socket, {"type": "fork", "n": 1, "twin": True})
        fork = told["sessions"][0]
        assert fork["twin"] and told["bytes"] == 0
        step = {"action": 1, "twin_later": True, **both}
        _, content, _ = served.request("POST", f"/sessions/{fork['id']}/step", step)
        assert "twin" not in unpack(content)[1]
        _, content, _ = served.request("POST", f"/sessions/{fork['id']}/look", both)
        assert unpack(content)[1]["twin"] == frames[2]
        served.request("DELETE", f"/sessions/{fork['id']}")
        # Over this connection, the twin's frame follows by itself.
        assert ask(socket, {"type": "step", **step})["twin"] is None
        content = socket.recv(timeout=PATIENCE)
        assert isinstance(content, bytes)
        header, blobs, _ = unpack(content)
        assert (header["type"], header["step"], header["twin"]["alive"]) == ("twin", 3, True)
        assert blobs["twin"] == frames[2]
        ask(socket, {"type": "close"})


# Playing.


def test_playing_is_paced_and_steered(served: Serving) -> None:
    with talking(served) as socket:
        ask(socket, {"type": "create", "world": "room", "seed": 1})
        receive(socket)
        assert ask(socket, {"type": "play", "fps": 50, "action": 1, **RAW})["type"] == "ok"
        frames = [receive(socket) for _ in range(3)]
        assert [frame["seq"] for frame in frames] == sorted(frame["seq"] for frame in frames)
        assert frames[0]["id"] is None and {frame["action"] for frame in frames} == {1}
        socket.send(json.dumps({"type": "act", "action": 4, "now": True}))
        while receive(socket)["action"] != 4:
            pass
        assert ask(socket, {"type": "act", "action": 99})["type"] in ("error", "frame")
        socket.send(json.dumps({"type": "pause", "id": 7, **RAW}))
        while (paused := receive(socket))["id"] != 7:
            pass
        assert ask(socket, {"type": "look", "id": 8, **RAW})["step"] == paused["step"]
        ask(socket, {"type": "close"})


def test_a_client_that_confirms_nothing_gets_few_frames(served: Serving) -> None:
    with talking(served) as socket:
        ask(socket, {"type": "create", "world": "room", "seed": 1})
        receive(socket)
        ask(socket, {"type": "play", "fps": 100, "window": 2, **RAW})
        assert [receive(socket)["seq"] for _ in range(2)] == [1, 2]
        with pytest.raises(TimeoutError):
            socket.recv(timeout=1.0)
        socket.send(json.dumps({"type": "ack", "seq": 10_000}))
        assert receive(socket)["skipped"] > 0
        ask(socket, {"type": "pause", **RAW})


# Who may connect.


def test_other_sites_are_refused(served: Serving) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example:80"}):
        status, told, _ = served.request("GET", "/worlds", headers=headers)
        assert (status, told["error"]["code"]) == (403, "forbidden_origin")
    with pytest.raises(InvalidStatus, match="403"), talking(served, Origin="http://evil.example"):
        pass
    with talking(served, Origin=served.url) as socket:
        assert ask(socket, {"type": "attach", "session": "nobody"})["code"] == "not_found"


def test_token(room: World) -> None:
    with serving({"room": room}, token="sesame") as server:
        assert server.request("GET", "/health")[0] == 200
        status, told, _ = server.request("GET", "/worlds")
        assert (status, told["error"]["code"]) == (401, "unauthorized")
        for wrong in ("", "Bearer", "Bearer wrong", "Basic sesame"):
            assert server.request("GET", "/worlds", headers={"Authorization": wrong})[0] == 401
        bearer = {"Authorization": "Bearer sesame"}
        assert server.request("GET", "/worlds", headers=bearer)[0] == 200
        assert server.request("POST", "/login", {"token": "open"})[0] == 401
        status, _, headers = server.request("POST", "/login", {"token": "sesame"})
        cookie = headers["Set-Cookie"]
        assert status == 204 and "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        mine = {"Cookie": cookie.partition(";")[0]}
        assert server.request("GET", "/worlds", headers=mine)[0] == 200
        with pytest.raises(WorldsimError, match="token"):
            worldsim.connect(server.url, "room")
        env = worldsim.connect(server.url, "room", token="sesame")
        env.reset(seed=0)
        (fork,) = env.fork(1)
        fork.close(), env.close()
        with pytest.raises(ConnectionClosed), talking(server) as socket:
            socket.recv(timeout=PATIENCE)


# Limits.


def test_too_many_sessions(room: World) -> None:
    with serving({"room": room}, sessions=2) as server:
        one, two = create(server), create(server, start=None)
        status, told, _ = server.request("POST", "/sessions", {"world": "room"})
        assert (status, told["error"]["code"]) == (429, "too_many_sessions")
        status, told, _ = server.request("POST", f"/sessions/{one['id']}/fork", {"n": 3})
        assert (status, told["error"]["code"]) == (429, "too_many_sessions")
        # One that nobody has used for long makes room for others.
        server.manager.session(two["id"]).used_at = time.time() - 3600
        three = create(server, start=None)
        assert server.request("GET", f"/sessions/{two['id']}")[0] == 404
        assert server.request("GET", f"/sessions/{three['id']}")[0] == 200


def test_idle_sessions_are_closed_with_a_message(room: World) -> None:
    with serving({"room": room}, idle_minutes=0.02) as server, talking(server) as socket:
        ask(socket, {"type": "create", "world": "room", "start": None})
        told = receive(socket)
        assert (told["type"], told["reason"]) == ("closed", "idle")
        assert "0.02 minutes" in told["message"]
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=PATIENCE)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 4408


def test_sessions_that_take_too_much_memory_are_closed(room: World) -> None:
    with serving({"room": room}, memory=1e-9) as server:
        sessions = [create(server)["id"] for _ in range(3)]
        until = time.monotonic() + PATIENCE
        while len(server.manager.sessions) > 1 and time.monotonic() < until:
            time.sleep(0.1)
        assert list(server.manager.sessions) == sessions[-1:]


def test_a_failing_session_leaves_the_others(served: Serving) -> None:
    healthy, broken = (worldsim.connect(served.url, "room", bucket=8) for _ in range(2))
    for env in (healthy, broken):
        env.reset(seed=1)
    expected = healthy.step(1)[0]
    session = served.manager.session(broken.session)
    assert session.present is not None
    foreign = Held(make_tiny_world(geometry=False).blank(1))
    session.present = dataclasses.replace(session.present, held=foreign)
    with pytest.raises(SessionError, match="as it was before"):
        broken.step(1)
    healthy.rewind(0)
    np.testing.assert_array_equal(healthy.step(1)[0], expected)
    broken.reset(seed=1)
    np.testing.assert_array_equal(broken.step(1)[0], expected)
    healthy.close(), broken.close()


# Anything may come.


def fuzzed(rng: random.Random) -> str | bytes:
    kinds = ["step", "rewind", "edit", "create", "play", "act", "fork", "restore", "reset", "map"]
    values = [None, -1, 0, 3, 2**70, 1.5, "x", "rgb", [], {}, [1, "a"], {"kind": "scene"}, True]
    names = ["action", "actions", "views", "format", "step", "mark", "edit", "start", "id", "n"]
    message: Any = {"type": rng.choice(kinds)}
    for _ in range(rng.randrange(4)):
        message[rng.choice(names)] = rng.choice(values)
    # Such numbers of steps and forks are allowed, and only take time.
    if message["type"] in ("fork", "play"):
        message["n"] = message["fps"] = -1
    text = json.dumps(message)
    form = rng.randrange(6)
    if form == 0:
        cut = rng.randrange(len(text))
        return text[:cut] + rng.choice('{}[]"\\,:é\x00') + text[cut + 1 :]
    if form == 1:
        return rng.randbytes(rng.randrange(60))
    if form == 2:
        return b"WSF1" + struct.pack("<I", rng.choice([len(text), 0, 2**32 - 1])) + text.encode()
    return text


def test_500_messages_of_any_kind(served: Serving) -> None:
    """Every message is answered or ignored; the server and the session go on."""
    rng = random.Random(22)
    env = worldsim.connect(served.url, "room")
    env.reset(seed=1)
    expected = env.step(1)[0]
    kinds: set[str] = set()
    with talking(served) as socket:
        ask(socket, {"type": "create", "world": "room", "start": None})
        for i in range(500):
            socket.send(fuzzed(rng))
            if i % 20 == 19:
                socket.send(json.dumps({"type": "history", "id": 10_000 + i}))
                while (told := receive(socket)).get("id") != 10_000 + i:
                    kinds.add(told["type"])
                assert told["type"] == "history"
    assert "error" in kinds
    for content in (b"", b"\xff" * 100, "{", '{"type": "attach"}', '{"type": "step", "action": 1}'):
        with talking(served) as socket:
            assert ask(socket, content)["type"] == "error"
    env.rewind(0)
    np.testing.assert_array_equal(env.step(1)[0], expected)
    env.close()


def test_too_many_requests_at_once(served: Serving) -> None:
    with talking(served) as socket:
        ask(socket, {"type": "create", "world": "room", "seed": 1})
        receive(socket)
        for i in range(60):
            socket.send(json.dumps({"type": "step", "action": 1, "id": i, "views": []}))
        told = [receive(socket) for _ in range(60)]
        refused = [one for one in told if one["type"] == "error"]
        assert refused and {one["code"] for one in refused} == {"busy"}
        steps = [one["step"] for one in told if one["type"] == "frame"]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) + len(refused) == 60
        ask(socket, {"type": "close"})


def test_versions(served: Serving) -> None:
    address = served.url.replace("http", "ws", 1) + "/api/v1/ws?protocol=99"
    with open_socket(address, compression=None, proxy=None) as socket:
        assert receive(socket)["code"] == "unsupported_version"
