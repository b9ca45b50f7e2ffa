"""A discrete-event model of session servers (simpy), for :mod:`experiments.cluster_sessions`.

Of ``worldsim serve`` it has the two threads that take time: the event loop, which reads requests
and sends frames one after another, and the thread that steps, which waits for the sessions of its
last forward as :mod:`worldsim.sessions.batcher` does.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from worldsim.sessions.batcher import LONGEST_WAIT, MOST_PATIENCE, PATIENCE, WINDOW

RECEIVE_SHARE = 0.2
"""Of the event loop's time for a step; sending takes the rest (docs/experiments/sessions.md)."""
SEND_TURNS = 4
"""Turns of the event loop in which an answer is sent; requests are read between them. Fitted."""
WARM_S = 3.0
"""Simulated seconds that do not count."""
Events = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Load:
    """What sessions do, and what goes wrong. All of it is assumed; the world's rate is its card's.

    fps: steps per second while a session walks; None steps as soon as the frame is there.
    walks_s, rests_s: means of how long a session walks and rests, exponential; None always walks.
    stays_s: mean length of a session, exponential; new ones arrive as others leave, Poisson.
    starts_s: time of the thread that steps for a new or resumed session.
    notices_s: from the loss of a server to the request by which a client resumes its session,
        uniform between 0 and this.
    """

    fps: float | None = 8.75
    walks_s: float | None = None
    rests_s: float = 0.0
    stays_s: float = 600.0
    starts_s: float = 0.02
    notices_s: float = 6.0


@dataclass(frozen=True)
class Costs:
    """Times of one server, seconds.

    forward, loop: (rows, seconds) of a forward with so many rows, and of the event loop for its
        steps; linear between, and beyond as between the last two.
    waits: what a step takes in the event loop beyond its CPU time. Fitted.
    spread: sigma of the lognormal factor by which everything around one forward is slower or
        faster. Fitted.
    bucket: most rows of a forward.
    shares: what event loop and forward cost each other while both run: seconds of delay for each
        second of the event loop. Python's threads share one interpreter. Fitted.
    """

    forward: tuple[tuple[float, float], ...]
    loop: tuple[tuple[float, float], ...]
    bucket: int
    waits: float = 0.0
    spread: float = 0.0
    shares: float = 0.0

    def forward_s(self, rows: int) -> float:
        return line(self.forward, rows)

    def step_s(self, rows: int) -> float:
        """Return the event loop's time for one of ``rows`` steps."""
        return line(self.loop, rows) / rows + self.waits


def line(points: tuple[tuple[float, float], ...], x: float) -> float:
    """Return the value at x of straight lines through points; constant with a single one."""
    if len(points) == 1:
        return points[0][1]
    i = next((i for i in range(1, len(points) - 1) if x <= points[i][0]), len(points) - 1)
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True)
class Rule:
    """How a forward waits for the sessions of the newest two; those of ``Batcher._take``.

    window, longest: seconds; patience, most_patience: shares of the last forward's time. The larger
        of both counts.
    """

    window: float = WINDOW
    longest: float = LONGEST_WAIT * WINDOW
    patience: float = PATIENCE
    most_patience: float = MOST_PATIENCE


AS_IT_IS = Rule()


class Server:
    """One GPU with its process."""

    def __init__(
        self, env: simpy.Environment, costs: Costs, rng: np.random.Generator, rule: Rule
    ) -> None:
        self.env, self.costs, self.rng, self.rule = env, costs, rng, rule
        self.alive, self.sessions = True, 0
        self._jobs: deque[tuple[bool, simpy.Event, int, int]] = deque()
        self._waiting: deque[tuple[simpy.Event, int]] = deque()
        self._taken: list[tuple[simpy.Event, int]] = []
        self._calls: deque[tuple[float, simpy.Event]] = deque()
        self._seen: dict[int, int] = {}
        self._forwards, self._rows, self._took, self._factor = 0, 1, 0.0, 1.0
        self._loop_wakes, self._steps_wake = env.event(), env.event()
        self._idle, self._arrived, self._expected = False, 0.0, math.inf
        self._running, self._delayed = False, 0.0
        env.process(self._run_loop())
        env.process(self._run_forwards())

    def step(self, session: int) -> simpy.Event:
        """Send a request; the event is the frame's arrival, with the value False if it is lost."""
        done = self.env.event()
        self._add_job(True, done, session)
        return done

    def expect(self, sessions: range) -> None:
        """Make these the sessions of the last forward, as after some steps together."""
        self._seen = dict.fromkeys(sessions, 0)
        self._rows = len(sessions)

    def start(self, seconds: float) -> simpy.Event:
        """Let the thread that steps do other work."""
        done = self.env.event()
        self._calls.append((seconds, done))
        self._wake()
        return done

    def die(self) -> None:
        """Lose everything; all who wait receive False."""
        self.alive = False
        lost = [done for _, done, *_ in self._jobs]
        lost += [done for done, _ in (*self._waiting, *self._taken)]
        lost += [done for _, done in self._calls]
        for done in lost:
            if not done.triggered:
                done.succeed(False)

    def _add_job(self, receives: bool, done: simpy.Event, session: int) -> None:
        self._jobs.append((receives, done, session, 1 if receives else SEND_TURNS))
        if not self._loop_wakes.triggered:
            self._loop_wakes.succeed()

    def _wake(self) -> None:
        if not self._steps_wake.triggered:
            self._steps_wake.succeed()

    def _compute(self, seconds: float) -> Events:
        """Run in the thread that steps; what the event loop does meanwhile makes it longer."""
        self._running, self._delayed = True, seconds
        while self._delayed > 0.0:
            left, self._delayed = self._delayed, 0.0
            yield self.env.timeout(left)
        self._running = False

    def _run_loop(self) -> Events:
        while self.alive:
            while self._jobs and self.alive:
                receives, done, session, left = self._jobs[0]
                share = RECEIVE_SHARE if receives else (1.0 - RECEIVE_SHARE) / SEND_TURNS
                seconds = share * self._factor * self.costs.step_s(self._rows)
                if self._running:
                    self._delayed += self.costs.shares * seconds
                    seconds *= 1.0 + self.costs.shares
                yield self.env.timeout(seconds)
                self._jobs.popleft()
                if done.triggered:
                    continue
                if left > 1:
                    self._jobs.append((receives, done, session, left - 1))
                elif receives:
                    self._waiting.append((done, session))
                    self._arrived = self.env.now
                    if self._idle or len(self._waiting) >= self._expected:
                        self._wake()
                else:
                    done.succeed(True)
            self._loop_wakes = self.env.event()
            if not self._jobs:
                yield self._loop_wakes

    def _run_forwards(self) -> Events:
        while self.alive:
            while self._calls:
                seconds, done = self._calls[0]
                yield from self._compute(seconds)
                self._calls.popleft()
                if not done.triggered:
                    done.succeed()
            if not self._waiting:
                self._steps_wake, self._idle = self.env.event(), True
                yield self._steps_wake
                self._idle = False
                continue
            yield from self._gather()
            rows = min(self.costs.bucket, len(self._waiting))
            self._taken = taken = [self._waiting.popleft() for _ in range(rows)]
            self._forwards += 1
            self._seen |= {session: self._forwards for _, session in taken}
            newest = self._forwards - 2
            self._seen = {who: at for who, at in self._seen.items() if at > newest}
            self._factor = float(np.exp(self.costs.spread * self.rng.standard_normal()))
            self._rows, self._took = rows, self._factor * self.costs.forward_s(rows)
            yield from self._compute(self._took)
            self._taken = []
            for done, session in taken if self.alive else ():
                self._add_job(False, done, session)

    def _gather(self) -> Events:
        """Wait for the sessions of the newest two forwards, as ``Batcher._take`` does."""
        rule, took = self.rule, self._took
        window = max(rule.window, rule.patience * took)
        last = self.env.now + max(rule.longest, rule.most_patience * took)
        self._arrived = self.env.now
        self._expected = min(self.costs.bucket, max(1, len(self._seen)))
        while self.alive and len(self._waiting) < self._expected:
            left = min(self._arrived + window, last) - self.env.now
            if left <= 1e-9:
                break
            self._steps_wake = self.env.event()
            yield self._steps_wake | self.env.timeout(left)
        self._expected = math.inf


@dataclass
class Fleet:
    """Servers, sessions, and what was measured of them."""

    env: simpy.Environment
    servers: list[Server]
    load: Load
    rng: np.random.Generator
    latency: array[float] = field(default_factory=lambda: array("d"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    outages: list[float] = field(default_factory=list)
    started: int = 0

    def place(self) -> Server:
        """Return the living server with the fewest sessions, and count one more there."""
        server = min((one for one in self.servers if one.alive), key=lambda one: one.sessions)
        server.sessions += 1
        return server

    def session(self, leaves: float) -> Events:
        """Walk and rest until ``leaves``; after a loss, go on elsewhere."""
        env, load, rng = self.env, self.load, self.rng
        number = self.started = self.started + 1
        server = self.place()
        if env.now > 0:
            yield server.start(load.starts_s)
        period = 1.0 / load.fps if load.fps else 0.0
        walks = math.inf if load.walks_s is None else load.walks_s
        rests = env.now + (rng.exponential(walks) if walks < math.inf else math.inf)
        due = env.now + rng.uniform(0.0, period)
        while env.now < leaves:
            if env.now >= rests:
                due = env.now + rng.exponential(load.rests_s)
                rests = due + rng.exponential(walks)
            if due > env.now:
                yield env.timeout(due - env.now)
            sent = env.now
            if not server.alive or not (yield server.step(number)):
                yield env.timeout(rng.uniform(0.0, load.notices_s))
                server = self.place()
                yield server.start(load.starts_s)
                self.outages.append(env.now - sent)
            else:
                self.latency.append(env.now - sent)
                self.sent.append(sent)
            # A late frame does not bring the next one forward.
            due = max(due + period, env.now) if period else env.now
        server.sessions -= 1

    def arrivals(self, per_s: float) -> Events:
        while True:
            yield self.env.timeout(self.rng.exponential(1.0 / per_s))
            self.env.process(self.session(self.env.now + self.rng.exponential(self.load.stays_s)))


def simulate(
    costs: Costs,
    load: Load,
    sessions: int,
    servers: int,
    seconds: float,
    rule: Rule = AS_IT_IS,
    losses: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Simulate a fleet; returns rates, latencies and what a loss of servers meant.

    losses: servers that are lost at once, after half of the time.
    """
    env, rng = simpy.Environment(), np.random.default_rng([seed, sessions, servers])
    fleet = Fleet(env, [Server(env, costs, rng, rule) for _ in range(servers)], load, rng)
    stays = load.stays_s if servers > 1 else math.inf
    if load.fps is None and servers == 1:
        # The measured clients step in time with one another from the start.
        fleet.servers[0].expect(range(1, sessions + 1))
    for _ in range(sessions):
        env.process(fleet.session(rng.exponential(stays) if stays < math.inf else math.inf))
    if servers > 1:
        env.process(fleet.arrivals(sessions / stays))
    lost_at = seconds / 2.0 if losses else math.inf
    if losses:
        env.run(lost_at)
        for server in fleet.servers[:losses]:
            server.die()
    env.run(seconds)
    latency, sent = np.array(fleet.latency), np.array(fleet.sent)
    resumed_at = lost_at + load.notices_s + 1.0
    before, resumed = (sent >= WARM_S) & (sent < lost_at), sent >= resumed_at
    found: dict[str, Any] = {
        "sessions": sessions,
        "servers": servers,
        "steps_per_s": round(int(before.sum()) / (min(seconds, lost_at) - WARM_S), 1),
        "latency_ms": percentiles(latency[before]),
    }
    if losses:
        found |= {
            "lost": losses,
            "meanwhile_ms": percentiles(latency[(sent >= lost_at) & (sent < resumed_at)]),
            "once_resumed_ms": percentiles(latency[resumed]),
            "displaced": len(fleet.outages),
            "outage_s": {
                "p50": round(float(np.median(fleet.outages)), 2),
                "longest": round(max(fleet.outages), 2),
            },
        }
    return found


def percentiles(latency: np.ndarray) -> dict[str, float]:
    names = (("p50", 50), ("p95", 95), ("p99", 99))
    return {name: round(1e3 * float(np.percentile(latency, q)), 1) for name, q in names}
