"""The play page in headless Chromium: the server's process, the browser, and an observer of frames.

A frame counts as shown after the next paint: a task that was posted in the animation frame after
the page has drawn it.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By

from experiments.playing.chromium import chromium as start_chromium
from experiments.playing.servers import PATIENCE, running

OBSERVER = """
    const log = worldsim.log = [];
    const painted = new MessageChannel();
    let waiting = [];
    painted.port1.onmessage = () => {
        const shown = performance.now();
        for (const one of waiting) log.push([...one, shown]);
        waiting = [];
    };
    worldsim.player.addEventListener("frame", ({ detail: { header, began, acted } }) => {
        if (began === null) return;
        const ms = header.ms;
        waiting.push([header.step, began, acted, ms.step, ms.encode, ms.queue]);
        if (waiting.length === 1) requestAnimationFrame(() => painted.port2.postMessage(0));
    });
"""
"""Makes ``worldsim.log``: step, ms at which its tick began, whether a key was sampled, the server's
ms for the step, the pictures and the wait before the step, and ms at which the frame was painted.
"""


@contextlib.contextmanager
def play_server(
    port: int, more: Sequence[str] = (), wait: bool = True
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run ``worldsim play`` with folders of its own until the context ends."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["--no-browser", "--state", f"{folder}/sessions", "--places", f"{folder}/places"]
        with running("play", port, [*own, *more], wait) as found:
            yield found


@contextlib.contextmanager
def chromium(width: int = 1440, height: int = 900) -> Iterator[Any]:
    """Run Chromium with nothing remembered and a page of this size, in pixels."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        start_chromium(Path(folder), width, height) as driver,
    ):
        # The window's size would include the browser's own bars.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver


def until(holds: Callable[[], Any], every: float = 0.1) -> Any:
    """Wait for what must come."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not come")
        time.sleep(every)
    return found


def first_frame_at(driver: Any) -> float:
    """Wait for the page's first frame; returns when it was drawn, in seconds since 1970."""
    script = (
        "const [mark] = performance.getEntriesByName('worldsim-first-frame');"
        "return mark ? performance.timeOrigin + mark.startTime : 0"
    )
    return float(until(lambda: driver.execute_script(script))) / 1e3


def find(driver: Any, css: str) -> Any:
    """Return one element."""
    return driver.find_element(By.CSS_SELECTOR, css)


def key_event(driver: Any, kind: str, key: str) -> None:
    """Press or lift a key, as the browser tells the page of one."""
    driver.execute_cdp_cmd(
        "Input.dispatchKeyEvent",
        {"type": kind, "key": key, "text": key if kind == "keyDown" else ""},
    )


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of a process and its children in megabytes."""
    import psutil

    own = psutil.Process(process.pid)
    return round(sum(p.memory_info().rss for p in [own, *own.children(True)]) / 1e6, 1)


def processor() -> str:
    """Return the name of this computer's CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
