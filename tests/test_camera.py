"""Camera geometry on cameras simple enough to compute by hand."""

import math

import pytest
import torch

from worldsim.camera import (
    Camera,
    channel_to_code,
    code_to_channel,
    default_intrinsics,
    dequantise_depth,
    matrix_to_rotation_vector,
    motion_to_matrix,
    move,
    pixel_rays,
    pluecker_rays,
    project,
    quantise_depth,
    relative_motion,
    rotation_vector_to_matrix,
    snap_pose,
    unproject,
)

pytestmark = pytest.mark.fast

# 90 degrees of view, 8x8 pixels: fx = fy = 4, centre at (4, 4).
INTRINSICS = torch.tensor([[4.0, 4.0, 4.0, 4.0]])


def doom_pose(yaw: float, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> torch.Tensor:
    """Level camera in a world with x east, y north, z up, at ``yaw`` radians counter-clockwise from
    east."""
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.tensor([[s, 0, c, x], [-c, 0, s, y], [0, -1, 0, z], [0, 0, 0, 1.0]])


def test_default_intrinsics_of_90_degrees():
    assert default_intrinsics(8, 8) == pytest.approx((4.0, 4.0, 4.0, 4.0))
    assert default_intrinsics(48, 64, 60.0) == pytest.approx(
        (32 * math.sqrt(3), 32 * math.sqrt(3), 32.0, 24.0)
    )


def test_pixel_rays_by_hand():
    rays = pixel_rays(INTRINSICS, 8, 8)
    assert rays.shape == (1, 3, 8, 8)
    assert rays[0, :, 0, 0].tolist() == [-0.875, -0.875, 1.0]
    assert rays[0, :, 2, 7].tolist() == [0.875, -0.375, 1.0]
    coarse = pixel_rays(INTRINSICS, 8, 8, stride=4)
    assert coarse[0, :, 0, 1].tolist() == [0.5, -0.5, 1.0]


def test_project_by_hand():
    camera = Camera(torch.eye(4)[None], INTRINSICS, 8, 8)
    points = torch.tensor([[[0.0, 0, 2], [1.0, -1, 2], [0, 0, -3], [1.0, 0, 1]]])
    u, v, z = project(points, torch.tensor([[False, False, False, True]]), camera)
    assert u[0, [0, 1, 3]].tolist() == [4.0, 6.0, 8.0]
    assert v[0, [0, 1, 3]].tolist() == [4.0, 2.0, 4.0]
    assert z[0].tolist() == [2.0, 2.0, -3.0, 1.0]


def test_project_from_a_doom_camera():
    # At (10, 20) looking north (yaw 90 degrees): 5 m ahead, 2.5 m to the east, 1.25 m up.
    camera = Camera(doom_pose(math.pi / 2, 10, 20, 1)[None], INTRINSICS, 8, 8)
    point = torch.tensor([[[12.5, 25.0, 2.25]]])
    u, v, z = project(point, torch.zeros(1, 1, dtype=torch.bool), camera)
    # u = 4 + 4 * 2.5 / 5, v = 4 - 4 * 1.25 / 5.
    assert (float(u), float(v), float(z)) == pytest.approx((6.0, 3.0, 5.0), abs=1e-5)
    # The same point as a direction: only the rotation counts.
    u, v, z = project(point, torch.ones(1, 1, dtype=torch.bool), camera)
    assert (float(u), float(v), float(z)) == pytest.approx(
        (4 + 4 * 12.5 / 25, 4 - 4 * 2.25 / 25, 25.0), abs=1e-5
    )


def test_unproject_then_project_returns_the_pixel_centres():
    generator = torch.Generator().manual_seed(1)
    pose = torch.stack([doom_pose(0.3, 1, 2, 3), doom_pose(-2.0, -40, 7, 0)])
    camera = Camera(pose, INTRINSICS.repeat(2, 1), 8, 8)
    depth = torch.rand(2, 8, 8, generator=generator) * 9 + 0.5
    depth[:, 0, :3] = torch.inf
    world = unproject(depth, camera)
    assert torch.isfinite(world).all()
    u, v, z = project(world.flatten(1, 2), torch.isinf(depth).flatten(1), camera)
    centres = torch.arange(8) + 0.5
    torch.testing.assert_close(u.view(2, 8, 8), centres.expand(2, 8, 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(v.view(2, 8, 8), centres[:, None].expand(2, 8, 8), atol=1e-3, rtol=0)
    finite = torch.isfinite(depth)
    torch.testing.assert_close(z.view(2, 8, 8)[finite], depth[finite], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(z.view(2, 8, 8)[~finite], torch.ones(6), atol=1e-5, rtol=0)


def test_unproject_by_hand():
    camera = Camera(doom_pose(0.0, 1, 2, 3)[None], INTRINSICS, 8, 8)
    depth = torch.full((1, 8, 8), 2.0)
    depth[0, 0, 0] = torch.inf
    world = unproject(depth, camera)
    # Looking east: ahead is +x, the image's right is -y (south), its down is -z.
    torch.testing.assert_close(
        world[0, 7, 4], torch.tensor([1 + 2.0, 2 - 2 * 0.125, 3 - 2 * 0.875])
    )
    torch.testing.assert_close(world[0, 0, 0], torch.tensor([1.0, 0.875, 0.875]))


def test_depth_codes():
    depth = torch.tensor([0.01, 0.125, 1.0, 2.0, 8191.875, 1e6, torch.inf])
    # 65535 * 0.125 / depth, rounded: 8191.875 at one metre.
    assert quantise_depth(depth).tolist() == [65535, 65535, 8192, 4096, 1, 0, 0]
    codes = torch.arange(65536)
    assert torch.equal(quantise_depth(dequantise_depth(codes)), codes.int())
    assert dequantise_depth(torch.tensor([0, 65535])).tolist() == [math.inf, 0.125]


def test_depth_channel():
    # 4 / (4 + depth): one half at 4 m, 0 at infinity, and back within the channel's precision.
    code = quantise_depth(torch.tensor([4.0, 1.0, 12.0, torch.inf]))
    torch.testing.assert_close(
        code_to_channel(code), torch.tensor([0.5, 0.8, 0.25, 0.0]), atol=1e-4, rtol=0
    )
    codes = torch.tensor([0, 100, 683, 2048, 8192, 30000])
    back = channel_to_code(code_to_channel(codes))
    assert ((back - codes).abs() <= 1).all()
    assert channel_to_code(torch.tensor([0.019, -1.0, 2.0])).tolist()[:2] == [0, 0]


def test_rotation_vector_by_hand():
    quarter = rotation_vector_to_matrix(torch.tensor([0.0, math.pi / 2, 0.0]))
    # About the down axis by a quarter: forward becomes right.
    torch.testing.assert_close(
        quarter @ torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "angle",
    [0.0, 1e-9, 1e-7, 1e-5, 5e-5, 1.5e-4, 1e-3, 0.1, 1.0, 3.0, 3.14, math.pi - 1e-6, math.pi],
)
@pytest.mark.parametrize(
    "axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.8, 0), (-0.6, 0, 0.8), (1 / 3, -2 / 3, 2 / 3)]
)
def test_rotation_vector_round_trip(angle, axis):
    vector = angle * torch.tensor(axis, dtype=torch.float64)
    matrix = rotation_vector_to_matrix(vector)
    torch.testing.assert_close(
        matrix @ matrix.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0
    )
    back = matrix_to_rotation_vector(matrix)
    torch.testing.assert_close(rotation_vector_to_matrix(back), matrix, atol=1e-9, rtol=0)
    if angle < math.pi - 1e-3:
        torch.testing.assert_close(back, vector, atol=1e-12, rtol=1e-9)
    assert back.norm() <= math.pi + 1e-9


def test_poses_compose():
    # One metre ahead, then a quarter to the right (about the down axis), then one metre ahead
    # again.
    pose = doom_pose(math.pi / 2)[None]
    pose = move(pose, torch.tensor([[0.0, 0, 1, 0, math.pi / 2, 0]]))
    pose = move(pose, torch.tensor([[0.0, 0, 1, 0, 0, 0]]))
    # North by one, then facing east, east by one.
    torch.testing.assert_close(pose[0], doom_pose(0.0, 1, 1, 0), atol=2e-4, rtol=0)


def test_relative_motion_is_the_inverse_of_move():
    generator = torch.Generator().manual_seed(2)
    motion = (torch.rand(50, 6, generator=generator) - 0.5) * torch.tensor([2, 2, 2, 1, 1, 1.0])
    pose = snap_pose(torch.stack([doom_pose(0.37 * i, i, -2 * i, 1) for i in range(50)]))
    back = relative_motion(pose, move(pose, motion))
    # Snapping moves a pose by at most half a step in each of its six numbers.
    assert (back[:, :3] - motion[:, :3]).abs().max() < 2.0**-12
    assert (back[:, 3:] - motion[:, 3:]).abs().max() < 2.0**-13
    by_hand = relative_motion(
        doom_pose(0.0, 1, 1, 0)[None], doom_pose(math.pi / 2, 1, 3, 0.5)[None]
    )
    # From looking east to looking north: 2 m to the left, half a metre up, a quarter to the left.
    torch.testing.assert_close(
        by_hand[0], torch.tensor([-2.0, -0.5, 0, 0, -math.pi / 2, 0]), atol=1e-6, rtol=0
    )


def test_snapping_twice_changes_nothing_and_half_turns_survive():
    pose = torch.stack(
        [doom_pose(0.1 * i, 0.123 * i, 50 - i, 1.3) for i in range(64)]
        + [doom_pose(math.pi, 3, 4, 5)]
    )
    once = snap_pose(pose)
    assert torch.equal(snap_pose(once), once)
    assert (once - pose).abs().max() < 3e-4
    steps = once[:, :3, 3] * 2**12
    assert torch.equal(steps, steps.round())


def test_snapping_is_the_same_alone_and_in_a_batch():
    pose = torch.stack([doom_pose(0.7 * i, i, 2 * i, 3) for i in range(33)])
    motion = torch.randn(33, 6, generator=torch.Generator().manual_seed(3)) * 0.2
    together = move(pose, motion)
    for i in range(33):
        assert torch.equal(move(pose[i : i + 1], motion[i : i + 1]), together[i : i + 1])


def test_motion_matrix_by_hand():
    matrix = motion_to_matrix(torch.tensor([1.0, 2, 3, 0, 0, math.pi / 2]))
    expected = torch.tensor([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    torch.testing.assert_close(matrix, expected, atol=1e-6, rtol=0)


def test_pluecker_rays():
    motion = torch.tensor([[0.5, -0.25, 2.0, 0, math.pi / 2, 0]])
    rays = pluecker_rays(motion, INTRINSICS, 8, 8)
    moment, direction = rays[0, :3], rays[0, 3:]
    assert rays.shape == (1, 6, 8, 8)
    torch.testing.assert_close(direction.norm(dim=0), torch.ones(8, 8))
    # Pixel (row 3, column 4) looks along (0.125, -0.125, 1), turned to the right by a quarter: (1,
    # -0.125, -0.125).
    d = torch.tensor([1.0, -0.125, -0.125]) / math.sqrt(1 + 2 / 64)
    torch.testing.assert_close(direction[:, 3, 4], d, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        moment[:, 3, 4], torch.linalg.cross(motion[0, :3], d), atol=1e-6, rtol=0
    )
    # A moment is orthogonal to its direction, and zero for a camera that has not moved from the
    # origin.
    assert (moment * direction).sum(0).abs().max() < 1e-6
    assert pluecker_rays(torch.zeros(1, 6), INTRINSICS, 8, 8)[:, :3].abs().max() == 0


def test_geometry_is_the_same_alone_and_in_a_batch():
    generator = torch.Generator().manual_seed(4)
    pose = torch.stack([doom_pose(0.7 * i, i, 2 * i, 3) for i in range(9)])
    motion = torch.randn(9, 6, generator=generator) * 0.2
    intrinsics = INTRINSICS.repeat(9, 1)
    depth = torch.rand(9, 8, 8, generator=generator) * 5
    world = unproject(depth, Camera(pose, intrinsics, 8, 8))
    rays = pluecker_rays(motion, intrinsics, 8, 8)
    for i in range(9):
        own = slice(i, i + 1)
        assert torch.equal(
            unproject(depth[own], Camera(pose[own], intrinsics[own], 8, 8)), world[own]
        )
        assert torch.equal(pluecker_rays(motion[own], intrinsics[own], 8, 8), rays[own])
