"""Worlds: configuration, files, heads, step, engines and snapshots."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldsim.world.world import World as World

__all__ = ["World"]


def __getattr__(name: str) -> type[World]:
    # Imported on first use: recording workers import this package without a diffusion model.
    if name == "World":
        return importlib.import_module("worldsim.world.world").World
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
