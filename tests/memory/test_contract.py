"""The memory contract holds for every implementation, and catches those that break it."""

import dataclasses

import pytest
import torch

from worldsim.memory import (
    NoMemory,
    PointMemory,
    PointMemoryConfig,
    RadianceMemory,
    RadianceMemoryConfig,
    RetrievalMemory,
    RetrievalMemoryConfig,
)
from worldsim.memory.fitting import FitConfig
from worldsim.protocols import SceneMemory
from worldsim.testing import ContractError, Recall, check_memory

pytestmark = pytest.mark.fast

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


@pytest.mark.parametrize("size", [(16, 24), (33, 17)])
def test_the_radiance_field_keeps_the_contract(size):
    """Without a field it is as exact as points; with one, every promise holds, and frames come back
    blurred by voxels."""
    config = RadianceMemoryConfig(*size, shape=(64, 64, 48), keyframes=3, fit=FitConfig(rays=512))
    memory = RadianceMemory(PointMemory(SMALL), config)
    assert isinstance(memory, SceneMemory)
    check_memory(memory, size=size)
    # The contract's pixels are noise, each another colour than its neighbours.
    recall = Recall(depth=0.1, colour=64, source=16, outliers=0.1)
    check_memory(
        memory,
        size=size,
        recall=recall,
        refine=lambda data: memory.fit(data, iterations=30, seed=1),
    )


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
        return super().integrate(
            memory, dataclasses.replace(frame, rgb=frame.rgb // len(step) * len(step)), camera, step
        )


class Faint(PointMemory):
    def render(self, memory, camera):
        view = super().render(memory, camera)
        return dataclasses.replace(view, rgb=view.rgb // 2)


class Shapeshifter(PointMemory):
    def integrate(self, memory, frame, camera, step):
        return self.trim(super().integrate(memory, frame, camera, step))


class Batchless(NoMemory):
    def empty(self, batch, device):
        return (torch.zeros(()).expand(1),)

    def integrate(self, memory, frame, camera, step):
        return memory


@pytest.mark.parametrize(
    ("memory", "complaint"),
    [
        (Shapeshifter(SMALL), "position changes from"),
        (Batchless(), "lacks the batch axis"),
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


@pytest.mark.parametrize(
    ("refine", "complaint"),
    [
        (lambda data: (data.seen.add_(1), data)[1], "refine changed its input"),
        (
            lambda data: dataclasses.replace(data, seen=torch.randint_like(data.seen, 99)),
            "two refinements",
        ),
        (lambda data: dataclasses.replace(data, colour=data.colour.flip(0)), "other colours"),
    ],
)
def test_broken_refinements_are_named(refine, complaint):
    with pytest.raises(ContractError, match=complaint):
        check_memory(PointMemory(SMALL), refine=refine)
