"""The play page in a browser, for tests."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from selenium.webdriver.common.by import By

from experiments.playing.servers import PATIENCE
from tests.helpers.serving import Serving


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
            until(lambda: self.browser.execute_script("return worldsim.player.settled"))

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
