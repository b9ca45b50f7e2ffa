"""The ego-motion head's geometry: axes, quarter turns, shapes; the outcome head's start."""

from __future__ import annotations

import torch

from worldsim.camera import motion_to_matrix
from worldsim.heads import HISTORY, MAP_CELLS, EgoMotionHead, OutcomeHead, quarter_turns, to_camera_axes, to_world_axes

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
    """Of four equal worlds the first stays; what is east in the others comes to be north, west and south."""
    around = torch.zeros(4, 2, MAP_CELLS, MAP_CELLS, dtype=torch.uint8)
    around[:, 0, 20, MAP_CELLS - 1] = 255
    motion = torch.tensor([1.0, 0, 0.5, 0, 0, 0.3]).repeat(4, 1)
    maps, pose, (turned,) = quarter_turns(around, NORTH.repeat(4, 1, 1), (motion,))
    last = MAP_CELLS - 1
    assert [m[0].nonzero().tolist() for m in maps] == [[[20, last]], [[0, 20]], [[last - 20, 0]], [[last, last - 20]]]
    torch.testing.assert_close(turned[:, :2], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    assert (turned[:, 2] == 0.5).all() and (turned[:, 5] == 0.3).all()
    # Looking north, then west, south and east; down stays down.
    torch.testing.assert_close(pose[:, :2, 2], torch.tensor([[0.0, 1], [-1, 0], [0, -1], [1, 0]]))
    assert (pose[:, 2, 1] == -1).all()


def test_ego_motion_takes_discrete_and_continuous_actions() -> None:
    around = torch.zeros(3, 2, MAP_CELLS, MAP_CELLS, dtype=torch.uint8)
    pose, past = NORTH.repeat(3, 1, 1), torch.zeros(3, HISTORY, 6)
    discrete = EgoMotionHead(actions=7, hidden=16)
    assert discrete(around, pose, past, torch.zeros(3, HISTORY, dtype=torch.int64), torch.tensor([0, 1, 6])).shape == (3, 6)
    continuous = EgoMotionHead(actions=0, action_dim=2, hidden=16)
    assert continuous(around, pose, past, torch.zeros(3, HISTORY, 2), torch.ones(3, 2)).shape == (3, 6)


def test_outcomes_start_neutral() -> None:
    reward, logit = OutcomeHead(dim=8)(torch.randn(5, 8))
    assert not reward.any() and not logit.any()
