"""New places: 8 headings painted from attributes and poses alone.

Distances (:mod:`worldsim.painting.evaluation.yardstick`) to the real headings of the same test
places, beside three others of as many places: the floor, real train places with matching
attributes; ``cv2.inpaint`` of the first heading's splat; and a world that turns round from the
first heading. ``floors`` is FD over the floor's. The painter receives the attributes and poses of
the very places that it is compared with, so less than 1 does not mean better than real.
"""

from __future__ import annotations

from torch import Tensor

from worldsim.evaluation.figures import Figures
from worldsim.evaluation.frechet import Distance
from worldsim.evaluation.metrics import sharpness
from worldsim.painting.evaluation.neighbours import agreement
from worldsim.painting.evaluation.paintings import Known, Painted, Paintings
from worldsim.painting.evaluation.places import HEADINGS, Places
from worldsim.painting.evaluation.statistics import add, add_distances, add_over, column
from worldsim.painting.evaluation.statistics import ratio_of_sums as ratio
from worldsim.painting.evaluation.yardstick import Yardstick

GROUP = "new"
VIEWS = HEADINGS
"""Views painted per place."""


def paint(paintings: Paintings, places: Places) -> Painted:
    """Paint the headings of all places anew."""
    return paintings.paint(GROUP, places, range(HEADINGS), Known(attributes=True))


def measure(
    figures: Figures,
    yardstick: Yardstick,
    painted: Painted,
    places: Places,
    others: dict[str, Tensor | None],
) -> None:
    """Add the figures of new places.

    others: by name, headings (s * 8, 3, h, w) uint8 of what is compared with, None where it cannot
        be had: ``floor``, ``inpaint``, ``world``.
    """
    real = yardstick.features(places.headings)
    rgb = painted.rgb.flatten(0, 1)
    own = yardstick.distances(yardstick.features(rgb), real)
    add_distances(figures, GROUP, own)
    for name, headings in others.items():
        if headings is None:
            keys = [*(f"{name}_{key}" for key in own), f"over_{name}", f"over_{name}_pairs"]
            figures.values[GROUP] |= dict.fromkeys(keys)
            continue
        found = yardstick.distances(yardstick.features(headings), real)
        add_distances(figures, GROUP, found, name)
        add_overs(figures, name, own, found)
    sharp = [column(sharpness(x[:, :HEADINGS])) for x in (painted.rgb, places.rgb)]
    add(figures, f"{GROUP}.sharpness_ratio", ratio(*sharp))
    for name, views in (("overlap", painted), ("real_overlap", places)):
        scores, covered = agreement(views.rgb[:, :HEADINGS], views.code[:, :HEADINGS], places)
        add(figures, f"{GROUP}.{name}_psnr", ratio(column(scores), column(scores * 0 + 1)))
        figures.values[GROUP][f"{name}_covered"] = round(float(covered.mean()), 4)


def add_overs(
    figures: Figures, name: str, own: dict[str, Distance], found: dict[str, Distance]
) -> None:
    """Add FD, and FD of pairs, over those of ``name``."""
    key = "floors" if name == "floor" else f"over_{name}"
    add_over(figures, GROUP, key, own["fd"], found["fd"])
    add_over(figures, GROUP, f"{key}_pairs", own["fd_pairs"], found["fd_pairs"])
