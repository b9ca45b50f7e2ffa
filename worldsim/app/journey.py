"""``worldsim journey``: a trip through new places that a painter makes from words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from worldsim.app.generate import (
    GenerateConfig,
    beside,
    passes_of,
    passes_shown,
    steps_for,
    with_graphs,
    with_sampling,
)
from worldsim.errors import PaintingError
from worldsim.painting.journeys.files import told_of, travel
from worldsim.painting.journeys.journey import JourneyConfig, JourneyMaker
from worldsim.painting.journeys.scene import save_trip_scene
from worldsim.painting.journeys.site import groups_of
from worldsim.painting.journeys.trip import Trip
from worldsim.painting.journeys.words import descriptions_for, reader_of
from worldsim.painting.painter import DEFAULT_PAINTER
from worldsim.painting.pretrained import painter_by_name
from worldsim.painting.validation.validator import Validator, failures
from worldsim.painting.words.attributes import open_prior
from worldsim.protocols import Painter
from worldsim.runtime.files import make_writable_folder, require_replaceable
from worldsim.runtime.json_config import check_ranges, to_json, write_json
from worldsim.runtime.progress import SHARE, Progress, say
from worldsim.runtime.ranges import Count, NotNegative, Positive, Seed, Share
from worldsim.runtime.types import JsonObject

STATE = "journey"
"""Folder inside the scene's in which a journey is kept place by place."""


@dataclass(frozen=True)
class JourneyRunConfig:
    """Make a journey through new places, place by place; an interrupted one resumes.

    The folder is a scene: environments start in it, ``worldsim view`` shows it.
    """

    prompt: str | None = None
    """Words of the places, separated by "then": "corridors of stone, then open ground, then a metal
    base". By default a grammar draws them. ``worldsim words`` lists all words."""
    out: Path = Path("out/journey")
    """Folder to write."""
    length: Annotated[int, Ge(1), Le(50)] = 12
    """Number of places. A finished journey can be continued with a larger number."""
    loop: bool = False
    """Come back: the second half leads through the places of the first half."""
    painter: str = DEFAULT_PAINTER
    """Name of a shipped painter, a painter's folder, or ``diffusers:PIPELINE,DEPTH`` as in
    ``worldsim generate``."""
    seed: Seed = 0
    """Seed of all random numbers."""
    num_inference_steps: Count | None = None
    """Sampling steps. By default 12 with the shipped painter, and otherwise those that the painter
    recommends."""
    guidance_scale: NotNegative | None = None
    """Scale of classifier-free guidance; by default the painter's."""
    nearest: Positive = 4.0
    """Smallest distance between places in metres, where there is room."""
    furthest: Positive = 8.0
    """Largest distance between places in metres."""
    tries: Annotated[int, Ge(1), Le(64)] = 4
    """Attempts per group of views."""
    accept: Share = 0.5
    """Share of a group's views that must pass the validator after the last attempt."""
    repaints: Annotated[int, Ge(0), Le(8)] = 0
    """Further paintings of a place that has no way out. The one with the widest way out is kept."""
    free_ground: bool = False
    """Let nothing new stand where the floor was free before: fewer walls, but the backs of pillars
    go, too."""
    validate: bool = True
    """Judge the views, and paint refused ones again."""
    device: str | None = None
    """Device of the painter; by default the GPU if there is one."""
    json: Path | None = None
    """Also write the journey's log to this file."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def journey(self) -> JourneyConfig:
        """Return the settings of the journey itself."""
        return JourneyConfig(
            length=self.length,
            loop=self.loop,
            seed=self.seed,
            tries=self.tries,
            accept=self.accept,
            nearest=self.nearest,
            furthest=self.furthest,
            repaints=self.repaints,
            free_ground=self.free_ground,
        )


def journey(config: JourneyRunConfig) -> Path:
    """Make the journey and write its scene; returns the folder.

    Raises PaintingError if the painter's views are refused. The scene then holds the places so far.
    """
    settings = config.journey()
    if config.json is not None:
        require_replaceable(config.json)
    painter = painter_by_name(config.painter, device=config.device)
    steps = steps_for(config.painter, config.num_inference_steps)
    painter = with_graphs(with_sampling(painter, steps, config.guidance_scale))
    names = painter.spec.attributes
    words = descriptions_for(config.prompt, painter, config.length)
    validator = None if config.validate else Validator(names=())
    reader = reader_of(names, beside(config.painter, open_prior))
    maker = JourneyMaker(painter, words, reader, settings, validator)
    out = make_writable_folder(config.out)
    told = to_json(told_of(maker, config.prompt or ""))
    trip, passes = maker.begin(), _passes(config, painter)
    try:
        with Progress(100.0, "painting", SHARE) as bar:
            stops = travel(maker, config.prompt or "", out / STATE)
            trip = next(stops)
            while len(trip) < config.length:
                note = f"place {len(trip) + 1} of {config.length}"
                bar.move_to(100.0 * len(trip) / config.length, note)
                with passes_shown(
                    painter, bar, len(trip) / config.length, 1 / config.length, passes
                ):
                    trip = next(stops)
    except PaintingError:
        if len(trip):
            save_trip_scene(out, trip, painter.spec, _origin(told, trip))
            say(f"{out} holds the {len(trip)} places so far")
        raise
    save_trip_scene(out, trip, painter.spec, _origin(told, trip))
    if config.json is not None:
        write_json(config.json, _origin(told, trip))
    print(explain(out, trip))
    return out


def _passes(config: JourneyRunConfig, painter: Painter) -> int:
    """Return how many times the network runs for all places if no view is refused."""
    headings = config.journey().headings
    places = GenerateConfig(count=config.length, headings=headings)
    return passes_of(places, painter) * len(groups_of(headings, painter.spec.views))


def _origin(told: JsonObject, trip: Trip) -> JsonObject:
    return {"command": "journey", **told, "places": to_json(trip.stops)}


def explain(out: Path, trip: Trip) -> str:
    """Return a summary of the journey in words."""
    painted = [stop for stop in trip.stops if stop.painted]
    attempts = [one for stop in trip.stops for one in stop.log if one.step >= 0]
    views = sum(len(one.views) for one in attempts)
    refused = views - sum(len(one.kept) for one in attempts)
    wrong = failures(view for one in attempts for view in one.verdicts)
    place = trip.pose[:, :3, 3]
    metres = float((place[1:] - place[:-1]).norm(dim=1).sum())
    count = f"{len(trip)} {'place' if len(trip) == 1 else 'places'}"
    lines = [
        f"{count}, {len(painted)} of them painted, {metres:.1f} m from first to last.",
        f"{views} views were painted, {refused} of them refused"
        + (f" ({', '.join(f'{k} {n}' for k, n in list(wrong.items())[:4])})." if wrong else "."),
    ]
    lines += [f"{i:3d}. {stop.words}" for i, stop in enumerate(trip.stops, 1)]
    return "\n".join(
        [*lines, f"Files: sheet.png, map.png, fly.mp4, scene.ply, scene.json in {out}."]
    )
