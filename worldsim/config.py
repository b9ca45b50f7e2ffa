"""Configs as JSON, and JSON files that are either whole or untouched.

A config is a frozen dataclass. It is kept next to what it configured (checkpoints, datasets), so that loading needs nothing else.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import annotated_types
import pydantic

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.files import JSON_LIMIT, read_bytes, write_bytes

Config = TypeVar("Config")
SEAL = "content_sha256"
"""Key of a JSON file's checksum of its own content."""


def to_json(config: Any) -> Any:
    """A config (nested dataclasses, enums, paths, tuples, NumPy values) as plain JSON values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, enum.Enum):
        return to_json(config.value)
    if isinstance(config, Mapping):
        return {str(key): to_json(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_json(value) for value in config]
    if isinstance(config, os.PathLike):
        return os.fspath(config)
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    if hasattr(config, "tolist"):  # NumPy arrays and scalars, tensors
        return config.tolist()
    raise InvalidInputError(f"{config!r} of type {type(config).__name__} cannot be written as JSON")


def from_json(cls: type[Config], values: Any, where: str = "") -> Config:
    """The config of class ``cls`` that :func:`to_json` wrote.

    Values must have the types and lie in the ranges of the class's annotations (``Annotated[int, Ge(1)]``), numbers must be finite.
    A key that ``cls`` does not know, or lacks and has no default for, is an error that names it. ``where`` is the dotted path
    that error messages begin with. Raises InvalidInputError.
    """
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{where or cls.__name__}: expected an object with keys, found {_shown(values)}")
    try:
        return _adapter(cls).validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        raise InvalidInputError("; ".join(_told(cls, one, values, where) for one in error.errors()[:3])) from None
    except (RecursionError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{where or cls.__name__} cannot be read as JSON values ({error})") from None


def check_ranges(config: Any) -> None:
    """Raise InvalidInputError, naming it, if a field lies outside of the range of its annotation (``Annotated[int, Ge(1)]``).

    For the ``__post_init__`` of configs, so that ranges hold for the command line and in Python as they do in files. NaN lies
    outside of every range; None, where it is allowed, is not checked.
    """
    cls = type(config)
    for name, bounds in _bounds(cls).items():
        value = getattr(config, name)
        for bound in bounds if value is not None else ():
            # Written so that a NaN fails.
            if not _within(value, bound):
                raise InvalidInputError(f"{cls.__name__}.{name} = {value!r}: it must be {_bound_text(bound)}")


def _within(value: Any, bound: Any) -> bool:
    try:
        match bound:
            case annotated_types.Ge():
                return bool(value >= bound.ge)
            case annotated_types.Gt():
                return bool(value > bound.gt)
            case annotated_types.Le():
                return bool(value <= bound.le)
            case annotated_types.Lt():
                return bool(value < bound.lt)
    except TypeError:
        return False
    return True


def _bound_text(bound: Any) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return next(f"{word} {getattr(bound, key)}" for key, word in words.items() if hasattr(bound, key))


@functools.cache
def _bounds(cls: type) -> dict[str, list[Any]]:
    """The bounds of a config's fields, by name; of optional fields, those of what is not None."""
    found = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        annotated = [c for c in choices if typing.get_origin(c) is typing.Annotated]
        bounds = [b for c in annotated for b in c.__metadata__ if isinstance(b, annotated_types.BaseMetadata)]
        if bounds and len(choices) - len(annotated) <= 1:
            found[name] = [b for b in bounds if isinstance(b, _BOUNDS)]
    return found


_BOUNDS = (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)


@functools.cache
def _adapter(cls: type[Config]) -> pydantic.TypeAdapter[Config]:
    if "__pydantic_config__" not in vars(cls):
        rules = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
        cls.__pydantic_config__ = rules  # type: ignore[attr-defined]
    return pydantic.TypeAdapter(cls)


def _told(cls: type, error: Any, values: Any, where: str) -> str:
    """One of pydantic's errors in a line, with the dotted path of the value and the value."""
    path, found = where, values
    for part in error["loc"]:
        if isinstance(part, int) and isinstance(found, list) and part < len(found):
            path, found = f"{path}[{part}]", found[part]
        elif isinstance(found, Mapping) and (part in found or error["type"] == "missing"):
            path, found = f"{path}.{part}" if path else str(part), found.get(part)
        # What is neither a key nor an index is the name of a type that was tried.
    if error["type"] == "missing":
        return f"{cls.__name__} needs {path}"
    if error["type"] == "unexpected_keyword_argument":
        return f"{cls.__name__} has no {path}; its keys are {', '.join(f.name for f in dataclasses.fields(cls))}"  # type: ignore[arg-type]
    said = error["msg"]
    return f"{path or cls.__name__} is {_shown(found)}: {said[0].lower()}{said[1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write ``values`` (see :func:`to_json`) so that a reader, or a crash, meets the old file or the new one, never a part.

    Non-finite floats become JavaScript's ``NaN`` and ``Infinity``, which :func:`read_json` reads back. Raises StorageError.
    """
    write_bytes(path, (json.dumps(to_json(values), indent=2) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """The values in a JSON file. Missing: NotFoundError; unreadable or no regular file: DamagedFileError; both name the file."""
    try:
        return json.loads(read_bytes(path, JSON_LIMIT).decode())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error}): it was cut short or edited; restore or remove it") from None


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values with a checksum of all of them under ``content_sha256``, for :func:`check_seal`."""
    plain = {name: value for name, value in to_json(values).items() if name != SEAL}
    return {**plain, SEAL: content_sha256(plain)}


def check_seal(path: str | os.PathLike[str], values: Mapping[str, Any], required: bool = True) -> None:
    """Raise DamagedFileError if the values of the file ``path`` differ from the checksum that :func:`seal` put in.

    required: whether a file without a checksum is damaged, too; formats of before there was one have none.
    """
    told = values.get(SEAL)
    if told is None and not required:
        return
    if told != content_sha256({name: value for name, value in values.items() if name != SEAL}):
        raise DamagedFileError(
            f"{path} differs from its own checksum: it was damaged, or edited by hand. Restore it; or, if the change was yours, "
            f"write it with worldsim.config.write_sealed"
        )


def write_sealed(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write a JSON file with a checksum of its own content: see :func:`write_json` and :func:`seal`."""
    write_json(path, seal(values))


def content_sha256(values: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of JSON values, whatever the order of keys and the layout of the file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
