r"""Measure ways to use given views: the depth of one picture, and five views beside three.

    python experiments/painter/given_views.py --test /tmp/test --train /tmp/train --out out/given \
        --places 512 --json given_views.json

Results: docs/experiments/painter.md. Both protocols are those of ``worldsim evaluate``
(:mod:`worldsim.painting.evaluation.depth_errors` and :mod:`worldsim.painting.evaluation.joint`).

- **Depth**: several samples of the depth of the same picture, and rules that make one depth of
  them.
- **Views**: five headings painted jointly, in pairs, one after the other, and jointly on top of
  views that were painted one by one; each against one by one.

Paintings are kept in ``out``, so the command resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
import tyro
from torch import Tensor

from worldsim.camera import quantise_depth
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.painting import sampling
from worldsim.painting.evaluation import depth_errors, joint
from worldsim.painting.evaluation.neighbours import agreement
from worldsim.painting.evaluation.paintings import Known, Painted, Paintings, inputs_of
from worldsim.painting.evaluation.places import HEADINGS, Places, first_sets
from worldsim.painting.evaluation.recorded import load_test_places
from worldsim.painting.evaluation.statistics import (
    add,
    column,
    difference_of_means,
    ratio_of_sums,
)
from worldsim.painting.journeys.straight import straighten
from worldsim.painting.painter import DEFAULT_PAINTER, DRAW_STEPS, NetworkPainter, open_painter
from worldsim.runtime.json_config import write_json
from worldsim.state import Frame

Found: TypeAlias = dict[str, Any]
Draw: TypeAlias = Callable[[Paintings, Places], Painted]
SAMPLES = 7
LEVELS = (0.5, 0.7, 0.85)
"""Noise levels from which views that were painted one by one are painted again jointly."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    test: Path
    """Folder of look-arounds of test maps."""
    out: Path
    """Folder of paintings."""
    train: Path | None = None
    """Folder of look-arounds of train maps, for the median map of depths."""
    json: Path | None = None
    """File of the results; by default ``given_views.json`` in the folder."""
    painter: str = DEFAULT_PAINTER
    """Name or folder."""
    places: int = 512
    """Test places for the depth of pictures."""
    view_places: int = 256
    """The first of these, for given views."""
    batch: int = 32
    """Places painted at once."""
    device: str | None = None
    """By default CUDA if it is available."""
    seed: int = 0
    """Of the paintings."""
    depths: bool = True
    """Measure the depth of pictures, too."""
    view_arms: tuple[str, ...] | None = None
    """Arms of given views, of :data:`VIEW_ARMS`; by default all."""
    seconds: float = 1e9
    """No arm begins after this time."""
    bootstrap: int = 2000
    """Resamples for each interval."""


# Depth of one picture.


def depth_samples(paintings: Paintings, places: Places) -> Tensor:
    """Return samples (k, s, h, w) of the inverse depth of each place's first picture."""
    known = Known(given=1, colour_only=True)
    return torch.stack(
        [
            paintings.paint(f"depth{k}", places, (0,), known, k * DRAW_STEPS).code[:, 0]
            for k in range(SAMPLES)
        ]
    )


def no_low_sky(code: Tensor, lens: Tensor) -> Tensor:
    """Replace sky below the horizon of level cameras by the floor; code: (s, h, w)."""
    below = torch.arange(code.shape[1], device=code.device) + 0.5 - lens[3]
    floor = quantise_depth(depth_errors.EYE_M * lens[1] / below.clamp(min=1e-3))
    low = (below > 1.0)[:, None] & (code == 0)
    return torch.where(low, floor[:, None].int(), code)


def middle(samples: Tensor, share: float = 0.5) -> Tensor:
    """Return a quantile of inverse depths; above 0.5 it is nearer than the median."""
    index = round(share * (len(samples) - 1))
    return samples.sort(0).values[index]


def mean(samples: Tensor) -> Tensor:
    """Return the mean of inverse depths; sky counts as 0."""
    return samples.float().mean(0).round().int()


def mean_of_surfaces(samples: Tensor) -> Tensor:
    """Return the mean inverse depth of the samples that agree with the majority about sky."""
    solid = samples > 0
    count = solid.sum(0)
    found = (samples.float().sum(0) / count.clamp(min=1)).round().int()
    return torch.where(2 * count > len(samples), found, 0)


def plane(code: Tensor, places: Places) -> Tensor:
    """Make a depth locally plane."""
    frame = Frame(places.rgb[:, 0].cpu(), code.cpu(), places.pose[:, 0].cpu())
    found = straighten(frame, torch.zeros_like(frame.inverse_depth, dtype=torch.bool), 2)
    assert found.inverse_depth is not None
    return found.inverse_depth.to(code.device)


def depth_arms(samples: Tensor, places: Places) -> Iterator[tuple[str, Tensor]]:
    """Yield the depth (s, h, w) of each arm."""
    lens = places.intrinsics
    yield "one", samples[0]
    yield "one_no_low_sky", no_low_sky(samples[0], lens)
    for k in (3, 5, 7):
        yield f"median{k}", middle(samples[:k])
    yield "mean5", mean(samples[:5])
    yield "mean_of_surfaces5", mean_of_surfaces(samples[:5])
    yield "nearer5", middle(samples[:5], 0.75)
    yield "nearest3", middle(samples[:3], 1.0)
    yield "median5_no_low_sky", no_low_sky(middle(samples[:5]), lens)
    yield "median5_plane", plane(middle(samples[:5]), places)


def measure_depth(config: Config, samples: Tensor, places: Places, median_code: Tensor) -> Found:
    """Return the figures of all arms."""
    found: Found = {}
    for name, code in depth_arms(samples, places):
        figures = Figures(len(places), config.bootstrap, config.seed)
        painted = Painted(places.rgb[:, :1], code[:, None])
        depth_errors.measure(figures, painted, places, median_code)
        found[name] = {**figures.values[depth_errors.GROUP], "ci95": figures.ci95}
    return found


# Five views beside three.


def one_by_one(paintings: Paintings, places: Places) -> Painted:
    """Paint each fresh heading for itself."""
    known = Known(given=len(joint.GIVEN), sources=joint.GIVEN)
    return _joined(
        [
            paintings.paint(f"single{view}", places, (*joint.GIVEN, view), known, step=1 + view)
            for view in joint.FRESH
        ]
    )


def together(paintings: Paintings, places: Places) -> Painted:
    """Paint the five headings jointly."""
    known = Known(given=len(joint.GIVEN), sources=joint.GIVEN)
    found = paintings.paint("joint", places, (*joint.GIVEN, *joint.FRESH), known)
    k = len(joint.GIVEN)
    return Painted(found.rgb[:, k:], found.code[:, k:])


@contextmanager
def noise_of_one_view() -> Iterator[None]:
    """Use the noise levels of one noisy view for any number of them."""
    before = sampling.sigmas_for
    sampling.sigmas_for = lambda steps, views, power=1.0: before(steps, 1, power)
    try:
        yield
    finally:
        sampling.sigmas_for = before


def together_low(paintings: Paintings, places: Places) -> Painted:
    """Paint the five headings jointly with the noise levels of one view."""
    with noise_of_one_view():
        known = Known(given=len(joint.GIVEN), sources=joint.GIVEN)
        found = paintings.paint("joint_low", places, (*joint.GIVEN, *joint.FRESH), known)
    k = len(joint.GIVEN)
    return Painted(found.rgb[:, k:], found.code[:, k:])


def in_groups(name: str, together: int, shown: bool = False) -> Draw:
    """Return what paints groups of at most ``together`` headings, with earlier ones given.

    shown: whether the memory holds the earlier ones, too.
    """

    def paint(paintings: Paintings, places: Places) -> Painted:
        return joint.paint_groups(paintings, name, places, joint.groups_of(together), shown)

    return paint


def joint_again(level: float) -> Callable[[Paintings, Places], Painted]:
    """Return what paints headings one by one, then all of them jointly from a noise level."""

    def paint(paintings: Paintings, places: Places) -> Painted:
        painter = paintings.painter
        assert isinstance(painter, NetworkPainter)
        alone = one_by_one(paintings, places)
        known = Known(given=len(joint.GIVEN), sources=joint.GIVEN)
        order = [*joint.GIVEN, *joint.FRESH]
        parts = []
        for start in range(0, len(places), paintings.batch):
            part = slice(start, start + paintings.batch)
            at = places.part(part)
            seeds = torch.arange(start, start + len(at))
            inputs = inputs_of(at, order, known, seeds, step=100)
            rgb = torch.cat([at.rgb[:, list(joint.GIVEN)], alone.rgb[part]], 1)
            code = torch.cat([at.code[:, list(joint.GIVEN)], alone.code[part]], 1)
            first = Frame(rgb.flatten(0, 1), code.flatten(0, 1), inputs.pose.flatten(0, 1))
            levels = torch.full((len(at),), level, device=at.rgb.device)
            frame = painter.redraw(inputs, first, levels)
            assert frame.inverse_depth is not None
            shape, k = (len(at), len(order)), len(joint.GIVEN)
            parts.append(
                Painted(
                    frame.rgb.unflatten(0, shape)[:, k:],
                    frame.inverse_depth.unflatten(0, shape)[:, k:],
                )
            )
        return Painted(torch.cat([x.rgb for x in parts]), torch.cat([x.code for x in parts]))

    return paint


VIEW_ARMS: Mapping[str, Draw] = {
    "joint": together,
    "pairs": in_groups("pairs", 2),
    # As new places are painted from several pictures.
    "pairs_shown": in_groups("pairs_shown", 2, shown=True),
    "sequence": in_groups("sequence", 1),
    "joint_low": together_low,
    **{f"again_{level:g}": joint_again(level) for level in LEVELS},
    "sequence_shown": in_groups("shown", 1, shown=True),
}


def _joined(parts: Sequence[Painted]) -> Painted:
    """Return the last view of each part."""
    return Painted(
        torch.cat([x.rgb[:, -1:] for x in parts], 1), torch.cat([x.code[:, -1:] for x in parts], 1)
    )


def measure_views(config: Config, fresh: Painted, single: Painted, places: Places) -> Found:
    """Return the gains of an arm over one by one."""
    figures = Figures(len(places), config.bootstrap, config.seed)
    views = list(joint.FRESH)
    truth = places.rgb[:, views]
    real = column(sharpness(truth))
    scores, likeness, sharp = [], [], []
    for found in (fresh, single):
        rgb, code = places.rgb[:, :HEADINGS].clone(), places.code[:, :HEADINGS].clone()
        rgb[:, views], code[:, views] = found.rgb, found.code
        scores.append(column(agreement(rgb, code, places, joint.PAIRS)[0]))
        likeness.append(column(psnr(found.rgb, truth)))
        sharp.append(column(sharpness(found.rgb)))
    for name, (mine, other) in (("overlap_gain", scores), ("psnr_gain", likeness)):
        add(figures, name, difference_of_means(mine, other))
    add(figures, "sharpness_gain", ratio_of_sums(sharp[0] - sharp[1], real))
    add(figures, "overlap", ratio_of_sums(scores[0], scores[0] * 0 + 1))
    add(figures, "psnr", ratio_of_sums(likeness[0], likeness[0] * 0 + 1))
    return {**figures.values, "ci95": figures.ci95}


def median_of(config: Config) -> tuple[Tensor, int]:
    """Return the median inverse depth (h, w) of train places, and how many there are."""
    assert config.train is not None, "the depth of pictures needs --train"
    codes = torch.from_numpy(
        first_sets(config.train, config.places).inverse_depth[:, 0].astype("int32")
    )
    return codes.flatten(1).median(0).values.view(codes.shape[1:]), len(codes)


def main(config: Config) -> Found:
    """Measure all arms; results are written after each of them."""
    began = time.monotonic()
    path = config.json or config.out / "given_views.json"
    config.out.mkdir(parents=True, exist_ok=True)
    painter = open_painter(config.painter, device=config.device)
    painter.config = replace(painter.config, places=config.batch, depth_samples=1)
    test = load_test_places(config.test, config.places, painter.spec)
    places = test.places.to(painter.device)
    paintings = Paintings(painter, config.out, config.batch, config.seed)
    result: Found = {
        "painter_sha256": painter.weights_id,
        "test_places_sha256": test.sha256,
        "places": len(places),
        "view_places": min(len(places), config.view_places),
        "device": str(painter.device),
    }
    with torch.no_grad():
        if config.depths:
            median_code, result["train_places"] = median_of(config)
            samples = depth_samples(paintings, places)
            result["depth"] = measure_depth(config, samples, places, median_code)
            print(json.dumps({k: v["ratio"] for k, v in result["depth"].items()}), flush=True)
            write_json(path, result)
        places = places.part(slice(0, config.view_places))
        single = one_by_one(paintings, places)
        result["views"] = {}
        for name in config.view_arms or tuple(VIEW_ARMS):
            draw = VIEW_ARMS[name]
            if time.monotonic() - began > config.seconds:
                break
            found = measure_views(config, draw(paintings, places), single, places)
            result["views"][name] = found
            print(name, {k: v for k, v in found.items() if k != "ci95"}, flush=True)
            result["seconds"] = round(time.monotonic() - began, 1)
            write_json(path, result)
    return result


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
