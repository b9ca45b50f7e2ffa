"""``worldsim play``: opens a page on which a person walks through a generated world."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.runtime.arguments import whole
from worldsim.runtime.extras import missing
from worldsim.runtime.hosts import is_own, require_port
from worldsim.runtime.ranges import Count, Threads
from worldsim.runtime.threads import page_threads, use_threads
from worldsim.sessions.config import SessionsConfig
from worldsim.sessions.spare_twin import SpareTwin

if TYPE_CHECKING:
    from uvicorn import Server

PATIENCE = 60.0
"""Seconds until the browser is not opened any more."""


@dataclass(frozen=True)
class PlayConfig(SessionsConfig):
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
    threads: Threads | None = None
    """Threads that compute steps on a CPU. By default one where there are at most two processors,
    since browser and twins need the other one, else PyTorch's choice. Walks replay bit by bit with
    the same number."""
    places: Path = Path("out/places")
    """Folder of generated places; new ones are painted into it."""
    state: Path = Path("out/sessions")
    """Folder in which walks are saved every few seconds, to be found again after a crash."""
    painter: str = "freedoom-painter"
    """Painter of new places: a shipped one's name, a folder, or ``diffusers:PIPELINE,DEPTH``."""
    painter_steps: Count | None = None
    """Sampling steps of new places. By default those that the painter recommends."""
    fresh: bool = False
    """Begin a new walk, even where the browser remembers one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("port", self.port, 1, 65535)


def play(config: PlayConfig) -> None:
    """Serve the page until interrupted.

    Raises MissingDependencyError without FastAPI and uvicorn, and InvalidInputError if the port
    cannot be used.
    """
    require_port(config.host, config.port)
    from worldsim.runtime.limits import share_arenas

    share_arenas()
    # It imports PyTorch beside this process.
    spare = SpareTwin()
    try:
        from worldsim.app.serve import run_server

        server, address = make_server(config, spare)
        use_threads(page_threads(config.threads))
        if config.browser:
            _open_when_started(server, address)
        run_server(server)
    finally:
        spare.close()


def make_server(config: PlayConfig, spare: SpareTwin | None = None) -> tuple[Server, str]:
    """Return the server, which does not listen yet, and the page's address. It prints them.

    spare: a process for the twin of the first session.
    """
    try:
        import uvicorn  # noqa: F401

        from worldsim.app.serve import server_of
        from worldsim.play.painting import Painting, PaintingConfig
        from worldsim.play.routes import PUBLIC, play_router
        from worldsim.sessions.server import AppConfig, create_app
    except ImportError as error:
        raise missing("the play page needs FastAPI and uvicorn", "play", error) from error
    require_port(config.host, config.port)
    token = "" if is_own(config.host) else secrets.token_urlsafe(16)
    worlds, name = _worlds(config)
    sessions = dataclasses.replace(config, worlds=worlds)
    painter = PaintingConfig(config.painter, config.painter_steps, config.device)
    router = play_router(name, Painting(config.places, painter), config.fresh)
    served = AppConfig(config.host, token)
    app = create_app(sessions, served, routers=(router,), public=PUBLIC, first=name, spare=spare)
    return server_of(app, served, config.port), f"http://{config.host}:{config.port}"


def _worlds(config: PlayConfig) -> tuple[tuple[str, ...], str]:
    """Return the worlds to offer, and the name under which the first one is offered.

    Raises NotFoundError for a world that does not exist.
    """
    from worldsim.world.files import find_world, shipped_worlds

    offered, name = config.worlds or tuple(shipped_worlds()), config.world
    if name in offered:
        return offered, Path(name).name
    folder = find_world(name)
    return (*offered, str(folder)), folder.name


def _open_when_started(server: Server, address: str) -> None:
    """Open the page in the browser as soon as the server listens."""

    def wait() -> None:
        end = time.monotonic() + PATIENCE
        while not server.started and time.monotonic() < end:
            time.sleep(0.05)
        if server.started:
            webbrowser.open(address)

    threading.Thread(target=wait, daemon=True).start()
