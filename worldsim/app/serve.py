"""``worldsim serve``: offers worlds as sessions over HTTP and WebSocket."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import secrets
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from worldsim.runtime.arguments import whole
from worldsim.runtime.extras import missing
from worldsim.runtime.hosts import require_port
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.progress import say
from worldsim.runtime.ranges import Positive, Share

if TYPE_CHECKING:
    from uvicorn import Config, Server

SILENT_SECONDS = 300.0
"""A client that does not answer pings for so long is disconnected."""
OPEN_SECONDS = 10.0
"""Seconds that clients have to leave when the server ends."""


@dataclass(frozen=True)
class ServeConfig:
    """Offer worlds as sessions that programs create, step, rewind and fork over the network."""

    worlds: tuple[str, ...] = ()
    """Worlds to offer: names of shipped ones, or folders. By default all shipped ones."""
    host: str = "127.0.0.1"
    """Address to serve at. Other computers reach the server only at another one, such as 0.0.0.0;
    then clients need the token that is printed."""
    port: int = 8000
    """Port to serve at."""
    device: str | None = None
    """Device of the worlds. By default CUDA if it is available, else the CPU."""
    engine: str = "plain"
    """Engine of sessions that do not ask for one: ``plain``, ``fast`` or ``compiled``."""
    bucket: Annotated[int, Ge(1), Le(1024)] | None = None
    """Batch bucket of sessions that do not ask for one. By default 1 on a CPU, as in a single
    environment, and 128 on a GPU."""
    sessions: Annotated[int, Ge(1), Le(4096)] | None = None
    """Sessions at once. By default 16 on a CPU, 256 on a GPU."""
    idle_minutes: Positive = 30.0
    """Minutes without a request after which a session is closed."""
    history_mb: Annotated[float, Gt(0), Le(100_000)] = 400.0
    """Megabytes of states that one session keeps to rewind."""
    memory: Share = 0.5
    """Share of the device's memory that the states of all sessions may take."""
    upload_mb: Annotated[float, Gt(0), Le(100_000)] = 256.0
    """Megabytes of one uploaded snapshot."""
    state: Path | None = None
    """Folder in which sessions are saved every few seconds, to be resumed after a crash. By default
    none are."""
    save_seconds: Positive = 20.0
    """Seconds from one save of a session to the next, if it has changed."""
    places: Path | None = None
    """Folder with scenes to start from, as ``worldsim generate`` writes them."""
    token: str = field(default="", repr=False)
    """Token that clients need. By default one is made, unless the host is this computer."""

    def __post_init__(self) -> None:
        check_ranges(self)
        whole("port", self.port, 1, 65535)


def serve(config: ServeConfig) -> None:
    """Serve until interrupted.

    Raises MissingDependencyError without FastAPI and uvicorn, and InvalidInputError if the port
    cannot be used.
    """
    server = make_server(config)
    with contextlib.suppress(KeyboardInterrupt):
        run_server(server)


def run_server(server: Server) -> None:
    """Run a server in a process of its own."""
    # What is imported by now stays. To look through it for garbage would hold up every client.
    gc.collect()
    gc.freeze()
    server.run()


def make_server(config: ServeConfig) -> Server:
    """Return the server, which does not listen yet. It prints its address and its token."""
    try:
        import uvicorn

        from worldsim.sessions.manager import SessionsConfig
        from worldsim.sessions.server import AppConfig, create_app
    except ImportError as error:
        raise missing("the session server needs FastAPI and uvicorn", "play", error) from error
    require_port(config.host, config.port)
    token = config.token or ("" if is_own(config.host) else secrets.token_urlsafe(16))
    known = {f.name for f in fields(SessionsConfig)}
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.name in known}
    app = create_app(SessionsConfig(**own), AppConfig(config.host, token, config.upload_mb))
    print(f"http://{config.host}:{config.port}  (Ctrl-C ends it)", flush=True)
    if token:
        print(f"token: {token}", flush=True)
    saved = app.state.manager.list_saved()
    if saved:
        say(f"{len(saved)} saved sessions can be resumed")
    say(f"interface: http://{config.host}:{config.port}/api/v1/openapi.json")
    return uvicorn.Server(uvicorn_config(app, config.host, config.port, config.upload_mb))


def uvicorn_config(app: object, host: str, port: int, upload_mb: float) -> Config:
    """Return uvicorn's settings for a session server."""
    import uvicorn

    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=int(upload_mb * 1e6) + 2**20,
        ws_per_message_deflate=False,
        # Compiling an engine may keep the event loop waiting for long.
        ws_ping_timeout=SILENT_SECONDS,
        timeout_graceful_shutdown=int(OPEN_SECONDS),
    )


def is_own(host: str) -> bool:
    """Return whether only this computer reaches a server at ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
