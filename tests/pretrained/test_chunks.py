"""The chunk buffer, by hand-computed values."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from worldsim.camera import relative_motion, snap_pose
from worldsim.pretrained.chunks import (
    approach_cameras,
    empty_context,
    join,
    past_frames,
    plan_cameras,
    push,
    usable,
)
from worldsim.protocols import StepInputs
from worldsim.state import Frame

LEVEL = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
FORWARD = torch.tensor([0.0, 0, 0.5, 0, 0, 0])
LEFT = torch.tensor([0.0, 0, 0, 0, -math.pi / 2, 0])


def test_cameras_continue_the_motion() -> None:
    pose = torch.stack([LEVEL, LEVEL])
    planned = plan_cameras(pose, torch.stack([FORWARD, LEFT]), 3)
    assert planned.shape == (2, 3, 4, 4)
    # The camera looks along x, so forward is +x in the world.
    assert planned[0, :, :3, 3].tolist() == [[0, 0, 0], [0.5, 0, 0], [1.0, 0, 0]]
    looks = planned[1, :, :3, 2]
    torch.testing.assert_close(
        looks, torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0]]), atol=1e-4, rtol=0
    )


def test_the_approach_leads_to_the_newest_camera() -> None:
    motion = torch.stack([FORWARD, LEFT])
    cameras = approach_cameras(torch.stack([LEVEL, LEVEL]), motion, 3)
    assert torch.equal(cameras[:, -1], torch.stack([LEVEL, LEVEL]))
    for first in (0, 1):
        step = relative_motion(cameras[:, first], cameras[:, first + 1])
        torch.testing.assert_close(step, motion, atol=1e-5, rtol=0)


def inputs(act: int, x: float) -> StepInputs:
    pose = LEVEL.clone()
    pose[0, 3] = x
    return StepInputs(
        last=Frame(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)),
        act=torch.tensor([act]),
        motion=FORWARD[None],
        pose=snap_pose(pose[None]),
        view=None,
        intrinsics=torch.ones(1, 4),
        seed=torch.tensor([0]),
        step=torch.tensor([0]),
    )


@pytest.mark.parametrize(
    ("position", "act", "x", "fits"),
    [
        (0, 1, 0.0, True),
        (1, 1, 0.5, True),
        (1, 1, 0.51, True),
        (1, 1, 0.53, False),  # blocked or pushed by more than 2 cm
        (1, 2, 0.5, False),  # another action
        (2, 1, 1.0, False),  # used up
    ],
)
def test_a_chunk_is_used_while_action_and_camera_fit(
    position: int, act: int, x: float, fits: bool
) -> None:
    context = empty_context(1, 2, 2, (2, 2), torch.tensor([1]), "cpu")
    context = dataclasses.replace(
        context,
        planned=plan_cameras(LEVEL[None], FORWARD[None], 2),
        position=torch.tensor([position]),
    )
    assert usable(context, inputs(act, x), 0.02, math.radians(0.5)).tolist() == [fits]


def test_missing_past_frames_repeat_the_oldest() -> None:
    def frame(value: int) -> torch.Tensor:
        return torch.full((2, 3, 1, 1), value, dtype=torch.uint8)

    context = empty_context(2, 3, 1, (1, 1), torch.tensor([0, 0]), "cpu")
    assert past_frames(context, frame(9))[0, :, 0, 0, 0].tolist() == [9, 9, 9]
    context = push(push(context, frame(1)), frame(2))
    assert past_frames(context, frame(2))[1, :, 0, 0, 0].tolist() == [1, 1, 2]
    context = push(push(context, frame(3)), frame(4))
    assert past_frames(context, frame(4))[0, :, 0, 0, 0].tolist() == [2, 3, 4]


def test_emitted_frames_join_the_past() -> None:
    """Rows: two of three frames emitted; the same after the first had joined; a dropped chunk."""
    context = empty_context(3, 2, 3, (1, 1), torch.zeros(3), "cpu")
    values = torch.tensor([[7, 8, 9]]).repeat(3, 1).to(torch.uint8)
    context = dataclasses.replace(
        context,
        past=torch.tensor([[1, 2], [1, 7], [1, 2]], dtype=torch.uint8)[
            :, :, None, None, None
        ].expand(3, 2, 3, 1, 1),
        present=torch.tensor([[False, False], [False, True], [True, True]]),
        chunk=values[:, :, None, None, None].expand(3, 3, 3, 1, 1),
        position=torch.tensor([2, 2, 3]),
        joined=torch.tensor([0, 1, 3]),
    )
    joined = join(context)
    assert joined.past[:, :, 0, 0, 0].tolist() == [[7, 8], [7, 8], [1, 2]]
    assert joined.present.all() and joined.joined.tolist() == [2, 2, 3]
    one = join(dataclasses.replace(context, position=torch.tensor([1, 1, 3])))
    assert one.past[:, :, 0, 0, 0].tolist() == [[2, 7], [1, 7], [1, 2]]
    assert one.present.tolist() == [[False, True], [False, True], [True, True]]
