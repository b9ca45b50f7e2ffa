"""Completion: headings from what a memory of the displaced views shows of them.

FD to the real headings of the same places (so its lower bound is 0, not the floor); PSNR against
them of views of which the memory covers 10 to 70%, in dB; sharpness over that of the real ones. The
same of ``cv2.inpaint`` of the memory's views.
"""

from __future__ import annotations

from torch import Tensor

from worldsim.evaluation.figures import Figures
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.painting.evaluation.baselines import inpaint
from worldsim.painting.evaluation.paintings import Known, Painted, Paintings
from worldsim.painting.evaluation.places import HEADINGS, Places, partial_memory
from worldsim.painting.evaluation.statistics import (
    add,
    add_distances,
    add_over,
    column,
    ratio_of_sums,
)
from worldsim.painting.evaluation.yardstick import Yardstick

GROUP = "completion"
VIEWS = HEADINGS
LEAST, MOST = 0.1, 0.7
"""Coverage of the views whose PSNR counts."""


def sources_of(places: Places) -> tuple[int, ...]:
    """Return the numbers of the displaced views."""
    return tuple(range(HEADINGS, places.rgb.shape[1]))


def paint(paintings: Paintings, places: Places) -> Painted:
    """Complete the headings of all places."""
    known = Known(sources=sources_of(places))
    return paintings.paint(GROUP, places, range(HEADINGS), known)


def partly_covered(memory: Tensor) -> Tensor:
    """Return which views (s, 8) of memory channels (s, 8, 5, h, w) count for the PSNR."""
    share = memory[:, :, 4].mean((2, 3))
    return (share > LEAST) & (share < MOST)


def measure(figures: Figures, yardstick: Yardstick, painted: Painted, places: Places) -> None:
    """Add the figures of completed places and of ``cv2.inpaint``."""
    memory = partial_memory(places, sources_of(places))
    truth = places.rgb[:, :HEADINGS]
    real = yardstick.features(places.headings)
    partly = partly_covered(memory).cpu().numpy()
    figures.values[GROUP] = {"coverage": round(float(memory[:, :, 4].mean()), 4)}
    filled = inpaint(memory.flatten(0, 1)).to(truth.device).view_as(truth)
    distances = {}
    for prefix, rgb in (("", painted.rgb), ("inpaint", filled)):
        distances[prefix] = yardstick.distances(yardstick.features(rgb.flatten(0, 1)), real)
        add_distances(figures, GROUP, distances[prefix], prefix)
        name = f"{GROUP}.{prefix}_" if prefix else f"{GROUP}."
        figures.mean(f"{name}psnr", psnr(rgb, truth).double().cpu().numpy(), partly)
        sharp = [column(sharpness(x)) for x in (rgb, truth)]
        add(figures, f"{name}sharpness_ratio", ratio_of_sums(*sharp))
    add_over(figures, GROUP, "over_inpaint", distances[""]["fd"], distances["inpaint"]["fd"])
