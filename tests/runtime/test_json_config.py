"""Configs to JSON and back; JSON files that are whole or untouched."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Ge, Le

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.runtime.json_config import (
    check_ranges,
    check_seal,
    from_json,
    read_json,
    seal,
    to_json,
    write_json,
    write_sealed,
)

pytestmark = pytest.mark.fast


class Mode(enum.Enum):
    SAME = "same"
    NEXT = "next"


@dataclass(frozen=True)
class Inner:
    width: int
    rate: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    out: Path | None = None
    mode: Mode = Mode.NEXT
    kind: Literal["a", "b"] = "a"
    levels: tuple[int, ...] = (1, 2)
    parts: tuple[Inner, ...] = ()
    extra: dict[str, float] = field(default_factory=dict)


def test_to_json_holds_plain_values():
    config = Outer("x", Inner(3), Path("d/e"), parts=(Inner(4, 0.5),), extra={"k": 2.0})
    assert to_json(config) == {
        "name": "x",
        "inner": {"width": 3, "rate": 1.0},
        "out": "d/e",
        "mode": "next",
        "kind": "a",
        "levels": [1, 2],
        "parts": [{"width": 4, "rate": 0.5}],
        "extra": {"k": 2.0},
    }


def test_from_json_is_the_inverse():
    config = Outer("x", Inner(3), Path("d/e"), Mode.SAME, "b", (7,), (Inner(4, 0.5),), {"k": 2.0})
    assert from_json(Outer, to_json(config)) == config


def test_defaults_fill_what_is_not_written():
    assert from_json(Outer, {"name": "x", "inner": {"width": 3}}) == Outer("x", Inner(3))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"name": "x", "inner": {"width": 3, "hight": 2}}, "inner.hight"),
        ({"name": "x", "inner": {}}, "inner.width"),
        ({"name": "x"}, "inner"),
        ({"name": 5, "inner": {"width": 3}}, "name"),
        ({"name": "x", "inner": {"width": "3"}}, "inner.width"),
        ({"name": "x", "inner": {"width": True}}, "inner.width"),
        ({"name": "x", "inner": {"width": 3, "rate": "fast"}}, "inner.rate"),
        ({"name": "x", "inner": 3}, "inner"),
        ({"name": "x", "inner": {"width": 3}, "mode": "last"}, "mode"),
        ({"name": "x", "inner": {"width": 3}, "kind": "c"}, "kind"),
        ({"name": "x", "inner": {"width": 3}, "levels": 4}, "levels"),
        (
            {"name": "x", "inner": {"width": 3}, "parts": [{"width": 1}, {"wide": 2}]},
            "parts[1].wide",
        ),
    ],
)
def test_bad_values_are_named(values: dict[str, object], named: str):
    with pytest.raises(InvalidInputError) as error:
        from_json(Outer, values)
    assert named in str(error.value)


def test_numpy_values_and_infinity_survive_a_file(tmp_path: Path):
    path = tmp_path / "new/folder/a.json"
    write_json(
        path, {"a": np.float32(0.5), "b": np.array([[1, 2]]), "c": np.int64(3), "d": math.inf}
    )
    assert read_json(path) == {"a": 0.5, "b": [[1, 2]], "c": 3, "d": math.inf}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(InvalidInputError, match="object"):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match="none.json"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "cut.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="cut.json"):
        read_json(path)


@dataclass(frozen=True)
class Some:
    """A config of every type that is looked at."""

    share: Annotated[float, Ge(0), Le(1)] = 0.5
    count: Annotated[int, Ge(1)] | None = None
    whole: int = 1
    real: float = 1.0
    maybe: float | None = None
    on: bool = False
    text: str = ""
    other: tuple[int, ...] = ()


def test_types_of_a_config() -> None:
    check_ranges(Some(0.0, 3, 2, 3, 0.5, True, "x", (1,)))
    check_ranges(Some(share=np.float32(0.5), whole=np.int64(2)))  # type: ignore[arg-type]
    bad: list[dict[str, object]] = [
        {"whole": 1.5},
        {"whole": None},
        {"real": "1"},
        {"maybe": []},
        {"on": 1},
        {"share": 1.5},
        {"share": math.nan},
        {"count": 0},
        {"other": (1.5,)},
        {"text": 3},
        {"real": math.nan},
    ]
    for changes in bad:
        with pytest.raises(InvalidInputError, match=f"Some.{next(iter(changes))} = "):
            check_ranges(Some(**changes))  # type: ignore[arg-type]


def test_a_sealed_file_tells_what_was_changed_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"a": [1, 2.5, math.inf], "b": {"c": None}})
    values = read_json(path)
    check_seal(path, values)
    # Neither the order of keys nor the layout of the file counts.
    check_seal(path, dict(reversed(values.items())))
    assert seal(values) == values
    for change in (
        {"a": [1, 2.5, 3]},
        {"d": 1},
        {"content_sha256": None},
        {"content_sha256": "0" * 64},
    ):
        with pytest.raises(DamagedFileError, match="a.json differs from its own checksum"):
            check_seal(path, values | change)
    check_seal(path, {"a": 1}, required=False)
    with pytest.raises(DamagedFileError, match="checksum"):
        check_seal(path, {"a": 1})


def test_what_cannot_be_parsed_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DamagedFileError, match="deep.json"):
        read_json(path)
    path.write_text("1" * 10_000)
    with pytest.raises(DamagedFileError, match="deep.json"):
        read_json(path)
