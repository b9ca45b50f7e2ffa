"""Memorisation: how near painted views lie to the nearest frame of the training maps.

Distance of two views: the Euclidean distance of their descriptors. A descriptor is the luminance,
averaged to 16x16, less its mean, scaled to unit length. So it ignores brightness, contrast and
tint, and two unrelated views are about 1 apart, equal ones 0. The nearest frame is sought among the
train frames and their mirror images. The figure is the median distance of painted views over that
of the real views of the same test places, which no painter has seen: 1 for a painter that invents,
0 for one that copies. Nearest neighbours by normalised pixels are those of Carlini et al. 2023,
"Extracting training data from diffusion models".

The frames are a sample of those that the painter was trained on, so a copy of a frame outside of it
is found only if the sample holds a similar view. The 5% quantile shows rare copies that the median
hides.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldsim.evaluation.figures import Figures
from worldsim.evaluation.metrics import area_average
from worldsim.runtime.types import Array

SIDE = 16
"""Rows and columns of a descriptor."""
LEAST_DEVIATION = 2.0
"""Standard deviation of luminances, of 255, below which a view is too flat to be scaled up."""
CHUNK = 16_384
"""Train frames that are compared at once."""
QUANTILES = {"": 0.5, "_p05": 0.05}
"""Suffix of a figure, and the quantile of the distances."""


def descriptors(rgb: Tensor, batch: int = 1024) -> Tensor:
    """Return the descriptors (m, 256) float32 of views (m, 3, h, w) uint8, on their device."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=rgb.device)
    found = []
    for part in rgb.split(batch):
        small = area_average(part, SIDE, SIDE).float()
        x = torch.einsum("mchw,c->mhw", small, weights).flatten(1)
        x = x - x.mean(1, keepdim=True)
        found.append(x / x.norm(dim=1, keepdim=True).clamp(min=LEAST_DEVIATION * SIDE))
    return torch.cat(found)


def mirrored(descriptor: Tensor) -> Tensor:
    """Return the descriptors (m, 256) of the mirrored views."""
    return descriptor.unflatten(1, (SIDE, SIDE)).flip(-1).flatten(1)


def nearest(views: Tensor, frames: Tensor) -> Tensor:
    """Return each view's distance to the nearest frame or its mirror image.

    views: (m, 256) descriptors.
    frames: (f, 256) descriptors.

    Returns (m,) float32 on the CPU.
    """
    best = torch.full((len(views),), torch.inf, device=views.device)
    for part in frames.split(CHUNK):
        here = part.to(views.device)
        for either in (here, mirrored(here)):
            best = torch.minimum(best, torch.cdist(views, either).min(1).values)
    return best.cpu()


def measure(figures: Figures, painted: Tensor, real: Tensor, frames: Tensor) -> None:
    """Add ``memorisation.ratio``, ``.ratio_p05``, ``.distance`` and ``.real_distance``.

    painted, real: (s, n, 3, h, w) uint8, views of the same test places.
    frames: (f, 256) descriptors of train frames.
    """
    s = len(painted)
    a, b = (
        nearest(descriptors(x.flatten(0, 1)), frames).view(s, -1).numpy() for x in (painted, real)
    )
    for suffix, q in QUANTILES.items():

        def ratio(counts: Array, q: float = q) -> Array:
            return np.asarray(_quantile(a, counts, q) / _quantile(b, counts, q))

        once = np.ones((1, s), np.int64)
        figures.add(f"memorisation.ratio{suffix}", float(ratio(once)[0]), ratio)
    for name, x in (("distance", a), ("real_distance", b)):

        def median(counts: Array, x: Array = x) -> Array:
            return _quantile(x, counts, 0.5)

        figures.add(f"memorisation.{name}", float(np.median(x)), median)
    figures.values["memorisation"]["train_frames"] = len(frames)
    figures.values["memorisation"]["views"] = int(a.size)


def _quantile(values: Array, counts: Array, q: float) -> Array:
    """Return the quantile of all values (s, n) of the places drawn by each row of (d, s) counts."""
    return np.array([np.quantile(np.repeat(values, row, 0), q) for row in counts])
