"""Maps from above and voxels, of points that can be counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh

from worldsim.camera import quantise_depth
from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.memory.editing import surface_points
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.maps import _close
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import Trajectory

MEMORY = PointMemory(PointMemoryConfig(capacity=20000))
# A camera at the origin that looks north, along world y; z is up.
NORTH = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def handle(
    position: list[list[float]] | torch.Tensor, colour: list[list[int]] | None = None
) -> MemoryHandle:
    place = torch.as_tensor(position)[None]
    colours = (
        torch.tensor(colour, dtype=torch.uint8)[None]
        if colour
        else torch.full(place.shape, 50, dtype=torch.uint8)
    )
    data = MEMORY.from_points(place, colours, distance=0.125)
    return MemoryHandle(MEMORY, data, torch.tensor([32.0, 32, 32, 32]), (64, 64), NORTH)


def test_a_map_by_hand() -> None:
    """Points 0.5 m apart, one pixel each: north is up, east is right, the ceiling is cut away, the
    highest shows."""
    data = handle(
        [[0.25, 0.25, 0], [1.25, 0.25, -1], [0.25, 1.25, 0.2], [0.25, 0.25, -1], [0.25, 0.25, 2]],
        [
            [1, 0, 0],
            [2, 0, 0],
            [3, 0, 0],
            [4, 0, 0],
            [5, 0, 0],
        ],
    )
    above = data.top_down(resolution=0.5, gap=0)
    assert above.rgb[..., 0].tolist() == [[3, 0, 0], [0, 0, 0], [1, 0, 2]]
    assert above.mask.tolist() == [[True, False, False], [False] * 3, [True, False, True]]
    np.testing.assert_allclose(above.height[2], [0.0, np.nan, -1.0])
    assert (above.west, above.north, above.resolution) == (0.0, 1.5, 0.5)
    np.testing.assert_allclose(above.pixels([[0.25, 1.25], [1.25, 0.25]]), [[0.5, 0.5], [2.5, 2.5]])
    np.testing.assert_allclose(above.metres(above.pixels([0.3, -7.0])), [0.3, -7.0])
    assert data.top_down(resolution=0.5, gap=0, above=3.0).rgb[2, 0, 0] == 5
    assert data.top_down(resolution=0.5, gap=0, below=0.5).mask.tolist() == [
        [True],
        [False],
        [True],
    ]


def test_gaps_are_closed_and_nothing_else() -> None:
    """Two points 0.4 m apart in a row: between them, not around them."""
    data = handle([[0.05, 0.05, 0], [0.45, 0.05, 0], [0.05, 2.05, 0]])
    assert data.top_down(resolution=0.1, gap=0).mask[20].tolist() == [
        True,
        False,
        False,
        False,
        True,
    ]
    closed = data.top_down(resolution=0.1, gap=0.4)
    assert closed.mask[20].all() and closed.mask.sum() == 6


def test_a_known_cube_fills_known_voxels() -> None:
    """A cube of 1 m, its middle 2 m north: its faces are the outer layer of 5 x 5 x 5 voxels of 0.2
    m, 98 of them."""
    crate = trimesh.creation.box((0.999, 0.999, 0.999))
    position, _ = surface_points(crate, spacing=0.03)
    data = handle(position + torch.tensor([0.5, 2.5, 0.5]))
    grid = data.occupancy(voxel=0.2)
    assert grid.occupied.shape == (5, 5, 5) and int(grid.occupied.sum()) == 5**3 - 3**3
    np.testing.assert_allclose(grid.origin, [0.0, 2.0, 0.0], atol=1e-9)
    assert not grid.occupied[1:-1, 1:-1, 1:-1].any()
    assert grid.index([0.5, 2.1, 0.5]).tolist() == [2, 0, 2]
    # Nothing is known of its inside, and no line of sight leads there.
    assert grid.unknown[1:-1, 1:-1, 1:-1].all() and not (grid.free & grid.occupied).any()


def test_sight_frees_what_it_passes() -> None:
    """A wall two metres north and a post beside the camera: the way to the wall is free, what is
    behind it unknown."""
    x, z = torch.meshgrid(
        torch.arange(-2.0, 2.0, 0.05), torch.arange(-2.0, 2.0, 0.05), indexing="ij"
    )
    wall = torch.stack([x, torch.full_like(x, 2.05), z], -1).reshape(-1, 3)
    data = handle(torch.cat([wall, torch.tensor([[0.0, 3.0, 0.0], [0.05, 0.05, 0.05]])]))
    depth = torch.full((1, 64, 64), 2.05)
    walk = Trajectory(
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        quantise_depth(depth),
        NORTH[None],
        data.intrinsics,
    )
    for grid in (data.occupancy(voxel=0.1), data.occupancy(voxel=0.1, trajectory=walk)):

        def at(values: np.ndarray, y: float, grid=grid) -> bool:
            return bool(values[tuple(grid.index([0.02, y, 0.02]))])

        assert (
            at(grid.free, 0.5)
            and at(grid.free, 1.5)
            and at(grid.occupied, 2.05)
            and at(grid.unknown, 2.5)
        )
        # Half-way to the wall the view is 1 m to each side: beyond it nothing is known.
        assert (
            grid.unknown[tuple(grid.index([1.5, 1.05, 0.0]))]
            and grid.free[tuple(grid.index([0.8, 1.05, 0.0]))]
        )


def test_confidence_and_reach() -> None:
    data = handle([[0.05, 1.0, 0.0], [0.05, 15.0, 0.0]])
    assert data.occupancy().occupied.sum() == 1 and data.occupancy(reach=None).occupied.sum() == 2
    with pytest.raises(InvalidInputError, match="confidence of 2"):
        data.occupancy(confidence=2)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("top_down", {"resolution": 0.0}, "resolution"),
        ("top_down", {"resolution": 1e-4, "reach": None}, "larger resolution"),
        ("top_down", {"reach": -1.0}, "reach"),
        ("top_down", {"gap": -1.0}, "gap"),
        ("top_down", {"above": -20.0}, "no point"),
        ("occupancy", {"voxel": float("nan")}, "voxel"),
        ("occupancy", {"voxel": 1e-3, "reach": None}, "larger voxel"),
    ],
)
def test_bad_input(method: str, arguments: dict[str, float], message: str) -> None:
    data = handle([[0.0, 0.0, 0.0], [20.0, 20.0, -10.0]])
    with pytest.raises(InvalidInputError, match=message):
        getattr(data, method)(**arguments)


def test_closing_is_what_a_square_does() -> None:
    """Two lines, one after the other, find what a square finds."""
    mask = torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < 0.05
    for reach in (1, 3):
        side = 2 * reach + 1
        wide = F.max_pool2d(
            F.pad(mask.float()[None, None], (reach,) * 4), side, stride=1, padding=reach
        )
        assert torch.equal(_close(mask, reach), (-F.max_pool2d(-wide, side, stride=1))[0, 0] > 0)


@pytest.mark.parametrize("gap", [-0.1, 1e6, 1e300, math.inf, math.nan, "1", None])
def test_gaps_that_are_none(gap: Any) -> None:
    """A gap of a million metres looked at 4e14 pixels."""
    with pytest.raises(InvalidInputError, match="gap = .*from 0 to 100 metres"):
        handle([[0.0, 0, 0]]).top_down(gap=gap)


def test_a_gap_of_too_many_pixels() -> None:
    points = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)).mul(8.0).T.clone()
    points[:, 2] = 0.0
    with pytest.raises(
        InvalidInputError, match="gap = 50.0 m at resolution = 0.004 m.*smaller gap"
    ):
        handle(points).top_down(resolution=0.004, gap=50.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": 1e-9},
        {"resolution": "a"},
        {"above": math.nan},
        {"below": "x"},
        {"reach": math.nan},
    ],
)
def test_maps_of_no_size(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(changes))):
        handle([[0.0, 0, 0]]).top_down(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"voxel": 1e-300},
        {"voxel": True},
        {"confidence": -1},
        {"confidence": 256},
        {"trajectory": 3},
    ],
)
def test_grids_of_no_size(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(changes))):
        handle([[0.0, 0, 0]]).occupancy(**changes)


def test_maps_that_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    far = handle([[0.0, 0, 0], [20.0, 20.0, 0]])
    far.top_down(gap=0)
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "0.001")
    with pytest.raises(OutOfMemoryError, match="a map of 401 x 401 pixels"):
        far.top_down(gap=0)
    with pytest.raises(OutOfMemoryError, match="a grid of"):
        far.occupancy(reach=None)
