"""All sessions of a server: made, found, limited, saved and closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from worldsim.errors import InvalidInputError, NotFoundError, WorldsimError
from worldsim.protocols import Painter
from worldsim.runtime.arguments import shown
from worldsim.runtime.limits import return_freed_memory
from worldsim.runtime.types import Array
from worldsim.sessions.batcher import Batcher
from worldsim.sessions.catalogue import Catalogue, VariantKey, describe_actions
from worldsim.sessions.config import SessionsConfig, require_bucket
from worldsim.sessions.history import History, Moment
from worldsim.sessions.present import arithmetic_of
from worldsim.sessions.protocol import (
    CloseCode,
    Closed,
    Code,
    Create,
    Limits,
    SessionError,
    SessionInfo,
    Settings,
    SnapshotStartAt,
    TwinStartAt,
    Walk,
)
from worldsim.sessions.saved import LatestMoment, SavedInfo, SavedSession, SavedSessions
from worldsim.sessions.session import Progress, Session
from worldsim.sessions.spare_twin import SpareTwin
from worldsim.sessions.twin_process import TwinMaker
from worldsim.world.engine import resolve_engine, total_memory
from worldsim.world.twin import recipe_of
from worldsim.world.world import World

Result = TypeVar("Result")
LOG = logging.getLogger("worldsim.sessions")
QUEUE = 32
"""Requests of one connection that may wait."""
HOUSEKEEPING = 2.0
"""Seconds from one look at the limits to the next."""
FRESH = 60.0
"""A session that was used within so many seconds is closed for others only if there is no other."""
TRIM_SECONDS = 30.0
"""Seconds from one return of freed memory to the next. States and snapshots come and go, and the
allocator keeps what lies between those that stay."""
SPARE_SECONDS = 300.0
"""Seconds after the server's start at which a spare process that nobody has taken is ended."""
ASIDE_NICENESS = 10
"""Niceness of the threads that save and export."""
COLLECT_SECONDS = 600.0
"""Seconds from one full garbage collection to the next while clients step. It looks at every object
of every session and holds up all clients, so it runs by itself where nobody steps."""
ON_CPU, ON_GPU = 16, 256
"""Sessions by default."""
GPU_BUCKET = 128
"""Batch bucket of sessions on a GPU, by default."""


class Watcher(Protocol):
    """A connection to a session."""

    async def end(self, message: Closed, code: int) -> None:
        """Tell why the session or the connection ends, and close the connection."""
        ...


class SessionManager:
    """The sessions of a server.

    config: limits and defaults.
    worlds: loaded worlds by name, instead of those of ``config``.
    painter: of dreams that are painted ahead; by default the shipped one.
    spare: a process for the twin of the first session that wants one.
    """

    def __init__(
        self,
        config: SessionsConfig,
        worlds: Mapping[str, World] | None = None,
        painter: Painter | None = None,
        spare: SpareTwin | None = None,
    ) -> None:
        self.config, self.spare = config, spare
        self.catalogue = Catalogue(
            config.worlds, config.device, painter, dict(worlds or {}), config.places
        )
        self.batcher = Batcher()
        self.saved = None if config.state is None else SavedSessions(config.state)
        self.sessions: dict[str, Session] = {}
        self.watchers: dict[str, Watcher] = {}
        self.started_at = time.time()
        self._aside = ThreadPoolExecutor(2, "worldsim-aside", _step_back)
        self._saved_roots: dict[str, History] = {}
        self._saved_at: dict[str, tuple[float, int]] = {}
        self._making = 0
        self._trimmed_at = self._collected_at = self._stepped_at = time.time()
        self._steps_seen = 0
        self._task: asyncio.Task[None] | None = None
        self._first: World | None = None

    # Finding.

    def session(self, session: str) -> Session:
        """Return a session. Raises NotFoundError."""
        found = self.sessions.get(session)
        if found is None or found.closed:
            raise NotFoundError(
                f"there is no session {shown(session)}: it was closed, or the server has been "
                f"restarted. Saved sessions can be resumed"
            )
        found.used_at = time.time()
        return found

    async def run(self, session: str, function: Callable[[Session], Result]) -> Result:
        """Run ``function`` with a session between two steps, in the thread of all steps."""
        found = self.session(session)
        async with found.lock:
            return await found.call(lambda: function(found))

    async def run_aside(self, function: Callable[[], Result]) -> Result:
        """Run long work in a thread of its own, beside the steps."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, function)

    def info(self, session: Session) -> SessionInfo:
        """Return the description of a session, whose world must be open."""
        world = session.opened if session.present is None else session.present.world
        assert world is not None
        return SessionInfo(
            id=session.id,
            world=session.world_name,
            title=session.title,
            weights_id=world.weights_id,
            engine=session.engine,
            device=str(world.device),
            arithmetic=arithmetic_of(world),
            bucket=session.bucket,
            settings=session.settings,
            start=session.start,
            seed=session.seed,
            fps=world.config.fps,
            height=world.spec.height,
            width=world.spec.width,
            geometry=world.has_geometry,
            actions=describe_actions(world.action_space, world.config.env_id),
            twin=session.twin is not None,
            reset=session.present is not None,
            position=session.history.position,
            state_bytes=session.state_bytes,
            history_bytes=session.history.bytes,
            created_at=session.created_at,
            warnings=session.warnings,
            limits=Limits(
                idle_s=60.0 * self.config.idle_minutes,
                history_bytes=session.history_bytes,
                queue=QUEUE,
            ),
        )

    # Making.

    def load_first(self, world: str) -> None:
        """Load the world of the first session, and start its twin's engine in the spare process.

        Errors show when a session asks for it.
        """
        key = VariantKey(world, self.config.engine, Settings())
        with contextlib.suppress(WorldsimError):
            self._first = self.catalogue.variant(key)
            if self.spare is not None:
                self.spare.prepare(TwinMaker(recipe_of(self._first), TwinStartAt().history))

    async def create(
        self,
        message: Create,
        parts: Mapping[str, Array | bytes] | None = None,
        progress: Progress | None = None,
    ) -> Session:
        """Make a session and, if the message tells a start, reset it.

        Raises SessionError if there are too many, and what loading the world raises.
        """
        walk = message.walk
        session = await self._make(
            message.world if walk is None else walk.world,
            message.engine if walk is None else walk.engine,
            message.bucket if walk is None else walk.bucket,
            message.settings if walk is None else walk.settings,
            message.title if walk is None else walk.title,
        )
        try:
            if walk is not None:
                session.warnings += differences(walk, await session.open())
                if not isinstance(walk.start, SnapshotStartAt):
                    await session.reset(walk.start, walk.seed, message.twin, parts)
                    await session.load(walk)
            elif message.start is not None and not isinstance(message.start, SnapshotStartAt):
                start = message.start
                if message.twin and "start" not in message.model_fields_set:
                    start = TwinStartAt()
                if message.twin and not isinstance(start, TwinStartAt):
                    raise InvalidInputError(
                        "a twin walks along only from a start of kind twin: scenes do not tell "
                        "where in the real environment they are"
                    )
                await session.reset(start, message.seed, message.twin, parts)
        except BaseException:
            await self._drop(session)
            raise
        return session

    async def _make(
        self, world: str, engine: str | None, bucket: int | None, settings: Settings, title: str
    ) -> Session:
        require_bucket(bucket)
        self.catalogue.require(world)
        await self._make_room()
        self._making += 1
        try:
            session = Session(
                id=secrets.token_urlsafe(16),
                world=world,
                catalogue=self.catalogue,
                batcher=self.batcher,
                engine=engine or self.config.engine,
                bucket=1,
                history_bytes=int(1e6 * self.config.history_mb),
                settings=settings,
                title=title,
                spare=self.spare,
            )
            opened = await session.open()
            own = self.config.bucket or (GPU_BUCKET if opened.device.type == "cuda" else 1)
            session.bucket = bucket or own
            resolve_engine(session.engine, opened.device)
            self.sessions[session.id] = session
        finally:
            self._making -= 1
        return session

    async def fork(
        self, session: Session, n: int, randomness: str, twin: bool = False
    ) -> tuple[list[Session], float]:
        """Return ``n`` sessions that go on from a session's present, and seconds per fork.

        twin: whether each has a real twin of its own; its replay does not count as time of a fork.
        """
        if n > self.most:
            raise SessionError(
                Code.TOO_MANY_SESSIONS, f"{n} forks: this server has at most {self.most} sessions"
            )
        session.now  # noqa: B018  Raises before the first reset.
        made = []
        seconds = 0.0
        try:
            seeds = session.fork_seeds(n, randomness)
            for seed in seeds:
                other = await self._make(
                    session.world_name,
                    session.engine,
                    session.bucket,
                    session.settings,
                    session.title,
                )
                made.append(other)
                begun = time.perf_counter()
                session.fork_into(other, seed)
                seconds += time.perf_counter() - begun
                if twin:
                    await session.fork_twin_into(other)
        except BaseException:
            for other in made:
                await self._drop(other)
            raise
        return made, seconds / n

    # Limits.

    @property
    def on_gpu(self) -> bool:
        """Whether the worlds are on a GPU."""
        device = self.catalogue.device_in_use
        return device is not None and device.type == "cuda"

    @property
    def most(self) -> int:
        """Sessions at once."""
        return self.config.sessions or (ON_GPU if self.on_gpu else ON_CPU)

    @property
    def bytes(self) -> int:
        """Bytes of the states of all sessions."""
        return sum(session.total_bytes for session in self.sessions.values())

    @property
    def most_bytes(self) -> int:
        """Bytes that they may take."""
        device = self.catalogue.device_in_use
        return 2**62 if device is None else int(self.config.memory * total_memory(device))

    async def _make_room(self) -> None:
        """Close the oldest idle session if there are too many. Raises SessionError if none is."""
        while len(self.sessions) + self._making >= self.most:
            oldest = self._oldest()
            if oldest is None:
                raise SessionError(
                    Code.TOO_MANY_SESSIONS,
                    f"this server has {self.most} sessions, and all of them are in use: try again "
                    f"later",
                )
            await self.close(oldest.id, "room", "this session was closed to make room for others")

    def _oldest(self, least: float = FRESH) -> Session | None:
        """Return the session to close first: idle, and better one that nobody is connected to."""
        idle = [s for s in self.sessions.values() if time.time() - s.used_at >= least]
        order = sorted(idle, key=lambda s: (s.id in self.watchers, s.used_at))
        return order[0] if order else None

    async def tidy(self) -> None:
        """Close what is idle or too much, and save what has changed."""
        now = time.time()
        for session in list(self.sessions.values()):
            if (
                now - session.used_at > 60.0 * self.config.idle_minutes
                and not session.lock.locked()
            ):
                await self.close(
                    session.id,
                    "idle",
                    f"this session was closed after {self.config.idle_minutes:g} minutes without "
                    f"a request",
                )
        while self.bytes > self.most_bytes and len(self.sessions) > 1:
            oldest = self._oldest(0.0)
            assert oldest is not None
            await self.close(oldest.id, "room", "this session was closed to make room for others")
        if self.saved is not None:
            for session in list(self.sessions.values()):
                when, entries = self._saved_at.get(session.id, (session.created_at, -1))
                changed = entries != session.history.entries
                if changed and now - when >= self.config.save_seconds:
                    with contextlib.suppress(WorldsimError, OSError):
                        await self.save(session)
        if self.spare is not None and now - self.started_at >= SPARE_SECONDS:
            spare, self.spare = self.spare, None
            await asyncio.to_thread(spare.close)
        await self._clean(now)

    async def _clean(self, now: float) -> None:
        """Free memory while nobody steps, or when it has waited for long."""
        resting = self.batcher.steps == self._steps_seen
        self._steps_seen = self.batcher.steps
        due = now - self._collected_at >= COLLECT_SECONDS
        if due or (resting and self._collected_at < self._stepped_at):
            self._collected_at = now
            gc.collect()
        if not resting:
            self._stepped_at = now
        # On a GPU, states take none of this memory.
        if not self.on_gpu and now - self._trimmed_at >= TRIM_SECONDS:
            self._trimmed_at = now
            await asyncio.to_thread(return_freed_memory)

    async def save(self, session: Session, frames: bool = False) -> None:
        """Write a session to the state folder, if there is one.

        frames: whether the frames of the walk are written, too, which takes longer.
        """
        if self.saved is None:
            return
        saver = self.saved
        async with session.lock:
            if session.closed or session.present is None:
                return
            history, world = session.history, session.present.world
            root = None
            if self._saved_roots.get(session.id) is not history:
                settings, first = session.root_settings, Moment(0, 0)
                root_world = await session.variant(settings)
                root = await session.snapshot(first), root_world
            latest = await session.snapshot(frames=frames)
            try:
                walk = session.as_walk()
            except InvalidInputError:
                walk = session.as_walk_from_snapshot()
            saved = SavedSession(
                id=session.id,
                title=session.title,
                created_at=session.created_at,
                saved_at=time.time(),
                settings=session.settings,
                elapsed=session.elapsed,
                twin=session.twin is not None,
                steps=history.step,
                walk=walk,
                latest=LatestMoment(branch=history.now.branch, entries=history.now.entries),
            )
            entries = history.entries
        await self.run_aside(lambda: saver.save(saved, world, root, latest))
        self._saved_roots[session.id] = history
        self._saved_at[session.id] = time.time(), entries

    def list_saved(self) -> list[SavedInfo]:
        """Return the saved sessions that are not open."""
        found = [] if self.saved is None else self.saved.list()
        return [one for one in found if one.id not in self.sessions]

    async def resume(self, session: str, progress: Progress | None = None) -> Session:
        """Open a saved session again, under its id. Raises NotFoundError or DamagedFileError."""
        if session in self.sessions:
            return self.session(session)
        if self.saved is None:
            raise NotFoundError("this server saves no sessions: start it with --state FOLDER")
        saver = self.saved
        opened = await self.run_aside(lambda: saver.open(session))
        saved = opened.saved
        walk = saved.walk
        made = await self._make(walk.world, walk.engine, walk.bucket, walk.settings, saved.title)
        try:
            world = await made.open()
            root = await self.run_aside(lambda: opened.root(world))
            latest_world = await made.variant(saved.settings)
            latest = await self.run_aside(lambda: opened.latest(latest_world))
            await made.restore(root)
            await made.load(walk, latest)
            if saved.twin and isinstance(walk.start, TwinStartAt):
                await made.regain_twin(walk.start, walk.seed)
            made.start, made.seed = walk.start, walk.seed
            made.created_at = saved.created_at
            self.sessions.pop(made.id, None)
            made.id = session
            self.sessions[session] = made
            saver.take_over(opened)
            self._saved_roots[session] = made.history
            self._saved_at[session] = time.time(), made.history.entries
        except BaseException:
            await self._drop(made)
            raise
        return made

    # Ending.

    async def close(self, session: str, reason: str, message: str) -> None:
        """Close a session, and tell whoever is connected to it.

        What was saved stays, unless it is deleted by its user.
        """
        found = self.sessions.get(session)
        if found is None:
            return
        if reason == "deleted":
            if self.saved is not None:
                self.saved.remove(session)
        elif self.saved is not None:
            with contextlib.suppress(WorldsimError, OSError):
                await self.save(found, frames=True)
        await self._drop(found)
        watcher = self.watchers.pop(session, None)
        if watcher is not None:
            told = Closed.model_validate({"reason": reason, "message": message})
            code = CloseCode.SHUTDOWN if reason == "shutdown" else CloseCode.ENDED
            await watcher.end(told, code)

    async def _drop(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        self._saved_roots.pop(session.id, None)
        self._saved_at.pop(session.id, None)
        async with session.lock:
            session.close()

    async def watch(self, session: str, watcher: Watcher) -> None:
        """Connect to a session; whoever was connected before is told so and let go."""
        before = self.watchers.get(session)
        self.watchers[session] = watcher
        if before is not None and before is not watcher:
            told = Closed(
                reason="replaced", message="this session was opened in another window or program"
            )
            await before.end(told, CloseCode.REPLACED)

    def unwatch(self, session: str, watcher: Watcher) -> None:
        """Forget a connection that has ended."""
        if self.watchers.get(session) is watcher:
            del self.watchers[session]

    # The server's own life.

    def start(self) -> None:
        """Begin to look after limits and saves; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._keep_house())

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            try:
                await self.tidy()
            except Exception:
                LOG.exception("the sessions could not be looked after")

    async def shut_down(self) -> None:
        """Save and close everything."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for session in list(self.sessions):
            await self.close(session, "shutdown", "the server is shutting down")
        await asyncio.to_thread(self.batcher.close)
        if self.spare is not None:
            await asyncio.to_thread(self.spare.close)
        self._aside.shutdown(wait=False, cancel_futures=True)


def differences(walk: Walk, world: World) -> list[str]:
    """Return warnings: why a world may not replay a walk to the same pixels."""
    found = []
    if walk.weights_id and walk.weights_id != world.weights_id:
        found.append("this walk was made with other weights: its pixels will differ")
    here = {"device": world.device.type, "arithmetic": arithmetic_of(world)}
    there = {"device": walk.device, "arithmetic": walk.arithmetic}
    for name, value in here.items():
        if there[name] and there[name] != value:
            found.append(
                f"this walk was made with {there[name]}, and this is {value}: its pixels may "
                f"differ slightly"
            )
            break
    return found


def _step_back() -> None:
    """Let the steps' thread go first: saves and exports may wait."""
    # Linux has a priority for each thread, other systems for the process alone.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ASIDE_NICENESS)
