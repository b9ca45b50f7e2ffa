"""Half an hour of play: does the server's memory stay as it is?

    python -m experiments.play_memory --minutes 30 --json experiments/play_memory.json

One person walks beside the real twin at the world's rate, and asks for what the play page asks for.
Between the steps come what people do: rewinds and branches, crates, changes of settings, maps,
renders and points, marks, snapshots, and forks that are walked a little and closed. The session's
stored states fill their megabytes at first. From then on, the resident memory of the server is
compared with its mean of the first minutes. Exit status 1 where it has left that by more than 5%.

The processes of the twin's engine count, too; ``server_mb`` is the server's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

from experiments.playing import browser, servers
from experiments.sessions import PAGE_VIEWS, resident_mb
from worldsim.runtime.json_config import write_json
from worldsim.sessions.protocol import unpack

MOST_CHANGE = 0.05
"""Share by which the memory may leave its size."""
FULL = 0.95
"""Share of the history's bytes from which on it counts as full."""
FIRST = 120.0
"""Seconds after the history is full whose mean is the memory's size."""
READ_EVERY = 5.0
"""Seconds from one reading to the next."""
ACT_EVERY = 6.0
"""Seconds from one thing that is no step to the next, on average."""
LOOKING = {"views": PAGE_VIEWS, "format": "raw"}


class Person:
    """A client that does what people do on the page."""

    def __init__(self, socket: Any, url: str, seed: int, fps: float) -> None:
        self.socket, self.url, self.fps = socket, url, fps
        self.rng = random.Random(seed)
        self.done: dict[str, int] = {}
        self.steps = 0
        self.branch, self.step = 0, 0

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message; returns the header of its answer."""
        kind = message["type"]
        self.done[kind] = self.done.get(kind, 0) + 1
        await self.socket.send(json.dumps(message))
        while True:
            content = await self.socket.recv()
            header = json.loads(content) if isinstance(content, str) else unpack(content)[0]
            if header["type"] == "error":
                raise RuntimeError(f"{message}: {header['message']}")
            if header["type"] != "progress":
                break
        if header["type"] == "frame":
            self.branch, self.step = header["branch"], header["step"]
        return header

    async def walk(self, seconds: float) -> None:
        """Step at a steady rate for some time."""
        end, due = time.monotonic() + seconds, time.monotonic()
        action, left = 1, 0
        while time.monotonic() < end:
            if left == 0:
                action, left = self.rng.choice((1, 1, 1, 3, 4, 5)), self.rng.randrange(4, 16)
            left -= 1
            await self.ask({"type": "step", "action": action, **LOOKING})
            self.steps += 1
            due = max(due + 1.0 / self.fps, time.monotonic())
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def rewind(self) -> None:
        """Go back a little, or to another branch."""
        tree = (await self.ask({"type": "history"}))["branches"]
        told = self.rng.choice(tree) if self.rng.random() < 0.2 else tree[self.branch]
        back = self.rng.randrange(1, 25)
        message = {"type": "rewind", "branch": told["branch"], "step": max(0, told["steps"] - back)}
        await self.ask({**message, **LOOKING})

    async def look(self) -> None:
        """Ask for points, map and a render of the memory."""
        await self.ask({"type": "points"})
        await self.ask({"type": "map", "format": "webp"})
        await self.ask({"type": "render", "height": 128, "width": 160, "format": "webp"})

    async def build(self) -> None:
        """Drop a crate."""
        await self.ask({"type": "edit", "edit": {"kind": "crate"}, **LOOKING})

    async def change(self) -> None:
        """Change the settings."""
        temperature = self.rng.choice((None, 0.5, 0.8, 1.0))
        await self.ask({"type": "settings", "settings": {"temperature": temperature}})

    async def fork(self) -> None:
        """Fork, walk in the forks and close them."""
        told = await self.ask({"type": "fork", "n": 2, "randomness": "independent"})
        for one in told["sessions"]:
            await asyncio.to_thread(self._try_fork, one["id"])

    def _try_fork(self, session: str) -> None:
        address = f"{self.url}/api/v1/sessions/{session}"
        headers = {"Content-Type": "application/json"}
        body = json.dumps({"actions": [1, 1, 3], "views": ["rgb"]}).encode()
        for path, method, content in ((f"{address}/step", "POST", body), (address, "DELETE", None)):
            request = urllib.request.Request(path, content, headers, method=method)
            urllib.request.urlopen(request, timeout=600).read()

    async def keep(self) -> None:
        """Mark this moment, take a snapshot, go on and come back."""
        mark = (await self.ask({"type": "mark"}))["mark"]
        await self.ask({"type": "snapshot"})
        await self.walk(1.0)
        await self.ask({"type": "restore", "mark": mark, **LOOKING})
        await self.ask({"type": "drop", "mark": mark})


async def play(
    url: str, arguments: argparse.Namespace, read: Callable[[dict[str, Any]], None]
) -> Person:
    """Play for so many minutes; ``read`` receives the history every few seconds."""
    address = url.replace("http", "ws", 1) + "/api/v1/ws?protocol=1"
    options = {"max_size": 2**28, "compression": None, "ping_interval": None}
    async with connect(address, **options) as socket:
        person = Person(socket, url, arguments.seed, arguments.fps)
        await person.ask({"type": "create", "world": arguments.world, "start": None})
        start = {"kind": "twin", "seed": arguments.seed}
        await person.ask({"type": "reset", "seed": arguments.seed, "start": start, **LOOKING})
        others: list[Callable[[], Awaitable[None]]] = [
            person.rewind,
            person.look,
            person.build,
            person.change,
            person.fork,
            person.keep,
        ]
        end = time.monotonic() + 60.0 * arguments.minutes
        acted = time.monotonic()
        while time.monotonic() < end:
            await person.walk(READ_EVERY)
            if time.monotonic() - acted > ACT_EVERY * person.rng.uniform(0.5, 1.5):
                await person.rng.choice(others)()
                acted = time.monotonic()
            read(await person.ask({"type": "history"}))
        await person.ask({"type": "close"})
        return person


def compare(readings: list[dict[str, float]], limit: float) -> dict[str, Any]:
    """Compare the memory once the history is full with its mean of the first minutes then."""
    full = next((i for i, one in enumerate(readings) if one["history_mb"] >= FULL * limit), None)
    if full is None:
        return {"full_after_s": None}
    settled = [one for one in readings if one["s"] >= readings[full]["s"]]
    first = np.mean([o["mb"] for o in settled if o["s"] <= settled[0]["s"] + FIRST])
    last = np.mean([o["mb"] for o in settled if o["s"] >= settled[-1]["s"] - FIRST])
    every = [one["mb"] for one in settled]
    return {
        "full_after_s": settled[0]["s"],
        "first_mb": round(float(first), 1),
        "last_mb": round(float(last), 1),
        "largest_mb": max(every),
        "change": round(float(last / first - 1), 4),
        "largest_change": round(max(every) / float(first) - 1, 4),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--world", default="freedoom-tiny")
    parser.add_argument("--engine", default="fast")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--fps", type=float, default=8.75)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-mb", type=float, default=400.0, help="the server's --history-mb")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    readings: list[dict[str, float]] = []
    more = ["--world", arguments.world, "--engine", arguments.engine]
    more += ["--history-mb", str(arguments.limit_mb)]
    with browser.play_server(servers.free_port(), more) as (url, process):
        begun = time.monotonic()

        def read(history: dict[str, Any]) -> None:
            told = {
                "s": round(time.monotonic() - begun, 1),
                "mb": browser.resident_mb(process),
                "server_mb": resident_mb(process.pid),
                "history_mb": round(history["bytes"] / 1e6, 1),
            }
            readings.append(told)
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.json.with_suffix(".part.json"), {"readings": readings})

        person = asyncio.run(play(url, arguments, read))
    found = compare(readings, arguments.limit_mb)
    told = {
        "world": arguments.world,
        "engine": arguments.engine,
        "minutes": arguments.minutes,
        "steps": person.steps,
        "requests": person.done,
        **found,
        "readings": readings[:: max(1, len(readings) // 120)],
    }
    write_json(arguments.json, told)
    arguments.json.with_suffix(".part.json").unlink(missing_ok=True)
    print(json.dumps({name: told[name] for name in ("steps", "requests", *found)}))
    change = found.get("change")
    return int(change is None or abs(change) > MOST_CHANGE)


if __name__ == "__main__":
    sys.exit(main())
