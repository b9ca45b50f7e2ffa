"""Scene memories by name, as files name them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from worldsim.errors import InvalidInputError
from worldsim.memory import registry
from worldsim.memory.fitting import FitConfig
from worldsim.memory.none import NoMemory
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.radiance import RadianceMemory, RadianceMemoryConfig
from worldsim.memory.registry import describe_memory, memory_from_description
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig


@pytest.mark.parametrize(
    "memory",
    [
        PointMemory(PointMemoryConfig(capacity=7, carve=False)),
        RetrievalMemory(RetrievalMemoryConfig(capacity=3)),
    ],
)
def test_there_and_back(memory: PointMemory | RetrievalMemory) -> None:
    again = memory_from_description(json.loads(json.dumps(describe_memory(memory))))
    assert type(again) is type(memory) and again.config == memory.config


def test_a_memory_upon_points_names_them_too() -> None:
    points = PointMemory(PointMemoryConfig(capacity=7))
    memory = RadianceMemory(
        points, RadianceMemoryConfig(32, 24, shape=(9, 8, 7), fit=FitConfig(rays=5))
    )
    described = json.loads(json.dumps(describe_memory(memory)))
    assert described["kind"] == "radiance" and described["points"] == describe_memory(points)
    again = memory_from_description(described)
    assert type(again) is RadianceMemory and again.config == memory.config
    assert type(again.points) is PointMemory and again.points.config == points.config
    # Data of the same shapes: what is on disk fits it.
    assert (
        again.empty(2).voxels.density.shape == (2, 9, 8, 7) and again.empty(2).points.capacity == 7
    )
    with pytest.raises(InvalidInputError, match="points"):
        memory_from_description(
            {name: value for name, value in described.items() if name != "points"}
        )


class Otherwise(PointMemory):
    """A user's own, which has no name."""


@dataclass(frozen=True)
class OtherwiseConfig:
    """Its settings."""

    capacity: int = 5


class ThirdParty(PointMemory):
    """A memory of another package."""

    def __init__(self, config: OtherwiseConfig) -> None:
        super().__init__(PointMemoryConfig(capacity=config.capacity))
        self.config = config  # type: ignore[assignment]


def test_a_memory_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reproduces: its name could not be registered, so its snapshots could not be opened."""
    monkeypatch.setattr(registry, "KINDS", dict(registry.KINDS))
    memory = ThirdParty(OtherwiseConfig(capacity=3))
    assert describe_memory(memory) is None
    registry.register("third", ThirdParty, OtherwiseConfig)
    described = describe_memory(memory)
    assert described == {"kind": "third", "config": {"capacity": 3}}
    again = memory_from_description(described)
    assert type(again) is ThirdParty and again.empty(1).capacity == 3
    with pytest.raises(InvalidInputError, match="'fourth': int lacks empty, integrate"):
        registry.register("fourth", int, OtherwiseConfig)
    with pytest.raises(InvalidInputError, match="needs a dataclass"):
        registry.register("fourth", ThirdParty, int)


def test_unknown_kinds() -> None:
    assert (
        describe_memory(NoMemory()) is None and describe_memory(RadianceMemory(Otherwise())) is None
    )
    with pytest.raises(InvalidInputError, match="'clouds'"):
        memory_from_description({"kind": "clouds"})
    with pytest.raises(InvalidInputError, match="colour"):
        memory_from_description({"kind": "points", "config": {"colour": 1}})
