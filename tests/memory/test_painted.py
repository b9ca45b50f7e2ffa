"""Known pixels that a nearer view shows more finely."""

from __future__ import annotations

import pytest
import torch

from worldsim.camera import Camera, quantise_depth
from worldsim.memory.painted import captured_from_afar
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import Frame

pytestmark = pytest.mark.fast
SIZE = 8


def camera(metres: float) -> Camera:
    """A camera that looks along z, moved ahead."""
    pose = torch.eye(4)[None].clone()
    pose[:, 2, 3] = metres
    return Camera(pose, torch.tensor([[8.0, 8.0, 4.0, 4.0]]), SIZE, SIZE)


def wall(metres: float, at: Camera) -> Frame:
    rgb = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    return Frame(rgb, quantise_depth(torch.full((1, SIZE, SIZE), metres)), at.pose)


def test_a_wall_captured_from_afar_is_coarse() -> None:
    """A wall 8 m away, seen again from 4 m: twice the distance."""
    memory, far, near = PointMemory(PointMemoryConfig(capacity=256)), camera(0.0), camera(4.0)
    data = memory.integrate(memory.empty(1), wall(8.0, far), far, torch.tensor([0]))
    view = memory.render(data, near)
    frame = wall(4.0, near)
    assert bool(view.mask.any()) and not bool(view.mask.all())
    assert torch.equal(captured_from_afar(view, frame, 1.6), view.mask)
    assert not captured_from_afar(view, frame, 2.2).any()
    # The sky is nowhere, so nothing was captured from further away.
    assert not captured_from_afar(view, wall(float("inf"), near), 1.6).any()
