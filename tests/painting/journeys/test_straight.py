"""Straight surfaces: planes without noise, edges that stay, and pixels that are kept."""

from __future__ import annotations

import pytest
import torch

from worldsim.camera import DEPTH_CODES, DEPTH_NEAR
from worldsim.painting.journeys.straight import straighten
from worldsim.painting.places.place import level_pose
from worldsim.state import Frame

pytestmark = pytest.mark.fast
SIZE = 24


def wall(noise: float = 0.0) -> Frame:
    """A slanted wall from 4 m to 8 m on the left, sky on the right, and noise in its depth."""
    across = torch.linspace(1.0 / 4.0, 1.0 / 8.0, SIZE).expand(SIZE, SIZE)
    generator = torch.Generator().manual_seed(0)
    wobble = 1.0 + noise * torch.randn(SIZE, SIZE, generator=generator)
    code = (DEPTH_CODES * DEPTH_NEAR * across * wobble).round().int()
    code[:, SIZE // 2 :] = 0
    rgb = torch.full((1, 3, SIZE, SIZE), 90, dtype=torch.uint8)
    return Frame(rgb, code[None], level_pose()[None])


def nothing() -> torch.Tensor:
    return torch.zeros(1, SIZE, SIZE, dtype=torch.bool)


def test_a_plane_stays_as_it_is_and_sky_stays_sky():
    code, found = wall().inverse_depth, straighten(wall(), nothing(), 2).inverse_depth
    assert code is not None and found is not None
    assert bool((found[code == 0] == 0).all())
    assert int((found - code).abs().max()) <= 2


def test_noise_becomes_less():
    true, rough = wall().inverse_depth, wall(0.03).inverse_depth
    found = straighten(wall(0.03), nothing(), 2).inverse_depth
    assert true is not None and rough is not None and found is not None
    solid = true > 0
    before, after = ((x - true)[solid].float().std() for x in (rough, found))
    assert float(after) < 0.4 * float(before)


def test_an_edge_between_two_surfaces_stays():
    code = torch.full((1, SIZE, SIZE), 4000, dtype=torch.int32)
    code[..., SIZE // 2 :] = 1000
    frame = Frame(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8), code, level_pose()[None])
    found = straighten(frame, nothing(), 3).inverse_depth
    assert found is not None and int((found - code).abs().max()) <= 1


def test_known_pixels_stay():
    rough = wall(0.03)
    keep = nothing()
    keep[:, :5] = True
    found = straighten(rough, keep, 1).inverse_depth
    assert found is not None and rough.inverse_depth is not None
    assert torch.equal(found[:, :5], rough.inverse_depth[:, :5])
    assert not torch.equal(found, rough.inverse_depth)
