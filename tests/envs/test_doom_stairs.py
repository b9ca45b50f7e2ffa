"""Visible stairs, in corridors whose steps are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.envs.doom_geometry import _LUMPS, NO_SIDE, MapGeometry
from worldsim.envs.doom_stairs import stairs_share

pytestmark = pytest.mark.fast

EYE = (64.0, 128.0, 41.0)
AHEAD = np.array([-0.4, 0.0, 0.4])
ROWS = np.linspace(0.6, -0.6, 64)


def corridor(floors: list[int], tread: int = 32, ceiling: int = 256) -> MapGeometry:
    """A corridor to the east, y 0 to 256. Its first floor ends at x = 192, the others after
    ``tread`` units each, the last one at x = 1200."""
    ends = [0, 192, *(192 + tread * i for i in range(1, len(floors) - 1)), 1200]
    vertices = [(x, y) for x in ends for y in (0, 256)]
    # start, end, front sector, back sector; a line's front is on its right.
    lines: list[tuple[int, int, int, int | None]] = [(0, 1, 0, None)]
    for i in range(len(floors)):
        south, north, far_south, far_north = range(2 * i, 2 * i + 4)
        lines += [(north, far_north, i, None), (far_south, south, i, None)]
        last = i == len(floors) - 1
        lines.append((far_north, far_south, i, None if last else i + 1))
    sides = [number for line in lines for number in line[2:] if number is not None]
    at = iter(range(len(sides)))
    linedefs = [
        (a, b, 0, 0, 0, next(at), NO_SIDE if back is None else next(at)) for a, b, _, back in lines
    ]
    return MapGeometry(
        {
            "THINGS": np.zeros(0, _LUMPS["THINGS"]),
            "VERTEXES": np.array(vertices, _LUMPS["VERTEXES"]),
            "LINEDEFS": np.array(linedefs, _LUMPS["LINEDEFS"]),
            "SIDEDEFS": np.array(
                [(0, 0, b"-", b"-", b"-", sector) for sector in sides], _LUMPS["SIDEDEFS"]
            ),
            "SECTORS": np.array(
                [(floor, ceiling, b"FLOOR", b"CEIL", 160, 0, 0) for floor in floors],
                _LUMPS["SECTORS"],
            ),
        }
    )


def share(
    geometry: MapGeometry, right: np.ndarray = AHEAD, up: np.ndarray = ROWS, angle: float = 0.0
) -> float:
    x, y, z = EYE
    crossings = geometry._crossings(geometry.lines, x, y, angle, right)
    return stairs_share(geometry, crossings, z, right, up)


@pytest.mark.parametrize(
    ("floors", "tread", "shown"),
    [
        ([0, 16, 32, 48, 64], 32, 1.0),
        ([0, 24, 48, 72], 32, 1.0),
        # A rim of 24 units together, two steps, steps that are too high, terraces.
        ([0, 8, 16, 24], 32, 0.0),
        ([0, 24, 48], 32, 0.0),
        ([0, 25, 50, 75], 32, 0.0),
        ([0, 16, 32, 48], 90, 0.0),
        # Up and down again.
        ([0, 16, 32, 16, 0], 32, 0.0),
        # Down at 48 units a step: the edges lie at -41 / 128, -49 / 176, -57 / 224, -65 / 272, each
        # above the one before. With treads of 8, the edge at -41 / 128 hides all others.
        ([0, -8, -16, -24, -32], 48, 1.0),
        ([0, -8, -16, -24, -32], 8, 0.0),
        # A floor of 40 units in front breaks the row, and hides what lies below it.
        ([0, 40, 0, 16, 32], 32, 0.0),
    ],
)
def test_rows_of_steps(floors: list[int], tread: int, shown: float):
    assert share(corridor(floors, tread)) == shown


def test_the_share_is_that_of_the_columns():
    # The rays of slope 2 meet the walls at 64, in front of the first step at 128.
    geometry = corridor([0, 16, 32, 48, 64])
    assert share(geometry, np.array([-2.0, 0.0, 0.25, 2.0])) == 0.5
    assert share(geometry, angle=np.pi) == 0.0


def test_steps_outside_the_view_and_without_room_do_not_count():
    # Edges at -25 / 128, -9 / 160, 7 / 192 and 23 / 224.
    geometry = corridor([0, 16, 32, 48, 64])
    assert share(geometry, up=np.linspace(0.6, -0.1, 64)) == 1.0
    assert share(geometry, up=np.linspace(0.6, 0.0, 64)) == 0.0
    # 56 units of room above the first step alone.
    assert share(corridor([0, 16, 32, 48, 64], ceiling=72)) == 0.0
