"""Scene memories by name, so that snapshots can name them.

A new memory in this folder is one line in :data:`KINDS`. :func:`register` adds one of another
package, in the program that loads the snapshot. A name in a file never imports anything that is
not registered.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worldsim.errors import InvalidInputError
from worldsim.protocols import MemoryT, SceneMemory
from worldsim.runtime.json_config import from_json, to_json
from worldsim.runtime.types import JsonObject

VERBS = ("empty", "integrate", "render", "surroundings")
"""Methods of a :class:`worldsim.protocols.SceneMemory`."""


@dataclass(frozen=True)
class Kind:
    """A memory's class and the class of its config. The memory keeps its config as ``config``.

    memory, config: the class, or ``module:Class``, which is imported on first use.
    upon_points: whether its first argument is another memory, which it keeps as ``points``.
    """

    memory: str | type
    config: str | type
    upon_points: bool = False


KINDS = {
    "points": Kind(
        "worldsim.memory.points:PointMemory", "worldsim.memory.points:PointMemoryConfig"
    ),
    "frames": Kind(
        "worldsim.memory.retrieval:RetrievalMemory",
        "worldsim.memory.retrieval:RetrievalMemoryConfig",
    ),
    "radiance": Kind(
        "worldsim.memory.radiance:RadianceMemory",
        "worldsim.memory.radiance:RadianceMemoryConfig",
        upon_points=True,
    ),
}
"""By the name in files."""


def register(name: str, memory: type, config: type, upon_points: bool = False) -> None:
    """Register a memory under ``name``, so that snapshots can name it.

    memory: its class, constructed from its config.
    config: a frozen dataclass, kept by the memory as ``config``. Its values must be JSON values.
    upon_points: whether the memory's first argument is another memory, see :class:`Kind`.

    Raises InvalidInputError for classes of another kind.
    """
    missing = [verb for verb in VERBS if not callable(getattr(memory, verb, None))]
    if missing or not dataclasses.is_dataclass(config):
        why = f"lacks {', '.join(missing)}" if missing else "needs a dataclass as its config"
        raise InvalidInputError(
            f"scene memory {name!r}: {getattr(memory, '__name__', memory)} {why}"
        )
    KINDS[name] = Kind(memory, config, upon_points)


def meta_empty(memory: SceneMemory[MemoryT]) -> MemoryT:
    """Return the empty data of one world as shapes without storage.

    The tensors of a file are compared with it.
    """
    # On the CPU "meta" device: a capacity that a file claims takes no memory.
    return memory.empty(1, "meta")


def describe_memory(memory: SceneMemory) -> JsonObject | None:
    """Return a memory's name and config as JSON values.

    ``points`` has those of the memory that it builds upon. None if one of them has no name.
    """
    given: Any = memory
    for name, kind in KINDS.items():
        if not _is_of(memory, kind.memory):
            continue
        described = {"kind": name, "config": to_json(given.config)}
        if not kind.upon_points:
            return described
        points = describe_memory(given.points)
        return None if points is None else {**described, "points": points}
    return None


def memory_from_description(description: JsonObject) -> SceneMemory:
    """Return the memory of :func:`describe_memory`.

    Raises InvalidInputError for an unknown name or config.
    """
    if not isinstance(description, dict):
        raise InvalidInputError(
            f"a scene memory is described by an object with its kind and config, not by "
            f"{description!r}"
        )
    name = description.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InvalidInputError(
            f"scene memory of kind {name!r}: known are {', '.join(KINDS)}; upgrade worldsim, or "
            f"call worldsim.memory.registry.register first"
        )
    config: object = from_json(_load(kind.config), description.get("config", {}))
    made: Callable[..., SceneMemory] = _load(kind.memory)
    if not kind.upon_points:
        return made(config)
    points = description.get("points")
    if not isinstance(points, dict):
        raise InvalidInputError(
            f"scene memory of kind {name!r}: the description of the points that it builds upon is "
            f"missing"
        )
    return made(memory_from_description(points), config)


def _is_of(memory: object, entry: str | type) -> bool:
    cls = type(memory)
    return cls is entry or f"{cls.__module__}:{cls.__qualname__}" == entry


def _load(entry: str | type) -> type:
    if isinstance(entry, type):
        return entry
    module, _, name = entry.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found
