"""Nerfacto fits a tiny trajectory and sees along worldsim's rays. Runs in ``.venv-nerf`` (see the
Makefile), on a CPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from worldsim.camera import Camera, pixel_rays
from worldsim.envs.tiny_room import textured_room, textured_room_walk
from worldsim.errors import InvalidInputError, MissingDependencyError
from worldsim.memory.nerfacto import NerfactoConfig, NerfactoField, nerfstudio_cameras, placement
from worldsim.state import Trajectory

installed = importlib.util.find_spec("nerfstudio") is not None
needs_nerfstudio = pytest.mark.skipif(
    not installed, reason="nerfstudio is not installed: make test-nerf makes .venv-nerf"
)
TINY = NerfactoConfig(
    iterations=30,
    rays=256,
    implementation="torch",
    levels=4,
    log2_hashmap_size=12,
    hidden=16,
    proposal_samples=(24, 16),
    samples=12,
)


def trajectory() -> Trajectory:
    camera = textured_room_walk(6, size=24)
    frames = textured_room(camera)
    assert frames.inverse_depth is not None
    return Trajectory(frames.rgb, frames.inverse_depth, camera.pose, camera.intrinsics[0])


def test_what_was_seen_lies_in_the_box() -> None:
    """A room of 8 x 6 x 3 m: 8 m become 1.9 units, its middle is the origin."""
    place = placement(trajectory())
    assert place.scale == pytest.approx(1.9 / 8.0, rel=0.03)
    torch.testing.assert_close(place.centre, torch.tensor([4.0, 3.0, 1.5]), atol=0.15, rtol=0)


def test_clear_errors() -> None:
    with pytest.raises(InvalidInputError, match="iterations = 0"):
        NerfactoConfig(iterations=0)
    if not installed:
        with pytest.raises(MissingDependencyError, match="nerf"):
            NerfactoField.fit(trajectory(), TINY, "cpu")


@pytest.mark.nerf
@needs_nerfstudio
def test_rays_are_those_of_worldsim() -> None:
    """In world axes, through pixel centres, for a camera with unequal focal lengths that is turned
    every way."""
    seen = trajectory()
    place, pose = placement(seen), seen.pose[2:4]
    camera = Camera(pose, torch.tensor([[20.0, 25.0, 9.0, 5.0]]).repeat(2, 1), 10, 16)
    cameras = nerfstudio_cameras(camera, place)
    for i in range(2):
        rays = cameras.generate_rays(camera_indices=i)
        local = pixel_rays(camera.intrinsics[i : i + 1], 10, 16)[0]
        world = torch.einsum("ij,jhw->hwi", pose[i, :3, :3], local)
        norm = world.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(rays.directions, world / norm, atol=1e-5, rtol=0)
        torch.testing.assert_close(rays.metadata["directions_norm"], norm, atol=1e-5, rtol=0)
        origin = (pose[i, :3, 3] - place.centre) * place.scale
        torch.testing.assert_close(rays.origins, origin.expand(10, 16, 3), atol=1e-5, rtol=0)


@pytest.mark.nerf
@needs_nerfstudio
def test_a_fit_lowers_the_loss_and_renders() -> None:
    seen = trajectory()
    field = NerfactoField.fit(seen, TINY, "cpu")
    assert len(field.losses) == 30 and sum(field.losses[-3:]) < 0.7 * sum(field.losses[:3])
    assert NerfactoField.fit(seen, TINY, "cpu").losses == field.losses
    camera = Camera(seen.pose[:2], 0.5 * seen.intrinsics.repeat(2, 1), 12, 10)
    view = field.render(camera, chunk=50)
    assert (
        view.rgb.shape == (2, 3, 12, 10)
        and view.rgb.dtype == torch.uint8
        and view.mask.dtype == torch.bool
    )
    assert (
        view.inverse_depth.shape == (2, 12, 10)
        and view.offset.shape == (2, 2, 12, 10)
        and view.source.dtype == torch.uint8
    )
    assert not view.rgb[~view.mask[:, None].expand_as(view.rgb)].any() and bool(view.mask.any())
