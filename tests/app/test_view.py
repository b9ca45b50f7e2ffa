"""The viewer, in a real browser without a screen: the points are on the canvas, and the controls do
what they say."""

from __future__ import annotations

import dataclasses
import io
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from experiments.playing.chromium import chromium
from experiments.playing.servers import PATIENCE
from tests.helpers.launching import launched
from tests.helpers.ports import free_port
from worldsim.app import cli
from worldsim.app.view import SCALE, ViewConfig, _spread, colours, may_connect, open_viewer, plain
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError, MissingDependencyError, NotFoundError
from worldsim.memory import PointMemory, PointMemoryConfig, RadianceMemory, RadianceMemoryConfig
from worldsim.memory.handle_results import PointArrays
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig
from worldsim.scenes.recorded import RecordedScenes
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.snapshots import open_snapshot


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short walk in the shipped world."""
    env = WorldEnv("freedoom-tiny", device="cpu")
    env.reset(seed=0, options={"scene": "MAP29-5"})
    for action in (3, 3, 1, 1, 4, 4):
        env.step(action)
    return env.save(tmp_path_factory.mktemp("view") / "walk.safetensors")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("browser"), 1700) as driver:
        yield driver


@pytest.fixture
def viewer(saved: Path, browser: Any) -> Iterator[Any]:
    viewer = open_viewer(ViewConfig(saved, port=free_port()))
    browser.get(f"http://127.0.0.1:{viewer.server.get_port()}")
    until(lambda: len(viewer.server.get_clients()) == 1 and labelled(browser, "colour"))
    yield viewer
    viewer.stop()


def until(holds: Callable[[], Any]) -> Any:
    """Wait for what must come."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)
    return found


def labelled(browser: Any, label: str) -> Any:
    """The inputs beside a label."""
    return browser.find_elements(
        By.XPATH, f"//label[normalize-space()='{label}']/following::input[1]"
    )


def canvas(browser: Any) -> np.ndarray:
    """(h, w, 3) uint8: what the page shows, without what software rendering is announced by."""
    browser.execute_script(
        "document.querySelectorAll('.mantine-Notification-closeButton').forEach(b => b.click())"
    )
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))


def middle(picture: np.ndarray) -> np.ndarray:
    """The middle square, clear of the controls on the right, 32x32."""
    height, width = picture.shape[:2]
    left = (width - height) // 2
    return np.asarray(
        Image.fromarray(picture[:, left : left + height]).resize((32, 32), Image.Resampling.BOX),
        np.float64,
    )


def standing_at(viewer: Any, browser: Any) -> np.ndarray:
    browser.find_element(By.XPATH, "//button[normalize-space()='jump to this camera']").click()
    return canvas(browser)


def test_the_canvas_shows_the_memory(viewer: Any, browser: Any, saved: Path) -> None:
    """From the newest camera, the page shows what the memory's own render shows: the same colours
    in the same places.

    But for the sky, which the page leaves out at first.
    """
    size = canvas(browser).shape[0]
    picture = open_snapshot(saved).memory.render(size=(size, size))
    expected, solid = (
        middle(picture.rgb),
        middle(np.uint8(255) * (picture.mask & np.isfinite(picture.depth))) > 250,
    )
    assert expected[solid].std() > 10 and solid.mean() > 0.5
    until(lambda: np.abs(middle(standing_at(viewer, browser)) - expected)[solid].mean() < 10)
    assert not viewer._show["cameras"].value and not viewer._chosen.visible


def test_colouring_by_height_and_confidence(viewer: Any, browser: Any) -> None:
    def blue() -> float:
        red, _, blue = canvas(browser)[:, :1300].astype(int).transpose(2, 0, 1)
        return float((blue > red + 60).mean())

    until(lambda: canvas(browser)[:, :1300].std() > 10)
    assert blue() < 0.02
    choose(browser, "height")
    until(lambda: blue() > 0.05)
    choose(browser, "confidence")
    until(lambda: viewer._colouring.value == "confidence")
    choose(browser, "rgb")
    until(lambda: blue() < 0.02)


def choose(browser: Any, option: str) -> None:
    labelled(browser, "colour")[0].click()
    until(
        lambda: browser.find_elements(
            By.XPATH, f"//*[@role='option'][normalize-space()='{option}']"
        )
    )[0].click()


def test_points_grow_and_are_cut(viewer: Any, browser: Any) -> None:
    """What is dark is nothing: smaller points leave more of it, and so does a cut below the eye."""

    def empty() -> float:
        return float((canvas(browser)[:, :1300].astype(int).sum(-1) < 70).mean())

    for box in ("cameras", "path"):
        labelled(browser, box)[0].click()
    until(lambda: canvas(browser)[:, :1300].std() > 10)
    whole = empty()
    viewer._size.value = 0.1
    until(lambda: empty() > whole + 0.1)
    viewer._size.value = 1.0
    until(lambda: abs(empty() - whole) < 0.02)
    viewer._cut.value = viewer._cut.min
    until(lambda: empty() > whole + 0.1)


def test_the_frame_slider_walks_along(viewer: Any, browser: Any, saved: Path) -> None:
    trajectory = open_snapshot(saved).trajectory
    assert trajectory is not None
    last = len(trajectory) - 1
    np.testing.assert_allclose(viewer._chosen.position, trajectory.pose[last, :3, 3])
    thumb = browser.find_elements(By.XPATH, "//*[@role='slider']")[-1]
    thumb.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    until(lambda: viewer._frame.value == last - 2)
    until(lambda: np.allclose(viewer._chosen.position, trajectory.pose[last - 2, :3, 3]))
    browser.find_element(By.XPATH, "//button[normalize-space()='jump to this camera']").click()
    (client,) = viewer.server.get_clients().values()
    until(lambda: np.allclose(client.camera.position, trajectory.pose[last - 2, :3, 3], atol=1e-3))
    # Each of the camera's values comes in a message of its own.
    fov = 2 * np.arctan(32 / float(trajectory.intrinsics[1]))
    until(lambda: client.camera.fov == pytest.approx(fov, abs=1e-3))


def test_a_snapshot_without_a_walk(world_folder: Path, tmp_path: Path) -> None:
    """The newest camera alone, with what the memory shows there."""
    env = WorldEnv(world_folder, trajectory=0)
    env.reset(seed=0)
    viewer = open_viewer(ViewConfig(env.save(tmp_path / "still.safetensors"), port=free_port()))
    try:
        assert (
            len(viewer._shots) == len(viewer._cameras) == 1
            and viewer._path is None
            and viewer._frame.disabled
        )
        np.testing.assert_array_equal(viewer._shots[0].pose, env.memory.render().pose)
    finally:
        viewer.stop()


def test_a_memory_without_points(world_folder: Path, tmp_path: Path) -> None:
    """Its error comes through, and no server is left at the port."""
    world = World.from_pretrained(world_folder, device="cpu")
    kind = RetrievalMemory(RetrievalMemoryConfig(height=32, width=32, capacity=2))
    env = WorldEnv(world.with_memory(kind), scenes=WithoutMemory(world_folder / "scenes"))
    env.reset(seed=0)
    path, port = env.save(tmp_path / "frames.safetensors"), free_port()
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="holds no points"):
            open_viewer(ViewConfig(path, port=port))


def test_the_points_of_a_radiance_memory(world_folder: Path, tmp_path: Path) -> None:
    world = World.from_pretrained(world_folder, device="cpu")
    kind = RadianceMemory(
        PointMemory(PointMemoryConfig(capacity=4096)),
        RadianceMemoryConfig(32, 32, (8, 8, 8), keyframes=2),
    )
    env = WorldEnv(world.with_memory(kind))
    env.reset(seed=0)
    viewer = open_viewer(ViewConfig(env.save(tmp_path / "field.safetensors"), port=free_port()))
    try:
        assert len(viewer._points) == env.memory.statistics()["points"] > 100
    finally:
        viewer.stop()


class WithoutMemory(RecordedScenes):
    """Start scenes without what had been seen before them."""

    def start(self, rng: np.random.Generator) -> SceneStart:
        return dataclasses.replace(super().start(rng), memory=None)


def test_colourings_by_hand() -> None:
    own = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    height = np.array([[0, 0, -1.0], [0, 0, 1.0], [0, 0, 9.0]], np.float32)
    points = PointArrays(
        height, own, np.ones(3, np.float32), np.array([1, 255, 16], np.uint8), np.zeros(3, np.int32)
    )
    assert colours(points, "rgb", (0.0, 1.0)) is own
    assert colours(points, "height", (-1.0, 9.0)).tolist() == [
        SCALE[0].tolist(),
        SCALE[1].tolist(),
        SCALE[-1].tolist(),
    ]
    assert colours(points, "confidence", (0.0, 1.0))[:2].tolist() == [
        SCALE[0].tolist(),
        SCALE[-1].tolist(),
    ]


def test_cameras_are_thinned() -> None:
    assert _spread(3, 40) == [0, 1, 2] and _spread(1, 40) == [0]
    assert _spread(11, 3) == [0, 5, 10] and len(_spread(2000, 40)) == 40


def test_without_viser(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[view\]'"):
        open_viewer(ViewConfig(saved))


def test_no_snapshot(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        open_viewer(ViewConfig(tmp_path / "nowhere"))
    assert cli.main(["view", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(InvalidInputError, match="1 environments"):
        open_viewer(ViewConfig(saved, index=1))


def test_ports_that_cannot_be_used(saved: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidInputError, match="in use.*--port"):
            open_viewer(ViewConfig(saved, port=taken.getsockname()[1]))
    for host in ("203.0.113.1", "a\0b", "no such host"):
        with pytest.raises(InvalidInputError, match="port"):
            open_viewer(ViewConfig(saved, host=host))


def test_the_command_serves_until_interrupted(saved: Path) -> None:
    port = free_port()
    with launched("worldsim", "view", str(saved), "--port", str(port)) as process:
        while f"http://127.0.0.1:{port}" not in process.printed:
            assert process.is_running(), process.printed
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=PATIENCE) as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait() == {0}
        assert "points" in process.printed and "Traceback" not in process.printed


HOSTILE = (
    "<img src=x onerror=\"document.title='taken'\">",
    "<script>document.title='taken'</script>",
    "{(() => { document.title = 'taken' })()}",
    "[a](javascript:document.title='taken')",
    "\x1b]0;taken\x07 http://example.com/",
)
"""Names that a snapshot's file may have for its world. Markdown of the page may hold HTML and
JavaScript in braces."""


def test_texts_of_files_are_letters_alone() -> None:
    for text in HOSTILE:
        assert not set(plain(text)) & set("<>{}[]()\"'`\\$\x1b\x07*") and "//" not in plain(text)
    assert (
        plain("freedoom-tiny") == "freedoom-tiny"
        and plain("vizdoom.gymnasium_wrapper:X-v1") == "vizdoom.gymnasium_wrapper:X-v1"
    )
    assert len(plain("x" * 10_000)) == 80


def test_a_hostile_name_runs_nothing(
    saved: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = dataclasses.replace(open_snapshot(saved), world=" ".join(HOSTILE))
    monkeypatch.setattr("worldsim.world.opened.open_snapshot", lambda *_: opened)
    viewer = open_viewer(ViewConfig(saved, port=free_port()))
    try:
        browser.get(f"http://127.0.0.1:{viewer.server.get_port()}")
        until(lambda: len(viewer.server.get_clients()) == 1 and labelled(browser, "colour"))
        place = "//*[not(self::script) and contains(text(), 'onerror')]"
        shown = until(lambda: browser.find_elements(By.XPATH, place))[0].get_attribute(
            "textContent"
        )
        assert "img src" in shown and "taken" not in browser.title, (shown, browser.title)
        assert "\x1b" not in viewer.description and "<" not in viewer.description
    finally:
        viewer.stop()


@pytest.mark.parametrize(
    ("headers", "served", "let_in"),
    [
        ({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"}, "127.0.0.1", True),
        ({"Host": "localhost:9999", "Origin": "http://localhost:9999"}, "127.0.0.1", True),
        ({"Host": "[::1]:8080", "Origin": "http://[::1]:8080"}, "127.0.0.1", True),
        ({"Host": "127.0.0.1:8080"}, "127.0.0.1", True),
        ({"Host": "127.0.0.1:8080", "Origin": "http://evil.example"}, "127.0.0.1", False),
        ({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:3000"}, "127.0.0.1", False),
        ({"Host": "127.0.0.1:8080", "Origin": "null"}, "127.0.0.1", False),
        ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, "127.0.0.1", False),
        ({"Host": "192.168.0.7:8080", "Origin": "http://192.168.0.7:8080"}, "127.0.0.1", False),
        ({"Host": "192.168.0.7:8080", "Origin": "http://192.168.0.7:8080"}, "0.0.0.0", True),
        ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, "0.0.0.0", False),
        ({"Host": "studio:8080", "Origin": "http://studio:8080"}, "studio", True),
        ({}, "127.0.0.1", False),
    ],
)
def test_who_may_connect(headers: dict[str, str], served: str, let_in: bool) -> None:
    assert may_connect(headers, served) is let_in


def test_other_pages_are_not_answered(saved: Path) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    viewer = open_viewer(ViewConfig(saved, port=free_port()))
    port = viewer.server.get_port()
    try:
        for origin in ("http://evil.example", f"http://localhost:{port + 1}"):
            with pytest.raises(InvalidStatus, match="403"):
                connect(f"ws://127.0.0.1:{port}", origin=origin, open_timeout=PATIENCE)  # type: ignore[arg-type]
        with connect(
            f"ws://127.0.0.1:{port}", origin=f"http://127.0.0.1:{port}", open_timeout=PATIENCE
        ):  # type: ignore[arg-type]
            pass
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}", headers={"Host": "evil.example"}
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=PATIENCE)
    finally:
        viewer.stop()


def test_the_page_is_not_shared(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any visitor may ask viser's server to open a tunnel to a public address."""
    import viser

    def tunnel(*_: Any) -> None:
        raise AssertionError("a tunnel was opened")

    monkeypatch.setattr(viser._viser, "ViserTunnel", tunnel)
    viewer = open_viewer(ViewConfig(saved, port=free_port()))
    try:
        assert viewer.server.request_share_url() is None and viewer.server._share_tunnel is None
    finally:
        viewer.stop()


@pytest.mark.parametrize("changes", [{"port": 0}, {"port": 70_000}, {"index": -1}, {"host": 3}])
def test_settings_out_of_range(saved: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(changes))):
        ViewConfig(saved, **changes)
