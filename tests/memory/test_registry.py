"""Scene memories by name, as files name them."""

from __future__ import annotations

import json

import pytest

from worldsim.errors import InvalidInputError
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


def test_unknown_kinds() -> None:
    assert (
        describe_memory(NoMemory()) is None and describe_memory(RadianceMemory(Otherwise())) is None
    )
    with pytest.raises(InvalidInputError, match="'clouds'"):
        memory_from_description({"kind": "clouds"})
    with pytest.raises(InvalidInputError, match="colour"):
        memory_from_description({"kind": "points", "config": {"colour": 1}})
