"""Judges painted views and places by checks whose thresholds were measured on real views.

A check compares one number with one threshold. Its outcome is a :class:`Verdict`, which can be
written as JSON. ``validator.json`` beside this file holds the thresholds: quantiles over views of
train maps (``experiments/painter/validator.py``, docs/experiments/validator.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from torch import Tensor

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.memory.slots import Points
from worldsim.painting.validation import checks
from worldsim.painting.validation.checks import Views
from worldsim.protocols import Painter, PainterSpec, PaintInputs, ScoresViews
from worldsim.runtime.json_config import check_format, from_json, read_json
from worldsim.state import Frame

FILE = Path(__file__).with_name("validator.json")
"""The shipped thresholds."""
FORMAT = "worldsim-validator"
SCORE = "denoising"
"""Name of the check by the painter's own denoising error."""

GEOMETRIC: Mapping[str, Callable[[Views], Tensor]] = {
    "scale": checks.scale_error,
    "seen_past": checks.seen_past,
    "nearest": checks.nearest,
    "speckle": checks.speckle,
}
"""Measures of a view's geometry, by name."""
PICTORIAL: Mapping[str, Callable[[Views], Tensor]] = {
    "colour_conflict": checks.colour_conflict,
    "rectangle": checks.rectangle,
    "seams": checks.seams,
    "sharpness": checks.sharp,
    "blur": checks.blur_ratio,
    "noise": checks.noise,
    "colour_noise": checks.colour_noise,
    "edges": checks.edges,
    "contrast": checks.contrast,
    "repetition": checks.repetition,
}
"""Measures of a view's colours, by name. Their thresholds hold for views like those of the
look-arounds."""
PLACE = ("room", "floor")
"""Checks of a whole place."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    name: the check.
    value: what was measured; None where it cannot be measured, which passes.
    threshold: the bound.
    passed: whether the value is on the right side of it.
    """

    name: str
    value: float | None
    threshold: float
    passed: bool


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest accepted value of a check; None for no bound."""

    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of all checks, and the views that they hold for."""

    format: str
    version: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    intrinsics: tuple[float, float, float, float]
    """``fx fy cx cy`` in pixels."""
    bounds: dict[str, Bounds]
    """By name of the check."""
    quantile: float = 0.0
    """Share of real train views beyond each bound."""
    views: int = 0
    """Number of real train views."""
    maps: int = 0
    """Number of their maps."""
    denoising: dict[str, Bounds] = field(default_factory=dict)
    """Bounds of the denoising error, by the SHA-256 of a painter's weights. A painter's error says
    nothing about that of another one."""


@cache
def shipped_thresholds() -> Thresholds:
    """Return the thresholds of ``validator.json``. Raises DamagedFileError."""
    values = read_json(FILE)
    check_format(FILE, values, FORMAT, 1)
    try:
        return from_json(Thresholds, values)
    except InvalidInputError as error:
        raise DamagedFileError(f"{FILE} is damaged ({error}): install worldsim again.") from error


class Validator:
    """Checks views and places.

    thresholds: by default the shipped ones.
    names: the checks to apply; by default all that have a threshold.
    painter: a painter whose denoising error is checked, too, if it can compute one and there is a
        bound for its weights.
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        names: Iterable[str] | None = None,
        painter: Painter | None = None,
    ) -> None:
        self.thresholds = thresholds or shipped_thresholds()
        self.painter = painter if isinstance(painter, ScoresViews) else None
        known = dict(self.thresholds.bounds)
        weights = str(getattr(painter, "weights_id", ""))
        if self.painter is not None and weights in self.thresholds.denoising:
            known[SCORE] = self.thresholds.denoising[weights]
        self.bounds = known
        chosen = list(known) if names is None else list(names)
        if unknown := sorted(set(chosen) - set(known)):
            raise InvalidInputError(
                f"there is no threshold for the checks {', '.join(unknown)}: choose from "
                f"{', '.join(known)}."
            )
        self.names = tuple(chosen)

    @classmethod
    def for_painter(cls, painter: Painter, thresholds: Thresholds | None = None) -> Validator:
        """Return the validator for the views of ``painter``.

        Views of another size or camera than those of the thresholds are checked for their geometry
        alone.
        """
        bounds = thresholds or shipped_thresholds()
        if _fits(painter.spec, bounds):
            return cls(bounds, painter=painter)
        names = [name for name in bounds.bounds if name in GEOMETRIC or name in PLACE]
        return cls(bounds, names)

    def views(
        self, views: Views, inputs: PaintInputs | None = None, painted: Frame | None = None
    ) -> list[list[Verdict]]:
        """Return the verdicts on each of ``n`` views.

        inputs: what the painter received, for its denoising error.
        painted: all views of ``inputs`` as painted; they begin with the judged ones.
        """
        found: dict[str, Sequence[float]] = {}
        for name, measure in {**GEOMETRIC, **PICTORIAL}.items():
            if name in self.names:
                found[name] = measure(views).double().tolist()
        if SCORE in self.names and self.painter is not None and inputs is not None:
            score = self.painter.score(inputs, views.frame if painted is None else painted)
            found[SCORE] = score.double().tolist()
        return [
            [v for name, values in found.items() for v in self._verdicts(name, values[i])]
            for i in range(len(views))
        ]

    def place(self, points: Points, views: Views) -> list[Verdict]:
        """Return the verdicts on a place.

        points: the memory with the place.
        views: the views around the place; the walker stands at the first camera.
        """
        found: dict[str, float] = {}
        if "room" in self.names:
            found["room"] = checks.room(points, views.camera.pose[0])
        if "floor" in self.names:
            found["floor"] = float(checks.floor_missing(views).mean())
        return [v for name, value in found.items() for v in self._verdicts(name, value)]

    def _verdicts(self, name: str, value: float) -> list[Verdict]:
        """Compare a value with its bounds. The bound that it violates is told, else the first."""
        bounds = self.bounds[name]
        told = None if math.isnan(value) else round(value, 6)
        verdicts = []
        if bounds.least is not None:
            passed = told is None or told >= bounds.least
            verdicts.append(Verdict(name, told, bounds.least, passed))
        if bounds.most is not None:
            passed = told is None or told <= bounds.most
            verdicts.append(Verdict(name, told, bounds.most, passed))
        return [v for v in verdicts if not v.passed][:1] or verdicts[:1]


def _fits(spec: PainterSpec, thresholds: Thresholds) -> bool:
    same = (spec.height, spec.width) == (thresholds.height, thresholds.width)
    gaps = [abs(a - b) for a, b in zip(spec.intrinsics, thresholds.intrinsics, strict=True)]
    return same and max(gaps) <= 0.02 * thresholds.width


def passed(verdicts: Iterable[Verdict]) -> bool:
    """Return whether all verdicts passed."""
    return all(v.passed for v in verdicts)


def failures(verdicts: Iterable[Iterable[Verdict]]) -> dict[str, int]:
    """Return how many views failed each check, most frequent first."""
    count: dict[str, int] = {}
    for view in verdicts:
        for verdict in view:
            if not verdict.passed:
                count[verdict.name] = count.get(verdict.name, 0) + 1
    return dict(sorted(count.items(), key=lambda item: -item[1]))
