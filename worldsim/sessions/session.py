"""One session: a world, the present state, the history of what was done, and the real twin.

A session's methods are coroutines; the server calls them one at a time, under :attr:`Session.lock`.
What they compute runs in the thread of the :class:`worldsim.sessions.batcher.Batcher`. Each method
computes the new present first and then takes it over, so a failed request has no effect.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding

from worldsim.errors import (
    InvalidInputError,
    MissingGeometryError,
    WorldsimError,
)
from worldsim.memory.handle import MemoryHandle
from worldsim.protocols import Policy
from worldsim.runtime.actions import cast_box_action
from worldsim.runtime.types import Action, Array, JsonObject
from worldsim.sessions.agents import make_agent
from worldsim.sessions.album import Album
from worldsim.sessions.batcher import Batcher, Held
from worldsim.sessions.catalogue import Catalogue, VariantKey
from worldsim.sessions.crates import edit_state
from worldsim.sessions.history import History, Keyframe, Moment
from worldsim.sessions.present import Present, arithmetic_of, fit_state, present_after, present_at
from worldsim.sessions.protocol import (
    ActionEntry,
    ActionValue,
    Code,
    Edit,
    EditEntry,
    Entry,
    FolderStartAt,
    FramesStartAt,
    PictureFormat,
    SceneStartAt,
    SessionError,
    Settings,
    SettingsEntry,
    SnapshotStartAt,
    Start,
    TwinStartAt,
    Walk,
)
from worldsim.sessions.spare_twin import SpareTwin
from worldsim.sessions.stored_frames import StoredFrame
from worldsim.sessions.twins import Twin, TwinFrame
from worldsim.sessions.views import picture_bytes
from worldsim.state import (
    Frame,
    SceneStart,
    Trajectory,
    WorldState,
    bytes_of,
    map_tensors,
)
from worldsim.world.rows import enough_memory
from worldsim.world.snapshots import Snapshot
from worldsim.world.starts import SEED_LIMIT, Starts, as_scene
from worldsim.world.world import World

Result = TypeVar("Result")
Progress = Callable[[int, int], Awaitable[None]]
"""Receives how many of how many steps are replayed."""
KEYFRAME_EVERY = 32
"""Steps from one keyframe to the next."""
_BEGUN = itertools.count()
"""Sessions so far. Sessions that are stepped together store their keyframes at different steps."""
MOST_MARKS = 64
"""Marks of one session."""


class Session:
    """One session.

    id: its name, which is also the key to it.
    world: name of its world in ``catalogue``.
    engine: how steps are run.
    bucket: batch bucket of its steps.
    history_bytes: most bytes of keyframes and frames.
    spare: a process that may be ready for its twin.
    """

    def __init__(
        self,
        id: str,
        world: str,
        catalogue: Catalogue,
        batcher: Batcher,
        engine: str,
        bucket: int,
        history_bytes: int,
        settings: Settings | None = None,
        title: str = "",
        spare: SpareTwin | None = None,
    ) -> None:
        self.id, self.world_name, self.title = id, world, title
        self.catalogue, self.batcher = catalogue, batcher
        self.engine, self.bucket, self.history_bytes = engine, bucket, history_bytes
        self.settings, self.spare = settings or Settings(), spare
        self.lock = asyncio.Lock()
        self.created_at = self.used_at = time.time()
        self.warnings: list[str] = []
        self.start: Start | None = None
        self.seed: int | None = None
        self.history = History(history_bytes)
        self.album = Album(self.history)
        self.twin: Twin | None = None
        self.twin_message = ""
        self.present: Present | None = None
        self.elapsed = 0
        self.root_settings = self.settings
        self.marks: dict[int, tuple[Moment, Keyframe]] = {}
        self.closed = False
        self._next_mark = 0
        # 11 has no factor in common with 32: neighbours are far apart.
        self._phase = 11 * next(_BEGUN) % KEYFRAME_EVERY
        self._twin_stale = False
        self._twin_due: Action | None = None
        self._sized: tuple[World, int] | None = None
        self._rng: np.random.Generator | None = None
        self._agents: dict[str, Policy] = {}
        self.opened: World | None = None

    # What it is.

    @property
    def now(self) -> Present:
        """The present. Raises SessionError before the first reset."""
        if self.present is None:
            raise SessionError(Code.NOT_RESET, "this session has not been reset: send reset first")
        return self.present

    @property
    def world(self) -> World:
        """The world that steps it at present."""
        return self.now.world

    @property
    def state(self) -> WorldState:
        """The present state, a batch of one; do not write into its tensors."""
        return self.now.state

    @property
    def memory(self) -> MemoryHandle:
        """The scene memory. Raises MissingGeometryError if there is none."""
        return MemoryHandle.of(self.world.memory, self.state)

    @property
    def trajectory(self) -> Trajectory:
        """The frames of the walk to the present, the newest of them if it is long.

        Raises MissingGeometryError for a world without geometry.
        """
        return Trajectory.of(self.walked(), self.state.intrinsics[0])

    @property
    def total_bytes(self) -> int:
        """Bytes of its state, keyframes, frames and marks."""
        marks = sum(key.bytes for _, key in self.marks.values())
        return self.state_bytes + self.history.bytes + marks

    @property
    def state_bytes(self) -> int:
        """Bytes of its state; 0 before the first reset."""
        now = self.present
        if now is None:
            return 0
        # All states of a world are equally large, and this is asked for often.
        if self._sized is None or self._sized[0] is not now.world:
            self._sized = now.world, bytes_of(now.held.batch) // len(now.held.batch)
        return self._sized[1]

    @property
    def rest(self) -> ActionValue:
        """The action while no key is pressed."""
        space = self.now.world.action_space
        if isinstance(space, gym.spaces.Box):
            rest: list[float] = np.clip(np.zeros(space.shape), space.low, space.high).tolist()
            return rest
        return 0

    def thumbnail(self, branch: int, step: int) -> tuple[int, bytes]:
        """Return a picture of a moment, or of the last one before it that is kept, and its step.

        Raises InvalidInputError or NotFoundError.
        """
        return self.album.thumbnail(self.history.moment_of(branch, step))

    def walked(self, moment: Moment | None = None) -> list[Frame]:
        """Return the frames from the reset to a moment, the newest of them if they are many."""
        if not self.now.world.has_geometry:
            raise MissingGeometryError(
                "this world has no geometry: a trajectory needs frames with depth and pose"
            )
        return self.frames_to(moment)

    def frames_to(self, moment: Moment | None = None) -> list[Frame]:
        """Return the frames from the reset to a moment, also of worlds without geometry.

        Of a long walk, the newest are kept.
        """
        return self.album.frames_to(moment or self.history.now)

    # Beginning.

    async def open(self) -> World:
        """Load its world; needed before anything else."""
        if self.opened is None:
            self.opened = await self.variant(self.settings)
        return self.opened

    async def reset(
        self,
        start: Start,
        seed: int | None = None,
        twin: bool = False,
        parts: Mapping[str, Array | bytes] | None = None,
    ) -> Present:
        """Begin a new history.

        seed: seeds scene and dream. Without one, the generator goes on; a first one is drawn.
        twin: whether the real twin is stepped along; only with a start of kind ``twin``.
        parts: arrays of a start of kind ``frames``.
        """
        world = await self.open()
        drawn = int(np.random.default_rng().integers(2**53)) if self._rng is None else None
        seed = drawn if seed is None else seed
        rng = self._rng if seed is None else seeding.np_random(seed)[0]
        assert rng is not None
        # A copy, so that a failed reset has no effect.
        rng = _copy_generator(rng)
        twin_walk: Twin | None = None
        try:
            if isinstance(start, TwinStartAt):
                twin_walk = Twin(world, start, _twin_seed(start, seed or 0), self.spare)
                scene = await _wait(twin_walk.begin())
                frames: JsonObject = {"frames": scene}
                scene, dream_seed = await asyncio.to_thread(self._starts().choose, rng, frames)
            else:
                scene, dream_seed = await asyncio.to_thread(self._choose, start, rng, parts)
            present = await self._call(lambda: self._begin(world, scene, dream_seed))
        except BaseException:
            if twin_walk is not None:
                twin_walk.close()
            raise
        if twin_walk is not None and not twin:
            twin_walk.close()
            twin_walk = None
        first = tuple(Frame(scene.rgb[t, None]) for t in range(len(scene.rgb)))
        if scene.inverse_depth is not None and scene.pose is not None:
            first = Trajectory.start_frames(scene.rgb, scene.inverse_depth, scene.pose)
        self.start, self.seed, self._rng = start, seed, rng
        self._take_twin(twin_walk)
        packed = await self._call(present.held.pack)
        self._begin_history(present, packed, StoredFrame.each_of(first), 0)
        return self.now

    def _starts(self) -> Starts:
        return self.catalogue.starts(self.world_name)

    def _choose(
        self, start: Start, rng: np.random.Generator, parts: Mapping[str, Array | bytes] | None
    ) -> tuple[SceneStart, int]:
        if isinstance(start, SceneStartAt):
            options = None if start.name is None else {"scene": start.name}
            return self._starts().choose(rng, options)
        if isinstance(start, FolderStartAt):
            return self.catalogue.place(self.world_name, start.name).choose(rng, None)
        if isinstance(start, FramesStartAt):
            given = {k: v for k, v in (parts or {}).items() if not isinstance(v, bytes)}
            return self._starts().choose(rng, {"frames": as_scene(given)})
        raise InvalidInputError("a session that starts from a snapshot is begun by restore")

    def _begin(self, world: World, scene: SceneStart, seed: int) -> Present:
        with enough_memory(1, world):
            state = world.initial([scene], [seed])
        return present_at(world, self.settings, Held(state))

    def _begin_history(
        self, present: Present, packed: Held, frames: Sequence[StoredFrame], elapsed: int
    ) -> None:
        """Take over a present without a past."""
        self.history = History(self.history_bytes)
        self.history.keep(Moment(0, 0), packed, present.settings)
        first = picture_bytes(present.rgb, PictureFormat.WEBP)
        self.album = Album(self.history, frames, first)
        self.root_settings, self.elapsed = present.settings, elapsed
        self.marks.clear()
        self._agents.clear()
        self.settings = present.settings
        self.present = dataclasses.replace(
            present, twin=None if self.twin is None else self.twin.frame
        )

    def _take_twin(self, twin: Twin | None) -> None:
        if self.twin is not None:
            self.twin.close()
        self.twin, self.twin_message, self._twin_stale = twin, "", False
        self._twin_due = None

    # Stepping.

    async def step(
        self, action: ActionValue, agent: str | None = None, twin_later: bool = False
    ) -> Present:
        """Take one step; the twin takes it, too.

        twin_later: let the twin take it in :meth:`settle_twin`, so that it does not delay the
            dream on a computer with few cores.

        Raises InvalidInputError for an action outside the world's space.
        """
        await self.settle_twin()
        now = self.now
        taken, tensor = self.check_action(action)
        self.history.require_room()
        if self._twin_stale:
            await self._rewind_twin(self.history.now)
        future = self.batcher.step(now.world, self.bucket, now.held, tensor, self.id)
        begun = time.perf_counter()
        beside = self.twin is not None and not twin_later
        twin_future = self.twin.step(taken) if self.twin is not None and beside else None
        try:
            outcome = await future
        except BaseException:
            # The twin may have moved without the dream.
            self._twin_stale = self.twin is not None
            raise
        twin_frame, twin_ms = None, 0.0
        if twin_future is not None:
            twin_frame = await self._twin_frame(twin_future)
            twin_ms = 1e3 * (time.perf_counter() - begun)
        elif self.twin is not None:
            self._twin_due = taken
        self.history.add(ActionEntry(a=action))
        present = present_after(now.world, now.settings, outcome, action, agent)
        self.present = dataclasses.replace(present, twin=twin_frame, twin_ms=twin_ms)
        self.album.store(self.history.now, outcome.frame)
        if (self.history.step + self._phase) % KEYFRAME_EVERY == 0:
            self._keep_later(self.history.now, outcome.held, now.settings)
        return self.present

    async def settle_twin(self) -> bool:
        """Let the twin take the step that it still owes; returns whether there was one."""
        taken, self._twin_due = self._twin_due, None
        if taken is None or self.twin is None:
            return False
        begun = time.perf_counter()
        frame = await self._twin_frame(self.twin.step(taken))
        twin_ms = 1e3 * (time.perf_counter() - begun)
        self.present = dataclasses.replace(self.now, twin=frame, twin_ms=twin_ms)
        return True

    async def step_by(self, agent: str, twin_later: bool = False) -> Present:
        """Take the step that an installed agent chooses."""
        now = self.now
        policy = self._agents.get(agent)
        if policy is None:
            seed = int(np.random.default_rng(self.seed).integers(2**31))
            policy = await self._call(lambda: make_agent(agent, self, seed))
            self._agents[agent] = policy
        chosen = await self._call(lambda: policy.act(now.rgb.copy()))
        action: ActionValue = np.asarray(chosen).tolist()
        return await self.step(action, agent, twin_later)

    async def edit(self, edit: Edit) -> Present:
        """Change the memory; the dream goes on from the changed one."""
        now = self.now
        self.history.require_room()
        held = await self._call(lambda: Held(edit_state(now.world, now.state, edit)))
        present = await self._call(lambda: present_at(now.world, now.settings, held))
        self.history.add(EditEntry(edit=edit))
        self.present = dataclasses.replace(present, twin=now.twin)
        self.album.store(self.history.now, present.frame)
        return self.present

    async def change_settings(self, settings: Settings) -> None:
        """Go on with other settings of the world."""
        world = await self.variant(settings)
        if self.present is None:
            self.settings, self.opened = settings, world
            return
        if settings == self.present.settings:
            return
        self.history.require_room()
        now = self.present
        held = await self._call(lambda: fit_state(now, world))
        self.history.add(SettingsEntry(settings=settings))
        self.present = dataclasses.replace(now, world=world, settings=settings, held=held)
        self.settings, self.opened = settings, world

    # Going back.

    async def rewind(
        self, branch: int | None, step: int, progress: Progress | None = None
    ) -> Present:
        """Return to a moment: restore the keyframe before it and replay the rest.

        Raises InvalidInputError if there is no such moment.
        """
        self.now  # noqa: B018  Raises before the first reset.
        return await self._return_to(self.history.moment_of(branch, step), progress)

    async def _return_to(self, moment: Moment, progress: Progress | None = None) -> Present:
        _, keyframe, rest = self.history.nearest(moment)
        present = await self._replay(keyframe, rest, progress)
        self.history.now = moment
        self.settings, self.opened = present.settings, present.world
        self._agents.clear()
        self.present = present
        if self.twin is not None:
            twin_frame = await self._rewind_twin(moment)
            self.present = dataclasses.replace(present, twin=twin_frame)
        return self.present

    async def _replay(
        self,
        keyframe: Keyframe,
        rest: Sequence[tuple[Moment, Entry]],
        progress: Progress | None = None,
    ) -> Present:
        world = await self.variant(keyframe.settings)
        settings, held = keyframe.settings, keyframe.held
        present = await self._call(lambda: present_at(world, settings, held))
        total = sum(isinstance(entry, ActionEntry) for _, entry in rest)
        done = 0
        for moment, entry in rest:
            now = present
            if isinstance(entry, ActionEntry):
                _, tensor = self.check_action(entry.a)
                outcome = await self.batcher.step(now.world, self.bucket, now.held, tensor)
                present = present_after(now.world, now.settings, outcome, entry.a, None)
                self.album.store(moment, outcome.frame)
                done += 1
                step = self.history.branches[moment.branch].step_at(moment.entries)
                if (step + self._phase) % KEYFRAME_EVERY == 0:
                    self._keep_later(moment, outcome.held, now.settings)
                if progress is not None:
                    await progress(done, total)
            elif isinstance(entry, EditEntry):
                held = Held(await self._call(partial(edit_state, now.world, now.state, entry.edit)))
                present = await self._call(partial(present_at, now.world, now.settings, held))
                self.album.store(moment, present.frame)
            else:
                other = await self.variant(entry.settings)
                fitted = await self._call(partial(fit_state, now, other))
                present = dataclasses.replace(
                    now, world=other, settings=entry.settings, held=fitted
                )
        return present

    async def mark(self) -> tuple[int, int]:
        """Keep the present moment; returns its number and the bytes that it takes."""
        now = self.now
        if len(self.marks) >= MOST_MARKS:
            raise InvalidInputError(f"this session has {MOST_MARKS} marks: drop one first")
        packed = await self._call(now.held.pack)
        size = bytes_of(packed.batch)
        number, self._next_mark = self._next_mark, self._next_mark + 1
        self.marks[number] = self.history.now, Keyframe(packed, now.settings, size)
        return number, size

    async def restore_mark(self, mark: int) -> Present:
        """Return to a mark. Raises InvalidInputError if there is none."""
        if mark not in self.marks:
            raise InvalidInputError(f"there is no mark {mark}: there are {sorted(self.marks)}")
        moment, keyframe = self.marks[mark]
        self.history.keep(moment, keyframe.held, keyframe.settings)
        return await self._return_to(moment)

    def drop_mark(self, mark: int) -> None:
        """Forget a mark."""
        self.marks.pop(mark, None)

    async def snapshot(self, moment: Moment | None = None, frames: bool = True) -> Snapshot:
        """Return the session as an environment's snapshot.

        moment: of which a keyframe is kept; by default the present.
        frames: whether the snapshot holds the trajectory.
        """
        now = self.now
        if moment is None:
            held, moment = now.held, self.history.now
        else:
            held = self.history.keyframes[moment].held
        rng = self._rng or seeding.np_random(None)[0]
        state = await self._call(lambda: map_tensors(torch.clone, held.get(now.world)))
        step = self.history.branches[moment.branch].step_at(moment.entries)
        return Snapshot(
            state=state,
            elapsed=np.array([self.elapsed + step]),
            resetting=np.zeros(1, bool),
            generators=(rng.bit_generator.state,),
            frames=tuple(self.frames_to(moment)) if frames and now.world.has_geometry else (),
            weights=now.world.weights_id,
            adapters=now.world.adapters,
        )

    async def restore(self, snapshot: Snapshot, settings: Settings | None = None) -> Present:
        """Begin a new history at a snapshot of this world.

        settings: of the world that the snapshot was loaded for; by default the session's.
        """
        settings = settings or self.settings
        world = await self.variant(settings)
        state = map_tensors(torch.clone, snapshot.state).to(world.device)
        present = await self._call(lambda: present_at(world, settings, Held(state)))
        packed = await self._call(present.held.pack)
        rng = np.random.Generator(np.random.PCG64())
        rng.bit_generator.state = snapshot.generators[0]
        self._rng = rng
        self.start, self.seed = SnapshotStartAt(), None
        self._take_twin(None)
        self.opened = world
        frames = StoredFrame.each_of(snapshot.frames) or [present.frame]
        self._begin_history(present, packed, frames, int(snapshot.elapsed[0]))
        return self.now

    async def load(self, walk: Walk, latest: tuple[Moment, Snapshot] | None = None) -> Present:
        """Take over the branches of a walk that begins at the present, and go to its position.

        latest: a later moment of it, so that not all of it is replayed.
        """
        root = self.history.keyframes[Moment(0, 0)]
        for branch in walk.branches:
            for entry in branch.entries:
                if isinstance(entry, ActionEntry):
                    self.check_action(entry.a)
        self.history.load(walk)
        if latest is not None:
            moment, snapshot = latest
            entries = self.history.entries_to(moment)
            changed = [e.settings for e in entries if isinstance(e, SettingsEntry)]
            settings = changed[-1] if changed else root.settings
            world = await self.variant(settings)
            state = map_tensors(torch.clone, snapshot.state).to(world.device)
            packed = await self._call(Held(state).pack)
            self.history.keep(moment, packed, settings)
            self.album.store_path(moment, snapshot.frames)
        position = walk.position
        return await self._return_to(self.history.moment_of(position.branch, position.step))

    async def regain_twin(self, start: TwinStartAt, seed: int) -> None:
        """Make the twin of a session that was resumed, and bring it to the present."""
        twin = Twin(await self.open(), start, _twin_seed(start, seed), self.spare)
        try:
            await _wait(twin.begin())
        except WorldsimError as error:
            twin.close()
            self.twin_message = str(error)
            return
        self._take_twin(twin)
        frame = await self._rewind_twin(self.history.now)
        self.present = dataclasses.replace(self.now, twin=frame)

    def as_walk(self) -> Walk:
        """Return all that is needed to replay the session.

        Raises InvalidInputError if it began without a seed of its own.
        """
        begun = self.start
        if begun is None or (self.seed is None and not isinstance(begun, SnapshotStartAt)):
            raise InvalidInputError(
                "this walk cannot be told by its seed, since the generator went on from an earlier "
                "reset: reset with a seed, or take a snapshot"
            )
        return self._walk(begun)

    def as_walk_from_snapshot(self) -> Walk:
        """Return the walk of a session whose first snapshot is kept beside it."""
        return self._walk(SnapshotStartAt())

    def _walk(self, start: Start) -> Walk:
        now = self.now
        return Walk(
            world=self.world_name,
            weights_id=now.world.weights_id,
            engine=self.engine,
            bucket=self.bucket,
            device=now.world.device.type,
            arithmetic=arithmetic_of(now.world),
            start=start,
            seed=self.seed or 0,
            settings=self.root_settings,
            branches=self.history.as_walk(),
            position=self.history.position,
            title=self.title,
        )

    def fork_into(self, other: Session, seed: int | None) -> None:
        """Let another session of the same world go on from here.

        The state is shared: no tensors are copied, but the seed if it differs.
        """
        now = self.now
        held = now.held
        if seed is not None:
            state = now.state
            fresh = torch.tensor([seed], dtype=torch.int64, device=state.seed.device)
            held = Held(dataclasses.replace(state, seed=fresh))
        other.start, other.seed, other.opened = SnapshotStartAt(), None, now.world
        other._begin_history(
            dataclasses.replace(now, held=held, twin=None),
            held,
            self.album.stored_to(self.history.now),
            self.elapsed + self.history.step,
        )

    async def fork_twin_into(self, other: Session) -> None:
        """Give a fork a twin of its own, where this session has one, by replay of the walk."""
        if self.twin is None:
            return
        twin = self.twin.fork(self._actions_to(self.history.now))
        other._take_twin(twin)
        frame = await other._twin_frame(twin.replay([]))
        other.present = dataclasses.replace(other.now, twin=frame)

    def fork_seeds(self, n: int, randomness: str) -> list[int | None]:
        """Return the seeds of ``n`` forks, None for the session's own."""
        if randomness == "common":
            return [None] * n
        if self._rng is None:
            self._rng = seeding.np_random(None)[0]
        return [int(seed) for seed in self._rng.integers(SEED_LIMIT, size=n)]

    def close(self) -> None:
        """End the twin and forget the states."""
        self.closed = True
        self._take_twin(None)
        self.present = self._sized = None
        self.history = History(self.history_bytes)
        self.album = Album(self.history)
        self.marks.clear()

    # Helpers.

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run ``function`` between two forwards, in the thread of all steps."""
        return await self._call(function)

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await _wait(self.batcher.call(function))

    async def variant(self, settings: Settings) -> World:
        """Return its world with other settings."""
        key = VariantKey(self.world_name, self.engine, settings)
        return await asyncio.to_thread(self.catalogue.variant, key)

    def check_action(self, action: ActionValue) -> tuple[Action, Array]:
        """Return an action as the twin and as the world take it. Raises InvalidInputError."""
        space = self.now.world.action_space
        if isinstance(space, gym.spaces.Box):
            array = cast_box_action(action, space)
            return array, array[None]
        if isinstance(action, list) or not space.contains(np.int64(action)):
            raise InvalidInputError(f"action {str(action)[:80]} is outside {space}")
        return int(action), np.array([action], np.int64)

    def _keep_later(self, moment: Moment, held: Held, settings: Settings) -> None:
        """Store a keyframe without waiting for its copy."""
        history, loop = self.history, asyncio.get_running_loop()
        if moment in history.keyframes:
            return

        def keep(future: Future[Held]) -> None:
            if not future.cancelled() and future.exception() is None:
                loop.call_soon_threadsafe(history.keep, moment, future.result(), settings)

        self.batcher.call(held.pack).add_done_callback(keep)

    async def _rewind_twin(self, moment: Moment) -> TwinFrame | None:
        assert self.twin is not None
        actions = self._actions_to(moment)
        self._twin_stale, self._twin_due = False, None
        return await self._twin_frame(self.twin.replay(actions))

    def _actions_to(self, moment: Moment) -> list[Action]:
        entries = self.history.entries_to(moment)
        return [
            self.check_action(entry.a)[0] for entry in entries if isinstance(entry, ActionEntry)
        ]

    async def _twin_frame(self, future: Future[TwinFrame]) -> TwinFrame | None:
        """Wait for the twin; one that has failed is given up, and the dream goes on."""
        try:
            return await _wait(future)
        except WorldsimError as error:
            self._take_twin(None)
            self.twin_message = str(error)
            return None


async def _wait(future: Future[Result]) -> Result:
    return await asyncio.wrap_future(future)


def _twin_seed(start: TwinStartAt, seed: int) -> int:
    # ViZDoom's seeds have 32 bits.
    return (seed if start.seed is None else start.seed) % 2**31


def _copy_generator(rng: np.random.Generator) -> np.random.Generator:
    copy = np.random.Generator(np.random.PCG64())
    copy.bit_generator.state = rng.bit_generator.state
    return copy
