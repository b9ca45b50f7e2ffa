"""The splat: what shows through the gaps of a surface."""

from __future__ import annotations

import torch

from worldsim.camera import Camera
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.slots import beginning
from worldsim.memory.splat import POINT, between_nearer, view_of

INF = torch.inf


def test_pixels_between_nearer_ones_by_hand() -> None:
    """One row. 5 m between two at 1 m is hidden, also where they are two pixels away; at an edge,
    or 0.2 m behind, it is not."""
    z = torch.tensor([[1.0, 5.0, 1.0, INF, 5.0, INF, 1.0, 1.2, 1.0, 5.0, 5.0, 5.0, 1.0]])
    hidden = between_nearer(z[None])[0, 0].tolist()
    assert hidden == [
        False,
        True,
        False,
        True,
        True,
        True,
        False,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    assert not between_nearer(torch.tensor([[[1.0, 5.0, 5.0, 5.0, 5.0, 1.0]]]))[0, 0, 2:4].any()


def test_columns_and_diagonals_hide_too() -> None:
    z = torch.full((1, 3, 3), INF)
    z[0, 1, 1] = 4.0
    assert not between_nearer(z).any()
    for a, b in (((0, 1), (2, 1)), ((0, 0), (2, 2)), ((0, 2), (2, 0))):
        near = z.clone()
        near[0][a], near[0][b] = 1.0, 1.0
        assert between_nearer(near)[0, 1, 1]


def test_sky_behind_a_wall_of_scattered_points_is_not_seen() -> None:
    """A wall at 1 m, one point every other pixel, and a point far behind in a gap: the gap stays a
    hole."""
    camera = Camera(torch.eye(4)[None], torch.tensor([[8.0, 8.0, 4.0, 4.0]]), 8, 8)
    at = torch.arange(8) + 0.5
    rows, columns = torch.meshgrid(at[::2], at[::2], indexing="ij")
    wall = torch.stack([(columns.flatten() - 4) / 8, (rows.flatten() - 4) / 8, torch.ones(16)])
    behind = 10.0 * torch.tensor([[(3.5 - 4) / 8], [(2.5 - 4) / 8], [1.0]])
    position = torch.cat([wall, behind], 1)[None]
    kind = torch.full((1, 17), POINT, dtype=torch.uint8)
    colour = torch.full((1, 3, 17), 200, dtype=torch.uint8)
    view = view_of(position, colour, kind, torch.zeros(1, 17, dtype=torch.uint8), camera)
    assert view.mask.sum() == 16 and not view.mask[0, 2, 3] and not view.rgb[0, :, 2, 3].any()
    alone = view_of(
        position[..., 16:],
        colour[..., 16:],
        kind[:, 16:],
        torch.zeros(1, 1, dtype=torch.uint8),
        camera,
    )
    assert alone.mask[0, 2, 3] and alone.mask.sum() == 1


def test_the_slots_in_use_come_first() -> None:
    memory = PointMemory(PointMemoryConfig(capacity=10)).empty(2)
    assert beginning(memory).capacity == 0 and beginning(memory, 3).capacity == 3
    memory.kind[0, 1], memory.kind[1, 4] = POINT, POINT
    assert beginning(memory).capacity == 5 and beginning(memory, 2).capacity == 7
    assert beginning(memory, 5) is memory and beginning(memory, 50) is memory
