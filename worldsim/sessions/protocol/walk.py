"""Where a session starts, and what its history consists of."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from worldsim.sessions.protocol.base import (
    ActionValue,
    Colour,
    Index,
    Message,
    Name,
    Number,
    Point,
    Seed,
    Text,
)

WALK_ENTRIES = 200_000
"""Entries of a walk that is replayed."""


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
    arithmetic: Text = ""
    """Number format and threads, on which rounding depends; empty where it is not known."""
    start: Start = Field(default_factory=SceneStartAt)
    seed: int = Field(default=0, ge=0)
    settings: Settings = Field(default_factory=Settings)
    branches: Annotated[list[BranchOfWalk], Field(max_length=4096)] = Field(default_factory=list)
    position: Position = Field(default_factory=Position)
    title: Text = ""
