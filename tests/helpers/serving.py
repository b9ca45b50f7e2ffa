"""A real session server in this process, for tests."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI

from tests.helpers.ports import free_port
from worldsim.app.serve import uvicorn_config
from worldsim.protocols import Painter
from worldsim.sessions.config import SessionsConfig
from worldsim.sessions.manager import SessionManager
from worldsim.sessions.server import AppConfig, create_app
from worldsim.world import World

PATIENCE = 120.0
"""Seconds for a server on a busy machine."""


@dataclass(frozen=True)
class Serving:
    """A server that listens."""

    url: str
    app: FastAPI

    @property
    def manager(self) -> SessionManager:
        manager: SessionManager = self.app.state.manager
        return manager

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON value or bytes, and headers of an answer."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {} if isinstance(body, bytes) else {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}", content, {**kind, **(headers or {})}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                found, status, told = answer.read(), answer.status, answer.headers
        except urllib.error.HTTPError as error:
            found, status, told = error.read(), error.code, error.headers
        is_json = told.get("Content-Type", "").startswith("application/json")
        return status, json.loads(found) if is_json else found, told


@contextlib.contextmanager
def serving(
    worlds: Mapping[str, World] | None = None,
    token: str = "",
    host: str = "127.0.0.1",
    routers: Sequence[APIRouter] = (),
    public: Sequence[str] = (),
    painter: Painter | None = None,
    **sessions: Any,
) -> Iterator[Serving]:
    """Serve loaded worlds, and further routes, until the context ends."""
    app = create_app(
        SessionsConfig(**sessions), AppConfig(host, token), routers, public, worlds, painter
    )
    port = free_port()
    server = uvicorn.Server(uvicorn_config(app, host, port, 64.0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    try:
        yield Serving(f"http://{host}:{port}", app)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
