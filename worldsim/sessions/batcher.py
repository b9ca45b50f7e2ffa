"""Steps many sessions in one forward.

All work with a world's networks runs in one thread per server. It takes the steps that wait and
computes those of one world and batch bucket together, padded to the bucket. Within a bucket a row's
results do not depend on the other rows (:data:`worldsim.world.world.BUCKETS`), so a session gets
the frames that it would get alone.

A session's state is a :class:`Held`: a row of the batch that computed it. When the batch has moved
on, the rows that are still needed are copied together into a batch of their own, so that no row
keeps a larger batch alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import WorldsimError
from worldsim.runtime.types import Array
from worldsim.sessions.stored_frames import StoredFrame
from worldsim.state import MemoryView, WorldState, concatenate, map_tensors
from worldsim.world.rows import enough_memory, report
from worldsim.world.start_states import compact, expand
from worldsim.world.world import World

Result = TypeVar("Result")
WINDOW = 0.004
"""Seconds without a new step after which a bucket of several rows stops waiting for the sessions of
its last forward."""
LONGEST_WAIT = 8
"""It waits for at most so many windows."""
PATIENCE = 0.15
"""Share of the last forward's time for which it waits where that is longer than the window."""
MOST_PATIENCE = 0.5
"""It waits for at most this share. On a CPU a forward takes long, and two half-full ones twice."""
LONG_FORWARD = 0.5
"""Seconds of a forward of which these are shares, at most."""


class Held:
    """A state of one session: a batch of one, or a row of a batch.

    state: a batch.
    row: the session's row in it.
    """

    def __init__(self, state: WorldState, row: int = 0, packed: bool = False) -> None:
        # One attribute: the thread that steps may replace it while another one reads.
        self._place = state, row
        self._packed = packed

    @property
    def batch(self) -> WorldState:
        """The batch that it is a row of."""
        return self._place[0]

    @property
    def shared(self) -> bool:
        """Whether it is a row of a larger batch, which it keeps alive."""
        return len(self.batch) > 1

    def get(self, world: World) -> WorldState:
        """Return the state, a batch of one; do not write into its tensors."""
        return expand(self._one(), world.memory) if self._packed else self._one()

    @staticmethod
    def separate(helds: Sequence[Held]) -> None:
        """Copy rows of one batch into a batch of their own, unless they are all that it has."""
        batch = helds[0].batch
        rows = sorted({held._place[1] for held in helds})
        if len(rows) == len(batch):
            return
        own = batch.select(torch.tensor(rows))
        for held in helds:
            held._place = own, rows.index(held._place[1])

    def pack(self) -> Held:
        """Return a copy that takes as little memory as possible, for storing."""
        if self._packed:
            return self
        one = self._one()
        small = compact(one)
        # Rows of a batch are copied, so that they do not keep it.
        own = map_tensors(torch.clone, small) if small is one or self.shared else small
        return Held(own, packed=True)

    @property
    def place(self) -> tuple[int, int]:
        """Identity of its batch and the row in it. States in this order are gathered fastest."""
        return id(self._place[0]), self._place[1]

    def row_of(self, state: WorldState) -> int | None:
        """Return the row of this state in the batch ``state``, None if it lies elsewhere."""
        batch, row = self._place
        return row if batch is state and not self._packed else None

    def _one(self) -> WorldState:
        batch, row = self._place
        return batch if len(batch) == 1 else map_tensors(lambda x: x[row : row + 1], batch)


@dataclass(frozen=True)
class Outcome:
    """What one step gave one session; arrays are on the CPU.

    held: the new state.
    frame: the new frame.
    info: as an environment's ``info``.
    view: what the memory showed before the step, a batch, and the row in it; None without memory.
    """

    held: Held
    frame: StoredFrame
    info: dict[str, Array]
    reward: float
    terminated: bool
    termination_prob: float | None
    uncertainty: float | None
    view: tuple[MemoryView, int] | None
    queued_ms: float
    step_ms: float
    batch: int


@dataclass(eq=False)
class Lane:
    """The steps of one world in one bucket. It does not keep the world alive.

    waiting: steps that have not begun.
    attached: states that are rows of batches.
    seconds: that the newest forward took.
    seen: number of the last forward of each session that was in one of the two newest.
    forwards: so far.
    anonymous: steps of the newest forward that do not say which session they are of.
    """

    bucket: int
    waiting: deque[StepRequest] = field(default_factory=deque)
    attached: weakref.WeakSet[Held] = field(default_factory=weakref.WeakSet)
    seconds: float = 0.0
    seen: dict[str, int] = field(default_factory=dict)
    forwards: int = 0
    anonymous: int = 1

    @property
    def expected(self) -> int:
        """Steps that the next forward may wait for: of sessions that step at present."""
        return min(self.bucket, max(self.anonymous, len(self.seen)))

    def count(self, requests: Sequence[StepRequest]) -> None:
        """Note who takes part in a forward that begins."""
        self.forwards += 1
        self.anonymous = sum(not request.who for request in requests)
        self.seen |= {request.who: self.forwards for request in requests if request.who}
        self.seen = {who: at for who, at in self.seen.items() if at > self.forwards - 2}


@dataclass(frozen=True, eq=False)
class StepRequest:
    """A step that waits.

    act: (1, ...) int64 or float32.
    future: of the event loop ``loop``.
    """

    world: World
    held: Held
    act: Array
    future: asyncio.Future[Outcome]
    loop: asyncio.AbstractEventLoop
    since: float
    who: str = ""


@dataclass(frozen=True, eq=False)
class Call(Generic[Result]):
    """Other work for the thread."""

    function: Callable[[], Result]
    future: Future[Result]

    def run(self) -> None:
        """Run it, and tell what it returned or raised."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Batcher:
    """Runs steps and other work of all sessions in one thread.

    window: seconds without a new step after which a bucket of several rows stops waiting for the
        sessions of its last forward.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self.window = window
        self._lanes: weakref.WeakKeyDictionary[World, dict[int, Lane]] = weakref.WeakKeyDictionary()
        self._turns: deque[Lane | None] = deque()
        self._calls: deque[Call[object]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self.forwards, self.steps = 0, 0
        self._thread = threading.Thread(target=self._work, name="worldsim-steps", daemon=True)
        self._thread.start()

    def step(
        self, world: World, bucket: int, held: Held, act: Array, who: str = ""
    ) -> asyncio.Future[Outcome]:
        """Step one session; the future, of the running event loop, tells the outcome.

        bucket: rows of the forward, of :data:`worldsim.world.world.BUCKETS`.
        act: (1,) int64 or (1, n) float32.
        who: name of the session. A forward waits a little for sessions that step at present.
        """
        loop = asyncio.get_running_loop()
        now = time.perf_counter()
        request = StepRequest(world, held, act, loop.create_future(), loop, now, who)
        with self._changed:
            self._require_open()
            lane = self._lanes.setdefault(world, {}).setdefault(bucket, Lane(bucket))
            lane.waiting.append(request)
            if lane not in self._turns:
                self._turns.append(lane)
            self._changed.notify()
        return request.future

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run ``function`` in the thread, between two forwards."""
        future: Future[Result] = Future()
        call: Call[object] = Call(function, future)  # type: ignore[arg-type]
        with self._changed:
            self._require_open()
            self._calls.append(call)
            if None not in self._turns:
                self._turns.append(None)
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the thread; what waits is cancelled."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _require_open(self) -> None:
        if self._ended:
            raise WorldsimError("the server is shutting down: no further steps are taken")

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._turns and not self._ended:
                    self._changed.wait()
                if self._ended:
                    break
                # In turns, so that no world and no bucket keeps the others waiting.
                turn = self._turns.popleft()
            if turn is None:
                self._run_calls()
            else:
                self._run_lane(turn)
        for lanes in list(self._lanes.values()):
            for lane in lanes.values():
                ended = WorldsimError("the server is shutting down: this step was not taken")
                _deliver([(request, ended) for request in lane.waiting])
        for call in self._calls:
            call.future.cancel()

    def _run_calls(self) -> None:
        with self._changed:
            calls = list(self._calls)
            self._calls.clear()
        for call in calls:
            call.run()

    def _run_lane(self, lane: Lane) -> None:
        requests = self._take(lane)
        if requests:
            begun = time.perf_counter()
            lane.count(requests)
            self._forward(lane, requests)
            lane.seconds = time.perf_counter() - begun
        with self._changed:
            if lane.waiting and lane not in self._turns:
                self._turns.append(lane)

    def _take(self, lane: Lane) -> list[StepRequest]:
        """Return the steps of the next forward, at most ``bucket``."""
        now = time.perf_counter()
        # The first forward may have compiled something.
        took = min(lane.seconds, LONG_FORWARD)
        window = max(self.window, PATIENCE * took)
        last = now + max(LONGEST_WAIT * self.window, MOST_PATIENCE * took)
        quiet, found = now + window, 0
        while True:
            with self._changed:
                if len(lane.waiting) > found:
                    quiet, found = time.perf_counter() + window, len(lane.waiting)
                left = min(quiet, last) - time.perf_counter()
                full = lane.bucket == 1 or found >= lane.expected
                if full or left <= 0 or self._ended:
                    return [lane.waiting.popleft() for _ in range(min(lane.bucket, found))]
                if not self._calls:
                    self._changed.wait(left)
            # Pictures of the frames before, without which their sessions do not step again.
            self._run_calls()

    def _forward(self, lane: Lane, requests: list[StepRequest]) -> None:
        begun = time.perf_counter()
        requests = sorted(requests, key=lambda request: request.held.place)
        try:
            outcomes = self._step(lane, requests, begun)
        except BaseException as error:
            if len(requests) == 1:
                _deliver([(requests[0], error)])
            else:
                # Each alone, so that the one at fault fails alone.
                for request in requests:
                    self._forward(lane, [request])
            return
        _deliver(list(zip(requests, outcomes, strict=True)))

    def _step(self, lane: Lane, requests: Sequence[StepRequest], begun: float) -> list[Outcome]:
        world, bucket = requests[0].world, lane.bucket
        helds = [request.held for request in requests]
        _leave_batches(lane, set(helds))
        given = np.concatenate([request.act for request in requests])
        padding = np.repeat(given[:1], bucket - len(given), 0)
        acts = torch.from_numpy(np.concatenate([given, padding])).to(world.device)
        with enough_memory(bucket, world):
            state = gather(world, helds, bucket)
            after, transition = world.step(state, acts)
            after = world.own(after)
        rows = len(requests)
        frames = StoredFrame.rows_of(after.frame, rows)
        info = {name: value.cpu().numpy() for name, value in report(world, after, rows).items()}
        rewards, terms = transition.rew[:rows].tolist(), transition.term[:rows].tolist()
        probs = _numbers(transition.termination_prob, rows)
        unsure = _numbers(transition.uncertainty, rows)
        done = time.perf_counter()
        self.forwards, self.steps = self.forwards + 1, self.steps + rows
        outcomes = []
        for i, request in enumerate(requests):
            held = Held(after, i)
            if held.shared:
                lane.attached.add(held)
            outcomes.append(
                Outcome(
                    held=held,
                    frame=frames[i],
                    info={name: value[i] for name, value in info.items()},
                    reward=float(rewards[i]),
                    terminated=bool(terms[i]),
                    termination_prob=None if probs is None else probs[i],
                    uncertainty=None if unsure is None else unsure[i],
                    view=None if transition.view is None else (transition.view, i),
                    queued_ms=1e3 * (begun - request.since),
                    step_ms=1e3 * (done - begun),
                    batch=rows,
                )
            )
        return outcomes


def _leave_batches(lane: Lane, taking_part: set[Held]) -> None:
    """Copy the rows that a forward leaves behind out of their batches."""
    left: dict[int, list[Held]] = {}
    for held in lane.attached:
        if held not in taking_part:
            left.setdefault(held.place[0], []).append(held)
    for helds in left.values():
        Held.separate(helds)
        lane.attached.difference_update([held for held in helds if not held.shared])


def _deliver(results: Sequence[tuple[StepRequest, Outcome | BaseException]]) -> None:
    """Set the futures of steps, with one wake-up of each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[StepRequest, Outcome | BaseException]]] = {}
    for request, result in results:
        by_loop.setdefault(request.loop, []).append((request, result))
    for loop, own in by_loop.items():
        # A loop that has ended has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_set_results, own)


def _set_results(results: Sequence[tuple[StepRequest, Outcome | BaseException]]) -> None:
    for request, result in results:
        if request.future.done():
            continue
        if isinstance(result, BaseException):
            request.future.set_exception(result)
        else:
            request.future.set_result(result)


def gather(world: World, helds: Sequence[Held], bucket: int) -> WorldState:
    """Return the states as one batch of ``bucket`` rows, in their order."""
    if bucket == 1:
        return helds[0].get(world)
    first = helds[0].batch
    rows = [held.row_of(first) for held in helds]
    if len(first) == bucket and rows == list(range(len(rows))) and first.looked is None:
        # Every row, or all but rows at the end that nobody needs.
        return first
    runs = itertools.groupby(helds, lambda held: id(held.batch))
    parts = [_copy_rows(world, list(run)) for _, run in runs]
    missing = bucket - len(helds)
    if missing and parts[0].looked is None:
        # Padding as World.pad does it, in the same copy.
        parts.append(parts[0].select(torch.zeros(missing, dtype=torch.int64)))
    whole = parts[0] if len(parts) == 1 else concatenate(parts)
    return whole if whole.looked is None else world.pad(whole, bucket)


def _copy_rows(world: World, run: Sequence[Held]) -> WorldState:
    """Return a copy of states that are rows of one batch."""
    batch = run[0].batch
    if len(batch) == 1:
        return concatenate([held.get(world) for held in run])
    return batch.select(torch.tensor([held.place[1] for held in run]))


def _numbers(values: Tensor | None, rows: int) -> list[float] | None:
    if values is None:
        return None
    found: list[float] = np.asarray(values[:rows].cpu(), np.float64).tolist()
    return found
