"""Film the play page in headless Chromium for the README, and take screenshots of it.

    python -m experiments.play_picture --out docs/images/play_walk.webp
    python -m experiments.play_picture --stills docs/images

A person looks around beside the real twin, walks on, flips to it, drops a crate, goes back and
begins a branch. The pictures are screenshots of the real page, shown as long apart as they were
taken. Film on an idle computer: the page shows its own frame rate.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from experiments.playing import browser, servers


@dataclass(frozen=True)
class Config:
    """Settings of the film."""

    out: Path = Path("docs/images/play_walk.webp")
    """The animated WebP."""
    world: str = "freedoom-tiny"
    """World to walk in."""
    engine: str = "fast"
    """How steps are run."""
    fps: float = 3.0
    """Screenshots per second. Each one holds up the page a little."""
    pace: float = 1.0
    """Seconds of the film per second of the plan below; more on a slow computer."""
    width: int = 960
    """Pixels of the film; the page has 1440."""
    quality: int = 60
    """Of the WebP; lowered in steps of 5 until the file is small enough."""
    largest: int = 600_000
    """Bytes of the file."""
    stills: Path | None = None
    """Take two screenshots instead of the film, and write them to this folder: ``play.webp``
    (1440x900, two branches of a walk) and ``play_phone.webp`` (390x844)."""
    json: Path | None = None
    """Write the frame rate and the number of steps here."""


Plan = list[tuple[float, Callable[[Any], None]]]


def hold(*keys: str) -> Callable[[Any], None]:
    """Lift all keys but these, and press them."""

    def act(driver: Any) -> None:
        driver.execute_script("window.dispatchEvent(new Event('blur'))")
        for key in keys:
            browser.key_event(driver, "keyDown", key)

    return act


def tap(key: str) -> Callable[[Any], None]:
    """Press and lift a key."""

    def act(driver: Any) -> None:
        browser.key_event(driver, "keyDown", key)
        browser.key_event(driver, "keyUp", key)

    return act


def go_back(driver: Any) -> None:
    """Return to the middle of the walk, as a drag along the strip does."""
    driver.execute_script(
        "const { player } = worldsim, { branch, step } = player.position;"
        "player.drag(branch, Math.max(1, Math.floor(step / 2)))"
    )


PLAN: Plan = [
    # A look around first: what is drawn afterwards has been seen.
    (0.0, hold("a")),
    (3.1, hold("w")),
    (3.7, hold()),
    (4.0, tap("f")),
    (5.0, tap("f")),
    (5.5, tap("k")),
    (6.6, hold("s")),
    (7.2, hold()),
    (7.6, go_back),
    (9.0, hold("d")),
    (10.0, hold("w")),
    (10.5, hold()),
]
END = 11.5


def film(config: Config, driver: Any) -> tuple[list[Image.Image], list[float]]:
    """Walk and take screenshots; returns them and the seconds at which they were taken."""
    pictures, taken, todo = [], [], list(PLAN)
    begun = time.monotonic()
    while (now := (time.monotonic() - begun) / config.pace) < END:
        while todo and todo[0][0] <= now:
            todo.pop(0)[1](driver)
        began = time.monotonic()
        told = driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "jpeg", "quality": 90, "optimizeForSpeed": True}
        )
        taken.append(time.monotonic() - begun)
        picture = Image.open(io.BytesIO(base64.b64decode(told["data"]))).convert("RGB")
        height = round(picture.height * config.width / picture.width)
        pictures.append(picture.resize((config.width, height), Image.Resampling.LANCZOS))
        time.sleep(max(0.0, 1.0 / config.fps - (time.monotonic() - began)))
    return pictures, taken


def walk_steps(driver: Any, keys: str) -> None:
    """Take steps with these keys, one each."""
    for key in keys:
        before = driver.execute_script("return worldsim.player.header.step")
        browser.key_event(driver, "keyDown", key)
        moved = f"return worldsim.player.header.step > {before}"
        browser.until(lambda moved=moved: driver.execute_script(moved), 0.02)
        browser.key_event(driver, "keyUp", key)
        browser.until(lambda: driver.execute_script("return worldsim.player.settled"), 0.05)


def name_branch(driver: Any, name: str) -> None:
    """Name the present branch."""
    driver.execute_async_script(
        "const { player } = worldsim, done = arguments[1];"
        "player.name(player.position.branch, arguments[0]).then(done)",
        name,
    )


def save_screenshot(driver: Any, out: Path) -> None:
    """Write what the page shows, once the memory is drawn."""
    time.sleep(3.0)
    told = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    Image.open(io.BytesIO(base64.b64decode(told["data"]))).convert("RGB").save(
        out, "WEBP", quality=85, method=6
    )


def take_stills(driver: Any, folder: Path) -> None:
    """Walk, branch, and take the two screenshots."""
    driver.execute_script("document.querySelector('details').open = true")
    walk_steps(driver, "wwwwdww")
    name_branch(driver, "first walk")
    driver.execute_async_script("worldsim.player.rewind(0, 3).then(arguments[0])")
    driver.execute_script("worldsim.player.play(true)")
    walk_steps(driver, "aaww")
    name_branch(driver, "to the left")
    driver.execute_script("worldsim.stage.show('both')")
    save_screenshot(driver, folder / "play.webp")
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_script("worldsim.stage.show('dream'); window.scrollTo(0, 0)")
    save_screenshot(driver, folder / "play_phone.webp")


def encode(pictures: list[Image.Image], taken: list[float], quality: int) -> bytes:
    """Return an animated WebP that begins anew after a second on its last picture."""
    durations = [round(1e3 * (b - a)) for a, b in itertools.pairwise(taken)]
    file = io.BytesIO()
    pictures[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=[*durations, 1000],
        loop=0,
        quality=quality,
        method=6,
        minimize_size=True,
    )
    return file.getvalue()


def main(config: Config) -> None:
    more = ["--world", config.world, "--engine", config.engine]
    with (
        browser.chromium() as driver,
        browser.play_server(servers.free_port(), more) as (url, _),
    ):
        scheme = {"name": "prefers-color-scheme", "value": "dark"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(url)
        browser.first_frame_at(driver)
        # The first steps prepare the engine.
        browser.key_event(driver, "keyDown", "w")
        time.sleep(2.0)
        browser.key_event(driver, "keyUp", "w")
        time.sleep(1.0)
        if config.stills is not None:
            take_stills(driver, config.stills)
            return
        pictures, taken = film(config, driver)
        steps = driver.execute_script("return worldsim.player.lastOf(0)")
        times = driver.execute_script("return worldsim.player.times.map((one) => one.interval)")
    walked = sorted(one for one in times if one is not None)
    rate = 1e3 / walked[len(walked) // 2] if walked else 0.0
    for quality in range(config.quality, 0, -5):
        data = encode(pictures, taken, quality)
        if len(data) <= config.largest:
            break
    else:
        raise SystemExit(f"{len(pictures)} pictures do not fit into {config.largest:,} bytes")
    config.out.write_bytes(data)
    told = {"pictures": len(pictures), "steps": steps, "frames_per_s": round(rate, 2)}
    if config.json is not None:
        config.json.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{config.out}: {len(data):,} bytes, quality {quality}, {json.dumps(told)}")


if __name__ == "__main__":
    main(tyro.cli(Config))
