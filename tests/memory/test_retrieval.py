"""Retrieval shows the past frame of the nearest pose, and that one alone."""

from __future__ import annotations

import pytest
import torch

from worldsim.camera import Camera, quantise_depth
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory import RetrievalMemory, RetrievalMemoryConfig, SeenFrames
from worldsim.state import Frame

SIZE = 4
INTRINSICS = torch.tensor([[2.0, 2.0, 2.0, 2.0]])


def camera(x: float) -> Camera:
    """Looking along the world's z axis from (x, 0, 0)."""
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = x
    return Camera(pose, INTRINSICS, SIZE, SIZE)


def frame(x: float, colour: int, depth: float = 2.0) -> Frame:
    rgb = torch.full((1, 3, SIZE, SIZE), colour, dtype=torch.uint8)
    return Frame(rgb, quantise_depth(torch.full((1, SIZE, SIZE), depth)), camera(x).pose)


def filled(capacity: int, *seen: tuple[float, int]) -> tuple[RetrievalMemory, SeenFrames]:
    memory = RetrievalMemory(RetrievalMemoryConfig(SIZE, SIZE, capacity))
    data = memory.empty(1)
    for step, (x, colour) in enumerate(seen):
        data = memory.integrate(data, frame(x, colour), camera(x), torch.tensor([step]))
    return memory, data


def test_the_nearest_frame_is_shown() -> None:
    memory, data = filled(4, (0.0, 10), (3.0, 20), (6.0, 30))
    for x, colour in ((0.0, 10), (2.9, 20), (7.0, 30)):
        view = memory.render(data, camera(x))
        assert bool(view.mask.any()) and set(view.rgb[:, 0][view.mask].tolist()) == {colour}


def test_only_one_frame_is_shown() -> None:
    """From 0.3 m to the right a wall 2 m away moves by 0.3 pixels to the left, from 0.9 m by 0.9:
    its right column is a hole."""
    memory, data = filled(4, (0.0, 10), (2.0, 20))
    view = memory.render(data, camera(0.3))
    assert view.mask[0, :, -1].tolist() == [True] * SIZE
    view = memory.render(data, camera(0.9))
    assert view.mask[0].int().tolist() == [[1, 1, 1, 0]] * SIZE and set(
        view.rgb[:, 0][view.mask].tolist()
    ) == {10}


def test_the_oldest_makes_room() -> None:
    memory, data = filled(2, (0.0, 10), (3.0, 20), (6.0, 30))
    assert data.count.tolist() == [3]
    assert set(memory.render(data, camera(0.0)).rgb.flatten().tolist()) <= {0, 20}
    assert set(data.rgb[0, :, 0, 0, 0].tolist()) == {20, 30}


def test_clear_errors() -> None:
    with pytest.raises(InvalidInputError, match="capacity = 0"):
        RetrievalMemory(RetrievalMemoryConfig(capacity=0))
    memory, data = filled(2)
    with pytest.raises(InvalidInputError, match=r"\(4, 4\) do not fit a memory of 4x6"):
        wide = RetrievalMemory(RetrievalMemoryConfig(SIZE, 6, 2))
        wide.integrate(wide.empty(1), frame(0.0, 1), camera(0.0), torch.tensor([0]))
    with pytest.raises(MissingGeometryError, match="NoMemory"):
        memory.integrate(data, Frame(frame(0.0, 1).rgb), camera(0.0), torch.tensor([0]))
