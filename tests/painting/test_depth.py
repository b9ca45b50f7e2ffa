"""Depth of pictures: the fit of scale and shift, sky, fallbacks, and a pipeline of transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers.pipelines import tiny_depth
from worldsim.errors import InvalidInputError
from worldsim.painting.depth import (
    AlignConfig,
    PipelineDepth,
    align_inverse_depth,
    code_to_inverse_depth,
    inverse_depth_to_code,
    predicts_metres,
    relative_inverse_depth,
)
from worldsim.protocols import DepthEstimator


def truth(views: int = 1) -> torch.Tensor:
    """Inverse depths (views, 24, 32) in 1/m between 1/10 and 1/2."""
    rows, columns = torch.linspace(0.1, 0.4, 24), torch.linspace(0, 0.1, 32)
    return (rows[:, None] + columns).expand(views, 24, 32).clone()


def left(views: int = 1) -> torch.Tensor:
    mask = torch.zeros(views, 24, 32, dtype=torch.bool)
    mask[..., :16] = True
    return mask


def test_scale_and_shift_come_from_the_overlap() -> None:
    relative = (truth() - 0.05) * 40
    aligned = align_inverse_depth(relative, truth(), left())
    torch.testing.assert_close(aligned, truth(), rtol=0, atol=1e-4)


def test_a_third_of_the_overlap_may_be_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    known = truth() + 0.002 * torch.randn(1, 24, 32, generator=generator)
    wrong = torch.rand(1, 24, 32, generator=generator) < 0.3
    known[wrong] = 0.9
    aligned = align_inverse_depth(truth() * 7 + 1, known, left(), AlignConfig(seam=0))
    assert float((aligned - truth()).abs().max()) < 0.003


def test_views_do_not_depend_on_one_another() -> None:
    relative = torch.cat([truth() * 3, truth() * 5 + 1, 2 * truth().flip(1)])
    known, mask = truth(3), left(3)
    together = align_inverse_depth(relative, known, mask)
    alone = [align_inverse_depth(relative[i : i + 1], known[:1], mask[:1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_without_overlap_the_median_depth_is_the_stated_one() -> None:
    nothing = torch.zeros(1, 24, 32, dtype=torch.bool)
    aligned = align_inverse_depth(truth() * 9, truth(), nothing, AlignConfig(median_depth_m=3.0))
    assert float((1 / aligned).median()) == pytest.approx(3.0, rel=0.01)
    assert torch.all(aligned[:, 1:] > aligned[:, :-1])
    few = nothing.clone()
    few[0, 3, 3] = True
    assert torch.equal(
        aligned, align_inverse_depth(truth() * 9, truth(), few, AlignConfig(median_depth_m=3.0))
    )


def test_a_picture_without_contrast_is_a_wall() -> None:
    flat = torch.full((1, 24, 32), 0.7)
    nothing = torch.zeros(1, 24, 32, dtype=torch.bool)
    torch.testing.assert_close(
        align_inverse_depth(flat, flat, nothing), torch.full_like(flat, 1 / 4)
    )
    known = torch.full_like(flat, 0.5)
    torch.testing.assert_close(align_inverse_depth(flat, known, left()), known)
    # An estimate of zeros says nothing at all.
    zero = torch.zeros_like(flat)
    config = AlignConfig(sky=0.0)
    torch.testing.assert_close(align_inverse_depth(zero, known, left(), config), known)
    torch.testing.assert_close(align_inverse_depth(zero, known, nothing, config), flat * 0 + 0.25)


def test_an_estimate_that_falls_where_depths_rise_gives_no_negative_scale() -> None:
    relative = 1.0 - truth()
    aligned = align_inverse_depth(relative, truth(), left(), AlignConfig(seam=0))
    order = relative.flatten().argsort()
    assert torch.all(aligned.flatten()[order].diff() >= 0) and bool((aligned > 0).all())


def test_sky_is_infinitely_far_and_nothing_else_is() -> None:
    relative = truth() * 4
    relative[:, :4] = 0.0
    known = truth()
    known[:, :4] = 0.0
    aligned = align_inverse_depth(relative, known, left())
    assert torch.all(aligned[:, :4] == 0) and torch.all(aligned[:, 4:] >= 1 / 100)
    none = align_inverse_depth(relative, known, left(), AlignConfig(sky=0.0, farthest_m=50.0))
    assert float(none.min()) == pytest.approx(1 / 50)
    # A shift below zero is clamped to the farthest depth.
    low = align_inverse_depth(truth() + 1.0, (truth() - 0.25).clamp(min=0), left())
    assert float(low.min()) == pytest.approx(1 / 100)


def test_the_error_at_the_seam_fades_out() -> None:
    known = truth()
    known[:, 12:] += 0.05
    relative = truth() * 3
    corrected = align_inverse_depth(relative, known, left(), AlignConfig(seam=8))
    plain = align_inverse_depth(relative, known, left(), AlignConfig(seam=0))
    edge, far = (slice(None), slice(16, 20), 16), (slice(None), slice(None), 31)
    errors = [(x[edge] - known[edge]).abs().max() for x in (corrected, plain)]
    assert errors[0] < 0.5 * errors[1]
    assert (corrected[far] - plain[far]).abs().max() < 0.2 * (corrected - plain).abs().max()


def test_codes_and_inverse_depths_agree() -> None:
    code = torch.tensor([0, 1, 400, 65535], dtype=torch.int32)
    assert torch.equal(inverse_depth_to_code(code_to_inverse_depth(code)), code)
    assert inverse_depth_to_code(torch.tensor([0.5])).item() == round(65535 * 0.125 * 0.5)


@pytest.mark.parametrize("value", [{"median_depth_m": 0.0}, {"sky": 2.0}, {"farthest_m": 0.1}])
def test_bad_settings_are_named(value: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(value))):
        AlignConfig(**value)  # type: ignore[arg-type]


def pictures(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 48, 64), generator=generator, dtype=torch.uint8)


def test_a_pipeline_of_transformers_estimates_each_picture_alone() -> None:
    pytest.importorskip("transformers", reason="needs the extra painter")
    estimator = PipelineDepth(tiny_depth())
    assert isinstance(estimator, DepthEstimator) and not estimator.metric
    relative = relative_inverse_depth(estimator, pictures())
    assert relative.shape == (2, 48, 64) and relative.dtype == torch.float32
    assert bool((relative >= 0).all()) and float(relative.std()) > 0
    assert torch.equal(relative[1:], estimator.estimate(pictures()[1:]))


def test_a_metric_model_says_so() -> None:
    pytest.importorskip("transformers", reason="needs the extra painter")
    pipeline = tiny_depth(metric=True)
    assert predicts_metres(pipeline)
    inverse = PipelineDepth(pipeline).estimate(pictures())
    metres = PipelineDepth(pipeline, metric=False).estimate(pictures())
    torch.testing.assert_close(inverse, 1 / metres.clamp(min=0.125))
    assert float(metres.std()) > 0


def test_what_is_no_depth_pipeline_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot be called"):
        PipelineDepth(SimpleNamespace())

    def classify(image: Any) -> list[dict[str, object]]:
        return [{"label": "cat", "score": 1.0}]

    with pytest.raises(InvalidInputError, match="predicted_depth"):
        PipelineDepth(classify).estimate(pictures())

    def batches(image: Any) -> dict[str, torch.Tensor]:
        return {"predicted_depth": torch.zeros(2, 48, 64)}

    with pytest.raises(InvalidInputError, match=r"\(2, 48, 64\)"):
        PipelineDepth(batches).estimate(pictures())


class Wrong:
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def estimate(self, rgb: torch.Tensor) -> torch.Tensor:
        return self.value


def test_a_wrong_estimate_is_named() -> None:
    with pytest.raises(InvalidInputError, match="Wrong.estimate returns"):
        relative_inverse_depth(Wrong(torch.zeros(2, 3)), pictures())
    with pytest.raises(InvalidInputError, match="NaN"):
        relative_inverse_depth(Wrong(torch.full((2, 48, 64), torch.nan)), pictures())
