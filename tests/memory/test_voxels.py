"""The voxel field's arithmetic, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldsim.camera import Camera, pixel_rays, unproject
from worldsim.errors import InvalidInputError
from worldsim.memory.fitting import FitConfig, Rays, fit_grid, grid_from_points
from worldsim.memory.sky import sky_of
from worldsim.memory.splat import DIRECTION, POINT
from worldsim.memory.voxels import (
    EMPTY_DENSITY,
    SOLID_DENSITY,
    Grid,
    _interpolate,
    density_at,
    grid_of,
    interpolate_exactly,
    render_rays,
    render_row,
    sample,
    source_of,
    span,
    voxels_of,
    weights,
    world_rays,
)


def grid(values: Tensor, low: float = 0.0, size: float = 1.0) -> Grid:
    return Grid(values, torch.full((3,), low), torch.full((3,), size))


def test_sampling_is_trilinear() -> None:
    """A field of x + 10 y + 100 z in nodes is that in between too, and keeps its border's values
    outside."""
    x, y, z = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), torch.arange(6.0), indexing="ij")
    field = grid((x + 10 * y + 100 * z)[None], low=2.0, size=0.5)
    place = torch.tensor([[2.0, 2.0, 2.0], [2.25, 2.5, 3.0], [3.4, 3.9, 4.4], [9.0, 2.0, 2.0]])
    torch.testing.assert_close(
        sample(field, place)[0], torch.tensor([0.0, 0.5 + 10 + 200, 2.8 + 38 + 480, 3.0])
    )


def test_weights_by_hand() -> None:
    """Half of the light stops at each of two stretches: a half, a quarter, and a quarter gets
    through."""
    half = math.log(2.0)
    torch.testing.assert_close(
        weights(torch.tensor([[half, half, 0.0]])), torch.tensor([[0.5, 0.25, 0.0]])
    )


def test_where_rays_enter_and_leave() -> None:
    field = grid(torch.zeros(4, 3, 3, 3), low=1.0)
    origin = torch.tensor([[0.0, 2.0, 2.0], [2.0, 2.0, 2.0], [0.0, 5.0, 2.0]])
    enter, leave = span(
        field, origin, torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    )
    assert enter[:2].tolist() == pytest.approx([2.0, 0.05]) and leave[:2].tolist() == pytest.approx(
        [6.0, 1.0]
    )
    assert leave[2] <= enter[2]


def wall() -> Grid:
    """Solid red from x = 4 on, in a grid of 8 x 6 x 6 voxels of a metre."""
    values = torch.zeros(4, 9, 7, 7)
    values[0], values[1] = -20.0, 1.0
    values[0, 4:] = 20.0
    return grid(values)


def test_a_wall_is_seen_where_it_is() -> None:
    origin, ray = (
        torch.tensor([[0.5, 3.0, 3.0]]).repeat(3, 1),
        torch.tensor([[1.0, 0, 0], [1.0, 0.25, 0], [-1.0, 0, 0]]),
    )
    opacity, colour, depth = render_rays(wall(), origin, ray)
    torch.testing.assert_close(opacity, torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        colour[:2], torch.tensor([[1.0, 0, 0]]).repeat(2, 1), atol=1e-3, rtol=0
    )
    # Interpolated, density begins at x = 3.5: 3 m on, and a little into the wall.
    assert depth[:2].tolist() == pytest.approx([3.1, 3.1], abs=0.15)


def test_density_is_per_metre() -> None:
    """softplus(20) a voxel of half a metre is 40 a metre."""
    field = grid(torch.full((4, 4, 4, 4), 20.0), size=0.5)
    torch.testing.assert_close(
        density_at(field, torch.tensor([[0.7, 0.7, 0.7], [1.6, 0.0, 0.0]])),
        torch.tensor([40.0, 0.0]),
    )


def test_rays_agree_with_unprojected_pixels() -> None:
    pose = torch.tensor([[0.0, 0, 1, 5], [-1, 0, 0, 6], [0, -1, 0, 7], [0, 0, 0, 1]])[None]
    camera = Camera(pose, torch.tensor([[3.0, 4.0, 2.5, 2.0]]), 4, 5)
    origin, ray = world_rays(camera)
    torch.testing.assert_close(
        origin[:, None] + 2.5 * ray, unproject(torch.full((1, 4, 5), 2.5), camera).flatten(1, 2)
    )
    torch.testing.assert_close(
        ray[0, 7], pose[0, :3, :3] @ pixel_rays(camera.intrinsics, 4, 5)[0, :, 1, 2]
    )


def test_points_become_voxels() -> None:
    """One point on a node, one a quarter of the way between two nodes, one outside, one
    direction."""
    position = torch.tensor([[1.0, 2.25, 9.0, 1.0], [1.0, 3.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    colour = torch.tensor([[255, 0, 7, 7], [0, 255, 7, 7], [51, 0, 7, 7]], dtype=torch.uint8)
    kind = torch.tensor([POINT, POINT, POINT, DIRECTION], dtype=torch.uint8)
    field = grid_from_points(position, colour, kind, torch.zeros(3), torch.ones(3), (5, 5, 5))
    solid = (field.values[0] == SOLID_DENSITY).nonzero().tolist()
    assert (
        solid == [[1, 1, 1], [2, 3, 2], [3, 3, 2]]
        and (field.values[0] == EMPTY_DENSITY).sum() == 122
    )
    torch.testing.assert_close(field.values[1:, 1, 1, 1], torch.tensor([1.0, 0.0, 0.2]))
    torch.testing.assert_close(field.values[1:, 3, 3, 2], torch.tensor([0.0, 1.0, 0.0]))
    # What is empty beside a point has its colour.
    torch.testing.assert_close(field.values[1:, 0, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
    source = source_of(position, torch.tensor([9, 200, 250, 250], dtype=torch.uint8), kind, field)
    assert source[1, 1, 1] == 200 and source[0, 0, 0] == 9 and source[4, 0, 0] == 0


def test_the_sky_is_smooth_where_it_was_seen_and_unknown_elsewhere() -> None:
    """A patch of sky to the west, where the map's two ends meet, and a wall to the north."""
    west = torch.tensor([[-1.0, y / 50, z / 50] for y in range(-5, 6) for z in range(3, 13)])
    ray = torch.cat([west, torch.tensor([[0.0, 1.0, 0.0]])])
    colour = torch.tensor([0.2, 0.4, 0.8]).repeat(111, 1)
    sky = sky_of(ray, colour, torch.tensor([True] * 110 + [False]))
    values = torch.full((4, 4, 4, 4), -20.0)
    voxels = voxels_of(grid(values), torch.zeros(4, 4, 4, dtype=torch.uint8), sky)
    seen = render_row(
        voxels,
        0,
        torch.zeros(3),
        torch.tensor([[-1.0, 0.0, 0.15], [0.0, 1.0, 0.0], [1.0, 0.0, 0.15]]),
    )
    assert seen.sky.tolist() == [True, False, False] and not seen.solid.any()
    torch.testing.assert_close(seen.sky_colour[0], torch.tensor([0.2, 0.4, 0.8]), atol=5e-3, rtol=0)


def test_fields_survive_being_kept() -> None:
    field = wall()
    voxels = voxels_of(
        field,
        torch.full((9, 7, 7), 5, dtype=torch.uint8),
        torch.zeros(4, 64, 128, dtype=torch.uint8),
    )
    torch.testing.assert_close(grid_of(voxels, 0).values, field.values)
    seen = render_row(voxels, 0, torch.tensor([0.5, 3.0, 3.0]), torch.tensor([[1.0, 0.0, 0.0]]))
    assert seen.solid.tolist() == [True] and seen.source.tolist() == [5] and not seen.sky.any()


def test_a_fit_finds_the_wall_and_clears_the_air() -> None:
    """Rays along x that see green 5 m on, and sky above: from a haze, with the sky's rays empty in
    the end."""
    y, z = torch.meshgrid(torch.linspace(0.5, 5.5, 24), torch.linspace(0.5, 5.5, 24), indexing="ij")
    origin = torch.stack([torch.zeros(576), y.flatten(), z.flatten()], 1)
    is_sky = origin[:, 2] > 4.0
    green, blue = torch.tensor([0.1, 0.8, 0.2]), torch.tensor([0.2, 0.4, 0.9])
    rays = Rays(
        origin,
        torch.tensor([[1.0, 0, 0]]).repeat(576, 1),
        torch.where(is_sky[:, None], blue, green),
        torch.where(is_sky, torch.inf, 5.0),
    )
    start = grid(torch.cat([torch.full((1, 9, 7, 7), -2.0), torch.full((3, 9, 7, 7), 0.5)]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        fitted, losses = fit_grid(
            start, rays, 150, FitConfig(rays=256, colour_rate=0.05), generator
        )
    assert losses[-1] < 0.1 * losses[0] and not fitted.values.requires_grad
    opacity, colour, depth = render_rays(fitted, origin, rays.ray)
    low, high = origin[:, 2] < 3.0, origin[:, 2] > 5.2
    assert opacity[low].min() > 0.95 and opacity[high].max() < 0.2
    torch.testing.assert_close(depth[low], torch.full((int(low.sum()),), 5.0), atol=0.25, rtol=0)
    torch.testing.assert_close(colour[low], green.expand(int(low.sum()), 3), atol=0.1, rtol=0)


def test_clear_errors() -> None:
    with pytest.raises(InvalidInputError, match="rays = 0"):
        FitConfig(rays=0)


def test_the_exact_gradient_is_that_of_interpolation() -> None:
    """At nodes, between them, at the border and beyond it; and its value is interpolation's."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 5, 3, 6, generator=generator)
    places = torch.cat(
        [
            3.0 * torch.rand(500, 3, generator=generator) - 1.5,
            torch.tensor([[1.0, 1, 1], [-1, -1, -1], [0, 0, 0]]),
        ]
    )
    pull = torch.randn(4, len(places), generator=generator)
    one, other = values.clone().requires_grad_(), values.clone().requires_grad_()
    exact, plain = interpolate_exactly(one, places), _interpolate(other, places)
    assert torch.equal(exact, plain)
    exact.backward(pull)  # type: ignore[no-untyped-call]
    plain.backward(pull)  # type: ignore[no-untyped-call]
    assert (
        one.grad is not None
        and other.grad is not None
        and torch.allclose(one.grad, other.grad, atol=1e-5)
    )


def test_the_exact_gradient_does_not_depend_on_the_order() -> None:
    """Sums of floats do: the same places in another order give other last digits."""
    generator = torch.Generator().manual_seed(0)
    values, places = (
        torch.randn(2, 3, 3, 3, generator=generator),
        2.0 * torch.rand(4000, 3, generator=generator) - 1.0,
    )
    pull, order = (
        torch.randn(2, 4000, generator=generator),
        torch.randperm(4000, generator=generator),
    )

    def gradient(places: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
        leaf = values.clone().requires_grad_()
        interpolate_exactly(leaf, places).backward(pull)  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return leaf.grad

    assert torch.equal(gradient(places, pull), gradient(places[order], pull[:, order]))


def test_the_exact_gradient_of_nothing_is_nothing() -> None:
    values = torch.randn(2, 3, 3, 3).requires_grad_()
    interpolate_exactly(values, torch.zeros(7, 3)).backward(torch.zeros(2, 7))  # type: ignore[no-untyped-call]
    assert values.grad is not None and not bool(values.grad.any())
