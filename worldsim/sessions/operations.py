"""What a session does for each message; the same over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.painted import is_painted
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.memory.surfels import patch_metres
from worldsim.protocols import HasPoints
from worldsim.runtime.types import Array
from worldsim.sessions import protocol as p
from worldsim.sessions.manager import SessionManager
from worldsim.sessions.present import Present
from worldsim.sessions.saved import UploadedSnapshot, snapshot_bytes
from worldsim.sessions.session import Progress, Session
from worldsim.sessions.views import FROM_MEMORY, Drawn, draw_memory, encode, psnr_of, with_alpha

Parts = Mapping[str, Array | bytes]


@dataclass(frozen=True)
class Answer:
    """An answer to a message.

    header: the message.
    blobs: its parts, None if it is not packed.
    """

    header: p.Reply
    blobs: list[p.Blob] | None = None
    session: Session | None = field(default=None, compare=False)

    def content(self, id: int | None) -> bytes | str:
        """Return what is sent: packed bytes or JSON text."""
        header = self.header
        if header.id != id:
            header = header.model_copy(update={"id": id})
        if self.blobs is None:
            return header.model_dump_json()
        return p.pack(header, self.blobs)


async def perform(
    manager: SessionManager,
    session: Session,
    message: p.ClientMessage,
    parts: Parts,
    progress: Progress | None = None,
) -> Answer:
    """Do what a message asks of a session. The caller holds the session's lock.

    Raises the library's errors and SessionError; then nothing has changed.
    """
    if session.closed:
        raise p.SessionError(p.Code.CLOSED, "this session is closed: make or resume one")
    session.used_at = time.time()
    await session.settle_twin()
    if isinstance(message, p.Looking):
        taken = await _move(session, message, parts, progress)
        return await show(session, message, taken)
    return await _ask(manager, session, message)


async def _move(
    session: Session, message: p.Looking, parts: Parts, progress: Progress | None
) -> int:
    """Do what a message asks that is answered by a frame; returns the number of steps."""
    if isinstance(message, p.Step):
        return await _step(session, message, progress)
    if isinstance(message, p.Reset):
        twin = isinstance(message.start, p.TwinStartAt)
        await session.reset(message.start, message.seed, twin, parts)
    elif isinstance(message, p.Rewind):
        await session.rewind(message.branch, message.step, progress)
    elif isinstance(message, p.EditMemory):
        await session.edit(message.edit)
    elif isinstance(message, p.Restore):
        await _restore(session, message, parts)
    return 0


async def _step(session: Session, message: p.Step, progress: Progress | None) -> int:
    p.require_one_way(message)
    if message.agent is not None:
        await session.step_by(message.agent, message.twin_later)
        return 1
    if message.action is not None:
        await session.step(message.action, twin_later=message.twin_later)
        return 1
    actions = message.actions or []
    for action in actions:
        session.check_action(action)
    for i, action in enumerate(actions):
        later = message.twin_later and i + 1 == len(actions)
        present = await session.step(action, twin_later=later)
        if progress is not None and i + 1 < len(actions):
            await progress(i + 1, len(actions))
        if present.terminated:
            return i + 1
    return len(actions)


async def _restore(session: Session, message: p.Restore, parts: Parts) -> None:
    content = parts.get("snapshot")
    if (message.mark is None) == (content is None):
        raise InvalidInputError("restore takes a mark, or a packed message with a part snapshot")
    if message.mark is not None:
        await session.restore_mark(message.mark)
        return
    if not isinstance(content, bytes):
        raise InvalidInputError("the part snapshot has the format safetensors")
    uploaded = UploadedSnapshot(content)
    await session.open()
    own = await session.variant(p.Settings())
    settings = await asyncio.to_thread(uploaded.settings, own, session.settings)
    world = await session.variant(settings)
    await session.restore(await asyncio.to_thread(uploaded.open, world), settings)


async def _ask(manager: SessionManager, session: Session, message: p.ClientMessage) -> Answer:
    """Answer a message that is answered by something else than a frame."""
    if isinstance(message, p.Mark):
        mark, size = await session.mark()
        return Answer(p.MarkReply(mark=mark, bytes=size))
    if isinstance(message, p.Drop):
        session.drop_mark(message.mark)
        return Answer(p.OkReply())
    if isinstance(message, p.GetSnapshot):
        snapshot = await session.snapshot()
        world = session.now.world
        content = await asyncio.to_thread(snapshot_bytes, snapshot, world)
        blob = ("snapshot", "safetensors", (len(content),), content)
        return Answer(p.SnapshotReply(), [blob])
    if isinstance(message, p.NameBranch):
        session.history.rename(message.branch, message.name)
        return Answer(describe_history(session))
    if isinstance(message, p.GetHistory):
        return Answer(describe_history(session))
    if isinstance(message, p.GetWalk):
        return Answer(p.WalkReply(walk=session.as_walk()))
    if isinstance(message, p.ChangeSettings):
        await session.change_settings(message.settings)
        return Answer(p.SessionReply(session=manager.info(session)))
    if isinstance(message, p.Fork):
        made, seconds = await manager.fork(session, message.n, message.randomness, message.twin)
        own = 0 if message.randomness == "common" else 8
        infos = [manager.info(other) for other in made]
        return Answer(p.ForkReply(sessions=infos, bytes=own, ms=1e3 * seconds))
    if isinstance(message, p.Render):
        return await render(session, message)
    if isinstance(message, p.GetMap):
        return await draw_map(session, message)
    if isinstance(message, p.GetPoints):
        return await points(session, message)
    raise InvalidInputError(f"{message.type} is not for a session that is open")


async def show(
    session: Session, looking: p.Looking, steps_taken: int = 0, seq: int = 0, skipped: int = 0
) -> Answer:
    """Return the present frame with the requested views; those that it lacks are left out."""
    now, begun = session.now, time.perf_counter()
    wanted = p.views_of(looking)
    drawn = Drawn({})
    if any(view in FROM_MEMORY for view in wanted):
        drawn = await session.call(lambda: draw_memory(now.world, now.state, now.view, wanted))
    arrays = {view: array for view in wanted if (array := _view(now, drawn, view)) is not None}
    kind = looking.format
    if kind is p.PictureFormat.RAW:
        blobs = [encode(view, array, kind) for view, array in arrays.items()]
    else:
        blobs = await asyncio.to_thread(
            lambda: [encode(view, array, kind) for view, array in arrays.items()]
        )
    position, info = session.history.position, now.info
    header = p.FrameReply(
        id=None if seq else looking.id,
        session=session.id,
        branch=position.branch,
        step=position.step,
        steps_taken=steps_taken,
        seq=seq,
        skipped=skipped,
        reward=now.reward,
        terminated=now.terminated,
        termination_prob=now.termination_prob,
        uncertainty=now.uncertainty,
        coverage=float(info["memory_coverage"]),
        pose=_listed(info.get("pose")),
        intrinsics=_listed(info.get("intrinsics")),
        action=now.action,
        agent=now.agent,
        twin=_twin_report(session, now),
        # Neither of them changes the settings.
        settings=None if isinstance(looking, (p.Step, p.Play)) else now.settings,
        map=drawn.map,
        memory_points=drawn.points,
        ms=p.Milliseconds(
            queue=now.queued_ms,
            step=now.step_ms,
            twin=now.twin_ms,
            encode=1e3 * (time.perf_counter() - begun),
            batch=now.batch,
        ),
    )
    return Answer(header, blobs, session)


async def show_twin(session: Session, looking: p.Looking) -> Answer | None:
    """Let the twin take the step that it owes; returns its frame, None if it owes none."""
    if session.closed or not await session.settle_twin():
        return None
    now, position = session.now, session.history.position
    wanted = [view for view in p.views_of(looking) if view in (p.View.TWIN, p.View.TWIN_DEPTH)]
    arrays = {view: array for view in wanted if (array := _view(now, Drawn({}), view)) is not None}
    blobs = [encode(view, array, looking.format) for view, array in arrays.items()]
    header = p.TwinReply(
        session=session.id,
        branch=position.branch,
        step=position.step,
        twin=_twin_report(session, now),
        ms=now.twin_ms,
    )
    return Answer(header, blobs)


def _view(now: Present, drawn: Drawn, view: p.View) -> Array | None:
    if view is p.View.RGB:
        return now.rgb
    if view is p.View.DEPTH:
        depth = now.info.get("depth")
        return None if depth is None else np.asarray(depth, np.float32)
    if view is p.View.TWIN:
        return None if now.twin is None else now.twin.rgb
    if view is p.View.TWIN_DEPTH:
        return None if now.twin is None else now.twin.depth
    return drawn.arrays.get(view)


def _twin_report(session: Session, now: Present) -> p.TwinReport | None:
    if now.twin is None:
        if not session.twin_message:
            return None
        return p.TwinReport(alive=False, message=session.twin_message)
    return p.TwinReport(
        reward=now.twin.reward,
        terminated=now.twin.terminated,
        truncated=now.twin.truncated,
        psnr=psnr_of(now.rgb, now.twin.rgb),
        pose=_listed(now.twin.pose),
        alive=not now.twin.ended,
    )


def describe_history(session: Session) -> p.HistoryReply:
    """Return the branches of a session."""
    history = session.history
    return p.HistoryReply(
        branches=list(history.describe()),
        position=history.position,
        keyframes=history.kept_positions(),
        bytes=history.bytes,
    )


async def render(session: Session, message: p.Render) -> Answer:
    """Draw the memory at a camera."""
    pose = None if message.pose is None else np.reshape(message.pose, (4, 4))
    if (message.height is None) != (message.width is None):
        raise InvalidInputError("render takes height and width together")
    size = None
    if message.height is not None and message.width is not None:
        size = message.height, message.width
    lens = message.intrinsics
    picture = await session.call(lambda: session.memory.render(pose, size, lens))
    arrays = {"rgb": with_alpha(picture.rgb, picture.mask)}
    if message.format is p.PictureFormat.RAW:
        arrays["depth"] = picture.depth.astype(np.float32)
    blobs = [encode(name, array, message.format) for name, array in arrays.items()]
    header = p.PictureReply(pose=_listed(picture.pose), intrinsics=_listed(picture.intrinsics))
    return Answer(header, blobs)


async def draw_map(session: Session, message: p.GetMap) -> Answer:
    """Draw the memory from above."""
    seen = await session.call(
        lambda: session.memory.top_down(
            message.resolution, message.above, message.below, message.reach
        )
    )
    blob = encode("map", with_alpha(seen.rgb, seen.mask), message.format)
    place = p.MapPlace(west=seen.west, north=seen.north, resolution=seen.resolution)
    return Answer(p.PictureReply(map=place), [blob])


async def points(session: Session, message: p.GetPoints) -> Answer:
    """Return the memory's points, or those that a later step has seen."""
    return await session.call(lambda: _points(session, message.since))


def _points(session: Session, since: int | None) -> Answer:
    handle: MemoryHandle = session.memory
    if not isinstance(handle.kind, HasPoints):
        raise MissingGeometryError(f"a {type(handle.kind).__name__} holds no points")
    found: Points = handle.kind.to_points(handle.data)
    present = found.kind[0] == POINT
    chosen = present if since is None else present & (found.seen[0] > since)
    slot = chosen.nonzero()[:, 0]
    position = found.position[0][:, slot].T.contiguous().float().cpu().numpy()
    colour = found.colour[0][:, slot].T.contiguous().cpu().numpy()
    size = patch_metres(found, float(handle.intrinsics[0]))[0][slot].float().cpu().numpy()
    painted = is_painted(found)[0][slot].to(torch.uint8).cpu().numpy()
    # Slots are filled from the first on: what was dropped lies before the last one that is used.
    last = int(present.nonzero()[-1, 0]) + 1 if bool(present.any()) else 0
    dropped = (~present[:last]).nonzero()[:, 0].cpu().numpy().astype(np.uint32)
    blobs = [
        p.array_blob("position", position),
        p.array_blob("colour", colour),
        p.array_blob("size", size),
        p.array_blob("painted", painted),
        p.array_blob("slot", slot.cpu().numpy().astype(np.uint32)),
        p.array_blob("dropped", dropped),
    ]
    header = p.PointsReply(count=len(slot), total=int(present.sum()), step=handle.step)
    return Answer(header, blobs)


def _listed(array: Array | None) -> list[float] | None:
    if array is None:
        return None
    listed: list[float] = np.asarray(array, np.float64).ravel().tolist()
    return listed
