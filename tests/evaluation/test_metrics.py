"""Metrics against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from worldsim.camera import Camera, nearest_pose, rotation_angle
from worldsim.errors import InvalidInputError
from worldsim.evaluation.metrics import (
    area_average,
    masked_psnr,
    moved_frames,
    psnr,
    scores,
    seen_mask,
    sharpness,
)
from worldsim.evaluation.statistics import (
    bootstrap_ci,
    interval,
    mean_statistic,
    pooled_mean,
    quantile_statistic,
    too_few,
)


def pose_at(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn_deg: float = 0.0) -> torch.Tensor:
    """A camera at (x, y, z), turned about its vertical axis."""
    angle = math.radians(turn_deg)
    pose = torch.eye(4)
    pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = (
        math.cos(angle),
        math.sin(angle),
        -math.sin(angle),
        math.cos(angle),
    )
    pose[:3, 3] = torch.tensor([x, y, z])
    return pose


def flat(value: int) -> torch.Tensor:
    return torch.full((3, 4, 4), value, dtype=torch.uint8)


def test_psnr_by_hand() -> None:
    assert psnr(flat(7), flat(7)).item() == 40.0
    # One level everywhere would be 48.13 dB: the cap holds it.
    assert psnr(flat(7), flat(8)).item() == 40.0
    assert psnr(flat(0), flat(255)).item() == pytest.approx(0.0)
    assert psnr(flat(100), flat(110)).item() == pytest.approx(20 * math.log10(25.5), abs=1e-4)
    # Unsigned bytes must not wrap round.
    assert psnr(flat(110), flat(100)).item() == pytest.approx(28.1308, abs=1e-3)


def test_psnr_is_per_picture_and_wants_bytes() -> None:
    batch = torch.stack([flat(100), flat(110)])
    assert psnr(batch, flat(100)).tolist() == pytest.approx([40.0, 28.1308], abs=1e-3)
    assert psnr(batch[:, None], batch[None]).shape == (2, 2)
    with pytest.raises(InvalidInputError, match="uint8"):
        psnr(flat(1).float(), flat(1).float())


def test_area_average_by_hand() -> None:
    # Rows of 3 in 2 cells of 1.5: the middle one counts half in each. Columns of 4 in 2.
    picture = torch.tensor(
        [[0, 2, 10, 10], [30, 30, 40, 40], [90, 90, 100, 104]], dtype=torch.uint8
    ).expand(3, 3, 4)
    # (1 * 2/3 + 30 / 3), (10 * 2/3 + 40 / 3); (30 / 3 + 90 * 2/3), (40 / 3 + 102 * 2/3)
    assert area_average(picture, 2, 2)[0].tolist() == [[11, 20], [70, 81]]
    assert torch.equal(area_average(picture, 3, 4), picture)


def test_scores_at_both_sizes() -> None:
    grey = torch.full((2, 3, 96, 128), 100, dtype=torch.uint8)
    stripes = grey.clone()
    stripes[1, :, :, ::2], stripes[1, :, :, 1::2] = 110, 90
    # Stripes of one pixel are gone once two are averaged.
    assert scores(grey, stripes).tolist() == [
        [40.0, 40.0],
        [pytest.approx(28.1308, abs=1e-3), 40.0],
    ]
    assert scores(grey[..., :64, :64], stripes[..., :64, :64]).shape == (2, 1)
    assert scores(grey[..., :32, :], stripes[..., :32, :]).shape == (2, 1)


def test_sharpness_of_an_edge() -> None:
    edge = torch.zeros(3, 3, 4, dtype=torch.uint8)
    edge[:, :, 2:] = 100
    # Both inner columns see the step with weights 1 + 2 + 1; grey has luminance 100.
    assert sharpness(edge).item() == pytest.approx(400.0, rel=1e-5)
    assert sharpness(flat(9)).item() == 0.0
    assert sharpness(torch.stack([edge, edge])[:, None]).shape == (2, 1)


def test_moved_frames_by_hand() -> None:
    poses = torch.stack(
        [
            pose_at(0),
            pose_at(0.009),
            pose_at(0.0195),
            pose_at(0.0195, turn_deg=0.4),
            pose_at(0.0195, turn_deg=1.0),
        ]
    )
    assert moved_frames(poses).tolist() == [False, True, False, True]


def test_turned_wraps() -> None:
    assert torch.rad2deg(
        rotation_angle(pose_at(turn_deg=170), pose_at(turn_deg=-170))
    ).item() == pytest.approx(20.0, abs=1e-3)


def test_nearest_pose_weighs_turns() -> None:
    candidates = torch.stack([pose_at(1.0), pose_at(turn_deg=20), pose_at(turn_deg=90)])
    # 20 degrees count as 0.70 m, less than 1 m; 40 degrees would count as 1.40 m.
    assert nearest_pose(pose_at(), candidates).item() == 1
    assert nearest_pose(pose_at(), candidates[[0, 2]]).item() == 0
    assert nearest_pose(torch.stack([pose_at(0.9), pose_at(turn_deg=80)]), candidates).tolist() == [
        0,
        2,
    ]


def camera(*poses: torch.Tensor) -> Camera:
    """4 x 4 pixels, 90 degrees: at depth 2 a pixel is 1 m wide."""
    return Camera(
        torch.stack(poses), torch.tensor([[2.0, 2.0, 2.0, 2.0]]).repeat(len(poses), 1), 4, 4
    )


def test_seen_depth_tolerance_by_hand() -> None:
    wall = torch.full((1, 4, 4), 2.0)
    here = camera(pose_at())
    # At 2.10 m the tolerance is 0.15 m (7% is 0.147); at 2.2 it is 0.154 and the difference 0.2.
    assert seen_mask(wall, here, torch.full((1, 4, 4), 2.1), here).all()
    assert not seen_mask(wall, here, torch.full((1, 4, 4), 2.2), here).any()
    # 7% of 10 m: 0.7 m.
    assert seen_mask(5 * wall, here, torch.full((1, 4, 4), 10.6), here).all()
    assert not seen_mask(5 * wall, here, torch.full((1, 4, 4), 10.8), here).any()


def test_seen_is_cut_where_the_history_did_not_look() -> None:
    wall = torch.full((1, 4, 4), 2.0)
    # The history camera stood 1 m to the right: the leftmost column of what is seen now was outside
    # of its view.
    mask = seen_mask(wall, camera(pose_at()), wall, camera(pose_at(1.0)))
    assert mask[0].tolist() == [[False, True, True, True]] * 4
    # Any one history frame suffices.
    both = seen_mask(
        wall, camera(pose_at()), wall.repeat(2, 1, 1), camera(pose_at(1.0), pose_at(-1.0))
    )
    assert both.all()


def test_seen_sky_meets_sky_only() -> None:
    sky = torch.full((1, 4, 4), torch.inf)
    wall = torch.full((1, 4, 4), 2.0)
    here, elsewhere = camera(pose_at()), camera(pose_at(5.0))
    assert seen_mask(sky, here, sky, elsewhere).all()
    assert not seen_mask(sky, here, wall, here).any()
    assert not seen_mask(wall, here, sky, here).any()


def test_seen_behind_is_not_seen() -> None:
    wall = torch.full((1, 4, 4), 2.0)
    assert not seen_mask(wall, camera(pose_at()), wall, camera(pose_at(turn_deg=180))).any()


def test_pooled_mean_counts_frames_not_episodes() -> None:
    values = [np.array([10.0]), np.array([20.0, 30.0, 40.0])]
    assert pooled_mean(values) == 25.0
    assert mean_statistic(values)(np.array([[1, 1], [2, 0], [0, 2]])).tolist() == [25.0, 10.0, 30.0]
    assert math.isnan(pooled_mean([]))


def test_bootstrap_of_constants_and_of_two() -> None:
    same = [np.full(3, 5.0)] * 4
    assert bootstrap_ci(mean_statistic(same), 4) == (5.0, 5.0)
    # Both drawn alike a quarter of the time each: the interval spans both.
    apart = [np.array([0.0]), np.array([1.0])]
    assert bootstrap_ci(mean_statistic(apart), 2) == (0.0, 1.0)
    assert bootstrap_ci(mean_statistic(apart), 2, seed=3) == bootstrap_ci(
        mean_statistic(apart), 2, seed=3
    )


def test_bootstrap_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(20.0, 4.0, 64)
    low, high = bootstrap_ci(mean_statistic([np.array([v]) for v in values]), 64, draws=4000)
    half = 1.96 * values.std() / 8
    assert low == pytest.approx(values.mean() - half, abs=0.15)
    assert high == pytest.approx(values.mean() + half, abs=0.15)


def test_bootstrap_without_values_is_undefined() -> None:
    nothing = [np.zeros(0)] * 3
    assert all(math.isnan(x) for x in bootstrap_ci(mean_statistic(nothing), 3))


def test_quantile_statistic_by_hand() -> None:
    statistic = quantile_statistic(np.array([1.0, np.nan, 3.0]), 0.5)
    assert statistic(np.array([[1, 1, 1], [2, 0, 1], [0, 0, 1]])).tolist() == [2.0, 1.0, 3.0]
    assert math.isnan(statistic(np.array([[0, 3, 0]]))[0])


def test_too_few_episodes_give_no_interval() -> None:
    """Reproduces: two episodes with a return of 400 gave the interval [400, 400]."""
    same = [np.array([400.0])] * 5
    assert (
        interval(mean_statistic(same[:2]), 2) is None
        and interval(mean_statistic(same[:4]), 4) is None
    )
    assert interval(mean_statistic(same), 5) == [400.0, 400.0]
    assert interval(mean_statistic(same[:2]), 2, least=2) == [400.0, 400.0]
    assert interval(mean_statistic([np.array([])] * 5), 5) is None
    assert too_few(2) == "too few episodes for intervals: 2 of at least 5" and too_few(5) == ""


def test_masked_psnr_by_hand() -> None:
    a, b = torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    b[:, :, 0, 0] = 51
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    # One of two pixels differs by a fifth of the range: 10 log10(25 * 2). No pixel: NaN.
    found = masked_psnr(a, b, mask)
    assert float(found[0]) == pytest.approx(16.9897, abs=1e-3) and found[1].isnan()
