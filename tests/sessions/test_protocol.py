"""Messages: what is read, and what is refused."""

from __future__ import annotations

import json
import struct
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim import errors
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.sessions import protocol as p

pytestmark = pytest.mark.fast


def test_packed_message_by_hand() -> None:
    content = p.pack_json({"type": "x"}, [("a", "webp", (2, 1, 3), b"abc"), ("b", "png", (), b"")])
    assert content[:4] == b"WSF1"
    (length,) = struct.unpack("<I", content[4:8])
    assert content[8 + length :] == b"abc"
    header, blobs, parts = p.unpack(content)
    assert header == {"type": "x"} and blobs == {"a": b"abc", "b": b""}
    assert parts["a"].shape == [2, 1, 3] and parts["b"].offset == 3


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "uint32"])
def test_arrays_survive(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype).T
    name, kind, shape, content = p.array_blob("a", array)
    part = p.Part(name=name, format=kind, shape=list(shape), offset=0, length=len(content))
    np.testing.assert_array_equal(p.array_of(part, content), array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"WSF1",
        b"WSF2\0\0\0\0",
        b"WSF1" + struct.pack("<I", 99) + b"{}",
        b"WSF1" + struct.pack("<I", 2**31) + b"{}",
        b"WSF1" + struct.pack("<I", 2) + b"[]",
        b"WSF1" + struct.pack("<I", 2) + b"{]",
        b"WSF1" + struct.pack("<I", 13) + b'{"parts": 12}',
        p.pack_json({}, [("a", "raw/uint8", (9,), b"abc")])[:-1],
    ],
)
def test_damaged_packed_messages(content: bytes) -> None:
    with pytest.raises(p.SessionError, match="cannot be read") as caught:
        p.read_message(content)
    assert caught.value.code is p.Code.BAD_MESSAGE
    assert p.message_id(content) is None


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("3", "message"),
        ("{}", "type"),
        ({"type": "fly"}, "fly"),
        ({"type": "step", "action": 1, "speed": 3}, "speed"),
        ({"type": "step", "action": "1"}, "action"),
        ({"type": "step", "action": [1e300]}, "action"),
        ({"type": "step", "views": ["rgb", "smell"]}, "views"),
        ({"type": "rewind", "step": -1}, "step"),
        ({"type": "reset", "start": {"kind": "moon"}}, "moon"),
        ({"type": "create", "world": ""}, "world"),
        ({"type": "step", "action": 1, "id": 2**60}, "id"),
        ('{"type": "step", "action": [NaN]}', "action"),
        ({"type": "render", "pose": [0.0] * 15}, "pose"),
    ],
)
def test_refused_messages_name_the_field(message: object, named: str) -> None:
    text = message if isinstance(message, str) else json.dumps(message)
    with pytest.raises(p.SessionError, match="cannot be read") as caught:
        p.read_message(text)
    assert named in str(caught.value)


def test_defaults() -> None:
    message, parts = p.read_message('{"type": "create", "world": "w"}')
    assert isinstance(message, p.Create) and parts == {}
    assert message.start == p.SceneStartAt() and message.views == [p.View.RGB]
    assert message.format is p.PictureFormat.WEBP and message.bucket is None
    with pytest.raises(InvalidInputError, match="one of action, actions and agent"):
        p.require_one_way(p.Step())


def test_codes_and_errors_are_inverse() -> None:
    for kind in (
        errors.InvalidInputError,
        errors.NotFoundError,
        errors.DamagedFileError,
        errors.UntrustedFileError,
        errors.MissingDependencyError,
        errors.MissingGeometryError,
        errors.EngineError,
        errors.OutOfMemoryError,
    ):
        back = p.error_of(p.code_of(kind("why")), "why")
        assert type(back) is kind and str(back) == "why"
    refused = p.error_of("busy", "wait")
    assert isinstance(refused, p.SessionError) and refused.code is p.Code.BUSY
    assert p.code_of(KeyError("x")) is p.Code.INTERNAL
    assert p.error_of("from a newer server", "?").code is p.Code.INTERNAL  # type: ignore[attr-defined]
    assert set(p.STATUS) == set(p.Code)


def test_every_message_has_a_name() -> None:
    union = typing.get_args(p.ClientMessage)[0]
    names = [kind.model_fields["type"].default for kind in typing.get_args(union)]
    assert len(names) == len(set(names)) == 24


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"WSF1" + tail))
def test_any_bytes(content: bytes) -> None:
    with pytest.raises(WorldsimError):
        p.read_message(content)
    p.message_id(content)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=12,
    )
)
def test_any_json(value: object) -> None:
    with pytest.raises(WorldsimError):
        p.read_message(json.dumps(value))
