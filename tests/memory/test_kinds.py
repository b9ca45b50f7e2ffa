"""Scene memories by name, as files name them."""

from __future__ import annotations

import json

import pytest

from worldsim.errors import InvalidInputError
from worldsim.memory.kinds import describe_memory, described_memory
from worldsim.memory.none import NoMemory
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig


@pytest.mark.parametrize(
    "memory", [PointMemory(PointMemoryConfig(capacity=7, carve=False)), RetrievalMemory(RetrievalMemoryConfig(capacity=3))]
)
def test_there_and_back(memory: PointMemory | RetrievalMemory) -> None:
    again = described_memory(json.loads(json.dumps(describe_memory(memory))))
    assert type(again) is type(memory) and again.config == memory.config


def test_unknown_kinds() -> None:
    assert describe_memory(NoMemory()) is None
    with pytest.raises(InvalidInputError, match="'clouds'"):
        described_memory({"kind": "clouds"})
    with pytest.raises(InvalidInputError, match="colour"):
        described_memory({"kind": "points", "config": {"colour": 1}})
