"""The re-observation gate on a camera that looks at a wall, turns round, and looks again."""

from __future__ import annotations

import pytest
import torch

from worldsim.evaluation.twin.gate import Shown, returned

SIZE, AWAY = 8, 4
BEHIND = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
"""Turned by half a circle."""


def look(there: list[bool]) -> Shown:
    """Frames of a wall 2 m ahead (True) or behind; the colour of frame t is t."""
    t = len(there)
    pose = torch.stack([torch.eye(4) if ahead else BEHIND for ahead in there])[None]
    rgb = torch.arange(t, dtype=torch.uint8).reshape(1, t, 1, 1, 1).repeat(1, 1, 3, SIZE, SIZE)
    depth = torch.full((1, t, SIZE, SIZE), 2.0)
    return Shown(rgb, depth, pose, torch.tensor([[4.0, 4.0, 4.0, 4.0]]))


def test_what_the_input_showed_counts_after_it_was_away() -> None:
    shown = look([True, True] + [False] * AWAY + [True])
    back = returned(shown, 6, history=2, gap=AWAY)
    assert back.input.all() and not back.generated.any()
    # In sight within the gap.
    assert not returned(shown, 6, history=2, gap=AWAY + 1).input.any()


def test_what_came_later_counts_as_generated_in_its_last_colour() -> None:
    shown = look([False, False, True, True] + [False] * AWAY + [True])
    back = returned(shown, 8, history=2, gap=AWAY)
    assert back.generated.all() and not back.input.any()
    assert back.colour.unique().tolist() == [3]


def test_what_was_always_in_sight_never_counts() -> None:
    back = returned(look([True] * 8), 7, history=2, gap=AWAY)
    assert not back.input.any() and not back.generated.any()


def test_a_pixel_is_found_where_another_frame_showed_it() -> None:
    seen, pixel = look([True, True]).sighted(1, 0)
    assert seen.all() and pixel[0].flatten().tolist() == list(range(SIZE**2))
    assert not look([True, False]).sighted(1, 0)[0].any()


@pytest.mark.parametrize("t", [0, 1])
def test_the_first_frames_return_nothing(t: int) -> None:
    assert not returned(look([True, True]), t, history=2).input.any()
