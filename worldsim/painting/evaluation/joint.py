"""From 3 views to 8: five headings painted as a place from several pictures, against one by one.

Headings 0, 3 and 6 of a place are given with depth, and a memory of them; 1, 2, 4, 5 and 7 are
painted. The neighbours 1 and 2, and 4 and 5, see the same surroundings, which no given view shows.
Groups of views are painted jointly, and earlier groups are given to later ones and are in their
memory (:func:`worldsim.painting.places.place.plan_groups`, after CAT3D, Gao et al. 2024). Agreement
of the pairs (:func:`worldsim.painting.evaluation.neighbours.agreement`) is compared with headings
that are painted one by one, and so are PSNR against the real views and sharpness over theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
from worldsim.painting.places.place import Group, PlaceConfig, level_pose, plan_groups, ring

GROUP = "joint"
GIVEN = (0, 3, 6)
"""Headings that are given."""
FRESH = (1, 2, 4, 5, 7)
"""Headings that are painted."""
PAIRS = ((1, 2), (4, 5))
"""Neighbours among these."""


def groups_of(together: int = PlaceConfig.views_at_once) -> list[Group]:
    """Return the groups of headings that are painted jointly.

    together: see :func:`worldsim.painting.places.place.plan_groups`.
    """
    order = (*GIVEN, *FRESH)
    poses = ring(level_pose(), HEADINGS)[list(order)]
    groups = plan_groups(poses, len(GIVEN), HEADINGS, together=together)
    return [
        Group(*(tuple(order[i] for i in part) for part in (group.given, group.painted)))
        for group in groups
    ]


VIEWS = sum(len(group.given) + len(group.painted) for group in groups_of()) + len(FRESH) * (
    len(GIVEN) + 1
)
"""Views that pass through the painter per place, both ways together."""


def paint(paintings: Paintings, places: Places) -> dict[str, Painted]:
    """Paint the fresh headings both ways; returns all 8 headings of ``joint`` and ``single``."""
    together = paint_groups(paintings, "joint", places, groups_of(), shown=True)
    known = Known(given=len(GIVEN), sources=GIVEN)
    alone = [
        paintings.paint(f"single{view}", places, (*GIVEN, view), known, step=1 + view)
        for view in FRESH
    ]
    rgb = torch.cat([one.rgb[:, -1:] for one in alone], 1)
    code = torch.cat([one.code[:, -1:] for one in alone], 1)
    return {"joint": _headings(places, together), "single": _headings(places, Painted(rgb, code))}


def paint_groups(
    paintings: Paintings, name: str, places: Places, groups: Sequence[Group], shown: bool
) -> Painted:
    """Paint groups of headings one after the other; returns the fresh ones.

    shown: whether the memory shows earlier groups, as that of a new place does.
    """
    now = places
    sources: tuple[int, ...] = GIVEN
    for number, group in enumerate(groups):
        known = Known(given=len(group.given), sources=sources)
        order, step = (*group.given, *group.painted), 1 + group.painted[0]
        found = paintings.paint(f"{name}{number}", now, order, known, step)
        fresh, k = list(group.painted), len(group.given)
        rgb, code = now.rgb.clone(), now.code.clone()
        rgb[:, fresh], code[:, fresh] = found.rgb[:, k:], found.code[:, k:]
        now = replace(now, rgb=rgb, code=code)
        if shown:
            sources = (*sources, *group.painted)
    return Painted(now.rgb[:, list(FRESH)], now.code[:, list(FRESH)])


def _headings(places: Places, fresh: Painted) -> Painted:
    """Put fresh headings among the true ones."""
    rgb, code = places.rgb[:, :HEADINGS].clone(), places.code[:, :HEADINGS].clone()
    rgb[:, list(FRESH)], code[:, list(FRESH)] = fresh.rgb, fresh.code
    return Painted(rgb, code)


def measure(figures: Figures, painted: dict[str, Painted], places: Places) -> None:
    """Add agreement, PSNR and sharpness of both ways, and the gains of groups."""
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
