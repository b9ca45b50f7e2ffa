"""What a generated file comes from, and the 32 bits that its mark carries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from worldsim import __version__
from worldsim.runtime.types import JsonObject

VERSION = 1
"""Of the payload; part of its check byte."""


@dataclass(frozen=True)
class Origin:
    """Where a generated file comes from.

    world: name of the world, or of the painter.
    sha256: SHA-256 of its weights.
    seed: of its random numbers; None if the file has none of its own.
    actions_sha256: :func:`hash_actions` of the actions that led to it; None without actions.
    """

    world: str
    sha256: str
    seed: int | None = None
    actions_sha256: str | None = None

    @property
    def payload(self) -> int:
        """The mark's 32 bits: 24 of the world's hash, and a check byte."""
        return payload_of(self.sha256)

    def claim(self) -> JsonObject:
        """Return what a sidecar states about the origin."""
        return {
            "generated": True,
            "world": self.world,
            "world_sha256": self.sha256,
            "seed": self.seed,
            "actions_sha256": self.actions_sha256,
            "worldsim": __version__,
        }


def payload_of(sha256: str) -> int:
    """Return the 32 bits for a world: 24 bits of its hash above a check byte.

    sha256: hexadecimal; any other text is hashed first.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        sha256 = hashlib.sha256(sha256.encode()).hexdigest()
    world = int(sha256[:6], 16)
    return world << 8 | _check(world)


def world_of(payload: int) -> str | None:
    """Return the first six digits of the world's hash, None if the check byte is wrong."""
    world = payload >> 8
    return f"{world:06x}" if payload & 0xFF == _check(world) else None


def hash_actions(actions: Iterable[object]) -> str:
    """Return the SHA-256 of actions in their order, each as a list of float64 numbers."""
    total = hashlib.sha256()
    for action in actions:
        numbers = np.ascontiguousarray(np.asarray(action, "<f8"))
        total.update(numbers.size.to_bytes(4, "little") + numbers.tobytes())
    return total.hexdigest()


def _check(world: int) -> int:
    return hashlib.sha256(bytes([VERSION]) + world.to_bytes(3, "big")).digest()[0]
