"""New places from what a user gives: words, attributes, one picture or several.

:func:`paint_request` is what ``worldsim generate`` and
:class:`worldsim.scenes.generated.GeneratedPlace` do for each place.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points
from worldsim.painting.places.candidates import (
    Candidate,
    CandidateConfig,
    best_of,
    preview_candidates,
)
from worldsim.painting.places.pictures import Pictures
from worldsim.painting.places.place import (
    Place,
    PlaceConfig,
    distances,
    frames_at,
    level_pose,
    one_camera,
    paint_place,
    paint_views,
    plan_groups,
    ring,
)
from worldsim.painting.words.attributes import AttributePrior, CompletionConfig
from worldsim.painting.words.prompt import parse_prompt
from worldsim.painting.words.recogniser import AttributeRecogniser
from worldsim.planning.locate import LocateConfig, OutsideMemoryError, locate_points
from worldsim.protocols import (
    ContrastPainter,
    Painter,
    PainterSpec,
    PreviewPainter,
    PromptPainter,
)
from worldsim.runtime.arguments import number
from worldsim.runtime.types import Array, JsonObject
from worldsim.state import Frame, concatenate

DEPTH_STEP = 1_000_000
"""First step of the random numbers with which the depth of pictures is drawn."""
WORDS = CompletionConfig(share_stretch=2.0, plain=True)
"""How words become a painter's attributes (docs/experiments/words.md)."""
SAME_PLACE = 2.0
"""Metres between cameras that may look at different things without any overlap."""
LEAST_OVERLAP = 0.02
"""Smallest share of a picture that other pictures from elsewhere must show, too."""


@dataclass(frozen=True)
class PlaceRequest:
    """What a new place shall be like. Without anything, it is any place.

    prompt: words.
    attributes: values in [0, 1] by the painter's names of attributes. They override the words.
    pictures: pictures that show the place.
    config: cameras and memory.
    prior: real attribute vectors, from which the rest of the words is completed. It also tells the
        opposite of the words, from which painters can be guided away. None gives the painter only
        what the words name.
    recogniser: compares candidates of a place without pictures, if the painter shows previews. None
        paints the first one.
    candidates: how many there are.
    """

    prompt: str = ""
    attributes: Mapping[str, float] = field(default_factory=dict)
    pictures: Pictures | None = None
    config: PlaceConfig = field(default_factory=PlaceConfig)
    prior: AttributePrior | None = None
    recogniser: AttributeRecogniser | None = None
    candidates: CandidateConfig = field(default_factory=CandidateConfig)


@dataclass(frozen=True)
class Conditions:
    """What a painter receives for a request.

    values: (a,) float32 in [0, 1], by the painter's attributes.
    told: (a,) bool, which of them are given.
    wanted: amounts that the words name, by attribute.
    away: (a,) values from which the place is guided away, or None.
    """

    values: Array
    told: Array
    wanted: Mapping[str, float]
    away: Array | None = None


@dataclass(frozen=True)
class NewPlace:
    """A painted place and how it came about.

    place: the place.
    attributes: what the painter received, by attribute.
    candidates: the seeds that were compared; none if there was one.
    seed: the seed that was painted.
    """

    place: Place
    attributes: Mapping[str, float]
    candidates: Sequence[Candidate]
    seed: int

    def told(self) -> JsonObject:
        """Return the log of the painting as JSON values."""
        told: JsonObject = {
            "attributes": {name: round(value, 4) for name, value in self.attributes.items()}
        }
        if self.candidates:
            told["painted_seed"] = self.seed
            told["candidates"] = [
                {
                    "seed": candidate.seed,
                    "agreement": round(candidate.agreement, 4),
                    "shows": {name: round(p, 4) for name, p in candidate.shows.items()},
                }
                for candidate in self.candidates
            ]
        return told


def parse_attributes(given: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Convert texts ``name=value`` to values in [0, 1] by name.

    names: the painter's attributes.

    Raises InvalidInputError for unknown names, values out of range and contradictions.
    """
    found: dict[str, float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            amount = float(value) if equals else None
        except ValueError:
            amount = None
        if amount is None:
            raise InvalidInputError(
                f"attribute {text!r}: give NAME=VALUE with a value from 0 to 1, such as brick=0.8"
            )
        name = name.strip()
        if name in found and found[name] != amount:
            raise InvalidInputError(
                f"attribute {name!r} is given twice, with {found[name]:g} and {amount:g}: give one"
            )
        found[name] = amount
    check_attributes(found, names)
    return found


def check_attributes(values: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise InvalidInputError unless all names are known and all values lie in [0, 1]."""
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InvalidInputError(
                f"this painter has no attribute {name!r}: {hint}Its attributes are "
                f"{', '.join(names) or 'none'}"
            )
        number(f"attribute {name}", value, 0.0, 1.0)


def attributes_of(
    prompt: str,
    attributes: Sequence[str],
    rng: np.random.Generator,
    prior: AttributePrior | None = None,
) -> tuple[Array, Array]:
    """Return the attributes that ``prompt`` asks for, and which of them are given.

    attributes: those of the painter.
    rng: draws what the words leave open.
    prior: completes them to those of a real place.

    Returns (a,) float32 in [0, 1] and (a,) bool. Raises InvalidInputError for words that are not
    understood.
    """
    return _complete(_amounts_of(prompt, attributes), attributes, rng, prior)


def _amounts_of(prompt: str, attributes: Sequence[str]) -> Mapping[str, float]:
    return parse_prompt(prompt, attributes) if prompt.strip() else {}


def _complete(
    wanted: Mapping[str, float],
    attributes: Sequence[str],
    rng: np.random.Generator,
    prior: AttributePrior | None,
) -> tuple[Array, Array]:
    if prior is not None and prior.names == tuple(attributes):
        return prior.complete(wanted, rng, WORDS), np.ones(len(attributes), bool)
    values = np.array([wanted.get(name, 0.0) for name in attributes], np.float32)
    return values, np.array([name in wanted for name in attributes], bool)


def conditions_of(
    request: PlaceRequest, painter: Painter, rng: np.random.Generator
) -> Conditions | None:
    """Return the attributes of a request; None if none are given.

    Without words, named attributes alone are given. A place without words, attributes and pictures
    is like any real one. A :class:`worldsim.protocols.PromptPainter` receives the words themselves.
    """
    names = painter.spec.attributes
    check_attributes(request.attributes, names)
    prompt = "" if isinstance(painter, PromptPainter) else request.prompt
    if prompt.strip() and not names:
        raise InvalidInputError(
            f"prompt {prompt!r}: this painter has no attributes and understands no words; leave "
            "the prompt out"
        )
    free = not prompt.strip() and bool(request.attributes or request.pictures)
    prior = None if free else request.prior
    amounts = _amounts_of(prompt, names)
    values, told = _complete(amounts, names, rng, prior)
    for name, value in request.attributes.items():
        values[names.index(name)], told[names.index(name)] = value, True
    if not bool(told.any()):
        return None
    wanted = {name: x for name, x in amounts.items() if name not in request.attributes}
    away = None
    if wanted and prior is not None and prior.names == tuple(names):
        away = prior.opposite(values, wanted)
    return Conditions(values, told, wanted, away)


def paint_request(painter: Painter, request: PlaceRequest, seed: int) -> NewPlace:
    """Paint a place as ``request`` asks.

    seed: key of all random numbers.

    Raises InvalidInputError for words, attributes and pictures that cannot be used.
    """
    conditions = conditions_of(request, painter, np.random.default_rng(seed))
    if isinstance(painter, PromptPainter) and request.prompt.strip():
        painter = painter.with_prompt(request.prompt)
    if conditions is None:
        return NewPlace(_paint(painter, request, seed, None, None), {}, (), seed)
    values, told = conditions.values, conditions.told
    if conditions.away is not None and isinstance(painter, ContrastPainter):
        painter = painter.away_from(conditions.away, told)
    candidates = _candidates(painter, request, conditions, seed)
    if candidates:
        seed = best_of(candidates).seed
    place = _paint(painter, request, seed, values, told)
    names = painter.spec.attributes
    given = {name: float(values[i]) for i, name in enumerate(names) if told[i]}
    return NewPlace(place, given, candidates, seed)


def preview_passes(painter: Painter, request: PlaceRequest) -> int:
    """Return about how many times the painter's network runs for previews of candidates."""
    if request.recogniser is None or request.pictures is not None or not request.prompt.strip():
        return 0
    config = request.candidates
    if config.candidates == 1 or not isinstance(painter, PreviewPainter):
        return 0
    return config.candidates * config.steps


def _candidates(
    painter: Painter, request: PlaceRequest, conditions: Conditions, seed: int
) -> list[Candidate]:
    """Preview the candidates of a request; none if there is nothing to compare."""
    recogniser = request.recogniser
    if recogniser is None or not preview_passes(painter, request):
        return []
    assert isinstance(painter, PreviewPainter)
    if not set(conditions.wanted) & set(recogniser.names):
        return []
    poses = ring(level_pose(z=request.config.eye), request.config.headings)
    first = plan_groups(poses, 0, painter.spec.views)[0].painted
    return preview_candidates(
        painter,
        recogniser,
        conditions.wanted,
        request.config.memory(painter.spec),
        poses[list(first)],
        conditions.values,
        conditions.told,
        seed,
        request.candidates,
    )


def _paint(
    painter: Painter, request: PlaceRequest, seed: int, values: Array | None, told: Array | None
) -> Place:
    pictures, config = request.pictures, request.config
    if pictures is None:
        return paint_place(painter, seed, values, told, config)
    _check_number(pictures, painter.spec)
    if pictures.pose is None:
        return _paint_unposed(painter, pictures, seed, values, told, config)
    return _paint_posed(painter, pictures, seed, values, told, config)


def _check_number(pictures: Pictures, spec: PainterSpec) -> None:
    if len(pictures) > spec.views:
        raise InvalidInputError(
            f"{len(pictures)} pictures are given and the painter takes 1 to {spec.views}: choose "
            "those that show most"
        )


def _paint_posed(
    painter: Painter,
    pictures: Pictures,
    seed: int,
    values: Array | None,
    told: Array | None,
    config: PlaceConfig,
) -> Place:
    """Paint the place around pictures with poses."""
    assert pictures.pose is not None
    spec, whole = painter.spec, bool(pictures.covered.all())
    given = Frame(pictures.rgb, None, pictures.pose)
    if len(pictures) == 1 and whole:
        return paint_place(painter, seed, values, told, config, given)
    # The depth of the pictures first, all of them jointly.
    memory = config.memory(spec)
    drawn, _ = paint_views(
        painter,
        memory,
        memory.empty(1),
        pictures.pose,
        values,
        seed,
        DEPTH_STEP,
        given,
        told=told,
    )
    _check_overlap(drawn, pictures, spec)
    points = _points_of(drawn, pictures.covered, spec, memory)
    if whole:
        return paint_place(painter, seed, values, told, config, drawn, points)
    return paint_place(painter, seed, values, told, config, known=points, cameras=pictures.pose)


def _points_of(frames: Frame, covered: Tensor, spec: PainterSpec, memory: PointMemory) -> Points:
    """Return the points of the pixels ``covered`` (k, h, w) of frames."""
    assert frames.pose is not None
    data, cameras = memory.empty(1), spec.cameras(frames.pose)
    for i in range(len(covered)):
        data = memory.integrate(
            data,
            frames_at(frames, [i]),
            one_camera(cameras, i),
            torch.tensor([0]),
            covered[i : i + 1],
        )
    return data


def _check_overlap(drawn: Frame, pictures: Pictures, spec: PainterSpec) -> None:
    """Raise InvalidInputError for a picture from elsewhere that shares nothing with the others."""
    assert drawn.pose is not None
    place, cameras = drawn.pose[:, :3, 3], spec.cameras(drawn.pose)
    memory = PointMemory(PointMemoryConfig(capacity=len(pictures) * spec.height * spec.width))
    for i in range(len(pictures)):
        others = [j for j in range(len(pictures)) if j != i]
        apart = (place[others] - place[i]).norm(dim=1)
        if not others or float(apart.min()) <= SAME_PLACE:
            continue
        data = _points_of(frames_at(drawn, others), pictures.covered[others], spec, memory)
        view = memory.render(data, one_camera(cameras, i))
        # Without the sky, which is the same everywhere.
        share = float((view.mask & (view.inverse_depth > 0)).float().mean())
        if share < LEAST_OVERLAP:
            raise InvalidInputError(
                f"{pictures.names[i]} shows nothing of what the other pictures show ({share:.1%} "
                f"of it, {float(apart.min()):.1f} m from the nearest): check its pose and the "
                "units (metres), or leave it out"
            )


def _paint_unposed(
    painter: Painter,
    pictures: Pictures,
    seed: int,
    values: Array | None,
    told: Array | None,
    config: PlaceConfig,
) -> Place:
    """Paint the place around the first picture, then find the others in it, one after the other.

    The memory grows with every picture, so pictures that are not found at first are tried again.
    """
    start = level_pose(z=config.eye)[None]
    first = Pictures(pictures.rgb[:1], pictures.covered[:1], start, pictures.names[:1])
    place = _paint_posed(painter, first, seed, values, told, config)
    left, reason = list(range(1, len(pictures))), ""
    while left:
        for i in left:
            try:
                pose = _locate(place, pictures.rgb[i])
            except OutsideMemoryError as error:
                reason = error.nearest
                continue
            place = _add_picture(painter, place, pictures.rgb[i], pose, seed, values, told)
            left.remove(i)
            break
        else:
            raise InvalidInputError(
                f"{', '.join(pictures.names[i] for i in left)}: not found in the place that the "
                f"other pictures show ({reason}). Give pictures that overlap more, or their poses "
                "with --poses"
            )
    return place


def _locate(place: Place, rgb: Tensor) -> Tensor:
    """Return the pose (4, 4) of a picture (3, h, w) in a place."""
    assert place.frames.pose is not None
    eye = place.frames.pose[0, :3, 3].cpu()
    return locate_points(place.data, rgb, place.intrinsics, eye, LocateConfig())


def _add_picture(
    painter: Painter,
    place: Place,
    rgb: Tensor,
    pose: Tensor,
    seed: int,
    values: Array | None,
    told: Array | None,
) -> Place:
    """Return the place with a picture (3, h, w) at ``pose``, whose depth is drawn."""
    own = place.frames
    assert own.pose is not None and own.inverse_depth is not None
    apart = distances(torch.cat([pose[None], own.pose]))[0, 1:]
    near = apart.argsort(stable=True)[: painter.spec.views - 1].tolist()
    context = frames_at(own, near)
    picture = Frame(rgb[None], torch.zeros_like(own.inverse_depth[:1]), pose[None])
    given: Frame = concatenate([context, picture])
    assert given.pose is not None
    plain = torch.zeros(len(near) + 1, dtype=torch.bool)
    plain[-1] = True
    drawn, data = paint_views(
        painter,
        place.memory,
        place.data,
        given.pose,
        values,
        seed,
        place.step,
        given,
        plain,
        told,
    )
    frames: Frame = concatenate([own, frames_at(drawn, [len(near)])])
    return replace(place, frames=frames, data=data, step=place.step + 1)
