"""Measure the play page in headless Chromium, and the server behind it with eight people.

    python -m experiments.play_page --json experiments/play_page.json

Each part is measured alone, on an otherwise idle computer; parts that the file has are skipped::

    python -m experiments.play_page --parts start walk --json OUT     # five minutes
    python -m experiments.play_page --parts people --json OUT         # six minutes

- ``start``: seconds from starting ``worldsim play`` to the page's first frame beside the twin.
- ``walk``: at the world's own rate with a key held down, milliseconds from the tick that samples
  the key to the frame on the screen, and the intervals between frames. A frame is on the screen
  after the browser's next paint.
- ``people``: one client as fast as it goes, then several at the world's own rate. They ask for
  everything that the page asks for: four pictures of the dream and of its twin, and new points of
  the memory. Then forks: bytes and milliseconds of each.

Exit status 1 if a figure misses what is required.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.playing import browser, servers
from experiments.sessions import fork, load
from worldsim.runtime.json_config import write_json

HELD = ("w", "w", "a", "w", "d", "w", "w", "q")
"""Keys that are held down one after the other."""
HOLD = 1.5
"""Seconds of each."""
WARM = 10.0
"""Seconds of a walk that do not count."""
LATE = 1.25
"""Periods after which a frame is late."""
REQUIRED: Mapping[str, tuple[str, float, float]] = {
    "start_s": ("at most", 15.0, 5.0),
    "delay_p95_ms": ("at most", 100.0, 60.0),
    "in_time": ("at least", 0.99, 0.999),
    "longest_ms": ("at most", 300.0, 200.0),
    "least_over_mean": ("at least", 0.8, 0.9),
    "each_fps": ("at least", 3.0, 4.0),
    "all_over_one": ("at least", 0.8, 1.2),
}
"""Direction, requirement and aim of each figure."""


@dataclass(frozen=True)
class Result:
    """What a part has measured.

    figures: by their names in :data:`REQUIRED`.
    more: other numbers.
    """

    figures: dict[str, float]
    more: dict[str, Any]


def measure_start(arguments: argparse.Namespace) -> Result:
    """Start the server several times, each with a browser that is open already."""
    seconds, listening = [], []
    for _ in range(arguments.starts):
        with browser.chromium() as driver:
            driver.get("about:blank")
            begun = time.time()
            server = browser.play_server(servers.free_port(), arguments.server, wait=False)
            with server as (url, process):
                servers.wait_for_server(url, process)
                listening.append(time.time() - begun)
                driver.get(url)
                seconds.append(browser.first_frame_at(driver) - begun)
    more = {"seconds": _rounded(seconds), "listening": _rounded(listening)}
    return Result({"start_s": round(max(seconds), 2)}, more)


def measure_walk(arguments: argparse.Namespace) -> Result:
    """Walk on the page with keys held down, and watch its frames."""
    with (
        browser.chromium() as driver,
        browser.play_server(servers.free_port(), arguments.server) as (url, process),
    ):
        driver.get(url)
        browser.first_frame_at(driver)
        # Without it, time would stand still between two keys.
        if driver.execute_script("return worldsim.player.waits"):
            browser.find(driver, "#wait").click()
        fps = driver.execute_script("return worldsim.player.session.info.fps")
        driver.execute_script(browser.OBSERVER)
        _hold_keys(driver, arguments.warm)
        before = driver.execute_script("return worldsim.log.length")
        _hold_keys(driver, arguments.walk_seconds)
        log = np.array(driver.execute_script("return worldsim.log")[before:], float)
        resident = browser.resident_mb(process)
    _, began, acted, step, encode, queue, shown = log.T
    period = 1e3 / fps
    delay, gaps = (shown - began)[acted > 0], np.diff(shown)
    figures = {
        "delay_p95_ms": _percentile(delay, 95),
        "in_time": round(float((gaps <= LATE * period).mean()), 4),
        "longest_ms": round(float(gaps.max()), 1),
    }
    more = {
        "seconds": arguments.walk_seconds,
        "frames": len(shown),
        "period_ms": round(period, 1),
        # Where a step takes longer than the world's period, the page has a longer one of its own.
        "in_time_of_median": round(float((gaps <= LATE * np.median(gaps)).mean()), 4),
        "delay_ms": _percentiles(delay),
        "interval_ms": _percentiles(gaps),
        "late_by_ms": _rounded(sorted(gaps[gaps > LATE * period])[-20:]),
        "step_ms": _percentiles(step),
        "pictures_ms": _percentiles(encode),
        "queue_ms": _percentiles(queue),
        "server_mb": resident,
    }
    return Result(figures, more)


def _hold_keys(driver: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    for i in range(10**6):
        left = end - time.monotonic()
        if left <= 0:
            return
        key = HELD[i % len(HELD)]
        browser.key_event(driver, "keyDown", key)
        time.sleep(min(HOLD, left))
        browser.key_event(driver, "keyUp", key)


def measure_people(arguments: argparse.Namespace) -> Result:
    """Let several clients walk at once, each as the page would."""
    with browser.play_server(servers.free_port(), arguments.server) as (url, process):
        asked = argparse.Namespace(
            world=arguments.world,
            format="raw",
            page=True,
            forks=arguments.forks,
            client_processes=1,
        )
        asked.seconds = arguments.one_seconds
        one = load(url, asked, 1, 1, None, process.pid)
        asked.seconds = arguments.people_seconds
        several = arguments.people, arguments.bucket, arguments.fps
        all_ = load(url, asked, *several, process.pid)
        resident = browser.resident_mb(process)
        forks = asyncio.run(fork(url, asked, process.pid))
    figures = {
        "least_over_mean": all_["least_over_mean"],
        "each_fps": all_["each_least"],
        "all_over_one": round(all_["steps_per_s"] / one["steps_per_s"], 3),
    }
    return Result(figures, {"one": one, "people": all_, "forks": forks, "server_mb": resident})


PARTS: Mapping[str, Callable[[argparse.Namespace], Result]] = {
    "start": measure_start,
    "walk": measure_walk,
    "people": measure_people,
}


def failed(figures: Mapping[str, float]) -> list[str]:
    """Return the figures that miss what is required, with the requirement."""
    found = []
    for name, value in figures.items():
        direction, required, _ = REQUIRED[name]
        met = value <= required if direction == "at most" else value >= required
        if not met:
            found.append(f"{name} = {value}, {direction} {required} is required")
    return found


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 2) for value in values]


def _percentile(values: Any, q: float) -> float:
    return round(float(np.percentile(values, q)), 1)


def _percentiles(values: Any) -> dict[str, float]:
    return {f"p{q}": _percentile(values, q) for q in (5, 50, 95, 99, 100)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="measure parts that the file has")
    parser.add_argument("--world", default="freedoom-tiny")
    parser.add_argument("--engine", default="fast")
    parser.add_argument("--threads", type=int, help="of the server; by default its own choice")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--warm", type=float, default=WARM, help="seconds of a walk before")
    parser.add_argument("--walk-seconds", type=float, default=180.0)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--people-seconds", type=float, default=300.0)
    parser.add_argument("--one-seconds", type=float, default=40.0)
    parser.add_argument("--bucket", type=int, default=8, help="of the people's sessions")
    parser.add_argument("--fps", type=float, default=8.75, help="of each of the people")
    parser.add_argument("--forks", type=int, default=8)
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    arguments.server = ["--world", arguments.world, "--engine", arguments.engine]
    if arguments.threads:
        arguments.server += ["--threads", str(arguments.threads)]
    found: dict[str, Any] = {"parts": {}}
    if arguments.json.exists():
        found = json.loads(arguments.json.read_text())
    found |= {
        "world": arguments.world,
        "engine": arguments.engine,
        "cpu": browser.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in arguments.parts:
        if name in found["parts"] and not arguments.again:
            continue
        result = PARTS[name](arguments)
        part = {"figures": result.figures, **result.more}
        # Other work on the computer shows here.
        found["parts"][name] = {**part, "load_average": round(os.getloadavg()[0], 2)}
        print(name, json.dumps(result.figures), flush=True)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.json, found)
    figures = {k: v for part in found["parts"].values() for k, v in part["figures"].items()}
    missed = failed(figures)
    print("\n".join(missed) or "every figure is met")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
