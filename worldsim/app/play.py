"""``worldsim play``: opens a page on which a person walks through a generated world."""

from __future__ import annotations

import secrets
import threading
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import whole
from worldsim.runtime.extras import missing
from worldsim.runtime.hosts import require_port
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count

if TYPE_CHECKING:
    from uvicorn import Server

UPLOAD_MB = 256.0
"""Megabytes of the largest snapshot that may be uploaded."""
PATIENCE = 60.0
"""Seconds until the browser is not opened any more."""


@dataclass(frozen=True)
class PlayConfig:
    """Walk through a generated world in the browser."""

    world: str = "freedoom-tiny"
    """World that the page begins with: a shipped world's name, or a folder."""
    host: str = "127.0.0.1"
    """Address to serve at. Another one than this computer's own needs a token, which is printed."""
    port: int = 8000
    """Port to serve at."""
    browser: bool = True
    """Open the page in the browser."""
    engine: str = "fast"
    """How steps are run: plain, fast or compiled."""
    places: Path = Path("out/places")
    """Folder of generated places; new ones are painted into it."""
    state: Path = Path("out/sessions")
    """Folder in which walks are saved every few seconds, to be found again after a crash."""
    painter: str = "freedoom-painter"
    """Painter of new places: a shipped one's name, a folder, or ``diffusers:PIPELINE,DEPTH``."""
    painter_steps: Count | None = None
    """Sampling steps of new places. By default those that the painter recommends."""
    device: str | None = None
    """Device of worlds and painter. By default CUDA if it is available."""
    fresh: bool = False
    """Begin a new walk, even where the browser remembers one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        whole("port", self.port, 1, 65535)
        if self.engine not in ("plain", "fast", "compiled"):
            raise InvalidInputError(
                f"PlayConfig.engine = {self.engine!r}: give plain, fast or compiled"
            )


def play(config: PlayConfig) -> None:
    """Serve the page until interrupted.

    Raises MissingDependencyError without FastAPI and uvicorn, and InvalidInputError if the port
    cannot be used.
    """
    from worldsim.app.serve import run_server

    server, address = make_server(config)
    if config.browser:
        _open_when_started(server, address)
    run_server(server)


def make_server(config: PlayConfig) -> tuple[Server, str]:
    """Return the server, which does not listen yet, and the page's address. It prints them."""
    try:
        import uvicorn

        from worldsim.app.serve import is_own, uvicorn_config
        from worldsim.play.painting import Painting, PaintingConfig
        from worldsim.play.routes import PUBLIC, play_router
        from worldsim.sessions.manager import SessionsConfig
        from worldsim.sessions.server import AppConfig, create_app
    except ImportError as error:
        raise missing("the play page needs FastAPI and uvicorn", "play", error) from error
    require_port(config.host, config.port)
    token = "" if is_own(config.host) else secrets.token_urlsafe(16)
    worlds, name = _worlds(config.world)
    sessions = SessionsConfig(
        worlds=worlds,
        device=config.device,
        engine=config.engine,
        state=config.state,
        places=config.places,
    )
    painter = PaintingConfig(config.painter, config.painter_steps, config.device)
    router = play_router(name, Painting(config.places, painter), config.fresh)
    app = create_app(sessions, AppConfig(config.host, token), routers=(router,), public=PUBLIC)
    address = f"http://{config.host}:{config.port}"
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if token:
        print(f"token: {token}", flush=True)
    return uvicorn.Server(uvicorn_config(app, config.host, config.port, UPLOAD_MB)), address


def _worlds(name: str) -> tuple[tuple[str, ...], str]:
    """Return the worlds to offer, and the name under which the given one is offered.

    Raises NotFoundError for a world that does not exist.
    """
    from worldsim.world.files import find_world, shipped_worlds

    shipped = tuple(shipped_worlds())
    if name in shipped:
        return shipped, name
    folder = find_world(name)
    return (*shipped, str(folder)), folder.name


def _open_when_started(server: Server, address: str) -> None:
    """Open the page in the browser as soon as the server listens."""

    def wait() -> None:
        end = time.monotonic() + PATIENCE
        while not server.started and time.monotonic() < end:
            time.sleep(0.05)
        if server.started:
            webbrowser.open(address)

    threading.Thread(target=wait, daemon=True).start()
