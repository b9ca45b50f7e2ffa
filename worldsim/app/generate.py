"""``worldsim generate``: new places from words, attributes or pictures, as scene folders."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from annotated_types import Ge, Le

from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.painting.painter import DEFAULT_PAINTER, NEW_PLACE_STEPS, NetworkPainter
from worldsim.painting.places.candidates import MOST_CANDIDATES, CandidateConfig
from worldsim.painting.places.folder import finished, save_generated, sheet_of
from worldsim.painting.places.new_places import (
    NewPlace,
    PlaceRequest,
    conditions_of,
    paint_request,
    parse_attributes,
    preview_passes,
)
from worldsim.painting.places.pictures import open_pictures
from worldsim.painting.places.place import PlaceConfig, level_pose, plan_groups, ring
from worldsim.painting.pretrained import painter_by_name
from worldsim.painting.words.attributes import AttributePrior, open_prior
from worldsim.painting.words.prompt import parse_prompt
from worldsim.painting.words.recogniser import AttributeRecogniser, open_recogniser
from worldsim.protocols import (
    GraphPainter,
    Painter,
    PromptPainter,
    SampledPainter,
    identity_of,
)
from worldsim.runtime.files import is_folder, make_writable_folder, require_replaceable, sha256_of
from worldsim.runtime.json_config import check_ranges, write_json
from worldsim.runtime.progress import SHARE, Progress, say
from worldsim.runtime.ranges import Count, NotNegative, Positive, Seed
from worldsim.runtime.rng import child_seed
from worldsim.runtime.types import JsonObject
from worldsim.world.scene_files import StartFrames

Part = TypeVar("Part")


@dataclass(frozen=True)
class GenerateConfig:
    """Generate new places to start from, as folders of scenes."""

    out: Path = Path("out/place")
    """Folder of the scene. With --count above 1, it holds one folder per place."""
    prompt: str = ""
    """Words that describe the place, such as "a dark brick hall with lava". Without words and
    pictures it is any place."""
    attribute: tuple[str, ...] = ()
    """Attributes by name, such as ``brick=0.8 light=0.2``; they override the words. Values lie in
    [0, 1]. An unknown name lists the painter's attributes."""
    image: Path | None = None
    """A picture of the place. Its depth is drawn by the painter."""
    images: tuple[Path, ...] = ()
    """Several pictures of the place: as many as the painter paints at once. Without --poses, each
    is located in what the others show."""
    poses: Path | None = None
    """Camera poses of the pictures: a JSON file, or a nerfstudio dataset."""
    painter: str = DEFAULT_PAINTER
    """Name of a shipped painter, a painter's folder, or ``diffusers:PIPELINE,DEPTH``: an inpainting
    pipeline and a depth estimator, each a folder or ``hub:owner/name``."""
    seed: Seed = 0
    """Seed of all random numbers. Equal settings give equal files on one device."""
    count: Annotated[int, Ge(1), Le(10_000)] = 1
    """Number of places."""
    headings: Annotated[int, Ge(1), Le(64)] = 8
    """Views all around."""
    ahead: NotNegative = 0.0
    """Metres. If above 0, further views are painted from so far ahead in each direction."""
    eye: Positive = PlaceConfig.eye
    """Height of the camera over the ground in metres."""
    views_at_once: Count = PlaceConfig.views_at_once
    """Views that are painted jointly beside several pictures with poses; earlier ones are given to
    later ones. More at once are faster, and a little further from the true place."""
    num_inference_steps: Count | None = None
    """Sampling steps. By default 12 with the shipped painter, and otherwise those that the painter
    recommends."""
    guidance_scale: NotNegative | None = None
    """How strongly words and memory guide the painter; 1 is without guidance. By default what the
    painter recommends."""
    contrast_scale: NotNegative | None = None
    """How strongly new places are guided away from the opposite of the prompt; 1 is without, others
    take twice the time. By default what the painter recommends. Large scales give glaring colours.
    """
    candidates: Annotated[int, Ge(1), Le(MOST_CANDIDATES)] | None = None
    """Candidates of each place that are previewed and compared with the prompt; the one that shows
    most of it is painted. By default as many as fit into the usual time; 1 compares none. Places
    from pictures have one."""
    device: str | None = None
    """Device of the painter. By default CUDA if it is available."""
    json: Path | None = None
    """Also write what was made to this file."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.image is not None and self.images:
            raise InvalidInputError("GenerateConfig: give either image or images, not both")
        if self.poses is not None and self.image is not None:
            raise InvalidInputError(
                "GenerateConfig.poses: one image needs no pose; give several with --images"
            )


def generate(config: GenerateConfig, painter: Painter | None = None) -> Path:
    """Generate the places that are not there yet; returns the folder.

    painter: a loaded painter, instead of ``config.painter``.
    """
    if config.json is not None:
        require_replaceable(config.json)
    prior = recogniser = None
    steps = config.num_inference_steps
    if painter is None:
        painter = painter_by_name(config.painter, device=config.device)
        steps = steps_for(config.painter, steps)
        prior = beside(config.painter, open_prior)
        recogniser = beside(config.painter, open_recogniser)
    painter = with_sampling(painter, steps, config.guidance_scale, config.contrast_scale)
    painter = with_graphs(painter)
    request = request_of(config, painter, prior, recogniser)
    # Before anything is painted: words, attributes and old folders.
    conditions_of(request, painter, np.random.default_rng(0))
    make_writable_folder(config.out.parent if config.count == 1 else config.out)
    settings = describe(config, painter)
    told = [
        {**settings, "place": i, "seed": place_seed(config.seed, i)} for i in range(config.count)
    ]
    there = [finished(folder_of(config, i), told[i]) for i in range(config.count)]
    report = []
    passes = passes_of(config, painter) + config.count * preview_passes(painter, request)
    with Progress(100.0, "painting", SHARE) as bar:
        for i in range(config.count):
            began = time.monotonic()
            if not there[i]:
                with passes_shown(painter, bar, i / config.count, 1 / config.count, passes):
                    made = paint_request(painter, request, told[i]["seed"])
                save_place(made, folder_of(config, i), told[i], title_of(config))
            bar.move_to(100.0 * (i + 1) / config.count)
            report.append(
                {
                    "folder": str(folder_of(config, i)),
                    "seed": told[i]["seed"],
                    "kept": there[i],
                    "seconds": round(time.monotonic() - began, 3),
                }
            )
    if config.json is not None:
        write_json(config.json, {"settings": settings, "places": report})
    fresh = there.count(False)
    print(f"{config.out}: {fresh} new, {config.count - fresh} were there already")
    return config.out


def passes_of(config: GenerateConfig, painter: Painter) -> int:
    """Return about how many times the network runs to paint all places; 1 for other painters."""
    if not isinstance(painter, NetworkPainter):
        return 1
    groups = len(plan_groups(ring(level_pose(), config.headings), 0, painter.spec.views))
    if config.poses is not None:
        # The depth of the pictures, then the groups beside them.
        groups = 1 + math.ceil(config.headings / config.views_at_once)
    both = painter.config.guidance_scale != 1.0
    return config.count * painter.config.num_inference_steps * groups * (1 + both)


@contextlib.contextmanager
def passes_shown(
    painter: Painter, bar: Progress, done: float, own: float, passes: int
) -> Iterator[None]:
    """Context in which the bar moves with every run of the painter's network.

    done, own: shares that are done before, and that are painted in this context, in [0, 1]. Refused
        views are painted again, so the bar stops shortly before the end of this share.
    passes: about how many runs all places take.
    """
    if not isinstance(painter, NetworkPainter):
        yield
        return
    runs = itertools.count(1)

    def step(*_: object) -> None:
        bar.move_to(100.0 * (done + min(0.99 * own, next(runs) / passes)))

    runs_in = {painter.network, painter.evaluator}
    hooks = [module.register_forward_hook(step) for module in runs_in]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def folder_of(config: GenerateConfig, i: int) -> Path:
    """Return the folder of place ``i``."""
    return config.out if config.count == 1 else config.out / f"place-{i + 1}"


def place_seed(seed: int, i: int) -> int:
    """Return the seed of place ``i``. It depends on nothing else."""
    return child_seed(seed, i)


def beside(painter: str, load: Callable[[str], Part]) -> Part | None:
    """Return what ``load`` finds beside a painter, None if nothing is there."""
    try:
        return load(painter)
    except NotFoundError:
        return None


def request_of(
    config: GenerateConfig,
    painter: Painter,
    prior: AttributePrior | None = None,
    recogniser: AttributeRecogniser | None = None,
) -> PlaceRequest:
    """Return the request with its pictures read.

    Prints which words ask for nothing.
    """
    if config.prompt.strip() and not isinstance(painter, PromptPainter):
        notice = parse_prompt(config.prompt, painter.spec.attributes).notice
        if notice:
            say(notice, always=True)
    paths = config.images or (() if config.image is None else (config.image,))
    pictures = None
    if paths or config.poses is not None:
        pictures = open_pictures(paths, painter.spec, config.poses)
    return PlaceRequest(
        prompt=config.prompt,
        attributes=parse_attributes(config.attribute, painter.spec.attributes),
        pictures=pictures,
        config=PlaceConfig(
            headings=config.headings,
            ahead=config.ahead,
            eye=config.eye,
            views_at_once=config.views_at_once,
        ),
        prior=prior,
        recogniser=recogniser,
        candidates=candidates_of(config),
    )


def candidates_of(config: GenerateConfig) -> CandidateConfig:
    """Return how many candidates each place has."""
    default = CandidateConfig()
    return default if config.candidates is None else replace(default, candidates=config.candidates)


def describe(config: GenerateConfig, painter: Painter) -> JsonObject:
    """Return the settings that determine the places, as JSON values."""
    files = [*config.images, *([config.image] if config.image is not None else [])]
    identity = identity_of(painter)
    return {
        "command": "generate",
        "prompt": config.prompt,
        "attribute": list(config.attribute),
        "pictures": {path.name: sha256_of(path) for path in files},
        "poses": None if config.poses is None else config.poses.name,
        "painter": Path(config.painter).name if is_folder(config.painter) else config.painter,
        "painter_sha256": identity.weights,
        "sampling": identity.settings,
        "headings": config.headings,
        "ahead": config.ahead,
        "eye": config.eye,
        "views_at_once": config.views_at_once,
        "most_candidates": candidates_of(config).candidates,
    }


def save_place(made: NewPlace, folder: Path, told: JsonObject, title: Sequence[str]) -> None:
    """Write a place, and how it was painted. Each of its views is a start."""
    place = made.place
    save_generated(
        folder,
        place.frames,
        place.intrinsics,
        place.data,
        [StartFrames(i) for i in range(len(place.frames.rgb))],
        {**told, **made.told()},
        sheet=sheet_of(place.frames, title),
    )


def title_of(config: GenerateConfig) -> tuple[str, ...]:
    """Return the title of the contact sheet."""
    words = [config.prompt, " ".join(config.attribute)]
    words += [path.name for path in (config.image, *config.images) if path is not None]
    text = "  ".join(word for word in words if word)
    return (text[:120],) if text else ()


def steps_for(painter: str, steps: int | None) -> int | None:
    """Return the sampling steps of new places; None for those that the painter recommends.

    painter: its name or folder.
    steps: those that a user asks for.
    """
    return NEW_PLACE_STEPS if steps is None and painter == DEFAULT_PAINTER else steps


def with_sampling(
    painter: Painter, steps: int | None, guidance: float | None, contrast: float | None = None
) -> Painter:
    """Return the painter with other sampling settings; None leaves its own.

    Raises InvalidInputError for a painter without such settings.
    """
    wanted = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "contrast_scale": contrast,
    }
    changes = {name: value for name, value in wanted.items() if value is not None}
    if not changes:
        return painter
    own = set()
    if isinstance(painter, SampledPainter):
        own = {field.name for field in dataclasses.fields(painter.config)}
    missing = sorted(changes.keys() - own)
    if missing or not isinstance(painter, SampledPainter):
        raise InvalidInputError(
            f"{type(painter).__name__} has no setting {', '.join(missing)}: leave it out"
        )
    changed = copy.copy(painter)
    changed.config = dataclasses.replace(painter.config, **changes)
    return changed


def with_graphs(painter: Painter) -> Painter:
    """Return the painter, as CUDA graphs if it can run so."""
    return painter.with_graphs() if isinstance(painter, GraphPainter) else painter
