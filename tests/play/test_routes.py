"""The page's own routes: its files, new places, files of a walk, and who may ask."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.painters import make_tiny_painter
from tests.helpers.serving import Serving, serving
from worldsim.io.provenance.sidecar import sidecar_of, verify
from worldsim.play.painting import Painting
from worldsim.play.routes import PUBLIC, STATIC, play_router
from worldsim.world import World

PATIENCE = 300.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, world_folder: Path) -> Iterator[Serving]:
    """A page with a tiny world and a tiny painter, which asks for a token."""
    world = World.from_pretrained(world_folder, device="cpu")
    places = tmp_path_factory.mktemp("play") / "places"
    router = play_router("tiny", Painting(places, painter=make_tiny_painter()))
    options = {"routers": (router,), "public": PUBLIC, "places": places}
    with serving({"tiny": world}, token="secret", **options) as found:
        yield found


def ask(
    served: Serving, path: str, body: bytes | None = None, kind: str = "", token: str = "secret"
) -> tuple[int, bytes, str]:
    """Status, content and type of an answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(
        served.url + path, body, {**headers, **({"Content-Type": kind} if kind else {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["Content-Type"]


def test_files_of_the_page(served: Serving) -> None:
    """Every file that the page names is served, without the token; nothing else is."""
    status, page, kind = ask(served, "/", token="")
    assert status == 200 and kind.startswith("text/html")
    for path in STATIC.iterdir():
        status, content, _ = ask(served, f"/static/{path.name}", token="")
        assert status == 200 and content == path.read_bytes()
    for name in ("nothing.js", "..%2froutes.py", "%2e%2e%2froutes.py", "__init__.py"):
        assert ask(served, f"/static/{name}", token="")[0] == 404
    # Nothing is loaded from elsewhere.
    names = [path for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html")]
    for path in names:
        assert "https://" not in path.read_text() and 'src="http' not in path.read_text()


def test_the_rest_needs_the_token(served: Serving) -> None:
    for path in ("/play/start", "/play/places", "/api/v1/worlds"):
        assert ask(served, path, token="")[0] == 401
        assert ask(served, path)[0] == 200


def test_a_new_place(served: Serving) -> None:
    """A place is painted from a picture, with its views to see, and dreams start in it."""
    picture = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)
    Image.fromarray(noise).save(picture, "PNG")
    folder = paint(served, picture.getvalue(), "image/png", "prompt=bricks&seed=3")
    status, content, kind = ask(served, f"/play/places/{folder}.webp")
    assert status == 200 and kind == "image/webp"
    assert folder.encode() in ask(served, "/play/places")[1]
    assert Image.open(io.BytesIO(content)).size == (32, 32)


def paint(served: Serving, body: bytes, kind: str, query: str) -> str:
    status, content, _ = ask(served, f"/play/paint?{query}", body, kind)
    assert status == 202, content
    job = content.decode().split('"')[3]
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        state = json.loads(ask(served, f"/play/paint/{job}")[1])
        assert not state["error"], state
        if state["folder"]:
            assert state["views"] == 8 and state["version"] > 1 and state["share"] == 1.0
            assert ask(served, f"/play/paint/{job}/views/7.webp")[2] == "image/webp"
            assert ask(served, f"/play/paint/{job}/views/8.webp")[0] == 404
            return str(state["folder"])
        time.sleep(0.1)
    raise AssertionError("the place was not painted")


@pytest.mark.parametrize(
    ("body", "kind", "query"),
    [
        (b"", "image/png", ""),
        (b"{}", "application/json", "prompt=" + "x" * 201),
        (b"{}", "application/json", "seed=-1"),
    ],
)
def test_bad_requests(served: Serving, body: bytes, kind: str, query: str) -> None:
    status, content, _ = ask(served, f"/play/paint?{query}", body, kind)
    assert (status == 400 and b"give" in content) or b"choose" in content


def test_bad_pictures(served: Serving) -> None:
    """What is no picture, and words that are not understood, end the job in words."""

    for body, kind, query in (
        (b"GIF89a", "image/gif", ""),
        (b"{}", "application/json", "prompt=xylophone"),
    ):
        job = json.loads(ask(served, f"/play/paint?{query}", body, kind)[1])["job"]
        end = time.monotonic() + PATIENCE
        while not (state := json.loads(ask(served, f"/play/paint/{job}")[1]))["error"]:
            assert time.monotonic() < end and not state["folder"], state
            time.sleep(0.1)
        assert "failed" not in state["error"]


def test_files_of_a_walk(served: Serving) -> None:
    headers = {"Authorization": "Bearer secret"}
    _, session, _ = served.request("POST", "/sessions", {"world": "tiny", "seed": 1}, headers)
    served.request("POST", f"/sessions/{session['id']}/step", {"action": 1}, headers)
    status, content, kind = ask(served, f"/play/sessions/{session['id']}/frame.png")
    assert status == 200 and kind == "image/png" and b"generated" in content
    assert ask(served, f"/play/sessions/{session['id']}/memory.ply")[1].startswith(b"ply\n")
    assert ask(served, f"/play/sessions/{session['id']}/secret.txt")[0] == 404
    assert ask(served, "/play/sessions/nobody/frame.png")[0] == 404


def test_files_are_signed(served: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page gets a sidecar for the bytes that it saved; another file does not fit it."""
    monkeypatch.setenv("WORLDSIM_KEY", str(tmp_path / "key.pem"))
    headers = {"Authorization": "Bearer secret"}
    _, session, _ = served.request("POST", "/sessions", {"world": "tiny", "seed": 1}, headers)
    path = f"/play/sessions/{session['id']}"
    picture = ask(served, f"{path}/frame.png")[1]
    status, sidecar, _ = ask(served, f"{path}/provenance/frame.png", picture, "image/png")
    assert status == 200
    saved = tmp_path / "frame.png"
    saved.write_bytes(picture)
    sidecar_of(saved).write_bytes(sidecar)
    verdict = verify(saved)
    assert verdict.state == "valid" and verdict.claim["generated"] is True
    assert verdict.claim["seed"] == 1 and verdict.claim["mark"]
    saved.write_bytes(picture + b"\0")
    assert verify(saved).state == "changed"
    assert ask(served, "/play/sessions/nobody/provenance/frame.png", b"x")[0] == 404
    assert ask(served, f"{path}/provenance/frame.png", b"x", token="")[0] in (401, 403)
