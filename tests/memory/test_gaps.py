"""Gaps between splats: narrow holes are closed, wide ones keep their size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from worldsim.camera import Camera
from worldsim.memory.gaps import close_gaps, close_mask
from worldsim.memory.splat import hole_view
from worldsim.state import MemoryView

pytestmark = pytest.mark.fast


def masks(*rows: str) -> torch.Tensor:
    """Masks of one row each, repeated to five rows; ``#`` is known."""
    line = torch.tensor([[letter == "#" for letter in row] for row in rows])
    return line[:, None].repeat(1, 5, 1)


def view_of(mask: torch.Tensor) -> MemoryView:
    b, h, w = mask.shape
    camera = Camera(torch.eye(4).expand(b, 4, 4), torch.ones(b, 4), h, w)
    code = torch.arange(b * h * w, dtype=torch.int32).view(b, h, w) * mask
    return dataclasses.replace(hole_view(camera), inverse_depth=code, mask=mask)


def test_holes_of_up_to_four_pixels_are_closed() -> None:
    before = masks("##....####", "##.....###", "#.#..#...#", "..........", ".##.......")
    after = masks("##########", "##.....###", "##########", "..........", ".##.......")
    # Beyond the border nothing is known: a narrow hole there is closed only within two pixels.
    after[4, :, 0] = True
    assert torch.equal(close_mask(before), after)


def test_gaps_show_the_nearest_known_pixel() -> None:
    mask = masks("##....####", "##.....###")
    view = view_of(mask)
    closed = close_gaps(view)
    assert torch.equal(closed.mask, close_mask(mask))
    assert closed.inverse_depth[0, 2].tolist() == [20, 21, 21, 21, 26, 26, 26, 27, 28, 29]
    # What was known stays, and wide holes stay holes.
    assert torch.equal(closed.inverse_depth[mask], view.inverse_depth[mask])
    assert torch.equal(closed.inverse_depth[1], view.inverse_depth[1])
    # Views of a batch do not affect one another.
    alone = close_gaps(view_of(mask[:1]))
    assert torch.equal(alone.inverse_depth[0], closed.inverse_depth[0])
