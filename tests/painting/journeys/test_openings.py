"""Openings: borders of known ground that lead on, and rooms without a way out."""

from __future__ import annotations

import math

import pytest
import torch

from worldsim.camera import Camera
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.painting.journeys.openings import Opening, find_openings
from worldsim.painting.places.place import EYE_HEIGHT, level_pose

SIDE, HEIGHT, STEP = 5.0, 3.0, 0.1
"""Metres: half the room's side, its height, and between points."""


def room(door: tuple[float, float] | None) -> tuple[PointMemory, Points]:
    """A square room around the origin; its wall in the east has a door between two values of y."""
    line = torch.arange(-SIDE, SIDE + STEP / 2, STEP)
    x, y = torch.meshgrid(line, line, indexing="ij")
    floor = torch.stack([x.flatten(), y.flatten(), torch.zeros(x.numel())])
    along, up = torch.meshgrid(line, torch.arange(0.0, HEIGHT, STEP), indexing="ij")
    along, up = along.flatten(), up.flatten()
    side = torch.full_like(along, SIDE)
    closed = torch.ones_like(along, dtype=torch.bool)
    if door is not None:
        closed = (along < door[0]) | (along > door[1])
    walls = [
        torch.stack([side, along, up])[:, closed],
        torch.stack([-side, along, up]),
        torch.stack([along, side, up]),
        torch.stack([along, -side, up]),
    ]
    position = torch.cat([floor, *walls], 1)
    memory = PointMemory(PointMemoryConfig(capacity=position.shape[1]))
    data = memory.empty(1)
    return memory, Points(
        position=position[None].float(),
        colour=torch.full_like(data.colour, 100),
        kind=torch.full_like(data.kind, POINT),
        seen=torch.zeros_like(data.seen),
        confidence=data.confidence,
        source=torch.full_like(data.source, 120),
    )


def openings(door: tuple[float, float] | None, *before: tuple[float, float]) -> list[Opening]:
    memory, data = room(door)
    camera = Camera(level_pose(z=EYE_HEIGHT)[None], torch.tensor([[42.7, 51.2, 32, 32]]), 64, 64)
    poses = [level_pose(x, y, EYE_HEIGHT) for x, y in before]
    earlier = torch.stack(poses) if poses else torch.zeros(0, 4, 4)
    return find_openings(memory, data, camera, earlier, 4.0, 8.0)


def test_a_closed_room_has_no_way_out():
    assert openings(None) == []


def test_a_door_leads_on_and_the_camera_looks_out_of_it():
    (found,) = openings((-1.5, 1.5))
    x, y, z = found.pose[:3, 3].tolist()
    # The border lies 1.25 m outside the known floor, and the camera 1.25 m before the border.
    assert 4.0 <= x <= 5.5 and abs(y) < 0.5
    assert z == pytest.approx(EYE_HEIGHT, abs=0.05)
    heading = math.atan2(float(found.pose[1, 2]), float(found.pose[0, 2]))
    assert abs(heading) < 0.3
    assert found.hole > 0.5 and found.apart == pytest.approx(math.hypot(x, y), abs=1e-3)


def test_the_widest_door_does_not_lead_back_to_an_earlier_place():
    assert openings((-1.5, 1.5), (5.0, 0.0)) == []
    assert len(openings((-1.5, 1.5), (-4.0, 0.0))) == 1
