"""The messages of a session server, typed and versioned.

A client sends JSON objects with a ``type``; the server answers each in order and echoes its ``id``.
A message with pictures or arrays is *packed*: four bytes ``WSF1``, the length of a JSON header
(uint32, little-endian), the header, and the bytes of its parts. The header's ``parts`` name them.

``PROTOCOL`` changes only when an older client could not read a message any more.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worldsim import errors
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.runtime.types import Array, JsonObject

PROTOCOL = 1
"""Version of the messages."""
MAGIC = b"WSF1"
"""First bytes of a packed message."""
MEDIA_TYPE = "application/x-worldsim"
"""Content type of packed messages over HTTP."""
TEXT_LIMIT = 4 * 2**20
"""Bytes of a JSON message from a client."""
HEADER_LIMIT = 4 * 2**20
"""Bytes of the header of a packed message."""
MOST_ACTIONS = 256
"""Actions of one ``step`` message."""
MOST_NUMBERS = 256
"""Numbers of one action."""
WALK_ENTRIES = 200_000
"""Entries of a walk that is replayed."""


class View(StrEnum):
    """Pictures that a frame can bring."""

    RGB = "rgb"
    """The frame, (h, w, 3)."""
    DEPTH = "depth"
    """Raw: float32 metres (h, w), infinite at sky. Otherwise a coloured picture."""
    MEMORY = "memory"
    """What the memory showed before the step, (h, w, 4); alpha is 0 in holes."""
    TWIN = "twin"
    """The real twin's frame, (h, w, 3)."""
    TWIN_DEPTH = "twin_depth"
    """The real twin's depth, as ``depth``."""
    PAINTED = "painted"
    """Where the frame shows points that a painter invented, (h, w), 255 or 0."""
    MAP = "map"
    """The memory from above, (h, w, 4); alpha is 0 in holes. It takes longer than a step."""


class PictureFormat(StrEnum):
    """How pictures are encoded."""

    WEBP = "webp"
    """Lossy, for display."""
    JPEG = "jpeg"
    """Lossy and fast, for display. Holes of the memory are drawn as a checkerboard."""
    PNG = "png"
    """Lossless."""
    RAW = "raw"
    """The array's own bytes in C order."""


class Code(StrEnum):
    """What went wrong with a request."""

    BAD_MESSAGE = "bad_message"
    INVALID_INPUT = "invalid_input"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN_ORIGIN = "forbidden_origin"
    UNTRUSTED = "untrusted"
    NOT_FOUND = "not_found"
    NOT_RESET = "not_reset"
    BUSY = "busy"
    TOO_LARGE = "too_large"
    MISSING_GEOMETRY = "missing_geometry"
    MISSING_DEPENDENCY = "missing_dependency"
    DAMAGED_FILE = "damaged_file"
    TOO_MANY_SESSIONS = "too_many_sessions"
    OUT_OF_MEMORY = "out_of_memory"
    ENGINE_FAILED = "engine_failed"
    CLOSED = "closed"
    INTERNAL = "internal"


STATUS: Mapping[Code, int] = {
    Code.BAD_MESSAGE: 400,
    Code.INVALID_INPUT: 400,
    Code.UNSUPPORTED_VERSION: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN_ORIGIN: 403,
    Code.UNTRUSTED: 403,
    Code.NOT_FOUND: 404,
    Code.NOT_RESET: 409,
    Code.BUSY: 409,
    Code.CLOSED: 410,
    Code.TOO_LARGE: 413,
    Code.MISSING_GEOMETRY: 422,
    Code.DAMAGED_FILE: 422,
    Code.TOO_MANY_SESSIONS: 429,
    Code.INTERNAL: 500,
    Code.MISSING_DEPENDENCY: 501,
    Code.ENGINE_FAILED: 502,
    Code.OUT_OF_MEMORY: 507,
}
"""HTTP status of each code."""


class CloseCode:
    """WebSocket close codes."""

    BAD_START = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN_ORIGIN = 4403
    NO_SESSION = 4404
    ENDED = 4408
    REPLACED = 4409
    SHUTDOWN = 1012


class SessionError(WorldsimError):
    """A request that a session server refuses, with the code that tells why."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


_CODES: tuple[tuple[type[Exception], Code], ...] = (
    (errors.InvalidInputError, Code.INVALID_INPUT),
    (errors.NotFoundError, Code.NOT_FOUND),
    (errors.DamagedFileError, Code.DAMAGED_FILE),
    (errors.UntrustedFileError, Code.UNTRUSTED),
    (errors.MissingDependencyError, Code.MISSING_DEPENDENCY),
    (errors.MissingGeometryError, Code.MISSING_GEOMETRY),
    (errors.EngineError, Code.ENGINE_FAILED),
    (errors.OutOfMemoryError, Code.OUT_OF_MEMORY),
    (MemoryError, Code.OUT_OF_MEMORY),
)


def code_of(error: BaseException) -> Code:
    """Return the code of an exception; ``internal`` for one that is no input's fault."""
    if isinstance(error, SessionError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def error_of(code: str, message: str) -> Exception:
    """Return the exception that a code stands for, to be raised by a client."""
    kind = next((kind for kind, own in _CODES if own == code), None)
    if kind is not None:
        return kind(message)
    known = Code(code) if code in set(Code) else Code.INTERNAL
    return SessionError(known, message)


class Message(BaseModel):
    """Base class of all messages: unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Id = Annotated[int, Field(ge=0, le=2**53)]
Index = Annotated[int, Field(ge=0, le=10**9)]
Number = Annotated[float, Field(strict=True, ge=-1e9, le=1e9)]
Numbers = Annotated[list[Number], Field(min_length=1, max_length=MOST_NUMBERS)]
ActionValue: TypeAlias = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31)] | Numbers
Point = Annotated[list[Number], Field(min_length=3, max_length=3)]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


# Starts.


class SceneStartAt(Message):
    """Start at a scene of the world; without a name, at one that the seed draws."""

    kind: Literal["scene"] = "scene"
    name: Name | None = None


class TwinStartAt(Message):
    """Start where the real twin stands after a short walk; the twin is stepped along from there."""

    kind: Literal["twin"] = "twin"
    seed: Seed | None = None
    """Seed of the twin's episode; by default the session's."""
    options: dict[Name, Name] = Field(default_factory=dict, max_length=8)
    """Options of the twin's reset, such as ``{"map": "MAP30"}``."""
    history: Annotated[int, Field(ge=1, le=512)] = 48
    """True frames that the dream receives."""
    policy: Name = "persistent-v1"
    """Registered policy that walks them."""


class FolderStartAt(Message):
    """Start at a scene in the server's folder of places."""

    kind: Literal["folder"] = "folder"
    name: Name


class SnapshotStartAt(Message):
    """Start from a snapshot that is uploaded next."""

    kind: Literal["snapshot"] = "snapshot"


class FramesStartAt(Message):
    """Start from the message's own parts ``rgb``, ``act``, ``depth``, ``pose``, ``intrinsics``.

    See :func:`worldsim.world.starts.as_scene`.
    """

    kind: Literal["frames"] = "frames"


Start = Annotated[
    SceneStartAt | TwinStartAt | FolderStartAt | SnapshotStartAt | FramesStartAt,
    Field(discriminator="kind"),
]


# What a session's history consists of.


class Settings(Message):
    """Settings of the world that may change during a session; None keeps the world's own."""

    num_inference_steps: Annotated[int, Field(ge=1, le=256)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    uncertainty: bool = False
    paint: Literal["ahead"] | None = None


class Crate(Message):
    """Put a crate into the memory."""

    kind: Literal["crate"] = "crate"
    position: Point | None = None
    """World x, y, z in metres of the middle of its bottom; by default on the ground ahead."""
    size: Annotated[float, Field(ge=0.05, le=10)] = 0.8
    """Side length in metres."""
    colour: Colour | None = None
    """By default wood."""


class Erase(Message):
    """Remove the memory's points around a place."""

    kind: Literal["erase"] = "erase"
    position: Point | None = None
    """World x, y, z in metres."""
    pixel: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None
    """Column and row of the newest frame, instead of ``position``."""
    radius: Annotated[float, Field(ge=0.05, le=20)] = 0.5
    """Half the side of the cube, in metres."""


Edit = Annotated[Crate | Erase, Field(discriminator="kind")]


class ActionEntry(Message):
    """One step."""

    a: ActionValue
    """The action."""


class EditEntry(Message):
    """One edit of the memory."""

    edit: Edit


class SettingsEntry(Message):
    """A change of settings."""

    settings: Settings


Entry: TypeAlias = ActionEntry | EditEntry | SettingsEntry


class BranchOfWalk(Message):
    """A branch with everything that happened on it."""

    branch: Index
    parent: Index | None = None
    at_entry: Index = 0
    """Number of the parent's entries before this branch departs."""
    name: Text = ""
    entries: Annotated[list[Entry], Field(max_length=WALK_ENTRIES)] = Field(default_factory=list)


class Position(Message):
    """A moment of a session: the frame after ``step`` steps along a branch."""

    branch: Index = 0
    step: Index = 0


class Walk(Message):
    """All that is needed to replay a session."""

    v: Literal[1] = 1
    world: Name
    weights_id: Text = ""
    engine: Name = "plain"
    bucket: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Text = ""
    start: Start = Field(default_factory=SceneStartAt)
    seed: int = Field(default=0, ge=0)
    settings: Settings = Field(default_factory=Settings)
    branches: Annotated[list[BranchOfWalk], Field(max_length=4096)] = Field(default_factory=list)
    position: Position = Field(default_factory=Position)
    title: Text = ""


# From the client.


class Looking(Message):
    """Base class of messages that are answered by a frame."""

    id: Id | None = None
    views: Annotated[list[View], Field(max_length=len(View))] = Field(
        default_factory=lambda: [View.RGB]
    )
    format: PictureFormat = PictureFormat.WEBP


class Plain(Message):
    """Base class of messages that are answered by JSON."""

    id: Id | None = None


class Create(Looking):
    """Make a session; with a start, it is reset at once."""

    type: Literal["create"] = "create"
    world: Name
    start: Start | None = Field(default_factory=SceneStartAt)
    """Where it begins; None leaves the reset to a later message."""
    seed: Seed | None = None
    """By default a random one."""
    engine: Literal["plain", "fast", "compiled"] | None = None
    """By default the server's."""
    bucket: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Batch bucket of the session's steps, see :data:`worldsim.world.world.BUCKETS`; by default the
    server's. Frames are equal bit by bit within a bucket; ``gym.make`` steps in bucket 1."""
    settings: Settings = Field(default_factory=Settings)
    twin: bool = False
    """Whether the real twin is stepped along. It needs a start of kind ``twin``."""
    title: Text = ""
    walk: Walk | None = None
    """A walk to replay, instead of the fields before."""


class Attach(Looking):
    """Connect to a session that exists."""

    type: Literal["attach"] = "attach"
    session: Name


class Reset(Looking):
    """Begin a new history."""

    type: Literal["reset"] = "reset"
    seed: int | None = Field(default=None, ge=0)
    """Seeds scene and dream; by default the generator goes on."""
    start: Start = Field(default_factory=SceneStartAt)


class Step(Looking):
    """Step by one action, by several, or by an agent's."""

    type: Literal["step"] = "step"
    action: ActionValue | None = None
    actions: Annotated[list[ActionValue], Field(min_length=1, max_length=MOST_ACTIONS)] | None = (
        None
    )
    agent: Name | None = None
    twin_later: bool = False
    """Whether the real twin takes the last of these steps after the answer. Over a WebSocket, a
    message of type ``twin`` follows with its frame, so that the dream's comes earlier."""


class Look(Looking):
    """Show the present frame."""

    type: Literal["look"] = "look"


class Play(Looking):
    """Let the server step at a steady rate and push the frames."""

    type: Literal["play"] = "play"
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """By default the world's rate."""
    action: ActionValue | None = None
    agent: Name | None = None
    window: Annotated[int, Field(ge=0, le=64)] = 0
    """Frames that may be sent without an ``ack``; 0 for no limit."""


class Act(Plain):
    """Set the action that ``play`` takes; has no answer."""

    type: Literal["act"] = "act"
    action: ActionValue
    now: bool = False
    """Whether the next step starts at once."""


class Ack(Plain):
    """Confirm frames of ``play``; has no answer."""

    type: Literal["ack"] = "ack"
    seq: Index


class Pause(Looking):
    """End ``play``."""

    type: Literal["pause"] = "pause"


class Rewind(Looking):
    """Return to an earlier moment."""

    type: Literal["rewind"] = "rewind"
    branch: Index | None = None
    """By default the present one."""
    step: Index


class Mark(Plain):
    """Keep the present moment on the server."""

    type: Literal["mark"] = "mark"


class Restore(Looking):
    """Return to a mark, or to the snapshot file in the message's part ``snapshot``."""

    type: Literal["restore"] = "restore"
    mark: Index | None = None


class Drop(Plain):
    """Forget a mark."""

    type: Literal["drop"] = "drop"
    mark: Index


class GetSnapshot(Plain):
    """Ask for the session as the bytes of a snapshot file."""

    type: Literal["snapshot"] = "snapshot"


class GetHistory(Plain):
    """Ask for the branches."""

    type: Literal["history"] = "history"


class GetWalk(Plain):
    """Ask for everything that is needed to replay the session."""

    type: Literal["walk"] = "walk"


class NameBranch(Plain):
    """Name a branch."""

    type: Literal["name"] = "name"
    branch: Index
    name: Text


class Fork(Plain):
    """Make sessions that continue from here."""

    type: Literal["fork"] = "fork"
    n: Annotated[int, Field(ge=1, le=256)] = 1
    randomness: Literal["common", "independent"] = "common"


class EditMemory(Looking):
    """Change the memory."""

    type: Literal["edit"] = "edit"
    edit: Edit


class Render(Plain):
    """Draw the memory at a camera."""

    type: Literal["render"] = "render"
    pose: Annotated[list[Number], Field(min_length=16, max_length=16)] | None = None
    """Camera-to-world, row by row; by default that of the newest frame."""
    height: Annotated[int, Field(ge=8, le=1024)] | None = None
    width: Annotated[int, Field(ge=8, le=1024)] | None = None
    intrinsics: Annotated[list[Number], Field(min_length=4, max_length=4)] | None = None
    format: PictureFormat = PictureFormat.WEBP


class GetMap(Plain):
    """Draw the memory from above, see :meth:`worldsim.memory.handle.MemoryHandle.top_down`."""

    type: Literal["map"] = "map"
    resolution: Annotated[float, Field(ge=0.02, le=10)] = 0.1
    above: Annotated[float, Field(ge=0, le=1000)] = 0.25
    below: Annotated[float, Field(ge=0, le=1000)] = 1000.0
    reach: Annotated[float, Field(ge=1, le=100)] = 25.0
    format: PictureFormat = PictureFormat.WEBP


class GetPoints(Plain):
    """Ask for the memory's points."""

    type: Literal["points"] = "points"
    since: int | None = Field(default=None, ge=-(10**9), le=10**9)
    """Only points that a step after this one has seen; by default all."""


class ChangeSettings(Plain):
    """Change the settings from this moment on.

    The change belongs to the history: rewinding goes back behind it, and replays repeat it.
    """

    type: Literal["settings"] = "settings"
    settings: Settings


class Close(Plain):
    """End the session."""

    type: Literal["close"] = "close"


ClientMessage = Annotated[
    Create
    | Attach
    | Reset
    | Step
    | Look
    | Play
    | Act
    | Ack
    | Pause
    | Rewind
    | Mark
    | Restore
    | Drop
    | GetSnapshot
    | GetHistory
    | GetWalk
    | NameBranch
    | Fork
    | EditMemory
    | Render
    | GetMap
    | GetPoints
    | ChangeSettings
    | Close,
    Field(discriminator="type"),
]


# From the server.


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

_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)


# Packing.

Blob: TypeAlias = tuple[str, str, Sequence[int], bytes]
"""Name, format, shape and bytes of a part."""


def array_blob(name: str, array: Array) -> Blob:
    """Return an array as a part."""
    array = np.ascontiguousarray(array)
    return name, f"raw/{array.dtype.name}", array.shape, array.tobytes()


def pack(header: Message, blobs: Sequence[Blob]) -> bytes:
    """Return a message and its parts as bytes."""
    return _packed(header.model_dump_json(exclude={"parts"}), blobs)


def pack_json(header: JsonObject, blobs: Sequence[Blob]) -> bytes:
    """Return a header and its parts as bytes; ``parts`` is added to the header."""
    return _packed(json.dumps(header, separators=(",", ":")), blobs)


def _packed(header: str, blobs: Sequence[Blob]) -> bytes:
    """header: a JSON object with at least one key, to which ``parts`` is added."""
    listed, offset = [], 0
    for name, kind, shape, content in blobs:
        place = {"format": kind, "shape": list(shape), "offset": offset, "length": len(content)}
        listed.append({"name": name, **place})
        offset += len(content)
    parts = json.dumps(listed, separators=(",", ":"))
    text = f'{header[:-1]},"parts":{parts}}}'.encode()
    contents = (content for *_, content in blobs)
    return b"".join([MAGIC, struct.pack("<I", len(text)), text, *contents])


def unpack(content: bytes) -> tuple[JsonObject, dict[str, bytes], dict[str, Part]]:
    """Split a packed message into its header (without ``parts``), its parts' bytes, and its parts.

    Raises SessionError for anything else.
    """
    if len(content) < 8 or content[:4] != MAGIC:
        raise _bad(f"a packed message begins with {MAGIC!r}, got {content[:8]!r}")
    (length,) = struct.unpack("<I", content[4:8])
    if length > HEADER_LIMIT or 8 + length > len(content):
        raise _bad(f"its header of {length} bytes does not fit the message of {len(content)}")
    try:
        header = json.loads(content[8 : 8 + length])
        parts = [Part.model_validate(part) for part in header.pop("parts", [])]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _bad(f"its header cannot be read ({str(error)[:200]})") from None
    body, blobs = memoryview(content)[8 + length :], dict[str, bytes]()
    for part in parts:
        if not 0 <= part.offset <= part.offset + part.length <= len(body):
            raise _bad(f"its part {part.name[:80]!r} lies outside of the message")
        blobs[part.name] = bytes(body[part.offset : part.offset + part.length])
    return header, blobs, {part.name: part for part in parts}


def array_of(part: Part, content: bytes) -> Array:
    """Return the array of a raw part. Raises SessionError unless bytes, dtype and shape fit."""
    kind, _, dtype = part.format.partition("/")
    known = {"uint8", "uint32", "int32", "int64", "float32", "float64", "bool"}
    if kind != "raw" or dtype not in known or any(n < 0 for n in part.shape):
        raise _bad(f"part {part.name[:80]!r} of format {part.format[:80]!r} is no array")
    size = int(np.prod(part.shape, dtype=object)) * np.dtype(dtype).itemsize
    if size != len(content):
        raise _bad(f"part {part.name[:80]!r} has {len(content)} bytes, {size} are needed")
    return np.frombuffer(content, dtype).reshape(part.shape).copy()


def read_message(content: str | bytes) -> tuple[ClientMessage, dict[str, Array | bytes]]:
    """Read a client's message: JSON text, or packed bytes with parts.

    Raises SessionError, which names the field.
    """
    parts: dict[str, Array | bytes] = {}
    if isinstance(content, bytes):
        header, blobs, places = unpack(content)
        for name, part in places.items():
            raw = part.format.startswith("raw/")
            parts[name] = array_of(part, blobs[name]) if raw else blobs[name]
    else:
        if len(content) > TEXT_LIMIT:
            size = f"a message of {len(content)} letters is longer than {TEXT_LIMIT}"
            raise SessionError(Code.TOO_LARGE, size)
        try:
            header = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _bad(f"it is no JSON ({str(error)[:200]})") from None
    return read_json(header), parts


def read_json(header: object) -> ClientMessage:
    """Read a client's message from JSON values. Raises SessionError, which names the field."""
    try:
        return _CLIENT.validate_python(header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(one)[:40] for one in first["loc"][1:] or first["loc"])
        raise _bad(f"{place or 'message'}: {first['msg'][:300]}") from None
    except RecursionError:
        raise _bad("it is nested too deeply") from None


def message_id(content: str | bytes) -> int | None:
    """Return the ``id`` of a message that may be invalid, None if it has none."""
    try:
        header = unpack(content)[0] if isinstance(content, bytes) else json.loads(content)
        found = header.get("id") if isinstance(header, dict) else None
        number = isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= 2**53
        return found if number else None
    except (ValueError, RecursionError, WorldsimError):
        return None


def _bad(reason: str) -> SessionError:
    return SessionError(Code.BAD_MESSAGE, f"this message cannot be read: {reason}")


def views_of(message: Looking) -> tuple[View, ...]:
    """Return the requested views, each once."""
    return tuple(dict.fromkeys(message.views))


def require_one_way(message: Step) -> None:
    """Raise InvalidInputError unless a step names its action in one way."""
    given = [message.action, message.actions, message.agent]
    if sum(one is not None for one in given) != 1:
        raise InvalidInputError("step takes one of action, actions and agent")
