"""The session server: a FastAPI application over a :class:`SessionManager`.

``create_app`` makes it; ``worldsim serve`` runs it with uvicorn. Pages are mounted as further
routers and reach the sessions through ``app.state.manager``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le
from fastapi import APIRouter, FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from worldsim import __version__
from worldsim.errors import WorldsimError
from worldsim.protocols import Painter
from worldsim.runtime.json_config import check_ranges
from worldsim.sessions import protocol as p
from worldsim.sessions.agents import agents_for
from worldsim.sessions.config import SessionsConfig
from worldsim.sessions.connection import Connection
from worldsim.sessions.guard import API, COOKIE, Guard, same_token
from worldsim.sessions.manager import SessionManager
from worldsim.sessions.operations import Answer, perform
from worldsim.sessions.saved import SavedInfo
from worldsim.sessions.session import Session
from worldsim.sessions.spare_twin import SpareTwin
from worldsim.sessions.views import picture_bytes
from worldsim.world.world import World

LOG = logging.getLogger("worldsim.sessions")
OPERATIONS: Mapping[str, type[p.Message]] = {
    "reset": p.Reset,
    "step": p.Step,
    "look": p.Look,
    "rewind": p.Rewind,
    "mark": p.Mark,
    "restore": p.Restore,
    "drop": p.Drop,
    "history": p.GetHistory,
    "walk": p.GetWalk,
    "name": p.NameBranch,
    "fork": p.Fork,
    "edit": p.EditMemory,
    "render": p.Render,
    "map": p.GetMap,
    "points": p.GetPoints,
    "settings": p.ChangeSettings,
}
"""Messages that can be sent over HTTP, by the last part of the path."""


@dataclass(frozen=True)
class AppConfig:
    """Who may connect to the application, and what they may send."""

    host: str = "127.0.0.1"
    """Address that the server listens at."""
    token: str = ""
    """What clients must know; empty for nothing."""
    upload_mb: Annotated[float, Gt(0), Le(100_000)] = 256.0
    """Megabytes of one uploaded snapshot."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def upload_bytes(self) -> int:
        """Bytes of one uploaded snapshot."""
        return int(self.upload_mb * 1e6)


class Health(p.Message):
    """How the server is."""

    protocol: int = p.PROTOCOL
    version: str = __version__
    device: str
    sessions: int
    worlds_loaded: list[str]
    forwards: int
    steps: int


class Login(p.Message):
    """The token that the server has printed."""

    token: str


class ErrorBody(p.Message):
    """What went wrong."""

    code: p.Code
    message: str


class ErrorAnswer(p.Message):
    """The body of every error."""

    error: ErrorBody


def create_app(
    sessions: SessionsConfig | None = None,
    app: AppConfig | None = None,
    routers: Sequence[APIRouter] = (),
    public: Sequence[str] = (),
    worlds: Mapping[str, World] | None = None,
    painter: Painter | None = None,
    first: str | None = None,
    spare: SpareTwin | None = None,
) -> FastAPI:
    """Return the application; ``app.state.manager`` is its :class:`SessionManager`.

    sessions: worlds, limits and defaults.
    app: who may connect.
    routers: further routes, of a page for example. The checks of host, origin and token cover them.
    public: paths of theirs that need no token, see :class:`worldsim.sessions.guard.Guard`.
    worlds: loaded worlds by name, instead of those of ``sessions``.
    painter: of dreams that are painted ahead; by default the shipped one.
    first: world that is loaded as soon as the server starts.
    spare: a process for the first twin, which the application ends.
    """
    config = app or AppConfig()
    manager = SessionManager(sessions or SessionsConfig(), worlds, painter, spare)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        manager.start()
        loading = None
        if first is not None:
            loading = asyncio.create_task(asyncio.to_thread(manager.load_first, first))
        try:
            yield
        finally:
            if loading is not None:
                await loading
            await manager.shut_down()

    made = FastAPI(
        title="worldsim sessions",
        version=str(p.PROTOCOL),
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )
    made.state.manager, made.state.config = manager, config
    made.add_middleware(
        Guard,
        host=config.host,
        token=config.token,
        upload_limit=config.upload_bytes,
        public=tuple(public),
    )
    made.add_exception_handler(Exception, _answer_error)
    for kind in (WorldsimError, MemoryError, RequestValidationError, HTTPException):
        made.add_exception_handler(kind, _answer_error)
    made.include_router(server_routes(manager, config), prefix=API)
    made.include_router(session_routes(manager), prefix=API)
    for router in routers:
        made.include_router(router)
    return made


def server_routes(manager: SessionManager, config: AppConfig) -> APIRouter:
    """Return the routes about the server and its worlds."""
    router = APIRouter(responses={"default": {"model": ErrorAnswer}})
    catalogue = manager.catalogue

    @router.get("/health")
    async def health() -> Health:
        """Tell how the server is."""
        loaded = catalogue.loaded
        return Health(
            device=str(catalogue.device_in_use or ""),
            sessions=len(manager.sessions),
            worlds_loaded=loaded,
            forwards=manager.batcher.forwards,
            steps=manager.batcher.steps,
        )

    @router.post("/login", status_code=204)
    async def login(body: Login) -> Response:
        """Set the cookie with the token."""
        if config.token and not same_token(body.token, config.token):
            raise p.SessionError(p.Code.UNAUTHORIZED, "this is not the server's token")
        response = Response(status_code=204)
        if config.token:
            response.set_cookie(COOKIE, config.token, httponly=True, samesite="strict")
        return response

    @router.get("/worlds")
    async def worlds() -> list[p.WorldInfo]:
        """List the worlds."""
        return await asyncio.to_thread(catalogue.describe)

    @router.get("/worlds/{world}")
    async def world(world: str) -> p.WorldInfo:
        """Describe a world."""
        return await asyncio.to_thread(catalogue.describe_one, world)

    @router.get("/worlds/{world}/scenes")
    async def scenes(world: str) -> list[p.SceneInfo]:
        """List a world's start scenes."""
        return await asyncio.to_thread(catalogue.scenes, world)

    @router.get("/worlds/{world}/scenes/{scene}.webp", response_class=Response)
    async def scene_picture(world: str, scene: str) -> Response:
        """Show the last frame of a start scene."""
        picture = await asyncio.to_thread(catalogue.scene_picture, world, scene)
        content = picture_bytes(picture, p.PictureFormat.WEBP)
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type="image/webp", headers=headers)

    @router.get("/saved")
    async def saved() -> list[SavedInfo]:
        """List the saved sessions that are not open."""
        return await asyncio.to_thread(manager.list_saved)

    @router.post("/saved/{session}/resume", status_code=201)
    async def resume(session: str) -> p.SessionInfo:
        """Open a saved session again."""
        return manager.info(await manager.resume(session))

    @router.delete("/saved/{session}", status_code=204)
    async def forget(session: str) -> Response:
        """Remove a saved session."""
        if manager.saved is not None and session not in manager.sessions:
            await asyncio.to_thread(manager.saved.remove, session)
        return Response(status_code=204)

    return router


def session_routes(manager: SessionManager) -> APIRouter:
    """Return the routes about sessions, and the WebSocket."""
    router = APIRouter(responses={"default": {"model": ErrorAnswer}})

    @router.websocket("/ws")
    async def connect(socket: WebSocket) -> None:
        # Cancelled where a client stays when the server ends.
        with contextlib.suppress(asyncio.CancelledError):
            await Connection(socket, manager).run()

    @router.post("/sessions", status_code=201)
    async def create(body: p.Create) -> p.SessionInfo:
        """Make a session."""
        return manager.info(await manager.create(body))

    @router.get("/sessions/{session}")
    async def describe(session: str) -> p.SessionInfo:
        """Describe a session."""
        return manager.info(manager.session(session))

    @router.delete("/sessions/{session}", status_code=204)
    async def delete(session: str) -> Response:
        """End a session."""
        manager.session(session)
        await manager.close(session, "deleted", "this session was closed by its user")
        return Response(status_code=204)

    @router.get("/sessions/{session}/agents")
    async def agents(session: str) -> list[p.AgentInfo]:
        """List the agents that can take the controls."""
        return await manager.run(session, agents_for)

    @router.get("/sessions/{session}/snapshot", response_class=Response)
    async def get_snapshot(session: str) -> Response:
        """Return the session as a snapshot file."""
        answer = await _perform(manager, manager.session(session), p.GetSnapshot())
        assert answer.blobs is not None
        return Response(answer.blobs[0][3], media_type="application/octet-stream")

    @router.put("/sessions/{session}/snapshot", response_class=Response)
    async def put_snapshot(session: str, request: Request) -> Response:
        """Go on from a snapshot file."""
        found, content = manager.session(session), await request.body()
        async with found.lock:
            message = p.Restore()
            return _packed(await perform(manager, found, message, {"snapshot": content}))

    @router.get("/sessions/{session}/thumbnails/{branch}/{step}.webp", response_class=Response)
    async def thumbnail(session: str, branch: int, step: int) -> Response:
        """Show a small picture of a moment, or of the last one before it that is kept."""
        found = manager.session(session)
        async with found.lock:
            kept, content = found.thumbnail(branch, step)
        headers = {"X-Step": str(kept), "Cache-Control": "no-store"}
        return Response(content, media_type="image/webp", headers=headers)

    for name, kind in OPERATIONS.items():
        summary = inspect.getdoc(kind) or name
        router.add_api_route(
            f"/sessions/{{session}}/{name}",
            _operation(manager, kind),
            methods=["POST"],
            summary=summary.split("\n")[0],
            operation_id=name,
            response_class=Response,
        )
    return router


def _operation(manager: SessionManager, kind: type[p.Message]) -> Callable[..., object]:
    """Return the function of a route whose body is a message of one kind."""

    async def operation(session: str, body: p.ClientMessage) -> Response:
        return _packed(await _perform(manager, manager.session(session), body))

    operation.__annotations__ = {"session": str, "body": kind, "return": Response}
    return operation


async def _perform(manager: SessionManager, session: Session, message: p.ClientMessage) -> Answer:
    async with session.lock:
        return await perform(manager, session, message, {})


def _packed(answer: Answer) -> Response:
    content = answer.content(None)
    if isinstance(content, bytes):
        return Response(content, media_type=p.MEDIA_TYPE)
    return Response(content, media_type="application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    """Answer an exception by its code and message."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(one)[:40] for one in first["loc"])
        code, text = p.Code.BAD_MESSAGE, f"{place}: {first['msg'][:300]}"
    elif isinstance(error, HTTPException):
        known = {404: p.Code.NOT_FOUND, 405: p.Code.NOT_FOUND}
        code, text = known.get(error.status_code, p.Code.BAD_MESSAGE), str(error.detail)
    else:
        code, text = p.code_of(error), str(error)[:2000]
        if code is p.Code.INTERNAL:
            LOG.error("a request failed", exc_info=error)
            text = f"the server failed ({type(error).__name__})"
    return JSONResponse({"error": {"code": code.value, "message": text}}, p.STATUS[code])
