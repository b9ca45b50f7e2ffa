"""The memory contract holds for every implementation, and catches those that break it."""

import dataclasses

import pytest
import torch

from worldsim.contracts import ContractError, check_memory
from worldsim.memory import NoMemory, PointMemory, PointMemoryConfig, RetrievalMemory, RetrievalMemoryConfig
from worldsim.protocols import SceneMemory

SMALL = PointMemoryConfig(capacity=2000)


@pytest.mark.parametrize(
    "memory",
    [
        NoMemory(),
        PointMemory(SMALL),
        PointMemory(PointMemoryConfig(capacity=500, carve=False)),
        PointMemory(PointMemoryConfig(capacity=100)),
    ],
    ids=["none", "points", "points-crowded", "points-tiny"],
)
@pytest.mark.parametrize("size", [(16, 24), (33, 17)])
def test_implementations_keep_the_contract(memory, size):
    assert isinstance(memory, SceneMemory)
    check_memory(memory, size=size)


@pytest.mark.parametrize("size", [(16, 24), (33, 17)])
@pytest.mark.parametrize("capacity", [1, 3])
def test_retrieval_keeps_the_contract(size, capacity):
    memory = RetrievalMemory(RetrievalMemoryConfig(*size, capacity))
    assert isinstance(memory, SceneMemory)
    check_memory(memory, size=size)


class Inventive(PointMemory):
    def render(self, memory, camera):
        view = super().render(memory, camera)
        return dataclasses.replace(view, rgb=view.rgb + (~view.mask[:, None]).to(torch.uint8))


class Careless(PointMemory):
    def integrate(self, memory, frame, camera, step):
        memory.seen.add_(1)
        return super().integrate(memory, frame, camera, step)


class Sociable(PointMemory):
    def integrate(self, memory, frame, camera, step):
        return super().integrate(memory, dataclasses.replace(frame, rgb=frame.rgb // len(step) * len(step)), camera, step)


class Faint(PointMemory):
    def render(self, memory, camera):
        view = super().render(memory, camera)
        return dataclasses.replace(view, rgb=view.rgb // 2)


@pytest.mark.parametrize(
    ("memory", "complaint"),
    [
        (Inventive(SMALL), "invents something in holes"),
        (Careless(SMALL), "changed its inputs"),
        (Faint(SMALL), "other colours"),
        (Sociable(SMALL), "other colours|when it is alone"),
        (object(), "lacks one of the methods"),
    ],
)
def test_broken_promises_are_named(memory, complaint):
    with pytest.raises(ContractError, match=complaint):
        check_memory(memory)
