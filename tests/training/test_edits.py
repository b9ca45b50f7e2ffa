"""Edited windows: boxes where geometry says, in the memory's view and the targets, and the past
told otherwise."""

from __future__ import annotations

import math

import pytest
import torch

from worldsim.camera import code_to_channel, dequantise_depth, quantise_depth
from worldsim.errors import MissingGeometryError
from worldsim.training import edits
from worldsim.training.buffer import Windows
from worldsim.training.edits import Boxes, camera_path, cast, edit_windows

SIZE, FRAMES = 16, 6
INTRINSICS = torch.tensor([8.0, 8.0, 8.0, 8.0])


def box(place: torch.Tensor, half: tuple[float, float, float]) -> Boxes:
    """A box of six plain colours."""
    colour = torch.tensor(
        [[1, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, 0.5, 0], [0, 0, 1], [0, 0, 0.5]],
        dtype=torch.float32,
    )
    return Boxes(place[None], torch.tensor([half]), colour[None], torch.ones(1), torch.zeros(1))


def wall(count: int = 8, metres: float = 4.0, seen: bool = True) -> Windows:
    """Cameras that step 0.5 m to the right before a grey wall, which the memory knows."""
    b = count
    motion = torch.zeros(b, FRAMES, 6)
    motion[:, 1:, 0] = 0.5
    rgb = torch.full((b, FRAMES, 3, SIZE, SIZE), 100, dtype=torch.uint8)
    code = quantise_depth(torch.full((b, FRAMES, SIZE, SIZE), metres))
    view = torch.zeros(b, FRAMES, 8, SIZE, SIZE)
    if seen:
        view[:, :, :3] = 100 / 127.5 - 1
        view[:, :, 3] = 2 * code_to_channel(code) - 1
        view[:, :, 4] = 1.0
    act = torch.zeros(b, FRAMES, dtype=torch.int64)
    nothing = torch.zeros(b, FRAMES)
    return Windows(rgb, code, act, nothing, nothing.bool(), motion, view)


def edited(windows: Windows, seed: int = 0, share: float = 1.0) -> Windows:
    return edit_windows(windows, INTRINSICS, torch.Generator().manual_seed(seed), share)


def test_a_box_by_hand() -> None:
    """2 m wide, 1 m high, 2 m deep, its front 3 m ahead: columns (-1 * 8 / 3, 1 * 8 / 3) around 8,
    rows half as far."""
    place = torch.eye(4)
    place[2, 3] = 4.0
    centre = torch.full((2, 1, 1, SIZE, SIZE), 0.5)
    z, colour = cast(box(place, (1.0, 0.5, 1.0)), torch.eye(4)[None, None], INTRINSICS, centre)
    hit = torch.isfinite(z[0, 0])
    # Centres at 5.5 to 10.5 lie within 8 -+ 2.67, those at 7.5 and 8.5 within 8 -+ 1.33.
    rows, columns = hit.nonzero().unbind(1)
    assert sorted(set(columns.tolist())) == [5, 6, 7, 8, 9, 10] and sorted(set(rows.tolist())) == [
        7,
        8,
    ]
    assert int(hit.sum()) == 12 and torch.allclose(z[0, 0][hit], torch.tensor(3.0))
    # The side that looks towards the camera is that of -z: number 4, blue.
    assert colour[0, 0, :, 8, 8].tolist() == [0, 0, 255]


def test_a_turned_camera_sees_another_side() -> None:
    """From 4 m to the right of the box, turned left by a quarter: its +x side, 3 m ahead; that
    side's number is 1."""
    place = torch.eye(4)
    place[2, 3] = 4.0
    camera = torch.tensor([[0.0, 0, -1, 4], [0, 1, 0, 0], [1, 0, 0, 4], [0, 0, 0, 1]])
    z, colour = cast(
        box(place, (1.0, 0.5, 1.0)),
        camera[None, None],
        INTRINSICS,
        torch.full((2, 1, 1, SIZE, SIZE), 0.5),
    )
    assert float(z[0, 0, 8, 8]) == pytest.approx(3.0) and colour[0, 0, :, 8, 8].tolist() == [
        128,
        0,
        0,
    ]


def test_the_path_of_the_camera() -> None:
    """Forward by 1 m, then a quarter turn to the right, then forward again: along what was to the
    right."""
    motion = torch.zeros(1, 4, 6)
    motion[0, 0] = 7.0  # led to the first frame, from before the window
    motion[0, 1, 2] = motion[0, 3, 2] = 1.0
    motion[0, 2, 4] = math.pi / 2
    path = camera_path(motion)[0]
    assert torch.equal(path[0], torch.eye(4))
    assert torch.allclose(path[3, :3, 3], torch.tensor([1.0, 0.0, 1.0]), atol=1e-6)


def test_what_is_put_in_is_believed_from_the_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets and views show the same box at the same depth, in every frame; the past does until it
    is told otherwise."""
    monkeypatch.setattr(edits, "REMOVED", 0.0)
    before = wall()
    after = edited(before)
    assert (
        after.view is not None
        and before.view is not None
        and after.inverse_depth is not None
        and after.own_rgb is not None
    )
    boxed = (after.rgb != 100).any(2)
    assert bool(boxed.flatten(2).any(2).any(1).all()) and not bool(boxed.all())
    assert bool((dequantise_depth(after.inverse_depth)[boxed] < 4.0).all())
    point = boxed & (after.view[:, :, 4] > 0)
    # Points of a box are where it is, but for one pixel at its edges.
    near = (after.view[:, :, 3] > before.view[:, :, 3] + 1e-3) & (after.view[:, :, 4] > 0)
    assert float((near & boxed).sum() / near.sum()) > 0.8 and float(point.sum() / boxed.sum()) > 0.3
    past = (after.own_rgb != 100).any(2).flatten(2).any(2)
    shown = boxed.flatten(2).any(2)
    assert bool((shown & ~past).any()) and not bool((past & ~shown).any())


def test_what_is_taken_away_is_gone_although_it_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "REMOVED", 1.0)
    before = wall()
    after = edited(before)
    assert after.view is not None and before.view is not None and after.own_rgb is not None
    assert torch.equal(after.rgb, before.rgb) and torch.equal(
        after.inverse_depth, before.inverse_depth
    )  # type: ignore[arg-type]
    assert bool((after.own_rgb != 100).any())
    holes = after.view[:, :, 4] == 0
    assert bool(holes.any()) and torch.equal(
        after.view * ~holes[:, :, None], before.view * ~holes[:, :, None]
    )


def test_windows_that_see_no_memory_are_left_alone() -> None:
    blind = wall(seen=False)
    after = edited(blind)
    assert torch.equal(after.rgb, blind.rgb) and torch.equal(after.own_rgb, blind.rgb)  # type: ignore[arg-type]
    untouched = edited(wall(), share=0.0)
    assert torch.equal(untouched.rgb, wall().rgb) and torch.equal(untouched.view, wall().view)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_edits() -> None:
    one, again, other = edited(wall()), edited(wall()), edited(wall(), seed=1)
    assert torch.equal(one.rgb, again.rgb) and torch.equal(one.view, again.view)  # type: ignore[arg-type]
    assert not torch.equal(one.rgb, other.rgb)


def test_edits_need_geometry() -> None:
    windows = wall()
    bare = Windows(windows.rgb, None, windows.act, windows.rew, windows.term, windows.motion, None)
    with pytest.raises(MissingGeometryError, match="edits need depth and memory views"):
        edited(bare)
