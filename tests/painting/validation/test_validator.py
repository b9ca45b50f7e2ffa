"""The validator: planted faults are caught, sound views pass, and every verdict says why."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.halls import INTRINSICS, HallPainter
from tests.helpers.painters import make_tiny_painter
from worldsim.camera import Camera, quantise_depth
from worldsim.errors import InvalidInputError
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.painting.places.place import known_view, level_pose, ring
from worldsim.painting.validation import checks
from worldsim.painting.validation.checks import Views
from worldsim.painting.validation.validator import (
    GEOMETRIC,
    PICTORIAL,
    PLACE,
    SCORE,
    Bounds,
    Thresholds,
    Validator,
    failures,
    passed,
    shipped_thresholds,
)
from worldsim.protocols import PainterSpec, PaintInputs
from worldsim.runtime.json_config import to_json
from worldsim.state import Frame

SIDE = 64
LENS = (42.67, 51.2, 32.0, 32.0)


def camera(count: int = 1) -> Camera:
    poses = ring(level_pose(z=1.28), max(2, count))[:count]
    return Camera(poses, torch.tensor(LENS).expand(count, 4), SIDE, SIDE)


def views_of(rgb: Tensor, metres: float | Tensor = 4.0) -> Views:
    depth = torch.as_tensor(metres, dtype=torch.float32).expand(len(rgb), SIDE, SIDE)
    at = camera(len(rgb))
    return Views(Frame(rgb, quantise_depth(depth), at.pose), at)


def picture(seed: int = 0) -> Tensor:
    """A textured wall in perspective over a floor, (1, 3, 64, 64) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    away = 1.0 / (0.3 + columns / SIDE)
    u, v = 40.0 * np.log(0.3 + columns / SIDE), (rows - 32.0) * away
    table = rng.integers(85, 135, (97, 89))
    grey = table[(v / 2).astype(int) % 97, (u / 2).astype(int) % 89].astype(np.float64)
    floor = 70 + 30.0 * (((columns - 32) / (rows - 20).clip(1) * 20).astype(int) % 2)
    grey = np.where(rows > 44 + columns / 16, floor, grey)
    return torch.from_numpy(grey.astype(np.uint8))[None, None].expand(1, 3, SIDE, SIDE).clone()


def test_the_shipped_thresholds_cover_every_check():
    bounds = shipped_thresholds()
    assert set(bounds.bounds) == {*GEOMETRIC, *PICTORIAL, *PLACE}
    assert bounds.views >= 1000 and bounds.quantile <= 0.01


def verdicts(views: Views) -> dict[str, bool]:
    return {v.name: v.passed for v in Validator().views(views)[0]}


def test_a_sound_view_passes():
    assert all(verdicts(views_of(picture())).values())


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("blur", lambda x: torch.nn.functional.avg_pool2d(x.float(), 7, 1, 3).byte()),
        ("noise", lambda x: (x + 40 * torch.randn(x.shape)).clamp(0, 255).byte()),
        ("colour_noise", lambda x: (x + 8 * torch.randn(x.shape)).clamp(0, 255).byte()),
        ("contrast", lambda x: torch.full_like(x, 90)),
        ("repetition", lambda x: x[..., 10:22, 20:32].repeat(1, 1, 6, 6)[..., :SIDE, :SIDE]),
    ],
)
def test_planted_faults_of_the_picture_are_caught(name: str, broken: object):
    torch.manual_seed(0)
    assert not verdicts(views_of(broken(picture())))[name]  # type: ignore[operator]


def test_a_picture_in_the_picture_has_a_complete_outline():
    framed = picture() // 3
    framed[..., 10:50, 12:54] = picture(1)[..., 10:50, 12:54]
    plain, pasted = (checks.rectangle(views_of(x)) for x in (picture(), framed))
    assert float(pasted) > float(plain) + 0.15


def test_shuffled_patches_leave_seams():
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    waves = 120 + 60 * torch.sin(rows / 7.0 + columns / 11.0) + 40 * torch.cos(columns / 5.0)
    # Grain, as in textures, whose steps are much smaller than those of the seams.
    grain = 4 * torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    one = (waves + grain).byte().expand(1, 3, SIDE, SIDE)
    patches = one.unfold(2, 8, 8).unfold(3, 8, 8).reshape(1, 3, 64, 8, 8)
    order = torch.from_numpy(np.random.default_rng(0).permutation(64))
    mixed = patches[:, :, order].reshape(1, 3, 8, 8, 8, 8).transpose(3, 4).reshape(one.shape)
    dark = mixed // 6
    sound, broken, in_the_dark = (float(checks.seams(views_of(x))) for x in (one, mixed, dark))
    bound = shipped_thresholds().bounds["seams"].most
    assert bound is not None and sound < bound
    assert broken > 2 * bound and in_the_dark > 2 * bound


def test_fog_has_no_edges():
    torch.manual_seed(0)
    fog = torch.nn.functional.avg_pool2d(torch.randn(1, 3, SIDE, SIDE), 5, 1, 2)
    fog = (80 + 30 * fog).clamp(0, 255).byte()
    # Normally distributed steps: 98% lie below 2.33 deviations, and the mean is 0.80.
    assert float(checks.edges(views_of(fog))) == pytest.approx(2.91, abs=0.35)
    assert not verdicts(views_of(fog))["edges"] and verdicts(views_of(picture()))["edges"]


def test_seams_of_a_grid_are_counted():
    # Squares of 8 pixels, and in each the columns rise by 1: at each of the 7 inner lines, and
    # nowhere else, the step exceeds those around it; all of the others equal their neighbours.
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    grey = 40 + 60 * ((rows // 8 + columns // 8) % 2) + rows % 8 + columns % 8
    squares = grey.to(torch.uint8).expand(1, 3, SIDE, SIDE)
    assert float(checks.seams(views_of(squares))) == pytest.approx(1.0)
    plain = (40 + rows + columns).to(torch.uint8).expand(1, 3, SIDE, SIDE)
    assert abs(float(checks.seams(views_of(plain)))) < 0.1


def test_a_camera_in_a_wall_and_a_missing_floor_are_measured():
    depth = torch.full((1, SIDE, SIDE), 4.0)
    depth[..., :20] = 0.2
    assert float(checks.nearest(views_of(picture(), depth))) == pytest.approx(0.2, rel=0.01)
    # The lowest row looks 31.5 / 51.2 down, so a floor 1.28 m below is 2.08 m away.
    down = (torch.arange(SIDE) + 0.5 - 32.0) / 51.2
    floor = (1.28 / down.clamp(min=1e-3)).clamp(max=5.0)[:, None].expand(SIDE, SIDE)
    assert float(checks.floor_missing(views_of(picture(), floor[None]))) == 0.0
    pit = (4.0 / down.clamp(min=1e-3)).clamp(max=50.0)[:, None].expand(SIDE, SIDE)
    assert float(checks.floor_missing(views_of(picture(), pit[None]))) == 1.0


def hall(wrong: float = 1.0) -> tuple[Views, PaintInputs]:
    """Four views of the painted hall, beside what a memory of a view nearby shows."""
    painter = HallPainter()
    memory = PointMemory(PointMemoryConfig(capacity=8192))
    beside = level_pose(-0.3, 0.1, 1.28, 0.05)[None]
    data = memory.empty(1)
    empty = known_view(memory, data, painter.spec.cameras(beside))
    first = painter.paint(inputs_of(painter, empty, beside))
    data = memory.integrate(
        data, first, painter.spec.cameras(beside), torch.zeros(1, dtype=torch.int64)
    )
    poses = ring(level_pose(z=1.28), 4)
    cameras = painter.spec.cameras(poses)
    known = known_view(memory, data, cameras)
    blank = known_view(memory, memory.empty(1), cameras)
    inputs = inputs_of(painter, blank, poses)
    frame = HallPainter(wrong=wrong).paint(inputs)
    return Views(frame, cameras, known, first, painter.spec.cameras(beside)), inputs


def inputs_of(painter: HallPainter, view: object, poses: Tensor) -> PaintInputs:
    zero = torch.zeros(1, dtype=torch.int64)
    return PaintInputs(view=view, pose=poses[None], seed=zero, step=zero)  # type: ignore[arg-type]


def test_depth_of_a_wrong_scale_is_measured_against_the_memory():
    right, wrong = (checks.scale_error(hall(factor)[0]) for factor in (1.0, 1.5))
    assert float(right[0]) < 0.03
    assert float(wrong[0]) == pytest.approx(np.log(1.5), abs=0.05)
    # The view back knows nothing.
    assert torch.isnan(right[2])


def test_points_in_space_that_another_view_sees_through_are_counted():
    right, near = (checks.seen_past(hall(factor)[0]) for factor in (1.0, 0.4))
    assert float(right.nan_to_num().max()) < 0.02 and float(near[0]) > 0.1


def test_a_place_needs_room_to_walk():
    views, _ = hall()
    memory = PointMemory(PointMemoryConfig(capacity=8192))
    open_, closed = memory.empty(1), memory.empty(1)
    zero = torch.zeros(1, dtype=torch.int64)
    for i in range(4):
        at = Camera(views.camera.pose[i : i + 1], torch.tensor([INTRINSICS]), 32, 32)
        code = views.frame.inverse_depth[i : i + 1]  # type: ignore[index]
        rgb = views.frame.rgb[i : i + 1]
        open_ = memory.integrate(open_, Frame(rgb, code, at.pose), at, zero)
        wall = quantise_depth(torch.full((1, 32, 32), 0.7))
        closed = memory.integrate(closed, Frame(rgb, wall, at.pose), at, zero)
    pose = views.camera.pose[0]
    assert checks.room(open_, pose) > 10.0 and checks.room(closed, pose) < 2.0


def test_the_denoising_error_of_a_painter_is_a_check():
    painter = make_tiny_painter()
    spec = painter.spec
    bounds = Thresholds(
        "worldsim-validator",
        1,
        spec.height,
        spec.width,
        spec.intrinsics,
        {"contrast": Bounds(least=1.0)},
        denoising={painter.weights_id: Bounds(most=0.0)},
    )
    validator = Validator.for_painter(painter, bounds)
    views, inputs = hall()
    attributes = torch.zeros(1, len(spec.attributes))
    inputs = dataclasses.replace(inputs, attributes=attributes)
    first, second = (validator.views(views, inputs) for _ in range(2))
    assert first == second and [v.name for v in first[0]] == ["contrast", SCORE]
    assert not first[0][1].passed and first[0][1].value > 0.0  # type: ignore[operator]
    assert failures(first)[SCORE] == 4 and not passed(first[0])
    # The bound is that of these weights.
    other = dataclasses.replace(bounds, denoising={"0" * 64: Bounds(most=0.0)})
    assert Validator.for_painter(painter, other).names == ("contrast",)


def test_views_of_another_camera_are_checked_for_their_geometry_alone():
    names = Validator.for_painter(HallPainter()).names
    assert "blur" not in names and "nearest" in names
    same = make_tiny_painter()
    spec = PainterSpec(SIDE, SIDE, shipped_thresholds().intrinsics, 4, same.spec.attributes)
    assert "blur" in Validator.for_painter(type(same)(same.network, spec)).names


def test_verdicts_are_json_and_unmeasured_values_pass():
    found = Validator(names=("scale", "nearest")).views(views_of(picture(), 3.0))[0]
    assert found[0].value is None and found[0].passed
    json.dumps(to_json(found), allow_nan=False)
    with pytest.raises(InvalidInputError, match="no threshold for the checks beauty"):
        Validator(names=("beauty",))
