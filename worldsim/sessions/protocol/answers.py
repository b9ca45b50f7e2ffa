"""Messages from the server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worldsim.sessions.protocol.base import PROTOCOL, ActionValue, Message
from worldsim.sessions.protocol.codes import Code
from worldsim.sessions.protocol.walk import Position, Settings, Start, Walk


class Part(Message):
    """Where an array or picture lies among the bytes after the header."""

    name: str
    format: str
    """A picture's format, ``raw/DTYPE``, or ``safetensors``."""
    shape: list[int]
    offset: int
    length: int


class Actions(Message):
    """An action space, and what its actions mean."""

    kind: Literal["discrete", "box"]
    n: int = 0
    low: list[float] = Field(default_factory=list)
    high: list[float] = Field(default_factory=list)
    names: list[str] = Field(default_factory=list)


class KeyBinding(Message):
    """Keys that are pressed together, and the action that they stand for."""

    keys: list[str]
    action: int | list[float]


class WorldInfo(Message):
    """A world that sessions can be made of."""

    name: str
    title: str = ""
    summary: str = ""
    megabytes: float = 0.0
    trained_on: str = ""
    results: dict[str, float] = Field(default_factory=dict)
    fps: float = 0.0
    height: int = 0
    width: int = 0
    geometry: bool = False
    memory: bool = False
    rewards: bool = False
    terminations: bool = False
    twin: bool = False
    env_id: str = ""
    weights_id: str | None = None
    actions: Actions | None = None
    keys: list[KeyBinding] = Field(default_factory=list)
    rest: int | list[float] | None = None
    """The action while no key is pressed."""
    scenes: list[str] = Field(default_factory=list)
    error: str = ""
    """Why the world cannot be used; empty if it can."""


class SceneInfo(Message):
    """A start scene."""

    name: str
    title: str


class AgentInfo(Message):
    """An agent that can take the controls."""

    name: str
    summary: str = ""
    kind: Literal["policy", "planner"] = "policy"


class Limits(Message):
    """What a session may use."""

    idle_s: float
    history_bytes: int
    queue: int


class SessionInfo(Message):
    """A session."""

    id: str
    world: str
    title: str
    weights_id: str
    engine: str
    device: str
    arithmetic: str
    """Number format and threads, on which rounding depends."""
    bucket: int
    settings: Settings
    start: Start | None
    seed: int | None
    fps: float
    height: int
    width: int
    geometry: bool
    actions: Actions
    twin: bool
    reset: bool
    """Whether there is a frame to show."""
    position: Position
    state_bytes: int
    history_bytes: int
    created_at: float
    warnings: list[str] = Field(default_factory=list)
    """Why a replayed walk may show other pixels."""
    protocol: int = PROTOCOL
    limits: Limits


class SessionReply(Message):
    """A session was made or changed."""

    type: Literal["session"] = "session"
    id: int | None = None
    session: SessionInfo


class TwinReport(Message):
    """What the real twin did in the same step."""

    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    psnr: float | None = None
    """Decibels between the two frames; None if they are equal."""
    pose: list[float] | None = None
    alive: bool = True
    message: str = ""


class MapPlace(Message):
    """Where a map lies."""

    west: float
    north: float
    resolution: float


class Milliseconds(Message):
    """How long the parts of a step took."""

    queue: float = 0.0
    step: float = 0.0
    twin: float = 0.0
    encode: float = 0.0
    batch: int = 0
    """Sessions that were stepped together."""


class FrameReply(Message):
    """A frame; packed, with the requested views as parts."""

    v: Literal[1] = 1
    type: Literal["frame"] = "frame"
    id: int | None = None
    session: str
    branch: int
    step: int
    steps_taken: int = 0
    seq: int = 0
    """Number of the pushed frame, for ``ack``."""
    skipped: int = 0
    """Pushed frames that a slow reader did not get."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    termination_prob: float | None = None
    uncertainty: float | None = None
    coverage: float | None = None
    pose: list[float] | None = None
    intrinsics: list[float] | None = None
    action: ActionValue | None = None
    agent: str | None = None
    twin: TwinReport | None = None
    settings: Settings | None = None
    """Settings of the world at this moment; None in answers to ``step`` and ``play``, which do not
    change them."""
    map: MapPlace | None = None
    memory_points: int | None = None
    generated: Literal[True] = True
    ms: Milliseconds = Field(default_factory=Milliseconds)
    parts: list[Part] = Field(default_factory=list)


class TwinReply(Message):
    """The real twin's frame of a step with ``twin_later``; packed, with the requested views."""

    v: Literal[1] = 1
    type: Literal["twin"] = "twin"
    id: int | None = None
    session: str
    branch: int
    step: int
    twin: TwinReport | None = None
    ms: float = 0.0
    """Milliseconds of the twin's step."""
    parts: list[Part] = Field(default_factory=list)


class PictureReply(Message):
    """A rendered memory or map; packed."""

    v: Literal[1] = 1
    type: Literal["picture"] = "picture"
    id: int | None = None
    pose: list[float] | None = None
    intrinsics: list[float] | None = None
    map: MapPlace | None = None
    parts: list[Part] = Field(default_factory=list)


class PointsReply(Message):
    """Points of the memory; packed, with parts position, colour, size, painted, slot, dropped."""

    v: Literal[1] = 1
    type: Literal["points"] = "points"
    id: int | None = None
    count: int
    total: int
    step: int
    parts: list[Part] = Field(default_factory=list)


class SnapshotReply(Message):
    """A snapshot file; packed, with the part ``snapshot``."""

    v: Literal[1] = 1
    type: Literal["snapshot"] = "snapshot"
    id: int | None = None
    parts: list[Part] = Field(default_factory=list)


class MarkReply(Message):
    """A moment is kept."""

    type: Literal["mark"] = "mark"
    id: int | None = None
    mark: int
    bytes: int


class BranchInfo(Message):
    """A branch of a session's history."""

    branch: int
    parent: int | None
    at: int
    """Step at which it departs from its parent."""
    steps: int
    """Step of its last frame, counted from the reset."""
    name: str


class HistoryReply(Message):
    """The branches of a session."""

    type: Literal["history"] = "history"
    id: int | None = None
    branches: list[BranchInfo]
    position: Position
    keyframes: list[Position]
    bytes: int


class WalkReply(Message):
    """Everything that is needed to replay a session."""

    type: Literal["walk"] = "walk"
    id: int | None = None
    walk: Walk


class ForkReply(Message):
    """New sessions that continue from here."""

    type: Literal["forked"] = "forked"
    id: int | None = None
    sessions: list[SessionInfo]
    bytes: int
    """Bytes per fork that it does not share with this session."""
    ms: float
    """Milliseconds per fork."""


class Progress(Message):
    """How far a long request has come."""

    type: Literal["progress"] = "progress"
    id: int | None = None
    done: int
    total: int
    message: str = ""


class OkReply(Message):
    """Done; there is nothing to tell."""

    type: Literal["ok"] = "ok"
    id: int | None = None


class Closed(Message):
    """The session has ended."""

    type: Literal["closed"] = "closed"
    id: int | None = None
    reason: Literal["idle", "room", "shutdown", "deleted", "replaced"]
    message: str


class ErrorReply(Message):
    """A request was refused; it had no effect."""

    type: Literal["error"] = "error"
    id: int | None = None
    code: Code
    message: str


Reply = (
    SessionReply
    | FrameReply
    | TwinReply
    | PictureReply
    | PointsReply
    | SnapshotReply
    | MarkReply
    | HistoryReply
    | WalkReply
    | ForkReply
    | Progress
    | OkReply
    | Closed
    | ErrorReply
)
PackedReply = FrameReply | TwinReply | PictureReply | PointsReply | SnapshotReply
