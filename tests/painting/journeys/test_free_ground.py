"""Ground that was free: what stands on it is told, floors and what lies beyond are not."""

from __future__ import annotations

import pytest
import torch

from worldsim.camera import Camera, quantise_depth
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.painting.journeys.free_ground import HIGH, FreeGround
from worldsim.painting.places.place import level_pose
from worldsim.state import Frame

EYE = 1.28
LENS = torch.tensor([[16.0, 16.0, 16.0, 16.0]])


def camera() -> Camera:
    return Camera(level_pose(z=EYE)[None], LENS, 32, 32)


def frame_of(depth: torch.Tensor) -> Frame:
    rgb = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    return Frame(rgb, quantise_depth(depth[None]), level_pose(z=EYE)[None])


@pytest.mark.fast
def test_what_stands_on_free_ground() -> None:
    # A floor as far as 6 m, and nothing known above or beyond it.
    down = (torch.arange(32) + 0.5 - 16.0) / 16.0
    metres = (EYE / down.clamp(min=1e-3))[:, None].expand(32, 32)
    floor = torch.where(metres <= 6.0, metres, torch.inf)
    memory = PointMemory(PointMemoryConfig(capacity=2048))
    seen = torch.isfinite(floor)[None]
    step = torch.tensor([0])
    data = memory.integrate(memory.empty(1), frame_of(floor), camera(), step, seen)
    free = FreeGround.of(data, level_pose(z=EYE))
    assert not free.carries(frame_of(floor), camera()).any()
    # A wall 4 m away hides the floor beyond: all of it stands on free ground but its lowest part
    # and what is over head height.
    wall = free.carries(frame_of(floor.clamp(max=4.0)), camera())[0]
    over = (EYE - down * 4.0)[:, None].expand(32, 32)
    inner = (over > 0.5) & (over < HIGH - 0.1)
    assert wall[:, 12:20][inner[:, 12:20]].all()
    assert not wall[over > HIGH].any() and not wall[over < 0.4].any()
    # Nothing is known of the ground 10 m away.
    assert not free.carries(frame_of(floor.clamp(max=10.0)), camera()).any()
