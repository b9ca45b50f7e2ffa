"""Splats whose pixels are computed by hand: a 90-degree camera of 8x8 pixels (fx = fy = 4, centre at 4, 4)."""

import torch

from worldsim.camera import Camera, project
from worldsim.memory.splat import DIRECTION, EMPTY, POINT, nearest, splat

INTRINSICS = torch.tensor([[4.0, 4.0, 4.0, 4.0]])


def look(points: list[tuple[float, float, float]], kinds: list[int], pose: torch.Tensor | None = None):
    position = torch.tensor(points).T[None].contiguous()
    kind = torch.tensor([kinds], dtype=torch.uint8)
    camera = Camera(torch.eye(4)[None] if pose is None else pose[None], INTRINSICS, 8, 8)
    return splat(position, kind, camera)


def test_known_pixels():
    # u = 4 + 4 x / z, v = 4 + 4 y / z.
    seen = look([(0, 0, 2), (1, -1, 2), (-1.99, 1.99, 2), (0.3, 0.55, 1), (2, 0, 2), (0, -2.01, 2)], [POINT] * 6)
    assert seen.visible.tolist() == [[True, True, True, True, False, False]]
    # (row, column): (4, 4), (2, 6), (7, 0), (6, 5).
    assert seen.pixel[0, :4].tolist() == [36, 22, 56, 53]
    torch.testing.assert_close(seen.u[0, 3], torch.tensor(5.2))
    torch.testing.assert_close(seen.v[0, 3], torch.tensor(6.2))
    assert ((seen.pixel >= 0) & (seen.pixel < 64)).all()


def test_what_is_not_drawn():
    seen = look([(0, 0, 0.04), (0, 0, -2), (0, 0, 0), (0, 0, 2), (0, 0, -1)], [POINT, POINT, POINT, EMPTY, DIRECTION])
    assert not seen.visible.any()
    mask, slot, _ = nearest(seen, 64)
    assert not mask.any() and not slot.any()


def test_the_nearest_wins_and_ties_go_to_the_lower_slot():
    seen = look([(0, 0, 3), (0, 0, 2), (0, 0, 2), (1, 1, 2), (2, 2, 4)], [POINT] * 5)
    mask, slot, z = nearest(seen, 64)
    assert mask.sum() == 2 and mask[0, 36] and mask[0, 54]
    assert slot[0, 36] == 1 and z[0, 36] == 2.0
    assert slot[0, 54] == 3 and z[0, 54] == 2.0


def test_directions_lie_behind_all_points_and_ignore_translation():
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([0.0, 0.0, -500.0])
    seen = look([(0, 0, 1), (0, 0, 9000), (0.5, 0, 1)], [DIRECTION, POINT, DIRECTION], pose)
    mask, slot, z = nearest(seen, 64)
    assert slot[0, 36] == 1 and z[0, 36] == 9500.0
    # The second direction: u = 4 + 4 * 0.5, wherever the camera stands.
    assert mask[0, 38] and slot[0, 38] == 2 and z[0, 38] == torch.inf


def test_splat_agrees_with_project():
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(3, 500, 3, generator=generator) * 5
    kind = torch.randint(0, 3, (3, 500), generator=generator, dtype=torch.uint8)
    pose = torch.eye(4).repeat(3, 1, 1)
    pose[:, :3, 3] = torch.randn(3, 3, generator=generator)
    pose[1, :3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    camera = Camera(pose, INTRINSICS.repeat(3, 1), 8, 8)
    seen = splat(position.transpose(1, 2).contiguous(), kind, camera)
    u, v, z = project(position, kind == DIRECTION, camera)
    visible = (u >= 0) & (u < 8) & (v >= 0) & (v < 8) & (z > 0.05) & (kind != EMPTY)
    assert (visible == seen.visible).all() and visible.sum() > 100
    assert torch.equal(seen.pixel[visible], (v[visible].floor() * 8 + u[visible].floor()).long())


def test_rows_are_independent():
    generator = torch.Generator().manual_seed(1)
    position = torch.randn(5, 3, 999, generator=generator) * 3
    kind = torch.randint(0, 3, (5, 999), generator=generator, dtype=torch.uint8)
    pose = torch.eye(4).repeat(5, 1, 1)
    pose[:, :3, 3] = torch.randn(5, 3, generator=generator)
    together = nearest(splat(position, kind, Camera(pose, INTRINSICS.repeat(5, 1), 8, 8)), 64)
    for i in range(5):
        own = slice(i, i + 1)
        alone = nearest(splat(position[own], kind[own], Camera(pose[own], INTRINSICS, 8, 8)), 64)
        assert all(torch.equal(a[own][together[0][own]], b[alone[0]]) for a, b in zip(together, alone, strict=True))
