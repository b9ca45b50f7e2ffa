"""What the page needs beside the sessions' API: its own files, new places, and files of a walk."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastapi import APIRouter, Request, Response
from PIL import Image

from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.io.provenance.origin import Origin
from worldsim.io.provenance.publish import sidecar_for
from worldsim.play.exports import EXPORTS, Walk, export
from worldsim.play.painting import Job, Painting
from worldsim.protocols import HasPoints, remembers
from worldsim.runtime.files import is_file, is_folder
from worldsim.runtime.types import JsonObject
from worldsim.sessions.history import Moment
from worldsim.sessions.protocol import Walk as WalkOfSession
from worldsim.sessions.saved import snapshot_bytes
from worldsim.sessions.session import Session
from worldsim.sessions.stored_frames import as_picture
from worldsim.world.scene_files import SCENE, load_scene

STATIC = Path(__file__).parent / "static"
PUBLIC = ("/", "/static/")
"""Paths that need no token: the page itself, which then asks for it."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
LARGEST_PICTURE = 20_000_000
"""Bytes of the largest picture that is taken."""
LARGEST_SIGNED = 2**30
"""Bytes of the largest file for which a sidecar is made."""
LONGEST_PROMPT = 200
MOST_STEPS = 100
"""Sampling steps of a new place."""
PLACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HEADERS = {
    # Nothing of another host is loaded, and no other page may frame this one.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def play_router(world: str, painting: Painting, fresh: bool = False) -> APIRouter:
    """Return the page's routes, for :func:`worldsim.sessions.server.create_app`.

    world: name of the world that the page begins with.
    painting: paints new places.
    fresh: begin a new walk even where the browser remembers one.
    """
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return _static("index.html")

    @router.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _static(name)

    @router.get("/play/start")
    async def start() -> JsonObject:
        return {"world": world, "fresh": fresh}

    @router.get("/play/places")
    async def places() -> list[JsonObject]:
        return await asyncio.to_thread(list_places, painting.folder)

    @router.get("/play/places/{name}.webp")
    async def place_picture(name: str) -> Response:
        content = await asyncio.to_thread(picture_of_place, painting.folder, name)
        return Response(content, media_type="image/webp")

    @router.post("/play/paint", status_code=202)
    async def paint(
        request: Request, prompt: str = "", seed: int = 0, steps: int | None = None
    ) -> JsonObject:
        if len(prompt) > LONGEST_PROMPT:
            raise InvalidInputError(
                f"prompt has {len(prompt)} letters: give at most {LONGEST_PROMPT}"
            )
        if not 0 <= seed < 2**31:
            raise InvalidInputError(f"seed = {seed}: give a whole number from 0 to {2**31 - 1}")
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise InvalidInputError(f"steps = {steps}: give a whole number from 1 to {MOST_STEPS}")
        kind = request.headers.get("content-type", "")
        picture = None if kind.startswith("application/json") else await _body(request)
        job = painting.start()
        work = partial(_paint, painting, job, prompt, seed, picture, steps)
        task = asyncio.create_task(request.app.state.manager.run_aside(work))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return {"job": job.key}

    tasks: set[asyncio.Task[Any]] = set()

    @router.get("/play/paint/{key}")
    async def progress(key: str) -> JsonObject:
        job = painting.job(key)
        return {
            "share": job.share,
            "message": job.message,
            "views": len(job.views),
            "version": job.version,
            "folder": job.folder,
            "error": job.error,
        }

    @router.get("/play/paint/{key}/views/{index}.webp")
    async def view(key: str, index: int) -> Response:
        views = painting.job(key).views
        if not 0 <= index < len(views):
            raise NotFoundError(f"the painting has {len(views)} views, counted from 0: no {index}")
        return Response(
            views[index], media_type="image/webp", headers={"Cache-Control": "no-store"}
        )

    @router.delete("/play/paint/{key}", status_code=204)
    async def cancel(key: str) -> Response:
        painting.job(key).cancelled = True
        return Response(status_code=204)

    @router.get("/play/sessions/{session_id}/start.safetensors")
    async def root(request: Request, session_id: str) -> Response:
        session = request.app.state.manager.session(session_id)
        async with session.lock:
            snapshot = await session.snapshot(Moment(0, 0))
            world = await session.variant(session.root_settings)
        content = await asyncio.to_thread(snapshot_bytes, snapshot, world)
        return Response(content, media_type="application/octet-stream")

    @router.post("/play/sessions/{session_id}/walk", status_code=204)
    async def load(request: Request, session_id: str, walk: WalkOfSession) -> Response:
        session = request.app.state.manager.session(session_id)
        async with session.lock:
            await session.load(walk)
        return Response(status_code=204)

    @router.post("/play/sessions/{session_id}/provenance/{name}")
    async def provenance(request: Request, session_id: str, name: str) -> JsonObject:
        session = request.app.state.manager.session(session_id)
        async with session.lock:
            origin = Origin(session.world_name, session.world.weights_id, session.seed or 0)
        total, size = hashlib.sha256(), 0
        async for chunk in request.stream():
            total.update(chunk)
            size += len(chunk)
            if size > LARGEST_SIGNED:
                raise InvalidInputError(f"files of at most {LARGEST_SIGNED:,} bytes are signed")
        return sidecar_for(name, total.hexdigest(), size, origin)

    @router.get("/play/sessions/{session_id}/{name}")
    async def take_away(request: Request, session_id: str, name: str) -> Response:
        if name not in EXPORTS:
            raise NotFoundError(f"there is no file {name!r}: there are {', '.join(EXPORTS)}")
        manager = request.app.state.manager
        walk = await manager.run(session_id, walk_of)
        content = await manager.run_aside(partial(export, walk, name))
        return Response(
            content,
            media_type=EXPORTS[name].media_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    return router


def _static(name: str) -> Response:
    """Return a file of the page. Raises NotFoundError."""
    path = STATIC / name
    if path.suffix not in MEDIA_TYPES or Path(name).name != name or not is_file(path):
        raise NotFoundError(f"the page has no file {name!r}")
    return Response(path.read_bytes(), media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)


def list_places(folder: Path) -> list[JsonObject]:
    """Return the scenes in ``folder``, newest first."""
    if not is_folder(folder):
        return []
    found = [
        path
        for path in folder.iterdir()
        if PLACE_NAME.fullmatch(path.name) and is_file(path / SCENE)
    ]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [{"name": path.name} for path in found]


def picture_of_place(folder: Path, name: str) -> bytes:
    """Return the first frame of a scene in ``folder`` as WebP. Raises NotFoundError."""
    if not PLACE_NAME.fullmatch(name) or not is_file(folder / name / SCENE):
        raise NotFoundError(f"there is no place {name!r} on this server")
    rgb = as_picture(load_scene(folder / name).rgb[0])
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "WEBP", lossless=True)
    return file.getvalue()


async def _body(request: Request) -> bytes:
    """Read an uploaded picture. Raises InvalidInputError for an empty or too large one."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST_PICTURE:
            raise InvalidInputError(
                f"the picture has more than {LARGEST_PICTURE // 10**6} MB: give a smaller one"
            )
    if not content:
        raise InvalidInputError("the picture is empty: choose a file, or leave it out")
    return bytes(content)


def _paint(
    painting: Painting, job: Job, prompt: str, seed: int, picture: bytes | None, steps: int | None
) -> None:
    if picture is None:
        painting.paint(job, prompt, seed, None, steps)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "picture"
        path.write_bytes(picture)
        painting.paint(job, prompt, seed, path, steps)


def walk_of(session: Session) -> Walk:
    """Copy what a session holds: its frames, its memory's points, and where they come from."""
    world, points, trajectory = session.world, None, None
    if world.has_geometry:
        trajectory = session.trajectory
    rgb = torch.cat([frame.rgb.cpu() for frame in session.frames_to()])
    frames = as_picture(rgb)
    if remembers(world.memory) and isinstance(world.memory, HasPoints):
        held = session.memory.points()
        points = held.position, held.colour
    return Walk(
        frames=frames,
        points=points,
        trajectory=trajectory,
        fps=world.config.fps,
        world=session.world_name,
        weights=world.weights_id,
        seed=session.seed or 0,
    )
