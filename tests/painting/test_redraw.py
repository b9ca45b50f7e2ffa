"""Whole views redrawn by a painter: the level decides what is kept."""

from __future__ import annotations

import dataclasses

import torch

from tests.helpers.painters import SIZE, make_tiny_painter
from worldsim.camera import quantise_depth
from worldsim.memory.splat import hole_view
from worldsim.painting.sampling import sigmas_for, sigmas_from
from worldsim.protocols import PaintInputs, RedrawsViews
from worldsim.state import Frame

PLACES, VIEWS = 3, 2


def test_levels_start_anywhere_and_end_at_zero() -> None:
    for views, power in ((1, 1.0), (4, 1.5)):
        found = sigmas_from(torch.tensor([1.0, 0.5]), 5, views, power)
        assert torch.allclose(found[:, 0], sigmas_for(5, views, power), atol=1e-6)
        assert torch.allclose(found[0], torch.tensor([1.0, 0.5])) and not found[-1].any()
        assert bool((found.diff(dim=0) < 0).all())
    # Half the way of one step, power 2: a quarter of the unshifted level, 0.4 for one view.
    assert torch.allclose(sigmas_from(torch.tensor([0.4]), 2, 1, 2.0)[1], torch.tensor([0.1]))


def test_level_one_paints_anew_and_other_levels_start_from_the_views() -> None:
    painter = make_tiny_painter(steps=3)
    assert isinstance(painter, RedrawsViews)
    painter.config = dataclasses.replace(painter.config, guidance_scale=1.0, places=2)
    generator = torch.Generator().manual_seed(0)
    pose = torch.eye(4).expand(PLACES, VIEWS, 4, 4).contiguous()
    view = hole_view(painter.spec.cameras(pose.flatten(0, 1)))
    inputs = PaintInputs(view, pose, torch.arange(PLACES), torch.zeros(PLACES).long())
    shape = (PLACES * VIEWS, 3, SIZE, SIZE)
    frames = Frame(
        torch.randint(0, 256, shape, generator=generator).to(torch.uint8),
        quantise_depth(torch.full((PLACES * VIEWS, SIZE, SIZE), 2.0)),
        pose.flatten(0, 1),
    )
    painted = painter.paint(inputs)
    anew, half, again = (
        painter.redraw(inputs, frames, torch.full((PLACES,), level)) for level in (1.0, 0.5, 0.5)
    )
    assert int((painted.rgb.int() - anew.rgb.int()).abs().max()) <= 1
    assert not torch.equal(half.rgb, anew.rgb) and torch.equal(half.rgb, again.rgb)
    other = dataclasses.replace(frames, rgb=255 - frames.rgb)
    assert not torch.equal(painter.redraw(inputs, other, torch.full((PLACES,), 0.5)).rgb, half.rgb)
    assert half.rgb.shape == shape and torch.equal(half.pose, pose.flatten(0, 1))
