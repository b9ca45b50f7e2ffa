"""A small world behind the page, and a browser in front of it."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.helpers.serving import Serving, serving
from worldsim.play.painting import Painting
from worldsim.play.routes import PUBLIC, play_router
from worldsim.world import World

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --use-gl=angle "
    "--use-angle=swiftshader --enable-unsafe-swiftshader --window-size=1440,900"
)
PATIENCE = 300.0
"""Seconds until something that must come is given up: a machine may be busy."""


def until(holds: Callable[[], Any]) -> Any:
    """Wait for what must come."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
    return found


@dataclasses.dataclass(frozen=True)
class Page:
    """The page in a browser, and the server that it talks to."""

    browser: Any
    server: Serving

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script's body in the page, and wait for its promise."""
        body = f"""
            const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);
            (async (...arguments_) => {{ {script} }})(...given).then(
                (value) => done({{ value }}), (error) => done({{ error: String(error.stack) }}));
        """
        answer = self.browser.execute_async_script(body, *arguments)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def open(self, fragment: str = "") -> None:
        """Open the page anew, with nothing remembered, and wait for the first frame."""
        self.browser.get(f"{self.server.url}/static/icon.svg")
        self.browser.execute_script("localStorage.clear()")
        self.browser.get(f"{self.server.url}/{fragment}")
        self.wait_for_frame()

    def wait_for_frame(self) -> None:
        """Wait until a frame is shown."""
        ready = "return window.worldsim !== undefined && worldsim.player.header !== null"
        until(lambda: self.browser.execute_script(ready))

    def press(self, *keys: str) -> None:
        """Press keys one after the other, each once the step of the one before is shown."""
        for key in keys:
            before = self.place()
            self.send(key)
            until(lambda before=before: self.place() != before)

    def send(self, key: str) -> None:
        """Press a key wherever the focus is."""
        self.browser.switch_to.active_element.send_keys(key)

    def place(self) -> list[int]:
        """Branch and step of the frame on the canvas."""
        return self.browser.execute_script(
            "const { branch, step } = document.getElementById('dream').dataset;"
            "return [Number(branch), Number(step)]"
        )

    def pixels(self, canvas: str = "dream") -> list[int]:
        """RGBA of a canvas."""
        return self.browser.execute_script(
            "const c = document.getElementById(arguments[0]);"
            "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]",
            canvas,
        )

    def pose(self) -> list[float]:
        """The newest frame's camera."""
        return self.browser.execute_script("return worldsim.player.header.pose")

    def find(self, css: str) -> Any:
        """One element."""
        return self.browser.find_element(By.CSS_SELECTOR, css)

    @property
    def session(self) -> Any:
        """The server's session."""
        key = self.browser.execute_script("return worldsim.player.session.info.id")
        return self.server.manager.session(key)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, world_folder: Path) -> Iterator[Serving]:
    """The page's server, with a tiny world."""
    world = World.from_pretrained(world_folder, device="cpu")
    places = tmp_path_factory.mktemp("play") / "places"
    router = play_router("tiny", Painting(places))
    with serving({"tiny": world}, routers=(router,), public=PUBLIC, places=places) as found:
        yield found


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a screen."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        pytest.fail(f"a browser is needed, found {programs}: python3 .ci/system-libraries browser")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    folder = tmp_path_factory.mktemp("browser")
    for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    driver.set_script_timeout(PATIENCE)
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


@pytest.fixture
def page(server: Serving, browser: Any) -> Page:
    """The page, at the start of a walk beside the real twin."""
    opened = Page(browser, server)
    opened.open()
    return opened
