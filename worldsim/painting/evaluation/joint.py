"""From 3 views to 8: five headings painted jointly, against the same five painted one by one.

Headings 0, 3 and 6 of a place are given with depth, and a memory of them; 1, 2, 4, 5 and 7 are
painted. The neighbours 1 and 2, and 4 and 5, see the same surroundings, which no given view shows.
Agreement of these pairs (:func:`worldsim.painting.evaluation.neighbours.agreement`) is compared
between both ways, and so are PSNR against the real views and sharpness over theirs. After CAT3D
(Gao et al. 2024), which paints groups of views jointly for this reason.
"""

from __future__ import annotations

import torch

from worldsim.evaluation.figures import Figures
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.painting.evaluation.neighbours import agreement
from worldsim.painting.evaluation.paintings import Known, Painted, Paintings
from worldsim.painting.evaluation.places import HEADINGS, Places
from worldsim.painting.evaluation.statistics import (
    add,
    column,
    difference_of_means,
    ratio_of_sums,
)

GROUP = "joint"
GIVEN = (0, 3, 6)
"""Headings that are given."""
FRESH = (1, 2, 4, 5, 7)
"""Headings that are painted."""
PAIRS = ((1, 2), (4, 5))
"""Neighbours among these."""
VIEWS = len(GIVEN) + len(FRESH) + len(FRESH) * (len(GIVEN) + 1)
"""Views that pass through the painter per place, both ways together."""


def paint(paintings: Paintings, places: Places) -> dict[str, Painted]:
    """Paint the fresh headings both ways; returns all 8 headings of ``joint`` and ``single``."""
    known = Known(given=len(GIVEN), sources=GIVEN)
    together = paintings.paint("joint", places, (*GIVEN, *FRESH), known)
    alone = [
        paintings.paint(f"single{view}", places, (*GIVEN, view), known, step=1 + view)
        for view in FRESH
    ]
    rgb = torch.cat([one.rgb[:, -1:] for one in alone], 1)
    code = torch.cat([one.code[:, -1:] for one in alone], 1)
    k = len(GIVEN)
    return {
        "joint": _headings(places, Painted(together.rgb[:, k:], together.code[:, k:])),
        "single": _headings(places, Painted(rgb, code)),
    }


def _headings(places: Places, fresh: Painted) -> Painted:
    """Put fresh headings among the true ones."""
    rgb, code = places.rgb[:, :HEADINGS].clone(), places.code[:, :HEADINGS].clone()
    rgb[:, list(FRESH)], code[:, list(FRESH)] = fresh.rgb, fresh.code
    return Painted(rgb, code)


def measure(figures: Figures, painted: dict[str, Painted], places: Places) -> None:
    """Add agreement, PSNR and sharpness of both ways, and the gains of painting jointly."""
    views = list(FRESH)
    truth = places.rgb[:, views]
    real = column(sharpness(truth))
    scores, likeness, sharp = {}, {}, {}
    for way, found in painted.items():
        scores[way] = column(agreement(found.rgb, found.code, places, PAIRS)[0])
        likeness[way] = column(psnr(found.rgb[:, views], truth))
        sharp[way] = column(sharpness(found.rgb[:, views]))
        for name, values in (("overlap_psnr", scores[way]), ("psnr", likeness[way])):
            add(figures, f"{GROUP}.{way}_{name}", ratio_of_sums(values, values * 0 + 1))
        add(figures, f"{GROUP}.{way}_sharpness_ratio", ratio_of_sums(sharp[way], real))
    for name, both in (("overlap_gain", scores), ("psnr_gain", likeness)):
        add(figures, f"{GROUP}.{name}", difference_of_means(both["joint"], both["single"]))
    gain = ratio_of_sums(sharp["joint"] - sharp["single"], real)
    add(figures, f"{GROUP}.sharpness_gain", gain)
