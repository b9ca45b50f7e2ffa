"""Configs as JSON, and JSON files that are either whole or untouched.

A config is a frozen dataclass. It is kept next to what it configured (checkpoints, datasets), so that loading needs nothing else.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError

Config = TypeVar("Config")


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


def from_json(cls: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """The config of class ``cls`` that :func:`to_json` wrote.

    A key that ``cls`` does not know, or lacks and has no default for, is an error that names it. ``where`` is the
    dotted path that error messages begin with.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"{where or cls.__name__}: expected an object with keys, found {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    unknown = [prefix + str(key) for key in values if key not in fields]
    if unknown:
        raise InvalidInputError(f"{cls.__name__} has no {', '.join(unknown)}; its keys are {', '.join(fields)}")
    missing = [prefix + name for name, f in fields.items() if name not in values and _is_required(f)]
    if missing:
        raise InvalidInputError(f"{cls.__name__} needs {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _parse(hints[name], value, prefix + name) for name, value in values.items()})


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write ``values`` (see :func:`to_json`) so that a reader, or a crash, meets the old file or the new one, never a part.

    Non-finite floats become JavaScript's ``NaN`` and ``Infinity``, which :func:`read_json` reads back.
    """
    text = json.dumps(to_json(values), indent=2) + "\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The values in a JSON file. Missing: NotFoundError; unreadable: DamagedFileError; both name the file."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise NotFoundError(f"{path} is a folder, not a JSON file") from None
    except ValueError as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error}): it was cut short or edited; restore or remove it") from None


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _parse(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint`` asks for. JSON has no tuples, paths, enums and dataclasses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _parse(arguments[0], value, where)
    if origin in (typing.Union, types.UnionType):
        return _parse_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise InvalidInputError(f"{where} is {value!r}; it must be one of {', '.join(map(repr, arguments))}")
        return value
    if origin in (tuple, list):
        return _parse_sequence(origin, arguments, value, where)
    if origin is not None:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _parse_enum(hint, value, where)
    if hint in (Path, float) and isinstance(value, (str, int)) and not isinstance(value, bool):
        return _convert(hint, value, where)
    if hint in (bool, int, float, str, Path) and type(value) is not hint:
        raise InvalidInputError(f"{where} is {value!r}; it must be of type {hint.__name__}")
    return value


def _convert(hint: type, value: str | int, where: str) -> Any:
    if (hint is Path) != isinstance(value, str):
        raise InvalidInputError(f"{where} is {value!r}; it must be of type {hint.__name__}")
    return hint(value)


def _parse_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    choices = [a for a in arguments if a is not type(None)]
    if value is None and len(choices) < len(arguments):
        return None
    for choice in choices[:-1]:
        try:
            return _parse(choice, value, where)
        except InvalidInputError:
            continue
    return _parse(choices[-1], value, where)


def _parse_sequence(origin: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise InvalidInputError(f"{where} is {value!r}; it must be a list")
    if not arguments:
        return origin(value)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise InvalidInputError(f"{where} has {len(value)} values; it must have {len(arguments)}")
        return tuple(_parse(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
    return origin(_parse(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))


def _parse_enum(hint: type[enum.Enum], value: Any, where: str) -> enum.Enum:
    try:
        return hint(value)
    except ValueError:
        values = ", ".join(repr(member.value) for member in hint)
        raise InvalidInputError(f"{where} is {value!r}; it must be one of {values}") from None
