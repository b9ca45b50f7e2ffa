"""Each measure of the protocol, on hand-computed values and on painters with known figures."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.places import LENS, PIXELS, Wallpaperer, heading_poses, made_up_sets
from worldsim.camera import quantise_depth
from worldsim.evaluation.figures import Figures
from worldsim.painting.evaluation import depth_errors, joint, memorisation
from worldsim.painting.evaluation.baselines import (
    TURN_STEPS,
    fits,
    inpaint_around,
    turn_round,
    turned,
)
from worldsim.painting.evaluation.neighbours import agreement
from worldsim.painting.evaluation.paintings import Paintings
from worldsim.painting.evaluation.places import matching, places_of
from worldsim.painting.evaluation.sheets import outlier_scores
from worldsim.world import World


def test_a_copying_painter_is_found() -> None:
    """Copies, also mirrored and recoloured ones, have ratio 0; other places about 1."""
    train, test = (places_of(made_up_sets(6, seed)) for seed in (1, 2))
    frames = memorisation.descriptors(train.rgb.flatten(0, 1))
    copies = train.rgb[:, :8].clone()
    copies[2:4] = copies[2:4].flip(-1)
    copies[4:] = (copies[4:] * 0.5 + 40).to(torch.uint8)
    figures = Figures(6, 50, 0)
    memorisation.measure(figures, copies, test.rgb[:, :8], frames)
    found = figures.values["memorisation"]
    assert found["ratio"] < 0.05 and found["ratio_p05"] < 0.05 and found["train_frames"] == 60
    figures = Figures(6, 50, 0)
    other = places_of(made_up_sets(6, 3))
    memorisation.measure(figures, other.rgb[:, :8], test.rgb[:, :8], frames)
    assert 0.8 < figures.values["memorisation"]["ratio"] < 1.25
    low, high = figures.ci95["memorisation.ratio"] or (0.0, 0.0)
    assert low <= figures.values["memorisation"]["ratio"] <= high


def test_a_flat_view_is_not_scaled_up() -> None:
    flat = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    flat[..., 0] = 91
    assert memorisation.descriptors(flat).norm() < 0.2
    picture = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert memorisation.descriptors(picture.float().sqrt().to(torch.uint8) * 8).norm() == (
        pytest.approx(1.0)
    )


def test_views_painted_jointly_agree_better() -> None:
    places = places_of(made_up_sets(5, 0))
    painted = joint.paint(Paintings(Wallpaperer(), None, 2, 0), places)
    figures = Figures(5, 100, 0)
    joint.measure(figures, painted, places)
    found = figures.values["joint"]
    gain = found["joint_overlap_psnr"] - found["single_overlap_psnr"]
    assert found["overlap_gain"] == pytest.approx(gain, abs=1e-3) and gain > 5
    for way in painted.values():
        assert torch.equal(way.rgb[:, list(joint.GIVEN)], places.rgb[:, list(joint.GIVEN)])
    low, high = figures.ci95["joint.overlap_gain"] or (0.0, 0.0)
    assert low <= gain <= high
    # Given 0, 3, 6 and painted 1, 2, 4, 5, 7 are the 8 headings, painted in pairs with earlier ones
    # given: 5, 7 and 8 views, and 5 times 4 one by one.
    assert sorted((*joint.GIVEN, *joint.FRESH)) == list(range(8)) and joint.VIEWS == 40
    assert [group.painted for group in joint.groups_of()] == [(1, 2), (4, 5), (7,)]
    assert [sorted(group.painted) for group in joint.groups_of(5)] == [[*joint.FRESH]]


def test_agreement_of_a_known_error() -> None:
    """A difference of 16 in every colour is 10 log10(255^2 / 256) = 24.05 dB."""
    places = places_of(made_up_sets(2, 0))
    rgb = torch.full((2, 8, 3, PIXELS, PIXELS), 100, dtype=torch.uint8)
    rgb[:, 1] += 16
    scores, covered = agreement(rgb, places.code[:, :8], places, ((0, 1), (2, 3)))
    assert scores[:, 0].tolist() == pytest.approx([10 * math.log10(255**2 / 256)] * 2, abs=0.05)
    assert (scores[:, 1] > 39).all() and (covered > 0.15).all() and (covered < 0.6).all()


def test_relative_errors_by_hand() -> None:
    true = torch.tensor([[[2.0, 4.0, torch.inf]]])
    depth = torch.tensor([[[3.0, 3.0, 1.0]]])
    total, count = depth_errors.relative_errors(depth, true)
    assert total.tolist() == [0.5 + 0.25] and count.tolist() == [2.0]


def test_the_floor_plane_by_hand() -> None:
    """The last row looks 31.5 pixels below the horizon: 1.28125 m * 51.2 / 31.5."""
    middle = torch.full((PIXELS, PIXELS), 3.0)
    plane = depth_errors.floor_plane(middle, torch.tensor(LENS))
    assert float(plane[-1, 0]) == pytest.approx(1.28125 * 51.2 / 31.5, rel=1e-5)
    assert float(plane[0, 0]) == 3.0 and float(plane[34, 0]) == 12.0


def test_depth_is_compared_with_the_better_guess() -> None:
    places = places_of(made_up_sets(5, 0))
    painted = Paintings(Wallpaperer(), None, 5, 0)
    figures = Figures(5, 50, 0)
    far = quantise_depth(torch.full((PIXELS, PIXELS), 8.0))
    depth_errors.measure(figures, depth_errors.paint(painted, places), places, far)
    found = figures.values["depth"]
    best = min(found["abs_rel_median_map"], found["abs_rel_floor_plane"])
    assert found["ratio"] == pytest.approx(found["abs_rel"] / best, abs=1e-3)
    assert found["sky_accuracy"] == pytest.approx(7 / 8)


def test_turned_cameras_are_the_headings() -> None:
    poses = torch.from_numpy(heading_poses(0.3, made_up_sets(1, 0).pose[0, 0, :3, 3]))
    for i in range(8):
        torch.testing.assert_close(turned(poses[:1], i * math.pi / 4)[0], poses[i])


def test_a_world_turns_round() -> None:
    places = places_of(made_up_sets(1, 0))
    world = World.from_pretrained("freedoom-tiny", "cpu")
    assert fits(world, places)
    steps: list[int] = []
    views = turn_round(world, places, batch=1, progress=steps.append)
    assert views.shape == (8, 3, PIXELS, PIXELS) and len(steps) == 7 * TURN_STEPS
    assert torch.equal(views[0], places.rgb[0, 0]) and not torch.equal(views[1], views[0])
    carracing = World.from_pretrained("carracing", "cpu")
    assert not fits(carracing, places)


def test_inpainting_keeps_the_first_heading() -> None:
    places = places_of(made_up_sets(2, 0))
    around = inpaint_around(places).unflatten(0, (2, 8))
    assert torch.equal(around[:, 0], places.rgb[:, 0])
    assert not torch.equal(around[:, 4], places.rgb[:, 4])


def test_matching_takes_each_place_once() -> None:
    pool = torch.tensor([[0.0], [0.4], [1.0]])
    assert matching(torch.tensor([[0.1], [0.1], [0.9]]), pool).tolist() == [0, 1, 2]


def test_outliers_are_far_from_the_real_views() -> None:
    real = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    scores = outlier_scores(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]), real)
    assert float(scores[0]) < 0.1 and 7.0 < float(scores[1]) < 11.0
