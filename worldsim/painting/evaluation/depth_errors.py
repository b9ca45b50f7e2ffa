"""The depth of one picture, against two guesses that look at no picture.

AbsRel: the mean of |d - d*| / d* over pixels that are not sky in truth (Eigen et al. 2014), depths
up to 200 m. The guesses: the median map, each pixel's median inverse depth over train views; and a
floor plane 1.28 m below the camera, at most four times the median map, and the median map above the
horizon. ``ratio`` is the painter's AbsRel over the smaller one of the two.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import dequantise_depth
from worldsim.evaluation.figures import Figures
from worldsim.painting.evaluation.paintings import Known, Painted, Paintings
from worldsim.painting.evaluation.places import Places
from worldsim.painting.evaluation.statistics import add, column, ratio_of_sums
from worldsim.runtime.types import Array

GROUP = "depth"
VIEWS = 1
EYE_M = 41.0 / 32.0
"""Height of the camera over the floor, in metres."""
FARTHEST_M = 200.0
"""Depths beyond this count as this in errors."""
MEDIAN_MOST_M = 50.0
"""Largest depth of the median map."""


def paint(paintings: Paintings, places: Places) -> Painted:
    """Paint the depth of each place's first picture."""
    return paintings.paint(GROUP, places, (0,), Known(given=1, colour_only=True))


def median_map(code: Tensor) -> Tensor:
    """Return the depth (h, w) in metres of median codes (h, w)."""
    return dequantise_depth(code).clamp(max=MEDIAN_MOST_M)


def floor_plane(middle: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the depth (h, w) in metres of a floor below the camera, within reach of ``middle``."""
    h = len(middle)
    below = (torch.arange(h, device=middle.device) + 0.5 - intrinsics[3]).clamp(min=1e-3)
    floor = (EYE_M * intrinsics[1] / below)[:, None].expand_as(middle)
    return torch.where(below[:, None] > 1.0, torch.minimum(floor, 4 * middle), middle)


def relative_errors(depth: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Return each view's sum of relative errors and number of pixels, (m,) float64.

    depth, true: (m, h, w) metres; true is ``inf`` at sky, which does not count.
    """
    known = true.isfinite()
    wrong = (depth.clamp(max=FARTHEST_M) - true).abs() / true
    return (
        torch.where(known, wrong, 0.0).double().sum((1, 2)),
        known.double().sum((1, 2)),
    )


def errors(code: Tensor, true_code: Tensor, median_code: Tensor, lens: Tensor) -> dict[str, Tensor]:
    """Return sum and count (m, 2) of relative errors of ``painted`` and of both guesses by name.

    code, true_code: (m, h, w) int32.
    median_code: (h, w) int32.
    lens: (4,) intrinsics.
    """
    true = dequantise_depth(true_code)
    middle = median_map(median_code.to(true.device))
    guesses = {
        "painted": dequantise_depth(code),
        "median_map": middle.expand_as(true),
        "floor_plane": floor_plane(middle, lens).expand_as(true),
    }
    return {name: torch.stack(relative_errors(x, true), 1) for name, x in guesses.items()}


def measure(figures: Figures, painted: Painted, places: Places, median_code: Tensor) -> None:
    """Add AbsRel of the painter and of both guesses, their ratio, and the share of right sky."""
    code, true = painted.code[:, 0], places.code[:, 0]
    found = errors(code, true, median_code, places.intrinsics)
    parts = {name: (column(x)[:, :1], column(x)[:, 1:]) for name, x in found.items()}
    statistics = {name: ratio_of_sums(*part) for name, part in parts.items()}
    add(figures, f"{GROUP}.abs_rel", statistics["painted"])
    for name in ("median_map", "floor_plane"):
        add(figures, f"{GROUP}.abs_rel_{name}", statistics[name])

    def over(counts: Array) -> Array:
        best = np.minimum(statistics["median_map"](counts), statistics["floor_plane"](counts))
        return np.asarray(statistics["painted"](counts) / best)

    add(figures, f"{GROUP}.ratio", over)
    sky = column(((code == 0) == (true == 0)).float())
    add(figures, f"{GROUP}.sky_accuracy", ratio_of_sums(sky, sky * 0 + 1))
