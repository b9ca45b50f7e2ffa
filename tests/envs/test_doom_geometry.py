"""Ray casting and map reading, against a small map whose distances are worked out by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from worldsim.envs.doom_geometry import MapGeometry, map_names, read_lumps
from worldsim.errors import DamagedFileError, NotFoundError

# Two rooms side by side, seen from above; the line at x = 192 leads from A (west) to B (east).
#   A: x 0..192, floor 0, ceiling 128.   B: x 192..256, floor 24, ceiling 100 open to the sky.
# Both y 0..256.
VERTICES = [(0, 0), (0, 256), (192, 256), (256, 256), (256, 0), (192, 0)]
SECTORS = [(0, 128, b"CEIL"), (24, 100, b"F_SKY1")]
# start, end, front sector, back sector; a line's front is on its right.
LINES = [
    (0, 1, 0, None),
    (1, 2, 0, None),
    (2, 3, 1, None),
    (3, 4, 1, None),
    (4, 5, 1, None),
    (5, 0, 0, None),
    (2, 5, 0, 1),
]
EYE = (128.0, 128.0, 41.0)


def write_wad(
    path: Path, middle: bytes = b"-", lines: list[tuple[int, int, int, int | None]] = LINES
) -> Path:
    sides: list[bytes] = []
    linedefs = []
    for start, end, front, back in lines:
        linedefs.append(
            struct.pack(
                "<7H",
                start,
                end,
                0 if back is None else 4,
                0,
                0,
                len(sides),
                0xFFFF if back is None else len(sides) + 1,
            )
        )
        for sector in (front,) if back is None else (front, back):
            sides.append(
                struct.pack(
                    "<2h8s8s8sH", 0, 0, b"-", b"-", b"WALL" if back is None else middle, sector
                )
            )
    lumps = [
        (b"MAP01", b""),
        (b"THINGS", struct.pack("<5h", 64, 64, 90, 1, 7)),
        (b"LINEDEFS", b"".join(linedefs)),
        (b"SIDEDEFS", b"".join(sides)),
        (b"VERTEXES", b"".join(struct.pack("<2h", *vertex) for vertex in VERTICES)),
        (
            b"SECTORS",
            b"".join(
                struct.pack("<2h8s8s3h", floor, top, b"FLOOR", flat, 160, 0, 0)
                for floor, top, flat in SECTORS
            ),
        ),
    ]
    body, directory = b"", b""
    for name, data in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name)
        body += data
    path.write_bytes(struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + body + directory)
    return path


@pytest.fixture
def rooms(tmp_path: Path) -> MapGeometry:
    return MapGeometry.load(write_wad(tmp_path / "rooms.wad"), "MAP01")


def test_rays_ahead_meet_what_stands_there(rooms: MapGeometry) -> None:
    up = np.array([1.6, 1.0, 0.6, 0.0, -0.2, -0.5, -1.0])
    depth = rooms.cast(*EYE, 0.0, np.array([0.0]), up)[:, 0]
    # ceiling of A (128 - 41) / 1.6 | wall above the opening | sky of B | far wall | floor of B (41
    # - 24) / 0.2 | step | floor of A
    np.testing.assert_allclose(depth, [54.375, 64.0, np.inf, 128.0, 85.0, 64.0, 41.0])


def test_depth_is_along_the_axis_not_along_the_ray(rooms: MapGeometry) -> None:
    right = np.array([-0.5, 0.0, 0.5])
    np.testing.assert_allclose(
        rooms.cast(*EYE, np.pi, right, np.array([0.0])), [[128.0, 128.0, 128.0]]
    )


def test_columns_run_from_left_to_right(rooms: MapGeometry) -> None:
    # Facing west from y = 64: the south wall is on the left, 64 away to the side, met at depth 64
    # by the ray of slope -1.
    depth = rooms.cast(128.0, 64.0, 41.0, np.pi, np.array([-1.0, 0.0, 1.0]), np.array([0.0]))
    np.testing.assert_allclose(depth, [[64.0, 128.0, 128.0]])


def test_a_step_down_is_no_wall(rooms: MapGeometry) -> None:
    # From B (eye 24 + 41 = 65) to the west: over the edge at 32, the floor of A lies 65 below.
    depth = rooms.cast(224.0, 128.0, 65.0, np.pi, np.array([0.0]), np.array([-0.5, -2.0, 1.2]))[
        :, 0
    ]
    # floor of A at 65 / 0.5 | floor of B at 41 / 2 | at the edge the ray is at 65 + 38.4 > 100:
    # through the open sky of B
    np.testing.assert_allclose(depth, [130.0, 20.5, np.inf])


def test_neighbouring_columns_leave_no_gap(rooms: MapGeometry) -> None:
    right = (np.arange(512) + 0.5 - 256) / 256
    for angle in np.linspace(0, 2 * np.pi, 17):
        assert np.isfinite(rooms.cast(90.3, 77.7, 41.0, float(angle), right, np.array([0.0]))).all()


def test_sectors_at_points(rooms: MapGeometry) -> None:
    assert [rooms.sector_at(x, 100.0) for x in (10.0, 191.0, 193.0, 255.0, 300.0, -5.0)] == [
        0,
        0,
        1,
        1,
        -1,
        -1,
    ]


def test_regions_and_their_area(rooms: MapGeometry) -> None:
    # A step of 24 can be climbed, so both rooms are one region: 256 x 256.
    assert rooms.region_of_sector.tolist() == [0, 0]
    assert rooms.region_area.tolist() == [65536.0, 0.0]


def test_clearance_is_the_distance_to_what_stops(rooms: MapGeometry) -> None:
    assert rooms.clearance(150.0, 100.0) == pytest.approx(
        100.0
    )  # the south wall; the passable step at 42 does not count
    assert rooms.clearance(300.0, 100.0) == 0.0


def test_hung_pictures_are_found(tmp_path: Path) -> None:
    geometry = MapGeometry.load(write_wad(tmp_path / "grate.wad", middle=b"GRATE"), "MAP01")
    distance = geometry.cast_hung(128.0, 128.0, 0.0, np.array([0.0, 0.5]), count=2)
    np.testing.assert_allclose(distance, [[64.0, 64.0], [np.inf, np.inf]])


def test_map_names_and_unknown_map(tmp_path: Path) -> None:
    wad = write_wad(tmp_path / "rooms.wad")
    assert map_names(wad) == ("MAP01",)
    with pytest.raises(NotFoundError, match="MAP77.*MAP01"):
        read_lumps(wad, "MAP77")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    wad = write_wad(tmp_path / "rooms.wad")
    data = wad.read_bytes()
    wad.write_bytes(data[:-40])
    with pytest.raises(DamagedFileError, match="rooms.wad"):
        map_names(wad)
    wad.write_bytes(b"no such thing")
    with pytest.raises(DamagedFileError, match="rooms.wad"):
        map_names(wad)
