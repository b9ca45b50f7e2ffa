"""Messages from the client."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from worldsim.errors import InvalidInputError
from worldsim.sessions.protocol.base import (
    ActionValue,
    Id,
    Index,
    Message,
    Name,
    Number,
    PictureFormat,
    Seed,
    Text,
    View,
)
from worldsim.sessions.protocol.walk import Edit, SceneStartAt, Settings, Start, Walk

MOST_ACTIONS = 256
"""Actions of one ``step`` message."""


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
    twin: bool = False
    """Whether each fork has a real twin of its own, if this session has one. Engines cannot be
    copied: the twin repeats the whole walk, which takes a moment for each of its steps."""


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


def views_of(message: Looking) -> tuple[View, ...]:
    """Return the requested views, each once."""
    return tuple(dict.fromkeys(message.views))


def require_one_way(message: Step) -> None:
    """Raise InvalidInputError unless a step names its action in one way."""
    given = [message.action, message.actions, message.agent]
    if sum(one is not None for one in given) != 1:
        raise InvalidInputError("step takes one of action, actions and agent")
