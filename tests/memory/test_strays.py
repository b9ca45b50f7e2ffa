"""Painted pixels that hang in the air are found, and surfaces are left alone."""

from __future__ import annotations

import pytest
import torch

from worldsim.camera import Camera, quantise_depth
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.strays import hang_alone, in_free_space, stand_alone
from worldsim.state import Frame

pytestmark = pytest.mark.fast
SIZE = 16


def camera(*forward: float) -> Camera:
    """Cameras that look along z, moved ahead by so many metres."""
    pose = torch.eye(4).repeat(len(forward), 1, 1)
    pose[:, 2, 3] = torch.tensor(forward)
    lens = torch.tensor([[12.0, 12.0, 8.0, 8.0]]).repeat(len(forward), 1)
    return Camera(pose, lens, SIZE, SIZE)


def frame_of(depth: torch.Tensor, at: Camera) -> Frame:
    rgb = torch.zeros(len(depth), 3, SIZE, SIZE, dtype=torch.uint8)
    return Frame(rgb, quantise_depth(depth), at.pose)


def test_pixels_of_a_soft_edge_hang_alone() -> None:
    depth = torch.full((2, SIZE, SIZE), 2.0)
    # A wall six metres away behind a soft edge, a thin post before it, and one pixel in the air.
    depth[0, :, 9:] = 6.0
    depth[0, :, 8] = 3.0
    depth[0, :, 12] = 2.0
    depth[0, 4, 3] = 1.0
    expected = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    expected[0, :, 8], expected[0, 4, 3] = True, True
    assert torch.equal(hang_alone(frame_of(depth, camera(0.0, 0.0))), expected)
    turned = frame_of(depth.transpose(1, 2).contiguous(), camera(0.0, 0.0))
    assert torch.equal(hang_alone(turned), expected.transpose(1, 2))
    # A floor up to the horizon, its corners included, is a surface.
    rows = torch.arange(SIZE, dtype=torch.float32)[:, None].expand(SIZE, SIZE)
    assert not hang_alone(frame_of(12.0 / (rows + 0.5)[None], camera(0.0))).any()
    # So is the sky.
    assert not hang_alone(frame_of(torch.full((1, SIZE, SIZE), torch.inf), camera(0.0))).any()


def test_points_before_what_another_view_sees_are_in_free_space() -> None:
    seen, there = camera(0.0, -1.0), camera(2.0)
    others = frame_of(torch.stack([torch.full((SIZE, SIZE), d) for d in (8.0, 9.0)]), seen)
    depth = torch.full((1, SIZE, SIZE), 6.0)
    depth[0, 6:10, 6:10] = 3.0
    wrong = in_free_space(frame_of(depth, there), there, others, seen)
    assert torch.equal(wrong[0], depth[0] == 3.0)
    # Sky is nowhere, and a wall that is a little nearer is the same wall.
    far = frame_of(torch.full((1, SIZE, SIZE), torch.inf), there)
    assert not in_free_space(far, there, others, seen).any()
    near = frame_of(torch.full((1, SIZE, SIZE), 5.6), there)
    assert not in_free_space(near, there, others, seen).any()
    # Against the sky, everything is too near.
    sky = frame_of(torch.full((2, SIZE, SIZE), torch.inf), seen)
    assert in_free_space(near, there, sky, seen)[0, 4:12, 4:12].all()


def test_points_with_few_others_around_them_stand_alone() -> None:
    """A wall at 6 m has points every half metre, and they count within two of these."""
    memory, at = PointMemory(PointMemoryConfig(capacity=1024)), camera(0.0)
    depth = torch.full((1, SIZE, SIZE), 6.0)
    depth[0, 0] = torch.inf
    depth[0, 5, 5], depth[0, 9, 9:11] = 3.0, 2.0
    data = memory.integrate(memory.empty(1), frame_of(depth, at), at, torch.tensor([0]))
    assert not stand_alone(memory.empty(1), 12.0, 2.0, 3).any()

    def metres(least: int) -> list[float]:
        alone = stand_alone(data, 12.0, 2.0, least)
        return sorted(data.position[0, 2, alone[0]].round(decimals=1).tolist())

    # One point has no other around it, each of two has one; directions are no points.
    assert metres(0) == []
    assert metres(1) == [3.0] and metres(2) == metres(3) == [2.0, 2.0, 3.0]
