"""Old names of arguments, settings and options, accepted with a DeprecationWarning.

The warning names the new one.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from worldsim.errors import InvalidInputError

Class = TypeVar("Class", bound=type)
Function = TypeVar("Function", bound=Callable[..., object])
Value = TypeVar("Value")
_OLD_NAMES = "__old_names__"


def warn_renamed(old: str, new: str, stacklevel: int = 2) -> None:
    """Emit a DeprecationWarning that ``old`` is called ``new`` now. stacklevel: of the caller."""
    warnings.warn(f"{old} is called {new} now", DeprecationWarning, stacklevel=stacklevel + 1)


def old_arguments(**new_names: str) -> Callable[[Function], Function]:
    """Decorate a function so that it accepts keyword arguments by their old names, too.

    new_names: the new name of each old one, such as ``steps="num_inference_steps"``.
    """

    def decorate(function: Function) -> Function:
        where = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> object:
            if not new_names.keys().isdisjoint(kwargs):
                kwargs = rename_keys(kwargs, new_names, f"{where}: ")
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def old_fields(**new_names: str) -> Callable[[Class], Class]:
    """Decorate a dataclass so that its fields can be given, and read, by their old names, too.

    Stands above ``@dataclass``. Covers the constructor, attributes,
    :func:`worldsim.runtime.json_config.from_json` and the command line.
    """

    def decorate(cls: Class) -> Class:
        setattr(cls, _OLD_NAMES, new_names)
        cls.__init__ = old_arguments(**new_names)(cls.__init__)  # type: ignore[misc]
        for old, new in new_names.items():
            setattr(cls, old, old_attribute(f"{cls.__name__}.{old}", new))
        return cls

    return decorate


def old_attribute(old: str, new: str) -> property:
    """A property that reads the attribute ``new`` and warns that ``old`` is not its name."""

    def read(self: object) -> object:
        warn_renamed(old, new)
        return getattr(self, new)

    return property(read, doc=f"The old name of ``{new}``.")


def rename_keys(
    values: Mapping[str, Value], new_names: Mapping[str, str], where: str = "", stacklevel: int = 2
) -> dict[str, Value]:
    """The values with old keys replaced by new ones, in the same order; each warns.

    Raises InvalidInputError where both names of one thing are given.
    """
    renamed = {}
    for name, value in values.items():
        new = new_names.get(name, name)
        if new != name:
            if new in values:
                raise InvalidInputError(
                    f"{where}{name} is the old name of {new}, and both are given: give {new} alone"
                )
            warn_renamed(f"{where}{name}", new, stacklevel + 1)
        renamed[new] = value
    return renamed


def with_new_names(cls: object, values: Any, where: str = "", stacklevel: int = 2) -> Any:
    """The JSON values of a config of class ``cls``, old names of fields replaced at any depth."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or not isinstance(
        values, Mapping
    ):
        return values
    renamed = rename_keys(values, old_names_of(cls), f"{where}." if where else "", stacklevel + 1)
    for name, parts in _configs_in(cls):
        if name in renamed:
            path = f"{where}.{name}" if where else name
            for part in parts:
                renamed[name] = with_new_names(part, renamed[name], path, stacklevel + 1)
    return renamed


def with_new_options(cls: type, arguments: Sequence[str]) -> list[str]:
    """Replace old names of options in the command-line arguments of a config of class ``cls``.

    Prints a warning for each on stderr.
    """
    renamed = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            new = _new_option(cls, option[2:])
            if new is not None:
                print(f"warning: {option} is called --{new} now", file=sys.stderr)
                argument = f"--{new}{equals}{value}"
        renamed.append(argument)
    return renamed


def old_names_of(cls: object) -> dict[str, str]:
    """The new name of each old field of a config's class."""
    names: dict[str, str] = getattr(cls, _OLD_NAMES, {})
    return names


def _new_option(cls: type, option: str) -> str | None:
    """The new name of an option, None if it is no old one. ``no-`` may stand before a flag."""
    for old, new in _old_options(cls):
        for before in ("", "no-"):
            head, found = before + old, option.replace("_", "-")
            if found == head or found.startswith(head + "."):
                renamed = before + new + found[len(head) :]
                return _new_option(cls, renamed) or renamed
    return None


def _old_options(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The old and new names of all options of a config, outermost first."""
    for old, new in old_names_of(cls).items():
        yield (prefix + old).replace("_", "-"), (prefix + new).replace("_", "-")
    for name, parts in _configs_in(cls):
        for part in parts:
            yield from _old_options(part, f"{prefix}{name}.")


@functools.cache
def _configs_in(cls: type) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """The fields of a config that hold configs, with the classes of those."""
    hints = typing.get_type_hints(cls)
    found = []
    for f in dataclasses.fields(cls):
        options = (hints[f.name], *typing.get_args(hints[f.name]))
        parts = tuple(
            one for one in options if isinstance(one, type) and dataclasses.is_dataclass(one)
        )
        if parts:
            found.append((f.name, parts))
    return tuple(found)
