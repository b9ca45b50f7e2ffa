"""Captures: one camera for all frames, resampling by hand-computed numbers, arrays in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worldsim.envs.tiny_room import TinyRoom
from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.io.rgbd import (
    CapturedFrame,
    captured_frames,
    common_camera,
    frames_of,
    resample,
    trajectory_of,
)
from worldsim.state import Trajectory


def frame(
    height: int = 4, width: int = 8, intrinsics: Any = (4.0, 4.0, 4.0, 2.0), depth: Any = None
) -> CapturedFrame:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, :, 0] = np.arange(width) * 10
    metres = np.ones((height, width), np.float32) if depth is None else depth
    return CapturedFrame(
        "one", np.eye(4), np.array(intrinsics, np.float64), height, width, lambda: (rgb, metres)
    )


def test_the_same_camera_is_a_copy(room_walk: tuple[TinyRoom, Trajectory]):
    trajectory = room_walk[1]
    again, known = trajectory_of(frames_of(trajectory))
    assert bool(known.all())
    for name in ("rgb", "inverse_depth", "pose", "intrinsics"):
        assert torch.equal(getattr(again, name), getattr(trajectory, name)), name
    wanted, _ = trajectory_of(frames_of(trajectory), 64, 64, (32.0, 32.0, 32.0, 32.0))
    assert torch.equal(wanted.rgb, trajectory.rgb) and torch.equal(
        wanted.inverse_depth, trajectory.inverse_depth
    )


def test_a_wide_frame_is_cropped_to_square_pixels_and_averaged():
    # Eight columns span x/z from -1 to 1, four rows y/z from -0.5 to 0.5: of a square, columns 2 to
    # 5 are left.
    camera = common_camera([frame()], 2, 2)
    np.testing.assert_allclose(camera, (2.0, 2.0, 1.0, 1.0))
    depth = np.arange(32, dtype=np.float32).reshape(4, 8) + 1.0
    rgb, metres = resample(frame(depth=depth), 2, 2, camera)
    assert rgb[:, :, 0].tolist() == [[25, 45], [25, 45]]
    # Centres of the large pixels: columns 3 and 5, rows 1 and 3.
    np.testing.assert_array_equal(metres, [[12.0, 14.0], [28.0, 30.0]])


def test_a_world_that_sees_less_gets_its_own_camera():
    # 90 degrees of view hold a view of 2 * atan(0.25) on each side, with pixels twice as high as
    # wide.
    wanted = (8.0, 4.0, 2.0, 1.0)
    np.testing.assert_allclose(common_camera([frame()], 2, 4, wanted), wanted)
    rgb, _ = resample(frame(), 2, 4, np.array(wanted))
    # x/z from -0.25 to 0.25 are columns 3 to 4; each of them becomes two.
    assert rgb[0, :, 0].tolist() == [30, 30, 40, 40]


def test_a_world_that_sees_more_gets_the_common_view_in_its_proportions():
    # The world would see -2 to 2 on both axes, the frame sees -1 to 1 and -0.5 to 0.5: the world's
    # proportions are square.
    np.testing.assert_allclose(
        common_camera([frame()], 64, 64, (16.0, 16.0, 32.0, 32.0)), (64.0, 64.0, 32.0, 32.0)
    )


def test_frames_with_cameras_of_their_own_share_what_all_see():
    near, far = frame(), frame(8, 8, (16.0, 16.0, 4.0, 4.0))
    camera = common_camera([near, far], 4, 4)
    np.testing.assert_allclose(camera, (8.0, 8.0, 2.0, 2.0))
    assert resample(near, 4, 4, camera)[0][0, :, 0].tolist() == [30, 30, 40, 40]
    assert resample(far, 4, 4, camera)[0][0, :, 0].tolist() == [5, 25, 45, 65]


def test_a_principal_point_off_the_middle_keeps_its_rays():
    """A point of the scene lands in the same place of the scene's picture whatever the crop."""
    frame_ = frame(6, 8, (5.0, 5.0, 3.0, 2.5))
    fx, fy, cx, cy = common_camera([frame_], 3, 4)
    left, top, right, bottom = frame_.view
    np.testing.assert_allclose(
        [-cx / fx, -cy / fy, (4 - cx) / fx, (3 - cy) / fy], [left, top, right, bottom]
    )


def test_depth_of_a_plane_is_exact_at_the_new_pixels_centres():
    """Ground 1.5 m below, half as large: its depth is 1.5 m * fy / (v - cy), at the centres of the
    large pixels."""
    v = np.arange(8) + 0.5
    depth = np.broadcast_to((1.5 * 4.0 / (v + 10.0))[:, None], (8, 8)).astype(np.float32)
    _, metres = resample(
        frame(8, 8, (4.0, 4.0, 4.0, -10.0), depth), 4, 4, np.array([2.0, 2.0, 2.0, -5.0])
    )
    np.testing.assert_allclose(metres[:, 0], 1.5 * 2.0 / (np.arange(4) + 0.5 + 5.0), rtol=1e-6)


def test_depth_of_another_resolution_is_picked_where_it_belongs():
    depth = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)
    _, metres = resample(
        frame(4, 4, (2.0, 2.0, 2.0, 2.0), depth), 4, 4, np.array([2.0, 2.0, 2.0, 2.0])
    )
    np.testing.assert_array_equal(metres, depth.repeat(2, 0).repeat(2, 1))


def test_unknown_and_infinite_depth_are_told_apart():
    depth = np.array([[[0.0, np.nan], [np.inf, 2.0]]])
    frames = captured_frames(
        np.zeros((1, 2, 2, 3), np.uint8), depth, np.eye(4)[None], np.array([1.0, 1.0, 1.0, 1.0])
    )
    trajectory, known = trajectory_of(frames)
    assert known.tolist() == [[[False, False], [True, True]]]
    # 0.125 m / 2 m of 65,535.
    assert trajectory.inverse_depth.tolist() == [[[0, 0], [0, 4096]]]


def test_arrays_with_a_camera_a_frame():
    cameras = np.array([[2.0, 2.0, 1.0, 1.0], [4.0, 4.0, 1.0, 1.0]])
    frames = captured_frames(
        np.zeros((2, 2, 2, 3), np.uint8), np.ones((2, 2, 2)), np.eye(4)[None].repeat(2, 0), cameras
    )
    assert [one.intrinsics[0] for one in frames] == [2.0, 4.0]


def test_bad_input():
    rgb, depth, pose, camera = (
        np.zeros((2, 4, 4, 3), np.uint8),
        np.ones((2, 4, 4)),
        np.eye(4)[None].repeat(2, 0),
        np.ones(4),
    )
    with pytest.raises(InvalidInputError, match=r"float64"):
        captured_frames(rgb.astype(np.float64), depth, pose, camera)
    with pytest.raises(InvalidInputError, match=r"\(1, 4, 4\)"):
        captured_frames(rgb, depth[:1], pose, camera)
    with pytest.raises(InvalidInputError, match=r"\(4,\) or \(2, 4\), got \(3, 4\)"):
        captured_frames(rgb, depth, pose, np.ones((3, 4)))
    with pytest.raises(InvalidInputError, match="frame 0.*orthonormal"):
        captured_frames(rgb, depth, 2.0 * pose, camera)
    with pytest.raises(InvalidInputError, match="mirrors"):
        captured_frames(rgb, depth, pose * np.array([-1.0, 1.0, 1.0, 1.0]), camera)
    with pytest.raises(InvalidInputError, match="fx fy cx cy"):
        captured_frames(rgb, depth, pose, np.zeros(4))
    with pytest.raises(InvalidInputError, match="no frames"):
        trajectory_of([])
    with pytest.raises(InvalidInputError, match="in common"):
        common_camera([frame(), frame(4, 8, (4.0, 4.0, -40.0, 2.0))], 2, 2)


def test_sizes_and_numbers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, depth, pose = (
        np.zeros((2, 8, 8, 3), np.uint8),
        np.ones((2, 8, 8)),
        np.stack([np.eye(4)] * 2),
    )
    frames = captured_frames(rgb, depth, pose, np.full(4, 4.0))
    for name, value in {"height": 0, "width": -1}.items():
        with pytest.raises(InvalidInputError, match=f"{name} = "):
            trajectory_of(frames, **{name: value})
    for intrinsics in ("abcd", [1, 2], np.full(4, np.nan), np.zeros(4), [1e300] * 4, [[True]]):
        with pytest.raises(InvalidInputError, match="intrinsics"):
            trajectory_of(frames, intrinsics=intrinsics)
    texts = np.full((2, 8, 8), "a")
    for arrays in (
        (3, depth, pose),
        (rgb, None, pose),
        (rgb, "x", pose),
        (rgb, texts, pose),
        (rgb[:0], depth[:0], pose[:0]),
    ):
        with pytest.raises(InvalidInputError, match="a capture needs"):
            captured_frames(*arrays, np.full(4, 4.0))
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "1")
    with pytest.raises(OutOfMemoryError, match="2 frames of 16000x16000 pixels"):
        trajectory_of(frames, 16_000, 16_000)
