"""Messages as bytes: JSON text, or packed with pictures and arrays."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from pydantic import TypeAdapter, ValidationError

from worldsim.errors import WorldsimError
from worldsim.runtime.types import Array, JsonObject
from worldsim.sessions.protocol.answers import Part
from worldsim.sessions.protocol.base import Message
from worldsim.sessions.protocol.codes import Code, SessionError
from worldsim.sessions.protocol.requests import ClientMessage

MAGIC = b"WSF1"
"""First bytes of a packed message."""
MEDIA_TYPE = "application/x-worldsim"
"""Content type of packed messages over HTTP."""
TEXT_LIMIT = 4 * 2**20
"""Bytes of a JSON message from a client."""
HEADER_LIMIT = 4 * 2**20
"""Bytes of the header of a packed message."""

_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)

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
