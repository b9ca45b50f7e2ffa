"""The user's renderer: dense at any size, exact on planes, and nothing in holes."""

from __future__ import annotations

import math

import pytest
import torch

from worldsim.camera import Camera, quantise_depth
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points
from worldsim.memory.surfels import covered_pixels, draw, patch_metres
from worldsim.state import Frame

SIZE = 16
FOCAL = 8.0
INTRINSICS = torch.tensor([[FOCAL, FOCAL, 8.0, 8.0]])
MEMORY = PointMemory(PointMemoryConfig(capacity=1024))


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> torch.Tensor:
    matrix = torch.eye(4)[None].clone()
    matrix[0, :3, 3] = torch.tensor([x, y, z])
    return matrix


def seen(depth: torch.Tensor, at: torch.Tensor | None = None) -> Points:
    """What one frame of ``depth`` (16, 16), its colours numbered, leaves in the memory."""
    at = pose() if at is None else at
    number = torch.arange(SIZE * SIZE).view(SIZE, SIZE)
    rgb = torch.stack([number % 256, number // 16, 200 + 0 * number]).to(torch.uint8)[None]
    frame = Frame(rgb, quantise_depth(depth[None]), at)
    return MEMORY.integrate(
        MEMORY.empty(1), frame, Camera(at, INTRINSICS, SIZE, SIZE), torch.tensor([0])
    )


def wider(times: int, at: torch.Tensor | None = None) -> Camera:
    return Camera(pose() if at is None else at, times * INTRINSICS, times * SIZE, times * SIZE)


def test_rectangles_by_hand() -> None:
    """Pixel 2's middle is at 2.5: a rectangle from 1.5 to 2.5 has it not, and pixel 1's it has."""
    centre, half = (
        torch.tensor([[2.0, 0.0, 9.0], [0.5, 2.0, 9.0]]),
        torch.tensor([[0.5, 1.0, 1.0], [0.5, 1.0, 1.0]]),
    )
    ((which, pixel),) = covered_pixels(centre, half, torch.tensor([True, True, True]), 3, 4)
    assert list(zip(which.tolist(), pixel.tolist(), strict=True)) == [(0, 1), (1, 4), (1, 8)]
    assert list(covered_pixels(centre, half, torch.tensor([False, False, True]), 3, 4)) == []


def test_chunks_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    centre = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) * 16
    half, shown = torch.full((2, 50), 2.0), torch.ones(50, dtype=torch.bool)
    whole = torch.cat(
        [torch.stack(part) for part in covered_pixels(centre, half, shown, 16, 16)], 1
    )
    monkeypatch.setattr("worldsim.memory.surfels.CHUNK", 40)
    parts = [torch.stack(part) for part in covered_pixels(centre, half, shown, 16, 16)]
    assert len(parts) > 5 and torch.equal(torch.cat(parts, 1), whole)


def test_a_patch_is_what_a_pixel_covered() -> None:
    """2 m away, 8 pixels of focal length: a quarter of a metre."""
    data = seen(torch.full((SIZE, SIZE), 2.0))
    torch.testing.assert_close(
        patch_metres(data, FOCAL)[0, :256], torch.full((256,), 0.25), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("times", [1, 2, 8])
def test_a_wall_head_on_is_the_frame_enlarged(times: int) -> None:
    """Every pixel of the frame becomes a square of its colour; normals look back along the optical
    axis."""
    view = draw(seen(torch.full((SIZE, SIZE), 2.0)), wider(times), (FOCAL, FOCAL))
    number = (
        torch.arange(SIZE * SIZE)
        .view(SIZE, SIZE)
        .repeat_interleave(times, 0)
        .repeat_interleave(times, 1)
    )
    assert view.mask.all() and torch.equal(view.rgb[0], (number % 256).to(torch.uint8))
    torch.testing.assert_close(view.depth, torch.full_like(view.depth, 2.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        view.normals,
        torch.tensor([0.0, 0, -1])[:, None, None].expand_as(view.normals),
        atol=1e-3,
        rtol=0,
    )


def test_a_slanted_wall() -> None:
    """z = 2 + x / 2: normal (1, 0, -2) / sqrt 5, and between the points the depth is the plane's,
    not theirs."""
    u = (torch.arange(SIZE) + 0.5 - 8.0) / FOCAL
    view = draw(seen((2.0 / (1.0 - 0.5 * u)).expand(SIZE, SIZE)), wider(8), (FOCAL, FOCAL))
    inner = (slice(None), slice(16, -16), slice(16, -16))
    expected = torch.tensor([1.0, 0.0, -2.0]) / math.sqrt(5.0)
    assert float((view.normals[inner] - expected[:, None, None]).abs().max()) < 0.01
    fine = (torch.arange(8 * SIZE) + 0.5 - 64.0) / (8 * FOCAL)
    depth = (2.0 / (1.0 - 0.5 * fine)).expand(8 * SIZE, -1)
    assert float((view.depth / depth - 1.0)[inner[1:]].abs().max()) < 0.003


def test_normals_are_in_world_axes() -> None:
    """A camera that looks along world y (OpenCV y is down, so world -z): a wall head-on faces world
    -y."""
    turned = torch.tensor([[[1.0, 0, 0, 3], [0, 0, 1, 4], [0, -1, 0, 5], [0, 0, 0, 1]]])
    view = draw(seen(torch.full((SIZE, SIZE), 2.0), turned), wider(2, turned), (FOCAL, FOCAL))
    torch.testing.assert_close(
        view.normals[:, 16, 16], torch.tensor([0.0, -1.0, 0.0]), atol=1e-3, rtol=0
    )


def test_two_walls_keep_their_normals_apart() -> None:
    """A near wall on the left and a far one on the right, both head-on: no slant at the step
    between them."""
    depth = torch.full((SIZE, SIZE), 2.0)
    depth[:, 8:] = 4.0
    view = draw(seen(depth), wider(8), (FOCAL, FOCAL))
    assert view.mask.all()
    assert float((view.normals[2] + 1.0).abs().max()) < 0.01


def test_from_nearer_and_from_the_side() -> None:
    """A metre nearer, and half a metre aside, the wall is still closed where it was seen."""
    data = seen(torch.full((SIZE, SIZE), 2.0))
    near = draw(data, wider(8, pose(z=1.0)), (FOCAL, FOCAL))
    assert near.mask.all()
    torch.testing.assert_close(near.depth, torch.ones_like(near.depth), atol=1e-3, rtol=0)
    # The wall's left edge is at x = -2, at the camera's u = 64 * (-2 + 0.5) / 2 + 64 = 16 of 128;
    # patches are 8 wide.
    aside = draw(data, wider(8, pose(x=-0.5)), (FOCAL, FOCAL))
    assert not aside.mask[:, :15].any() and aside.mask[:, 17:].all()


def test_holes_stay_holes() -> None:
    """Depth was seen in the upper half alone; nothing, and behind the camera's back."""
    data = seen(torch.full((SIZE, SIZE), 2.0))
    half = MEMORY.remove(data, data.position[:, 1] > 0)
    view = draw(half, wider(8), (FOCAL, FOCAL))
    assert view.mask[:64].all() and not view.mask[66:].any()
    for hidden in (
        draw(MEMORY.empty(1), wider(2), (FOCAL, FOCAL)),
        draw(data, wider(2, pose(z=5.0)), (FOCAL, FOCAL)),
    ):
        assert (
            not hidden.mask.any()
            and not hidden.rgb.any()
            and not hidden.normals.any()
            and hidden.depth.isinf().all()
        )


def test_sky_is_behind_everything_and_has_no_normal() -> None:
    depth = torch.full((SIZE, SIZE), torch.inf)
    depth[4:12, 4:12] = 3.0
    view = draw(seen(depth), wider(4), (FOCAL, FOCAL))
    solid = torch.zeros(64, 64, dtype=torch.bool)
    solid[16:48, 16:48] = True
    assert (
        view.mask.all()
        and view.depth[~solid & ~near(solid)].isinf().all()
        and view.depth[solid].isfinite().all()
    )
    assert not view.normals[:, view.depth.isinf()].any()


def near(mask: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.max_pool2d(mask.float()[None, None], 3, 1, 1)[0, 0] > 0


def test_a_single_point_has_no_normal() -> None:
    data = MEMORY.from_points(
        torch.tensor([[[0.0, 0.0, 2.0]]]),
        torch.tensor([[[9, 8, 7]]], dtype=torch.uint8),
        distance=2.0,
    )
    view = draw(data, wider(4), (FOCAL, FOCAL))
    # A quarter of a metre at 2 m and 32 pixels of focal length: 4 pixels a side, and a quarter
    # more.
    assert int(view.mask.sum()) in (16, 25) and not view.normals.any()
    assert view.rgb[:, 32, 32].tolist() == [9, 8, 7]
