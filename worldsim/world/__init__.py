"""Worlds: configuration, files, heads, engines and snapshots."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldsim.world.world import World as World

__all__ = ["World"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: recording workers import this package and need no diffusion model.
    if name == "World":
        return importlib.import_module("worldsim.world.world").World
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
