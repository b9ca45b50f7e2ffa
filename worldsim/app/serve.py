"""``worldsim serve``: offers worlds as sessions over HTTP and WebSocket."""

from __future__ import annotations

import contextlib
import gc
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from worldsim.runtime.arguments import whole
from worldsim.runtime.extras import missing
from worldsim.runtime.hosts import is_own, require_port
from worldsim.runtime.progress import say
from worldsim.sessions.config import SessionsConfig

if TYPE_CHECKING:
    from uvicorn import Config, Server

    from worldsim.sessions.server import AppConfig

SILENT_SECONDS = 300.0
"""A client that does not answer pings for so long is disconnected."""
NEVER = 1_000_000
"""Collections of the middle generation before one of all: more than a server sees."""
OPEN_SECONDS = 10.0
"""Seconds that clients have to leave when the server ends."""


@dataclass(frozen=True)
class ServeConfig(SessionsConfig):
    """Offer worlds as sessions that programs create, step, rewind and fork over the network."""

    host: str = "127.0.0.1"
    """Address to serve at. Other computers reach the server only at another one, such as 0.0.0.0;
    then clients need the token that is printed."""
    port: int = 8000
    """Port to serve at."""
    upload_mb: Annotated[float, Gt(0), Le(100_000)] = 256.0
    """Megabytes of one uploaded snapshot."""
    token: str = field(default="", repr=False)
    """Token that clients need. By default one is made, unless the host is this computer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("port", self.port, 1, 65535)


def serve(config: ServeConfig) -> None:
    """Serve until interrupted.

    Raises MissingDependencyError without FastAPI and uvicorn, and InvalidInputError if the port
    cannot be used.
    """
    from worldsim.runtime.limits import share_arenas

    share_arenas()
    server = make_server(config)
    with contextlib.suppress(KeyboardInterrupt):
        run_server(server)


def run_server(server: Server) -> None:
    """Run a server in a process of its own."""
    # What is imported by now stays. To look through it for garbage would hold up every client. So
    # would full collections later: the sessions' manager runs them while nobody steps.
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
    server.run()


def make_server(config: ServeConfig) -> Server:
    """Return the server, which does not listen yet. It prints its address and its token."""
    try:
        import uvicorn  # noqa: F401

        from worldsim.sessions.server import AppConfig, create_app
    except ImportError as error:
        raise missing("the session server needs FastAPI and uvicorn", "play", error) from error
    require_port(config.host, config.port)
    token = config.token or ("" if is_own(config.host) else secrets.token_urlsafe(16))
    served = AppConfig(config.host, token, config.upload_mb)
    app = create_app(config, served)
    server = server_of(app, served, config.port)
    saved = app.state.manager.list_saved()
    if saved:
        say(f"{len(saved)} saved sessions can be resumed")
    say(f"interface: http://{config.host}:{config.port}/api/v1/openapi.json")
    return server


def server_of(app: object, served: AppConfig, port: int) -> Server:
    """Return a server of an application, and print its address and its token."""
    import uvicorn

    print(f"http://{served.host}:{port}  (Ctrl-C ends it)", flush=True)
    if served.token:
        print(f"token: {served.token}", flush=True)
    return uvicorn.Server(uvicorn_config(app, served.host, port, served.upload_mb))


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
