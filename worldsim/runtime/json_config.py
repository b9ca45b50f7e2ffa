"""Configs as JSON, and JSON files that are written atomically.

A config is a frozen dataclass. It is stored beside what it configured (checkpoints, datasets), so
that loading needs nothing else.
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
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pydantic

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.arguments import shown
from worldsim.runtime.files import JSON_LIMIT, read_bytes, write_bytes
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.old_names import with_new_names
from worldsim.runtime.types import JsonMapping, JsonObject

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Config = TypeVar("Config")
SEAL = "content_sha256"
"""Key of a JSON file's checksum of its own content."""


def to_json(config: object) -> Any:
    """Convert a config (nested dataclasses, enums, paths, tuples, NumPy values) to JSON values."""
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


def from_json(cls: type[Config], values: object, where: str = "") -> Config:
    """Create a config of class ``cls`` from the values that :func:`to_json` returned.

    Values must match the types and ranges of the annotations (``Annotated[int, Ge(1)]``), and
    numbers must be finite. Raises InvalidInputError, which names the key, for a key that ``cls``
    does not have and for a missing key without default.

    where: dotted path at which error messages begin.
    """
    if not isinstance(values, Mapping):
        raise InvalidInputError(
            f"{where or cls.__name__}: expected an object with keys, found {shown(values)}"
        )
    renamed = with_new_names(cls, values, where)
    try:
        key: type = cls
        read: Config = _adapter(key).validate_json(json.dumps(renamed))
        return read
    except pydantic.ValidationError as error:
        raise InvalidInputError(
            "; ".join(_told(cls, one, renamed, where) for one in error.errors()[:3])
        ) from None
    except (RecursionError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"{where or cls.__name__} cannot be read as JSON values ({error})"
        ) from None


def check_ranges(config: object) -> None:
    """Raise InvalidInputError if a field does not match the type and range of its annotation.

    Called by the ``__post_init__`` of configs, so that ranges such as ``Annotated[int, Ge(1)]``
    hold for files, the command line and Python alike. Checks numbers, strings, booleans, choices
    and tuples of these. NaN and infinity are outside every range.
    """
    cls: type = type(config)
    for name, adapter in _simple_fields(cls).items():
        value = getattr(config, name)
        try:
            adapter.validate_python(_plain(value), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            raise InvalidInputError(
                f"{cls.__name__}.{name} = {shown(value)}: {_requirement(first)}"
            ) from None


def _plain(value: object) -> object:
    """Convert a value for pydantic's strict mode: NumPy's numbers to Python's, lists to tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and not value.ndim else value


def _requirement(error: ErrorDetails) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bound = next(
        (
            f"{word} {error['ctx'][key]}"
            for key, word in words.items()
            if key in error.get("ctx", {})
        ),
        None,
    )
    return f"it must be {bound}" if bound else f"{error['msg'][0].lower()}{error['msg'][1:]}"


_SIMPLE = (bool, int, float, str, type(None))


def _is_simple(hint: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _is_simple(arguments[0])
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, tuple):
        return all(_is_simple(one) for one in arguments if one is not Ellipsis)
    return hint in _SIMPLE


@functools.cache
def _simple_fields(cls: type) -> dict[str, pydantic.TypeAdapter[object]]:
    """Return the validators of a config's fields of simple types, by name."""
    rules = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        f.name: pydantic.TypeAdapter(hints[f.name], config=rules)
        for f in dataclasses.fields(cls)
        if _is_simple(hints[f.name])
    }


@functools.cache
def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    """Return the validator of a dataclass."""
    if "__pydantic_config__" not in vars(cls):
        rules = pydantic.ConfigDict(
            extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
        )
        cls.__pydantic_config__ = rules
    return pydantic.TypeAdapter(cls)


def _told(cls: type, error: ErrorDetails, values: object, where: str) -> str:
    """Format one of pydantic's errors as a line with the value and its dotted path."""
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
        return (
            f"{cls.__name__} has no {path}; its keys are "
            f"{', '.join(f.name for f in dataclasses.fields(cls))}"
        )
    said = error["msg"]
    return f"{path or cls.__name__} is {shown(found)}: {said[0].lower()}{said[1:]}"


def write_json(path: str | os.PathLike[str], values: object) -> None:
    """Write ``values`` (see :func:`to_json`) as a JSON file, atomically.

    A reader, or a crash, finds the old file or the complete new one. Non-finite floats become
    ``NaN`` and ``Infinity``, which :func:`read_json` accepts. Raises StorageError.
    """
    write_bytes(path, (json.dumps(to_json(values), indent=2) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read the values of a JSON file.

    Raises NotFoundError if the file is missing and DamagedFileError if it is not JSON or not a
    regular file; both name the file.
    """
    content = read_bytes(path, JSON_LIMIT)
    # A list of nothing is two bytes in the file and 64 in memory.
    require_memory_for(40 * len(content), f"{path}")
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is not valid JSON ({error}): it was cut short or edited; restore or remove it"
        ) from None


def seal(values: JsonMapping) -> JsonObject:
    """Return the values with their checksum as ``content_sha256``; see :func:`check_seal`."""
    plain = {name: value for name, value in to_json(values).items() if name != SEAL}
    return {**plain, SEAL: content_sha256(plain)}


def check_seal(path: str | os.PathLike[str], values: JsonMapping, required: bool = True) -> None:
    """Raise DamagedFileError if ``values`` do not match the checksum that :func:`seal` added.

    path: the file that the values come from.
    required: whether a file without a checksum counts as damaged. Early versions of the formats
        have none.
    """
    told = values.get(SEAL)
    if told is None and not required:
        return
    if told != content_sha256({name: value for name, value in values.items() if name != SEAL}):
        raise DamagedFileError(
            f"{path} differs from its own checksum: it was damaged, or edited by hand. Restore "
            f"it; or, if the change was yours, "
            f"write it with worldsim.runtime.json_config.write_sealed"
        )


def check_format(path: str | os.PathLike[str], values: object, name: str, newest: int) -> int:
    """Return the version of the format ``name`` in the JSON values of a file.

    Raises DamagedFileError unless they are an object of that format, of a version from 1 to
    ``newest``.
    """
    found = values.get("format") if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or found != name:
        raise DamagedFileError(
            f"{path} has format {found!r}, not {name!r}: it is something else, or was cut short"
        )
    version = values.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DamagedFileError(
            f"{path} has version {version!r}: versions are whole numbers from 1; restore or copy "
            f"it again"
        )
    if version > newest:
        raise DamagedFileError(
            f"{path} has version {version!r}; this worldsim reads up to {newest}: upgrade worldsim"
        )
    return version


def write_sealed(path: str | os.PathLike[str], values: JsonMapping) -> None:
    """Write a JSON file with a checksum of its content; see :func:`write_json` and :func:`seal`."""
    write_json(path, seal(values))


def content_sha256(values: JsonMapping) -> str:
    """Return the hexadecimal SHA-256 of JSON values, independent of key order and layout."""
    return hashlib.sha256(
        json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
