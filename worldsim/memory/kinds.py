"""Kinds of scene memory by name, so that a file can say which one it holds. A new kind is one line here."""

from __future__ import annotations

import importlib
from typing import Any

from worldsim.config import from_json, to_json
from worldsim.errors import InvalidInputError
from worldsim.protocols import SceneMemory

KINDS = {
    "points": ("worldsim.memory.points", "PointMemory", "PointMemoryConfig"),
    "frames": ("worldsim.memory.retrieval", "RetrievalMemory", "RetrievalMemoryConfig"),
}
"""Module, class and config class: the class takes its config alone, and keeps it as ``config``."""


def describe_memory(memory: SceneMemory) -> dict[str, Any] | None:
    """A memory's kind and config as JSON values, None for one that has no name here."""
    for kind, (module, name, _) in KINDS.items():
        if (type(memory).__module__, type(memory).__qualname__) == (module, name):
            return {"kind": kind, "config": to_json(memory.config)}  # type: ignore[attr-defined]
    return None


def described_memory(description: dict[str, Any]) -> Any:
    """The memory that :func:`describe_memory` described. Raises InvalidInputError for an unknown kind or config."""
    kind = description.get("kind")
    if kind not in KINDS:
        raise InvalidInputError(f"scene memory of kind {kind!r}: known are {', '.join(KINDS)}; upgrade worldsim")
    module, name, config = (KINDS[kind][0], *KINDS[kind][1:])
    found = importlib.import_module(module)
    return getattr(found, name)(from_json(getattr(found, config), description.get("config", {})))
