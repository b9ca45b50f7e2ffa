"""Rings of cameras, groups of views, and places painted into a memory."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.helpers.painters import ATTRIBUTES, INTRINSICS, SIZE, make_tiny_painter
from worldsim.camera import Camera, quantise_depth, snap_pose
from worldsim.errors import InvalidInputError
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.slots import Points
from worldsim.memory.splat import EMPTY
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.places.place import (
    EYE_HEIGHT,
    PlaceConfig,
    distances,
    frames_at,
    known_view,
    level_pose,
    paint_many,
    paint_place,
    paint_views,
    plan_groups,
    ring,
)
from worldsim.state import Frame, flatten

MEMORY = PointMemory(PointMemoryConfig(capacity=16384))


@pytest.fixture(scope="module")
def painter() -> NetworkPainter:
    return make_tiny_painter()


def wall(colour: int, metres: float, pose: torch.Tensor) -> Frame:
    """One frame that sees a wall of one colour."""
    rgb = torch.full((1, 3, SIZE, SIZE), colour, dtype=torch.uint8)
    return Frame(rgb, quantise_depth(torch.full((1, SIZE, SIZE), metres)), pose[None])


def camera(pose: torch.Tensor) -> Camera:
    return Camera(pose[None], torch.tensor([INTRINSICS]), SIZE, SIZE)


def same(a: object, b: object) -> bool:
    one, other = flatten(a), flatten(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_level_camera_looks_along_its_heading():
    pose = level_pose(1.0, 2.0, EYE_HEIGHT, math.pi / 2)
    torch.testing.assert_close(pose[:3, 2], torch.tensor([0.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(pose[:3, 1], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4, rtol=0)
    assert pose[:3, 3].tolist() == [1.0, 2.0, 1.28125]


def test_a_ring_turns_right_evenly_and_starts_at_the_pose():
    start = level_pose(0.5, -1.0, 1.0, 0.3)
    poses = ring(start, 4)
    assert torch.equal(poses[0], start) and torch.equal(poses, snap_pose(poses))
    # A quarter turn to the right looks where the first camera's x axis points.
    torch.testing.assert_close(poses[1, :3, 2], start[:3, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(poses[2, :3, 2], -start[:3, 2], atol=1e-4, rtol=0)
    assert torch.equal(poses[:, :3, 3], start[:3, 3].expand(4, 3))
    with pytest.raises(InvalidInputError, match="headings = 0"):
        ring(start, 0)


def test_distances_count_metres_and_two_metres_a_radian():
    poses = torch.stack([level_pose(), level_pose(x=3.0), level_pose(heading=math.pi / 2)])
    apart = distances(poses)
    assert float(apart[0, 1]) == pytest.approx(3.0)
    assert float(apart[0, 2]) == pytest.approx(math.pi, abs=1e-3)


def test_few_views_are_one_group():
    (group,) = plan_groups(ring(level_pose(), 4), 1, 4)
    assert (group.given, group.painted) == ((0,), (1, 2, 3))


def test_anchors_are_spread_and_later_groups_stand_beside_what_is_there():
    groups = plan_groups(ring(level_pose(), 8), 0, 4)
    assert sorted(groups[0].painted) == [0, 2, 4, 6] and groups[0].given == ()
    assert [len(group.given) for group in groups[1:]] == [2, 2]
    assert sorted(i for group in groups for i in group.painted) == list(range(8))
    for group in groups[1:]:
        for i in group.painted:
            # A painted neighbour of at least one of them is among the given views.
            assert {(i - 1) % 8, (i + 1) % 8} & {*group.given, *group.painted}


def test_views_beside_given_ones_are_painted_in_pairs():
    """0, 1 and 2 are headings 0, 3 and 6 of 8; the others are 1, 2, 4, 5 and 7."""
    poses = ring(level_pose(), 8)[[0, 3, 6, 1, 2, 4, 5, 7]]
    pairs = plan_groups(poses, 3, 8, together=2)
    assert [group.painted for group in pairs] == [(3, 4), (5, 6), (7,)]
    assert [sorted(group.given) for group in pairs] == [[0, 1, 2], [0, 1, 2, 3, 4], [*range(7)]]
    # All at once by default, and where the pictures' depth is drawn.
    for group in (plan_groups(poses, 3, 8), plan_groups(poses, 3, 8, True, together=2)):
        assert [(one.given, one.painted) for one in group] == [((0, 1, 2), (3, 4, 5, 6, 7))]
    # At least one view is given, and no group exceeds what the painter paints at once.
    for views in (2, 4):
        groups = plan_groups(poses, 3, views, together=2)
        assert all(group.given and len(group.given + group.painted) <= views for group in groups)


def test_views_that_need_their_depth_are_in_the_first_group():
    groups = plan_groups(ring(level_pose(), 8), 3, 4, draw_given=True)
    assert groups[0].given == (0, 1, 2) and len(groups[0].painted) == 1
    with pytest.raises(InvalidInputError, match="5 pictures are given and the painter paints 4"):
        plan_groups(ring(level_pose(), 8), 5, 4, draw_given=True)


def test_a_painter_of_single_views_paints_one_after_the_other():
    groups = plan_groups(ring(level_pose(), 3), 0, 1)
    assert [(group.given, len(group.painted)) for group in groups] == [((), 1)] * 3


def test_views_are_painted_jointly_and_integrated(painter: NetworkPainter):
    poses = ring(level_pose(z=1.28), 4)
    frames, data = paint_views(painter, MEMORY, MEMORY.empty(1), poses, None, 1, 0)
    assert frames.rgb.shape == (4, 3, SIZE, SIZE) and frames.rgb.dtype == torch.uint8
    assert frames.inverse_depth is not None and frames.inverse_depth.dtype == torch.int32
    assert frames.pose is not None and torch.equal(frames.pose, poses)
    view = known_view(MEMORY, data, Camera(poses, torch.tensor(INTRINSICS).expand(4, 4), 32, 32))
    # Depth of random weights is rough, and what shows through gaps is hidden.
    assert float(view.coverage.min()) > 0.25
    again, other = paint_views(painter, MEMORY, MEMORY.empty(1), poses, None, 1, 0)
    assert same(frames, again) and same(data, other)
    for seed, step in ((2, 0), (1, 1)):
        different, _ = paint_views(painter, MEMORY, MEMORY.empty(1), poses, None, seed, step)
        assert not torch.equal(frames.rgb, different.rgb)


def test_what_is_known_is_neither_moved_nor_recoloured(painter: NetworkPainter):
    pose = level_pose(z=1.28)
    seen = MEMORY.integrate(MEMORY.empty(1), wall(200, 3.0, pose), camera(pose), torch.tensor([-1]))
    frames, data = paint_views(painter, MEMORY, seen, ring(pose, 4), None, 0, 5)
    known = seen.kind[0] != EMPTY
    for name in ("position", "colour", "kind", "source"):
        before, after = getattr(seen, name)[0], getattr(data, name)[0]
        assert torch.equal(before[..., known], after[..., known]), name
    # The wall is also what the first frame shows.
    assert int((frames.rgb[0, :, 3:-3, 3:-3].int() - 200).abs().max()) <= 1
    assert bool((data.confidence[0, known] > 0).all())
    new = (data.kind[0] != EMPTY) & ~known
    assert bool(new.any()) and not bool(data.confidence[0, new].any())
    assert bool((data.seen[0, new] == 5).all())


def test_given_frames_stay_and_are_not_marked_as_painted(painter: NetworkPainter):
    poses = ring(level_pose(z=1.28), 3)
    given = wall(90, 2.5, poses[0])
    frames, data = paint_views(painter, MEMORY, MEMORY.empty(1), poses, None, 0, 0, given)
    assert torch.equal(frames.rgb[:1], given.rgb)
    assert given.inverse_depth is not None and frames.inverse_depth is not None
    assert torch.equal(frames.inverse_depth[:1], given.inverse_depth)
    assert int((data.confidence > 0).sum()) >= SIZE * SIZE
    plain = Frame(given.rgb, None, given.pose)
    drawn, _ = paint_views(painter, MEMORY, MEMORY.empty(1), poses, None, 0, 0, plain)
    assert torch.equal(drawn.rgb[:1], given.rgb) and drawn.inverse_depth is not None
    assert not torch.equal(drawn.inverse_depth[:1], given.inverse_depth)
    small = Frame(given.rgb[:, :, :16], None, given.pose)
    with pytest.raises(InvalidInputError, match="32x32"):
        paint_views(painter, MEMORY, MEMORY.empty(1), poses, None, 0, 0, small)


def test_attributes_have_an_effect_and_are_checked(painter: NetworkPainter):
    poses, values = ring(level_pose(), 2), [1.0, 0.0, 0.5]
    first, _ = paint_views(painter, MEMORY, MEMORY.empty(1), poses, torch.tensor(values), 0, 0)
    without, _ = paint_views(painter, MEMORY, MEMORY.empty(1), poses, None, 0, 0)
    untold, _ = paint_views(
        painter, MEMORY, MEMORY.empty(1), poses, torch.tensor(values), 0, 0,
        told=torch.zeros(3, dtype=torch.bool),
    )  # fmt: skip
    assert not torch.equal(first.rgb, without.rgb) and torch.equal(untold.rgb, without.rgb)
    with pytest.raises(InvalidInputError, match="attributes"):
        paint_views(painter, MEMORY, MEMORY.empty(1), poses, torch.zeros(2), 0, 0)
    with pytest.raises(InvalidInputError, match=r"poses\[1\]"):
        paint_views(painter, MEMORY, MEMORY.empty(1), poses * torch.tensor([[[1.0]], [[2.0]]]),
                    None, 0, 0)  # fmt: skip


def test_many_views_come_in_the_order_of_their_poses(painter: NetworkPainter):
    poses = ring(level_pose(z=1.28), 7)
    frames, data, step = paint_many(painter, MEMORY, MEMORY.empty(1), poses, None, 3, 10)
    assert frames.pose is not None and torch.equal(frames.pose, poses)
    assert step == 10 + len(plan_groups(poses, 0, 4))
    # Earlier frames are given, and come back as they are.
    more = torch.cat([poses, level_pose(1.0, 0.0, 1.28)[None]])
    longer, _, _ = paint_many(painter, MEMORY, data, more, None, 3, step, frames)
    assert same(frames_at(longer, range(7)), frames)


def test_a_place_is_reproducible_and_shows_all_directions(painter: NetworkPainter):
    config = PlaceConfig(headings=6, capacity=16384)
    values = torch.zeros(len(ATTRIBUTES))
    place = paint_place(painter, 5, values, config=config)
    assert same((place.frames, place.data), _parts(paint_place(painter, 5, values, config=config)))
    assert place.frames.pose is not None and len(place.frames.rgb) == 6
    assert torch.equal(place.frames.pose[0], level_pose(z=EYE_HEIGHT))
    assert place.intrinsics.tolist() == pytest.approx(INTRINSICS)
    assert isinstance(place.data, Points) and not bool(place.data.confidence.any())


def _parts(place: object) -> tuple[object, object]:
    return place.frames, place.data  # type: ignore[attr-defined]


def test_a_second_ring_stands_where_there_is_room(painter: NetworkPainter):
    given = wall(120, 50.0, level_pose(z=1.28))
    config = PlaceConfig(headings=4, ahead=2.0, capacity=32768)
    place = paint_place(painter, 0, config=config, given=given)
    assert place.frames.pose is not None
    apart = (place.frames.pose[:, :3, 3] - place.frames.pose[0, :3, 3]).norm(dim=1)
    assert len(apart) > 4 and apart[4:].tolist() == pytest.approx([2.0] * len(apart[4:]), abs=1e-3)


def test_a_ring_leaves_out_where_given_frames_look(painter: NetworkPainter):
    given = Frame(*(torch.cat(x) for x in zip(*[
        (f.rgb, f.inverse_depth, f.pose) for f in
        (wall(90, 2.0, level_pose(z=1.28)), wall(60, 2.0, level_pose(z=1.28, heading=math.pi)))
    ], strict=True)))  # fmt: skip
    config = PlaceConfig(headings=4, capacity=16384)
    place = paint_place(painter, 0, config=config, given=given)
    assert len(place.frames.rgb) == 4 and torch.equal(place.frames.rgb[:2], given.rgb)
    # Both others are one pair. One at a time takes two steps, and the second one sees the first.
    single = paint_place(painter, 0, config=replace(config, views_at_once=1), given=given)
    assert (place.step, single.step) == (1, 2)
    assert torch.equal(single.frames.rgb[:2], given.rgb)
    assert not torch.equal(place.frames.rgb[2:], single.frames.rgb[2:])
    with pytest.raises(InvalidInputError, match="no poses"):
        paint_place(painter, 0, given=Frame(given.rgb, given.inverse_depth))
