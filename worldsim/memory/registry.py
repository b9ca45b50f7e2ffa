"""Scene memories by name, so that files can name them. A new memory is one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worldsim.errors import InvalidInputError
from worldsim.protocols import MemoryT, SceneMemory
from worldsim.runtime.json_config import from_json, to_json
from worldsim.runtime.types import JsonObject


@dataclass(frozen=True)
class Kind:
    """Where a memory's class is, and how it is made: from its config, which it keeps as ``config``.

    upon_points: it is made from another memory first, which it builds upon and keeps as ``points``.
    """

    module: str
    memory: str
    config: str
    upon_points: bool = False


KINDS = {
    "points": Kind("worldsim.memory.points", "PointMemory", "PointMemoryConfig"),
    "frames": Kind("worldsim.memory.retrieval", "RetrievalMemory", "RetrievalMemoryConfig"),
    "radiance": Kind(
        "worldsim.memory.radiance", "RadianceMemory", "RadianceMemoryConfig", upon_points=True
    ),
}


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
        if (type(memory).__module__, type(memory).__qualname__) != (kind.module, kind.memory):
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
            f"scene memory of kind {name!r}: known are {', '.join(KINDS)}; upgrade worldsim"
        )
    module = importlib.import_module(kind.module)
    config = from_json(getattr(module, kind.config), description.get("config", {}))
    made: Callable[..., SceneMemory] = getattr(module, kind.memory)
    if not kind.upon_points:
        return made(config)
    points = description.get("points")
    if not isinstance(points, dict):
        raise InvalidInputError(
            f"scene memory of kind {name!r}: the description of the points that it builds upon is "
            f"missing"
        )
    return made(memory_from_description(points), config)
