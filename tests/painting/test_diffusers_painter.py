"""A painter made of an inpainting pipeline of diffusers and a depth estimator."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from tests.helpers.pipelines import tiny_depth, tiny_inpainting
from worldsim.camera import (
    Camera,
    default_intrinsics,
    move,
    pixel_rays,
    quantise_depth,
    snap_pose,
)
from worldsim.errors import InvalidInputError
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import PointMemoryConfig
from worldsim.memory.splat import hole_view
from worldsim.painting.depth import AlignConfig, PipelineDepth
from worldsim.painting.diffusers_painter import (
    DiffusersPainter,
    painting_order,
    tidy,
    view_inputs,
    view_seeds,
    words_of,
)
from worldsim.painting.inpaint import InpaintConfig
from worldsim.painting.places.place import paint_place
from worldsim.protocols import (
    IdentifiedPainter,
    Painter,
    PainterIdentity,
    PainterSpec,
    PaintInputs,
    identity_of,
)
from worldsim.runtime.json_config import from_json, to_json
from worldsim.state import Frame
from worldsim.testing import check_painter

SMALL = PainterSpec(32, 32, default_intrinsics(32, 32), views=8)
FAST = InpaintConfig(num_inference_steps=2)


def stripes(image: Image.Image, mask_image: Image.Image, generator: torch.Generator) -> list[Any]:
    """Paints random stripes that are 4 pixels wide."""
    noise = torch.randint(0, 256, (1, image.size[0] // 4, 3), generator=generator)
    rows = noise.repeat_interleave(4, 1).expand(image.size[1], -1, 3).to(torch.uint8)
    return [[Image.composite(Image.fromarray(rows.numpy()), image, mask_image)]]


class Brightness:
    """Takes bright pixels as near."""

    def estimate(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb.float().mean(1) / 255 + 0.1


def ring(spec: PainterSpec, views: int) -> torch.Tensor:
    level = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    turn = torch.zeros(views, 6)
    turn[:, 4] = torch.arange(views) * (2 * torch.pi / views)
    return snap_pose(move(level.expand(views, 4, 4), turn))


def camera_of(spec: PainterSpec, pose: torch.Tensor) -> Camera:
    intrinsics = torch.tensor(spec.intrinsics).expand(len(pose), 4)
    return Camera(pose, intrinsics, spec.height, spec.width)


def holes(spec: PainterSpec, views: int, places: int = 1, **changes: Any) -> PaintInputs:
    """Inputs of which nothing is known."""
    pose = ring(spec, views).expand(places, views, 4, 4).clone()
    inputs = PaintInputs(
        view=hole_view(camera_of(spec, pose.flatten(0, 1))),
        pose=pose,
        seed=torch.arange(places) + 4,
        step=torch.zeros(places, dtype=torch.int64),
    )
    return dataclasses.replace(inputs, **changes)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DiffusersPainter]:
    """Painters with a Stable Diffusion of random weights and a Depth Anything of random weights."""
    pytest.importorskip("transformers", reason="needs the extra painter")
    pipeline = tiny_inpainting(tmp_path_factory.mktemp("pipeline"))
    depth = PipelineDepth(tiny_depth())

    def painter(spec: PainterSpec = SMALL, **changes: Any) -> DiffusersPainter:
        return DiffusersPainter(pipeline, depth, spec, **{"inpaint": FAST, **changes})

    return painter


def test_the_contract_holds_for_any_callable() -> None:
    painter = DiffusersPainter(stripes, Brightness(), SMALL)
    assert isinstance(painter, Painter)
    check_painter(painter)


def test_the_contract_holds_for_stable_diffusion(
    diffusion: Callable[..., DiffusersPainter],
) -> None:
    check_painter(diffusion(prompt="a dark hall"))


def test_global_random_numbers_are_left_alone(diffusion: Callable[..., DiffusersPainter]) -> None:
    before = torch.get_rng_state()
    diffusion(prompt="a hall").paint(holes(SMALL, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_prompts_and_attributes_change_the_painting(
    diffusion: Callable[..., DiffusersPainter],
) -> None:
    inputs = holes(SMALL, 1)
    hall = diffusion(prompt="a hall")
    lava = hall.with_prompt("lava, bright lava")
    assert hall.prompt == "a hall"
    assert not torch.equal(hall.paint(inputs).rgb, lava.paint(inputs).rgb)

    spec = dataclasses.replace(SMALL, attributes=("lava", "stone"))
    told = diffusion(spec, prompt="a hall, {attributes}")
    stone = dataclasses.replace(inputs, attributes=torch.tensor([[0.0, 1.0]]))
    assert torch.equal(told.paint(stone).rgb, hall.with_prompt("a hall, stone").paint(inputs).rgb)
    untold = dataclasses.replace(stone, told=torch.tensor([[True, False]]))
    assert torch.equal(told.paint(untold).rgb, hall.paint(inputs).rgb)
    assert torch.equal(told.paint(inputs).rgb, hall.paint(inputs).rgb)


def test_other_settings_are_assigned_to_a_copy(
    diffusion: Callable[..., DiffusersPainter],
) -> None:
    """As commands do with --num-inference-steps."""
    painter = diffusion(prompt="a hall", arguments={"negative_prompt": "fog"})
    more = copy.copy(painter)
    more.config = dataclasses.replace(painter.config, num_inference_steps=3)
    assert painter.config == FAST and more.call.further == {"negative_prompt": "fog"}
    inputs = holes(SMALL, 1)
    assert not torch.equal(more.paint(inputs).rgb, painter.paint(inputs).rgb)


def test_a_whole_place_is_painted_aligned_and_integrated(
    diffusion: Callable[..., DiffusersPainter],
) -> None:
    """Eight views of 64x64 pixels, from nothing, into a memory that then shows them."""
    spec = PainterSpec(64, 64, default_intrinsics(64, 64), views=8)
    painter = diffusion(spec, prompt="a hall of stone")
    frames = painter.paint(holes(spec, 8))
    assert frames.rgb.shape == (8, 3, 64, 64)
    depth = frames.depth
    assert depth is not None and frames.pose is not None and frames.inverse_depth is not None
    assert bool((depth > 0.12).all()) and 1.0 < float(depth.median()) < 16.0

    memory = PointMemory(PointMemoryConfig(capacity=8 * 64 * 64))
    data = memory.empty(1, "cpu")
    for i in range(8):
        frame = Frame(frames.rgb[i, None], frames.inverse_depth[i, None], frames.pose[i, None])
        camera = camera_of(spec, frames.pose[i, None])
        # What the views before show, this one continues: same colours and depths where both know.
        view = memory.render(data, camera)
        if i == 1:
            both = view.mask & (view.inverse_depth > 0) & (frame.inverse_depth > 0)
            assert both.float().mean() > 0.1
            ratio = (view.depth[both] / frame.depth[both]).log().abs()
            colour = (view.rgb.int() - frame.rgb.int()).abs().amax(1)[both].float()
            assert float(ratio.median()) < 0.05 and float(colour.median()) < 16
        data = memory.integrate(data, frame, camera, torch.tensor([i]))
    assert int(memory.count(data)) > 64 * 64


def test_a_place_is_painted_as_with_any_painter() -> None:
    painter = DiffusersPainter(stripes, Brightness(), SMALL)
    place, again, other = (paint_place(painter, seed) for seed in (1, 1, 2))
    assert place.frames.rgb.shape == (8, 3, 32, 32)
    assert torch.equal(place.frames.rgb, again.frames.rgb)
    assert not torch.equal(place.frames.rgb, other.frames.rgb)
    assert place.frames.pose is not None
    # The memory shows what was painted.
    shown = place.memory.render(place.data, camera_of(SMALL, place.frames.pose[:1]))
    same = (shown.rgb.int() - place.frames.rgb[:1].int()).abs().amax(1)[shown.mask] == 0
    assert float(shown.coverage) > 0.7 and float(same.float().mean()) > 0.8


def test_weights_have_an_identity(diffusion: Callable[..., DiffusersPainter]) -> None:
    painter = diffusion(prompt="a hall")
    assert len(painter.weights_id) == 64
    assert painter.with_prompt("lava").weights_id == painter.weights_id
    other = DiffusersPainter(painter.call.pipeline, Brightness(), SMALL)
    assert other.weights_id not in ("", painter.weights_id)
    plain = DiffusersPainter(stripes, Brightness(), SMALL)
    assert plain.weights_id == ""


def test_settings_are_part_of_the_identity(diffusion: Callable[..., DiffusersPainter]) -> None:
    painter = diffusion(prompt="a hall")
    before = identity_of(painter)
    assert isinstance(painter, IdentifiedPainter) and before == identity_of(painter)
    assert from_json(PainterIdentity, to_json(before)) == before
    painter.config = dataclasses.replace(painter.config, num_inference_steps=7)
    changed = identity_of(painter)
    differs = {key for key, value in changed.settings.items() if before.settings[key] != value}
    assert differs == {"inpaint.num_inference_steps"} and changed.weights == before.weights
    words = identity_of(painter.with_prompt("lava")).settings
    assert words["prompt"] == "lava" and words["scheduler"] is not None
    # Schedulers have infinite settings, which JSON has not.
    solver = copy.copy(painter.call.pipeline)
    solver.scheduler = DPMSolverMultistepScheduler()
    other = identity_of(DiffusersPainter(solver, Brightness(), SMALL))
    assert other.settings["scheduler.lambda_min_clipped"] == "-inf"
    assert from_json(PainterIdentity, to_json(other)) == other
    near = DiffusersPainter(stripes, Brightness(), SMALL, align=AlignConfig(median_depth_m=2.0))
    assert identity_of(near).settings["align.median_depth_m"] == 2.0


def test_views_before_show_in_later_ones() -> None:
    """With a flat depth, the half that two neighbours share has the same colours."""

    class Flat:
        def estimate(self, rgb: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(rgb), *rgb.shape[2:])

    painter = DiffusersPainter(stripes, Flat(), SMALL, align=AlignConfig(median_depth_m=5.0))
    inputs = holes(SMALL, 2)
    pose = inputs.pose.clone()
    turn = torch.zeros(1, 6)
    turn[:, 0] = 2.5  # a quarter of the view's width at 5 m
    pose[:, 1] = move(pose[:, 0], turn)
    inputs = dataclasses.replace(inputs, pose=pose)
    frames = painter.paint(inputs)
    # 2.5 m at 5 m and a focal length of 16 pixels: 8 pixels to the left.
    assert torch.equal(frames.rgb[1, :, 4:-4, 1:20], frames.rgb[0, :, 4:-4, 9:28])
    assert not torch.equal(frames.rgb[1, :, :, 26:], frames.rgb[0, :, :, 26:])


def room(spec: PainterSpec, pose: torch.Tensor) -> torch.Tensor:
    """Depths (n, h, w) in a room of 6 by 4 by 3 metres, whose centre is the world's origin."""
    camera = camera_of(spec, pose)
    rays = pixel_rays(camera.intrinsics, spec.height, spec.width)
    world = torch.einsum("nij,njhw->nihw", pose[:, :3, :3], rays)
    half = torch.tensor([3.0, 2.0, 1.5])[None, :, None, None]
    return (half / world.abs()).amin(1)


def test_depths_agree_all_around_a_room() -> None:
    """An estimator with another scale and shift in each view; the first one fixes the scale."""
    truth = room(SMALL, ring(SMALL, 8))
    scales, shifts = [5.0, 1.0, 9.0, 0.5, 3.0, 7.0, 2.0, 4.0], [0, 1, 0.2, 3, 0.5, 0, 2, 1]

    class Oracle:
        def __init__(self) -> None:
            self.view = 0

        def estimate(self, rgb: torch.Tensor) -> torch.Tensor:
            view, self.view = self.view, self.view + 1
            return (scales[view] / truth[view] + shifts[view])[None]

    align = AlignConfig(median_depth_m=float(1 / (1 / truth[0]).median()))
    frames = DiffusersPainter(stripes, Oracle(), SMALL, align=align).paint(holes(SMALL, 8))
    assert frames.depth is not None
    error = (frames.depth / truth).log().abs()
    assert float(error.median()) < 0.01 and float(error.quantile(0.95)) < 0.06


def test_a_picture_without_depth_gets_its_depth() -> None:
    painter = DiffusersPainter(stripes, Brightness(), SMALL)
    inputs = holes(SMALL, 3)
    rgb = torch.linspace(20, 220, 32).to(torch.uint8).expand(3, 3, 32, 32).clone()
    view = dataclasses.replace(inputs.view, rgb=rgb, mask=torch.ones_like(inputs.view.mask))
    flags = torch.tensor([[True, False, False]])
    inputs = dataclasses.replace(
        inputs, view=dataclasses.replace(view, mask=view.mask & flags[0, :, None, None]),
        given=flags, colour_only=flags,
    )  # fmt: skip
    frames = painter.paint(inputs)
    assert frames.depth is not None
    assert torch.equal(frames.rgb[0], rgb[0])
    assert float(frames.depth[0].median()) == pytest.approx(4.0, rel=0.05)
    assert torch.all(frames.depth[0, :, :-1] > frames.depth[0, :, 1:])


def test_a_view_that_is_known_is_not_painted() -> None:
    def never(image: Any, mask_image: Any, generator: Any) -> None:
        raise AssertionError("nothing is unknown")

    painter = DiffusersPainter(never, Brightness(), SMALL)
    inputs = holes(SMALL, 1)
    code = int(quantise_depth(torch.tensor(3.0)))
    view = dataclasses.replace(
        inputs.view,
        rgb=torch.full_like(inputs.view.rgb, 77),
        inverse_depth=torch.full_like(inputs.view.inverse_depth, code),
        mask=torch.ones_like(inputs.view.mask),
    )
    # A gap of one pixel, as splats have them, is filled.
    view.mask[:, 10, 10] = False
    view.rgb[:, :, 10, 10] = 0
    frame = painter.paint(dataclasses.replace(inputs, view=view))
    assert torch.all(frame.rgb == 77) and frame.inverse_depth is not None
    assert torch.all(frame.inverse_depth == code)


def test_anchors_are_painted_first_then_their_neighbours() -> None:
    inputs = holes(SMALL, 8)

    def order(inputs: PaintInputs) -> list[int]:
        return painting_order([view_inputs(inputs, 0, i) for i in range(8)])

    assert order(inputs) == [0, 1, 2, 3, 4, 5, 6, 7]
    flags = torch.zeros(1, 8, dtype=torch.bool)
    flags[0, [2, 5]] = True
    alone = flags.clone()
    alone[0, 5] = False
    given = dataclasses.replace(inputs, given=flags, colour_only=alone)
    # View 5 has its depth, so it comes before view 2.
    assert order(given)[:2] == [5, 2] and order(given)[2] == 1
    covered = dataclasses.replace(inputs.view, mask=inputs.view.mask.clone())
    covered.mask[3, :5] = True
    assert order(dataclasses.replace(inputs, view=covered)) == [3, 2, 1, 0, 4, 5, 6, 7]


def test_every_view_has_its_own_seed() -> None:
    seed, step = torch.tensor([3]), torch.tensor([0])
    seeds = view_seeds(seed, step, 8)
    assert len(set(seeds)) == 8 and all(0 <= x < 2**63 for x in seeds)
    assert view_seeds(seed, step, 4) == seeds[:4]
    assert not set(seeds) & set(view_seeds(seed, step + 1, 8))
    assert not set(seeds) & set(view_seeds(seed + 1, step, 8))


def test_words_of_attributes() -> None:
    names = ("brick", "lava", "old_wood", "light", "openness")
    assert words_of(names, [0.3, 0.9, 0.1, 0.1, 0.5]) == ["dark", "lava", "brick"]
    assert words_of(names, [0.0, 0.0, 0.7, 0.9, 0.8]) == ["bright", "wide open", "old wood"]
    assert words_of(names, [1.0] * 5, [False, True, False, False, False]) == ["lava"]
    assert words_of((), []) == []
    assert tidy("a photo of , , a hall,  ") == "a photo of, a hall"


def test_prompts_that_would_not_be_used_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="stripes takes no prompt"):
        DiffusersPainter(stripes, Brightness(), SMALL, prompt="a hall")
    words = dataclasses.replace(SMALL, attributes=("lava",))
    with pytest.raises(InvalidInputError, match="follow 'lava'"):
        DiffusersPainter(stripes, Brightness(), words)

    def prompted(prompt: str, image: Any, mask_image: Any, generator: Any) -> None: ...

    with pytest.raises(InvalidInputError, match="{attributes}"):
        DiffusersPainter(prompted, Brightness(), words, prompt="a hall")
    with pytest.raises(InvalidInputError, match="{attributes}"):
        DiffusersPainter(prompted, Brightness(), SMALL, prompt="a {attributes} hall")
    painter = DiffusersPainter(prompted, Brightness(), words, prompt="a hall of {attributes}")
    with pytest.raises(InvalidInputError, match="{attributes}"):
        painter.with_prompt("a hall")
    with pytest.raises(InvalidInputError, match="str has no method `estimate`"):
        DiffusersPainter(stripes, "depth", SMALL)  # type: ignore[arg-type]
