"""The ego-motion head's geometry: axes, quarter turns, shapes; the outcome head's start."""

from __future__ import annotations

import dataclasses

import torch

from worldsim.camera import motion_to_matrix
from worldsim.world.heads import (
    ALONG,
    CROP_CELLS,
    HISTORY,
    MAP_CELLS,
    EgoMotionHead,
    Motions,
    OutcomeHead,
    along_the_way,
    quarter_turns,
    to_camera_axes,
    to_world_axes,
    vary,
)

# Looking north from (1, 2, 0): right is east, down is down.
NORTH = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 2], [0, -1, 0, 0], [0, 0, 0, 1]])


def test_motion_axes_by_hand() -> None:
    """Half a metre ahead, 10 cm to the right, turned 0.2 rad to the right (about the down axis)."""
    motion = torch.tensor([0.1, 0.0, 0.5, 0.0, 0.2, 0.0])
    world = to_world_axes(motion, NORTH)
    torch.testing.assert_close(world, torch.tensor([0.1, 0.5, 0.0, 0.0, 0.0, -0.2]))
    torch.testing.assert_close(to_camera_axes(world, NORTH), motion)
    # The next pose by either: translation adds, rotation multiplies from the left in world axes.
    following = NORTH @ motion_to_matrix(motion)
    torch.testing.assert_close(following[:3, 3], NORTH[:3, 3] + world[:3])
    rotation = motion_to_matrix(torch.cat([torch.zeros(3), world[3:]]))[:3, :3]
    torch.testing.assert_close(following[:3, :3], rotation @ NORTH[:3, :3])


def test_quarter_turns_by_hand() -> None:
    """Of four equal worlds the first stays; what is east in the others comes to be north, west and
    south."""
    around = torch.zeros(4, 2, MAP_CELLS, MAP_CELLS, dtype=torch.uint8)
    around[:, 0, 20, MAP_CELLS - 1] = 255
    motion = torch.tensor([1.0, 0, 0.5, 0, 0, 0.3]).repeat(4, 1)
    maps, pose, (turned,) = quarter_turns(around, NORTH.repeat(4, 1, 1), (motion,))
    last = MAP_CELLS - 1
    assert [m[0].nonzero().tolist() for m in maps] == [
        [[20, last]],
        [[0, 20]],
        [[last - 20, 0]],
        [[last, last - 20]],
    ]
    torch.testing.assert_close(turned[:, :2], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    assert (turned[:, 2] == 0.5).all() and (turned[:, 5] == 0.3).all()
    # Looking north, then west, south and east; down stays down.
    torch.testing.assert_close(pose[:, :2, 2], torch.tensor([[0.0, 1], [-1, 0], [0, -1], [1, 0]]))
    assert (pose[:, 2, 1] == -1).all()


def test_squares_along_the_way_by_hand() -> None:
    """A wall 0.8 m east and 0.4 m north of the camera; the way leads to (0.96, 0.32): there it is 2
    cells west, 1 north."""
    around = torch.zeros(1, 2, MAP_CELLS, MAP_CELLS)
    # Cells are 8 cm; the camera stands on the corner of cells 23 and 24. East 0.8 m begins column
    # 34, north 0.4 m row 18.
    around[0, 1, 18, 34] = 1.0
    crops = along_the_way(around, torch.tensor([[0.96, 0.32]]))
    assert crops.shape == (1, len(ALONG), 2, CROP_CELLS, CROP_CELLS)
    assert not crops[:, :, 0].any()
    # Of 16 cells, 7 and 8 touch at the middle: two cells west of the middle begins at 6, the row
    # above it is 7 - 1 = 6.
    torch.testing.assert_close(crops[0, -1, 1].nonzero(), torch.tensor([[6, 6]]))
    torch.testing.assert_close(crops[0, -1, 1, 6, 6], torch.tensor(1.0))
    # A quarter of the way: the middle is at (0.24, 0.08), the wall 7 cells east and 4 north of it.
    torch.testing.assert_close(crops[0, 0, 1].nonzero(), torch.tensor([[3, 15]]))


def test_beyond_the_map_there_is_nothing() -> None:
    crops = along_the_way(
        torch.ones(2, 1, MAP_CELLS, MAP_CELLS), torch.tensor([[9.0, 0.0], [0.0, 0.0]])
    )
    assert (crops[0, -1, 0, :, : CROP_CELLS // 2 - 1] == 1).all() and not crops[
        0, -1, 0, :, CROP_CELLS // 2 + 1 :
    ].any()
    assert (crops[1] == 1).all()


def moments(count: int) -> Motions:
    generator = torch.Generator().manual_seed(0)
    return Motions(
        around=torch.randint(0, 256, (count, 2, MAP_CELLS, MAP_CELLS), generator=generator).to(
            torch.uint8
        ),
        pose=NORTH.repeat(count, 1, 1),
        motion=torch.randn(count, HISTORY, 6, generator=generator),
        acts=torch.randint(0, 7, (count, HISTORY), generator=generator),
        act=torch.randint(0, 7, (count,), generator=generator),
        target=torch.randn(count, 6, generator=generator),
    )


def test_mirrored_moments_by_hand() -> None:
    """A wall in the west comes to be in the east, a step to the north-east leads north-west, left
    is right."""
    one = dataclasses.replace(
        moments(1), around=torch.zeros(1, 2, MAP_CELLS, MAP_CELLS, dtype=torch.uint8)
    )
    one.around[0, 0, 5, 7] = 255
    one.target[0] = torch.tensor([1.0, 2, 3, 4, 5, 6])
    one.act[0] = 3
    seed = next(
        s
        for s in range(20)
        if float(torch.rand(1, generator=torch.Generator().manual_seed(s))) < 0.5
    )
    mirrored = vary(one, torch.Generator().manual_seed(seed), (0, 1, 2, 4, 3, 6, 5), forget=0.0)
    assert mirrored.around[0, 0].nonzero().tolist() == [[5, MAP_CELLS - 1 - 7]]
    assert mirrored.target[0].tolist() == [-1.0, 2.0, 3.0, 4.0, -5.0, -6.0]
    assert mirrored.act.tolist() == [4]
    # Still looking north, at a place mirrored at the plane x = 0.
    torch.testing.assert_close(
        mirrored.pose[0], torch.tensor([[1.0, 0, 0, -1], [0, 0, 1, 2], [0, -1, 0, 0], [0, 0, 0, 1]])
    )


def test_varied_moments_stay_consistent() -> None:
    """Lengths and heights are kept by every mirror and turn; about as many pasts are hidden as
    asked for."""
    before = moments(400)
    after = vary(before, torch.Generator().manual_seed(0), (0, 1, 2, 4, 3, 6, 5), forget=0.25)
    torch.testing.assert_close(after.target[:, :2].norm(dim=1), before.target[:, :2].norm(dim=1))
    assert torch.equal(after.target[:, 2], before.target[:, 2])
    hidden = ~after.motion[:, : HISTORY // 2].flatten(1).any(1)
    # Four standard deviations of 400 draws are 0.087.
    assert abs(float(hidden.float().mean()) - 0.25) < 0.09
    assert not after.acts[hidden, : HISTORY // 2].any() and bool(
        after.motion[hidden, HISTORY // 2 :].any(1).all()
    )
    assert torch.equal(vary(before, torch.Generator(), None, forget=0.0).acts, before.acts)


def test_ego_motion_takes_discrete_and_continuous_actions() -> None:
    around = torch.zeros(3, 2, MAP_CELLS, MAP_CELLS, dtype=torch.uint8)
    pose, past = NORTH.repeat(3, 1, 1), torch.zeros(3, HISTORY, 6)
    discrete = EgoMotionHead(actions=7, hidden=16)
    assert discrete(
        around, pose, past, torch.zeros(3, HISTORY, dtype=torch.int64), torch.tensor([0, 1, 6])
    ).shape == (3, 6)
    continuous = EgoMotionHead(actions=0, action_dim=2, hidden=16)
    assert continuous(around, pose, past, torch.zeros(3, HISTORY, 2), torch.ones(3, 2)).shape == (
        3,
        6,
    )


def test_outcomes_start_neutral() -> None:
    reward, logit = OutcomeHead(dim=8)(torch.randn(5, 8))
    assert not reward.any() and not logit.any()
