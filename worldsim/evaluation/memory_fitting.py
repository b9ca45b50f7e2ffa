"""When a memory that is fitted, such as a radiance field, is fitted during measurements."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.points import PointMemory
from worldsim.memory.radiance import RadianceMemory, RadianceMemoryConfig
from worldsim.protocols import MemoryT
from worldsim.state import WorldState
from worldsim.world import World


@runtime_checkable
class CanFit(Protocol[MemoryT]):
    """A memory with ``fit``."""

    def fit(self, memory: MemoryT, iterations: int) -> MemoryT:
        """Return its data with a new fit."""
        ...


@dataclass(frozen=True)
class Fits:
    """When the memory is fitted: where dreamed frames begin, and after every ``every`` of them."""

    iterations: int
    every: int

    def __post_init__(self) -> None:
        for name in ("iterations", "every"):
            if getattr(self, name) < 1:
                raise InvalidInputError(
                    f"Fits.{name} = {getattr(self, name)}: it must be at least 1"
                )


def fit_memory(world: World, state: WorldState, dreamed: int, fits: Fits | None) -> WorldState:
    """Return ``state`` with its memory fitted if that is due after ``dreamed`` frames."""
    if fits is None or dreamed % fits.every or not isinstance(world.memory, CanFit):
        return state
    return dataclasses.replace(state, memory=world.memory.fit(state.memory, fits.iterations))


def with_radiance(world: World) -> World:
    """Return the world with a radiance field on top of its points."""
    if not isinstance(world.memory, PointMemory):
        found = type(world.memory).__name__
        raise MissingGeometryError(
            f"the radiance field builds upon points, and this world has a {found}: evaluate it as "
            f"it is"
        )
    spec = world.spec
    return world.with_memory(
        RadianceMemory(world.memory, RadianceMemoryConfig(spec.height, spec.width))
    )
