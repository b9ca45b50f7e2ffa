"""Load a session server: how evenly clients are served, how long steps take, what batching gives.

``python -m experiments.sessions --json OUT`` starts ``worldsim serve`` and measures one session as
fast as it goes, then several, then several at the world's own rate::

    python -m experiments.sessions --clients 8 --seconds 300 --json sessions.json
    python -m experiments.sessions --clients 128 --seconds 20 --device cuda --engine fast \
        --bucket 128 --json sessions_gpu_fast.json

Clients run in processes of their own (``--client-processes``), the server in another. A step's
latency is from sending its message to having its frame. ``--page`` lets them ask for what the play
page asks for. ``--forks 32`` forks a walk at the end and tells what a fork takes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

from experiments.playing.servers import free_port, running
from worldsim.sessions.protocol import unpack

WARM = 3
"""Steps of each client that do not count."""
BUSY = (1, 1, 1, 3, 1, 1, 4, 1)
"""What a client walks, over and over."""
PAGE_VIEWS = ["rgb", "twin", "depth", "memory"]
"""Pictures that the play page asks for."""
SLOW_COLUMNS = ("at", "latency", "server_ms", "queue_ms")
"""Lists of a client that tell where a slow step's time went."""
MOST_SLOW = 12
"""Slow moments that are told."""
POINTS_EVERY = 0.9
"""Seconds from one question for the memory's new points to the next, as on the page."""


def server(
    arguments: argparse.Namespace,
) -> contextlib.AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]:
    more = ["--worlds", arguments.world, "--sessions", "1024", "--engine", arguments.engine]
    if arguments.device:
        more += ["--device", arguments.device]
    if arguments.server_threads:
        more += ["--threads", str(arguments.server_threads)]
    return running("serve", free_port(), more)


class Client:
    """One session, stepped as fast as it goes or at a steady rate."""

    def __init__(self, url: str, arguments: argparse.Namespace, bucket: int, seed: int) -> None:
        self.url, self.arguments, self.bucket, self.seed = url, arguments, bucket, seed
        self.latency: list[float] = []
        self.frames: list[float] = []
        self.batch: list[int] = []
        self.server_ms: list[float] = []
        self.queue_ms: list[float] = []
        self.at: list[float] = []
        self.seen: int | None = None
        self.asked = 0.0

    async def ask(self, socket: Any, message: dict[str, Any]) -> dict[str, Any]:
        await socket.send(json.dumps(message))
        content = await socket.recv()
        header = json.loads(content) if isinstance(content, str) else unpack(content)[0]
        assert header["type"] != "error", header
        return header

    @property
    def looking(self) -> dict[str, Any]:
        """What a message asks for that is answered by a frame."""
        views = PAGE_VIEWS if self.arguments.page else ["rgb"]
        return {"views": views, "format": self.arguments.format}

    async def begin(self, socket: Any) -> None:
        """Make the session: at a start scene, or beside the real twin as the page does."""
        world = {"world": Path(self.arguments.world).name, "bucket": self.bucket}
        await self.ask(socket, {"type": "create", "start": None, **world})
        start = {"kind": "twin", "seed": self.seed} if self.arguments.page else {"kind": "scene"}
        await self.ask(
            socket, {"type": "reset", "seed": self.seed % 8, "start": start, **self.looking}
        )

    async def look_at_points(self, socket: Any) -> None:
        """Fetch the points that are new, as the page does while one walks."""
        if not self.arguments.page or time.perf_counter() - self.asked < POINTS_EVERY:
            return
        since = {} if self.seen is None else {"since": self.seen}
        self.seen = (await self.ask(socket, {"type": "points", **since}))["step"]
        self.asked = time.perf_counter()

    async def run(
        self, ready: asyncio.Semaphore, go: asyncio.Event, fps: float | None, seconds: float
    ) -> None:
        address = self.url.replace("http", "ws", 1) + "/api/v1/ws?protocol=1"
        async with connect(address, max_size=2**26, compression=None, ping_interval=None) as socket:
            await self.begin(socket)
            for _ in range(WARM):
                await self.ask(socket, {"type": "step", "action": 1, **self.looking})
            ready.release()
            await go.wait()
            begun = time.perf_counter()
            tick = 0
            while (now := time.perf_counter()) - begun < seconds:
                if fps is not None:
                    due = begun + (tick + self.seed / 97.0 % 1.0) / fps
                    if due > now:
                        await asyncio.sleep(due - now)
                sent = time.perf_counter()
                message = {"type": "step", "action": BUSY[tick % len(BUSY)], **self.looking}
                header = await self.ask(socket, message)
                self.latency.append(time.perf_counter() - sent)
                self.frames.append(time.perf_counter())
                self.batch.append(header["ms"]["batch"])
                self.server_ms.append(header["ms"]["step"])
                self.queue_ms.append(header["ms"]["queue"])
                self.at.append(sent - begun)
                await self.look_at_points(socket)
                tick += 1
                if fps is not None:
                    # A late frame does not bring the next one forward.
                    behind = time.perf_counter() - begun - tick / fps
                    tick += max(0, int(behind * fps))
            await self.ask(socket, {"type": "close"})


def run_clients(
    url: str,
    arguments: argparse.Namespace,
    seeds: range,
    bucket: int,
    fps: float | None,
    start: Any,
    results: Any,
) -> None:
    """Run some of the clients in this process.

    start: a barrier that all processes of clients pass when their sessions are warm.
    results: a queue that receives the list of clients.
    """
    many = [Client(url, arguments, bucket, seed) for seed in seeds]

    async def run() -> None:
        ready, go = asyncio.Semaphore(0), asyncio.Event()
        tasks = [
            asyncio.create_task(client.run(ready, go, fps, arguments.seconds)) for client in many
        ]
        for _ in many:
            waiting = asyncio.create_task(ready.acquire())
            done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if waiting not in done:
                start.abort()
                await asyncio.gather(*tasks)
        await asyncio.to_thread(start.wait, 600)
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    results.put(many)


def load(
    url: str,
    arguments: argparse.Namespace,
    clients: int,
    bucket: int,
    fps: float | None,
    pid: int,
) -> dict[str, Any]:
    """Step so many sessions at once; returns rates and latencies.

    pid: of the server, whose event loop runs in its first thread.
    """
    shares = [range(i, clients, arguments.client_processes) for i in range(clients)]
    shares = [share for share in shares[: arguments.client_processes] if share]
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(len(shares) + 1), context.Queue()
    processes = [
        context.Process(
            target=run_clients, args=(url, arguments, share, bucket, fps, start, results)
        )
        for share in shares
    ]
    for process in processes:
        process.start()
    start.wait(600)
    begun, busy = time.perf_counter(), loop_seconds(pid)
    many = [client for _ in shares for client in results.get(timeout=arguments.seconds + 600)]
    seconds, busy = time.perf_counter() - begun, loop_seconds(pid) - busy
    for process in processes:
        process.join()
    rates = np.array([len(client.latency) for client in many]) / seconds
    latency = 1e3 * np.concatenate([client.latency for client in many])
    gaps = 1e3 * np.concatenate([np.diff(client.frames) for client in many])
    batch = np.concatenate([client.batch for client in many])
    step_ms = np.concatenate([client.server_ms for client in many])
    return {
        "clients": clients,
        "bucket": bucket,
        "fps": fps,
        "seconds": round(seconds, 1),
        "steps_per_s": round(float(rates.sum()), 2),
        "each_least": round(float(rates.min()), 2),
        "each_mean": round(float(rates.mean()), 2),
        "least_over_mean": round(float(rates.min() / rates.mean()), 3),
        "latency_ms": {
            name: round(float(np.percentile(latency, q)), 1)
            for name, q in (("p50", 50), ("p95", 95), ("p99", 99), ("max", 100))
        },
        "interval_ms": {
            name: round(float(np.percentile(gaps, q)), 1)
            for name, q in (("p50", 50), ("p99", 99), ("max", 100))
        },
        "stepped_together": round(float(batch.mean()), 1),
        "forward_ms": round(float(np.median(step_ms)), 2),
        "loop_cpu_ms": round(1e3 * busy / len(latency), 3),
        "slow": slowest(many),
    }


def slowest(many: list[Client]) -> list[dict[str, float]]:
    """Return the slowest steps: when, for how many clients, and where the time went.

    Steps that were sent in the same 50 ms count as one.
    """
    columns = [np.concatenate([getattr(one, name) for one in many]) for name in SLOW_COLUMNS]
    at, latency, server_ms, queue_ms = columns
    order = np.argsort(-latency)[: max(1, len(latency) // 100)]
    groups: dict[int, list[int]] = {}
    for i in order.tolist():
        groups.setdefault(int(at[i] / 0.05), []).append(i)
    return [
        {
            "at_s": round(0.05 * when, 2),
            "clients": len(found),
            "latency_ms": round(1e3 * float(latency[found].max()), 1),
            "forward_ms": round(float(server_ms[found].max()), 1),
            "queue_ms": round(float(queue_ms[found].max()), 1),
        }
        for when, found in sorted(groups.items(), key=lambda pair: -len(pair[1]))[:MOST_SLOW]
    ]


async def fork(url: str, arguments: argparse.Namespace, pid: int) -> dict[str, Any]:
    """Fork a walk many times and step each fork once; returns bytes and ms of a fork."""
    client = Client(url, arguments, 1, 0)
    address = url.replace("http", "ws", 1) + "/api/v1/ws?protocol=1"
    found: dict[str, Any] = {"forks": arguments.forks}
    async with connect(address, max_size=2**26, compression=None, ping_interval=None) as socket:
        await client.begin(socket)
        for action in BUSY:
            await client.ask(socket, {"type": "step", "action": action, **client.looking})
        for randomness in ("common", "independent"):
            before, sent = resident_mb(pid), time.perf_counter()
            message = {"type": "fork", "n": arguments.forks, "randomness": randomness}
            answer = await client.ask(socket, message)
            each = (time.perf_counter() - sent) / arguments.forks
            found[randomness] = {
                "state_bytes": answer["sessions"][0]["state_bytes"],
                "own_bytes": answer["bytes"],
                "ms": round(answer["ms"], 3),
                "ms_with_answer": round(1e3 * each, 3),
                "resident_mb": round((resident_mb(pid) - before) / arguments.forks, 3),
            }
            for one in answer["sessions"]:
                request = urllib.request.Request(
                    f"{url}/api/v1/sessions/{one['id']}", method="DELETE"
                )
                await asyncio.to_thread(lambda r=request: urllib.request.urlopen(r).read())
        await client.ask(socket, {"type": "close"})
    return found


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def loop_seconds(pid: int) -> float:
    """Return the seconds of CPU time that a process's first thread has taken."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="freedoom-tiny")
    parser.add_argument("--device", default="")
    parser.add_argument("--engine", default="plain")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bucket", type=int, default=1, help="of several sessions")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part")
    parser.add_argument("--fps", type=float, default=8.75, help="of the steady part; 0 for none")
    parser.add_argument("--format", default="raw")
    parser.add_argument("--server-threads", type=int, default=0)
    parser.add_argument("--client-processes", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="ask for what the play page asks for")
    parser.add_argument("--forks", type=int, default=0, help="of a walk, at the end; 0 for none")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    found: dict[str, Any] = {
        "world": arguments.world,
        "engine": arguments.engine,
        "device": device_name(arguments.device or "cpu"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "parts": {},
    }
    with server(arguments) as (url, process):
        several = arguments.clients, arguments.bucket
        parts: list[tuple[str, int, int, float | None]] = [("one", 1, 1, None)]
        parts.append(("several", *several, None))
        if arguments.fps:
            parts.append(("steady", *several, arguments.fps))
        for name, clients, bucket, fps in parts:
            part = load(url, arguments, clients, bucket, fps, process.pid)
            found["parts"][name] = part | {"server_mb": resident_mb(process.pid)}
            print(name, json.dumps(found["parts"][name]), flush=True)
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        if arguments.forks:
            found["forks"] = asyncio.run(fork(url, arguments, process.pid))
            print("forks", json.dumps(found["forks"]), flush=True)
    one, more = found["parts"]["one"], found["parts"]["several"]
    found["several_over_one"] = round(more["steps_per_s"] / one["steps_per_s"], 2)
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"several over one: {found['several_over_one']}")


if __name__ == "__main__":
    main()
