"""The network painter: its contract, its files, and what it keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.painters import make_tiny_painter
from worldsim.camera import dequantise_depth
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.painting.checkpoint import save_painter
from worldsim.painting.network import PainterNetwork
from worldsim.painting.painter import (
    DRAW_STEPS,
    NetworkPainter,
    _select_views,
    open_painter,
)
from worldsim.painting.places.place import level_pose
from worldsim.painting.sampling import PaintConfig
from worldsim.protocols import (
    ContrastPainter,
    IdentifiedPainter,
    Painter,
    PainterSpec,
    PreviewPainter,
    identity_of,
)
from worldsim.testing import _paint_inputs, check_painter

pytestmark = pytest.mark.fast
SPEC = PainterSpec(16, 24, (16.0, 16.0, 12.0, 8.0), 4, ("brick", "sky"))


def random_network() -> PainterNetwork:
    torch.manual_seed(0)
    network = PainterNetwork(SPEC.attributes, dim=32, depth=2, heads=2, pixel=8)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture(scope="module")
def painter() -> NetworkPainter:
    return NetworkPainter(random_network(), SPEC, PaintConfig(2, guidance_scale=2.0))


def test_fulfils_the_contract(painter: NetworkPainter) -> None:
    assert isinstance(painter, Painter)
    check_painter(painter)


def test_places_painted_at_once_are_equal_up_to_rounding() -> None:
    config = PaintConfig(2, places=8)
    check_painter(NetworkPainter(random_network(), SPEC, config), colour=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_graphs_paint_the_same() -> None:
    plain = NetworkPainter(random_network(), SPEC, PaintConfig(2)).to("cuda")
    graphed = plain.with_graphs()
    for views in (3, 2, 3):
        inputs = _paint_inputs(SPEC, 1, views, "cuda")
        a, b = plain.paint(inputs), graphed.paint(inputs)
        assert int((a.rgb.int() - b.rgb.int()).abs().max()) <= 1


def test_attributes_change_the_painting(painter: NetworkPainter) -> None:
    inputs = _paint_inputs(SPEC, 1, 2, "cpu")
    without = painter.paint(inputs)
    told = dataclasses.replace(inputs, attributes=torch.tensor([[1.0, 0.5]]))
    assert not torch.equal(painter.paint(told).rgb, without.rgb)
    unknown = dataclasses.replace(told, told=torch.zeros(1, 2, dtype=torch.bool))
    assert torch.equal(painter.paint(unknown).rgb, without.rgb)


def test_guided_away_from_attributes(painter: NetworkPainter) -> None:
    config = dataclasses.replace(painter.config, contrast_scale=3.0)
    guided = NetworkPainter(painter.network, SPEC, config)
    inputs = dataclasses.replace(
        _paint_inputs(SPEC, 1, 2, "cpu"), attributes=torch.tensor([[1.0, 0.5]])
    )
    inputs = dataclasses.replace(
        inputs, view=dataclasses.replace(inputs.view, mask=torch.zeros_like(inputs.view.mask))
    )
    away = guided.away_from(np.array([0.0, 0.5]), np.array([True, True]))
    assert isinstance(guided, ContrastPainter) and isinstance(away, ContrastPainter)
    assert torch.equal(guided.paint(inputs).rgb, painter.paint(inputs).rgb)
    assert not torch.equal(away.paint(inputs).rgb, painter.paint(inputs).rgb)
    assert identity_of(away) != identity_of(guided)
    with pytest.raises(InvalidInputError, match=r"shape \(3,\): give one for each .* 2\."):
        guided.away_from(np.zeros(3), np.zeros(3))


def test_previews(painter: NetworkPainter) -> None:
    assert isinstance(painter, PreviewPainter)
    inputs = _paint_inputs(SPEC, 2, 2, "cpu")
    inputs = dataclasses.replace(
        inputs, view=dataclasses.replace(inputs.view, mask=torch.zeros_like(inputs.view.mask))
    )
    early, whole = painter.preview(inputs, 1), painter.paint(inputs)
    assert early.rgb.shape == whole.rgb.shape and not torch.equal(early.rgb, whole.rgb)
    for steps in (2, 99):
        assert torch.equal(painter.preview(inputs, steps).rgb, whole.rgb)


def test_a_given_picture_gets_its_depth(painter: NetworkPainter) -> None:
    inputs = _paint_inputs(SPEC, 1, 1, "cpu")
    view = dataclasses.replace(inputs.view, mask=torch.ones_like(inputs.view.mask))
    given = torch.ones(1, 1, dtype=torch.bool)
    known = dataclasses.replace(inputs, view=view, given=given)
    frame = painter.paint(dataclasses.replace(known, colour_only=given))
    assert frame.inverse_depth is not None
    assert frame.inverse_depth.unique().numel() > 1
    assert torch.equal(frame.rgb, view.rgb)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_saved_and_loaded(painter: NetworkPainter, tmp_path: Path, eight_bit: bool) -> None:
    network = painter.network
    save_painter(
        tmp_path / "p",
        network.settings,
        network.state_dict(),
        eight_bit=eight_bit,
        spec=SPEC,
        sampling=painter.config,
    )
    loaded = NetworkPainter.from_pretrained(tmp_path / "p", device="cpu")
    assert loaded.spec == SPEC
    assert loaded.config == painter.config
    inputs = _paint_inputs(SPEC, 1, 2, "cpu")
    difference = loaded.paint(inputs).rgb.int() - painter.paint(inputs).rgb.int()
    assert difference.abs().float().mean() < (8.0 if eight_bit else 1.0)


def test_a_painter_without_its_spec_is_refused(painter: NetworkPainter, tmp_path: Path) -> None:
    save_painter(tmp_path / "p", painter.network.settings, painter.network.state_dict())
    with pytest.raises(DamagedFileError, match="with its spec"):
        NetworkPainter.from_pretrained(tmp_path / "p")


def test_bad_values_are_named(painter: NetworkPainter) -> None:
    inputs = _paint_inputs(SPEC, 1, 2, "cpu")
    with pytest.raises(InvalidInputError, match="5 views of a place"):
        painter.paint(_paint_inputs(SPEC, 1, 5, "cpu"))
    with pytest.raises(InvalidInputError, match="NaN"):
        painter.paint(dataclasses.replace(inputs, pose=inputs.pose * float("nan")))
    with pytest.raises(InvalidInputError, match=r"\[0, 1\]"):
        painter.paint(dataclasses.replace(inputs, attributes=torch.full((1, 2), 2.0)))
    with pytest.raises(InvalidInputError, match="positive focal lengths"):
        dataclasses.replace(SPEC, intrinsics=(0.0, 1.0, 1.0, 1.0))


def test_an_unknown_painter_is_named() -> None:
    with pytest.raises(NotFoundError, match="no painter 'nobody'"):
        open_painter("nobody")


def test_a_painter_is_identified_by_its_weights_and_settings() -> None:
    painter = make_tiny_painter()
    identity = identity_of(painter)
    assert isinstance(painter, IdentifiedPainter)
    assert identity == identity_of(make_tiny_painter())
    assert identity.weights != identity_of(make_tiny_painter(seed=1)).weights
    other = make_tiny_painter(steps=2)
    assert identity_of(other).weights == identity.weights
    assert identity_of(other).settings == {**identity.settings, "num_inference_steps": 2}


def test_the_depth_of_a_picture_is_the_median_of_its_samples(painter: NetworkPainter) -> None:
    inputs = _paint_inputs(SPEC, 2, 2, "cpu")
    view = dataclasses.replace(inputs.view, mask=torch.ones_like(inputs.view.mask))
    given = torch.tensor([[True, False]] * 2)
    known = dataclasses.replace(inputs, view=view, given=given, colour_only=given)
    several = NetworkPainter(painter.network, SPEC, PaintConfig(2, depth_samples=3))
    found = several.paint(known).inverse_depth
    # The pictures alone, with the random numbers of each sample.
    one = NetworkPainter(painter.network, SPEC, PaintConfig(2, depth_samples=1))
    alone = _select_views(known, torch.tensor([0]))
    drawn = []
    for k in range(3):
        code = one.paint(dataclasses.replace(alone, step=alone.step + k * DRAW_STEPS)).inverse_depth
        assert code is not None
        drawn.append(code)
    assert found is not None
    middle = several._no_low_sky(torch.stack(drawn).median(0).values, alone.pose.flatten(0, 1))
    assert int((found[[0, 2]] - middle).abs().max()) <= 1
    assert not torch.equal(drawn[0], drawn[1])
    assert several.paint(known).inverse_depth.equal(found)


def test_a_picture_shows_no_sky_below_the_horizon(painter: NetworkPainter) -> None:
    code = torch.zeros(1, 16, 24, dtype=torch.int32)
    code[0, :, 0] = 700
    found = painter._no_low_sky(code, level_pose()[None])[0]
    # The camera's centre is between rows 7 and 8, its focal length 16 pixels.
    assert bool((found[:8, 1:] == 0).all()) and bool((found[:, 0] == 700).all())
    depth = dequantise_depth(found)[8:, 5]
    wanted = (41.0 / 32.0) * 16.0 / (torch.arange(8) + 0.5)
    torch.testing.assert_close(depth, wanted, rtol=0.01, atol=0.0)
