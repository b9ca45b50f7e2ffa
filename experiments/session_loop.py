"""Measure the CPU time that a session server's event loop takes for a step.

    python -m experiments.session_loop --world FOLDER --clients 32 --steps 60

The forward pass is replaced by a result that is there after 2 ms, so that the loop remains: reading
a message, the session's own work, and sending the frame. Clients run in a process of their own. CPU
time hardly depends on other work on the computer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import threading
import time
from typing import Any

import uvicorn
from websockets.asyncio.client import connect

from experiments.playing.servers import free_port
from worldsim.app.serve import uvicorn_config
from worldsim.runtime.types import Array
from worldsim.sessions.batcher import Batcher, Held, Outcome
from worldsim.sessions.config import SessionsConfig
from worldsim.sessions.server import AppConfig, create_app
from worldsim.world.world import World

LOOKING = {"views": ["rgb"], "format": "raw"}


class Stand:
    """Answers all steps by the first one's result, 2 ms later."""

    def __init__(self, batcher: Batcher) -> None:
        self.step_of, self.first = batcher.step, None
        self.waiting: list[asyncio.Future[Outcome]] = []

    def step(
        self, world: World, bucket: int, held: Held, act: Array, who: str = ""
    ) -> asyncio.Future[Outcome]:
        if self.first is None:
            return asyncio.ensure_future(self._take_first(world, held, act))
        loop = asyncio.get_running_loop()
        self.waiting.append(loop.create_future())
        if len(self.waiting) == 1:
            loop.call_later(0.002, self._answer)
        return self.waiting[-1]

    async def _take_first(self, world: World, held: Held, act: Array) -> Outcome:
        self.first: Outcome | None = await self.step_of(world, 1, held, act)
        return self.first

    def _answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_result(self.first)


def run_clients(port: int, world: str, clients: int, steps: int, start: Any) -> None:
    """Step so many sessions; ``start`` is passed when they are ready, and again when done."""

    async def one(seed: int, ready: asyncio.Semaphore, go: asyncio.Event) -> None:
        address = f"ws://127.0.0.1:{port}/api/v1/ws?protocol=1"
        async with connect(address, max_size=2**26, compression=None) as socket:
            for message in (
                {"type": "create", "world": world, "start": None, "bucket": 128},
                {"type": "reset", "seed": seed, **LOOKING},
            ):
                await socket.send(json.dumps(message))
                await socket.recv()
            ready.release()
            await go.wait()
            for _ in range(steps):
                await socket.send(json.dumps({"type": "step", "action": 1, **LOOKING}))
                await socket.recv()

    async def run() -> None:
        ready, go = asyncio.Semaphore(0), asyncio.Event()
        tasks = [asyncio.create_task(one(i % 8, ready, go)) for i in range(clients)]
        for _ in tasks:
            await ready.acquire()
        await asyncio.to_thread(start.wait)
        go.set()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(start.wait)

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="freedoom-tiny")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    port = free_port()
    app = create_app(SessionsConfig(worlds=(arguments.world,), sessions=1024), AppConfig())
    manager = app.state.manager
    manager.batcher.step = Stand(manager.batcher).step
    server = uvicorn.Server(uvicorn_config(app, "127.0.0.1", port, 64.0))
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    (name,) = manager.catalogue.names
    times: list[float] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def watch() -> None:
            while not server.started:
                time.sleep(0.05)
            told = (port, name, arguments.clients, arguments.steps, start)
            clients = context.Process(target=run_clients, args=told)
            clients.start()
            for _ in range(2):
                start.wait()
                loop.call_soon_threadsafe(lambda: times.append(time.thread_time()))
            clients.join()
            server.should_exit = True

        threading.Thread(target=watch, daemon=True).start()
        await server.serve()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())
    steps = arguments.clients * arguments.steps
    print(f"{1e3 * (times[1] - times[0]) / steps:.3f} ms of CPU time per step, {steps} steps")


if __name__ == "__main__":
    main()
