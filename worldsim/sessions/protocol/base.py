"""What all messages have in common: their base class, and types of their fields."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

PROTOCOL = 1
"""Version of the messages."""
MOST_NUMBERS = 256
"""Numbers of one action."""


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
