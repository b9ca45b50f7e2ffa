"""``worldsim evaluate`` for painters: measures a painter on places of its real twin's test maps.

The places are recorded at fixed seeds and kept. Every figure has a 95% interval by bootstrap over
places. :data:`PARTS` lists the measures; each module of this package defines one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.evaluation.encoder import FOLDER, WEIGHTS, load_encoder
from worldsim.evaluation.figures import Figures
from worldsim.painting.checkpoint import CARD
from worldsim.painting.evaluation import (
    completion,
    depth_errors,
    joint,
    memorisation,
    new_places,
    recorded,
    sheets,
)
from worldsim.painting.evaluation.baselines import fits, inpaint_around, turn_round
from worldsim.painting.evaluation.paintings import Painted, Paintings, key_of
from worldsim.painting.evaluation.places import HEADINGS, Places
from worldsim.painting.evaluation.report import table
from worldsim.painting.evaluation.timing import seconds_per_place
from worldsim.painting.evaluation.yardstick import LEAST_PLACES, Yardstick
from worldsim.painting.painter import NetworkPainter, open_painter, painter_folder
from worldsim.protocols import Painter
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import make_writable_folder, sha256_of
from worldsim.runtime.json_config import check_ranges, read_json, to_json, write_json
from worldsim.runtime.progress import Progress, say, span
from worldsim.runtime.ranges import Batch, Count, NotNegative, Positive, Seed, Workers
from worldsim.runtime.types import JsonObject
from worldsim.runtime.workers import ENGINE_TIMEOUT_S
from worldsim.world import World

PROTOCOL = "painter/2"
GPU_PLACES, CPU_PLACES = 512, 8
"""Places by default."""
GPU_BATCH, CPU_BATCH = 32, 1
"""Places at once by default."""
Part = Literal["new", "completion", "memorisation", "joint", "depth", "time"]
T = TypeVar("T")
PARTS: tuple[Part, ...] = ("new", "completion", "memorisation", "joint", "depth", "time")


@dataclass(frozen=True)
class EvaluatePainterConfig:
    """Measure a painter on places of its real twin's test maps."""

    painter: str
    """Name of a shipped painter, or a painter's folder."""
    json: Path | None = None
    """Also write the results to this file."""
    places: Count | None = None
    """Test places. By default 512 on a GPU, which is the protocol, and 8 on a CPU, which is a first
    impression. At least 4; fewer than 5 have no intervals."""
    parts: tuple[Part, ...] = PARTS
    """What is measured."""
    seed: Seed = 0
    """Seed of the test places and of the paintings."""
    device: str | None = None
    """Device of the painter, such as ``cpu`` or ``cuda:1``. By default CUDA if it is available."""
    num_inference_steps: Batch | None = None
    """Sampling steps. By default the painter's own."""
    guidance_scale: NotNegative | None = None
    """Guidance scale of new places. By default the painter's own."""
    batch: Batch | None = None
    """Places to paint at once, 32 by default on a GPU and 1 on a CPU. Smaller batches need less
    memory and give the same views up to rounding."""
    compile: bool = False
    """Compile the painter. It takes about a minute and halves the time of the rest on a GPU."""
    cache: Path = Path("out/evaluate-painter")
    """Folder of recorded places and, until the evaluation is finished, of paintings. An interrupted
    evaluation resumes from it."""
    test: Path | None = None
    """Folder of look-arounds to use as test places, instead of recording them."""
    train: Path | None = None
    """Folder of look-arounds of train maps, instead of recording them. With those that the painter
    was trained on, memorisation is measured best."""
    train_places: Count | None = None
    """Train places to compare with. By default eight for each test place."""
    world: str | None = "freedoom-tiny"
    """World that turns round beside the painter, or ``None``. A world with another frame size is
    left out."""
    pictures: Path | None = None
    """Folder for contact sheets of the first 16 places, and of failures."""
    surveyor: str = "freedoom"
    """Engine that records the places: a registered name, or ``module:Class``."""
    workers: Workers | None = None
    """Recording processes. By default one per core, at most 16 and one for 64 places."""
    engine_timeout_s: Positive = ENGINE_TIMEOUT_S
    """Seconds after which the engine counts as hung."""
    bootstrap: Count = 2000
    """Resamples of the places for each 95% interval."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.places is not None and self.places < LEAST_PLACES:
            raise InvalidInputError(
                f"EvaluatePainterConfig.places = {self.places}: give at least {LEAST_PLACES}"
            )


def evaluate_painter(config: EvaluatePainterConfig, painter: Painter | None = None) -> JsonObject:
    """Measure, print and write the results; returns them.

    painter: a loaded painter, instead of ``config.painter``. Paintings of one that is not a
        :class:`worldsim.painting.painter.NetworkPainter` are not kept.

    Raises InvalidInputError, NotFoundError, DamagedFileError, EngineError or OutOfMemoryError.
    """
    began = time.monotonic()
    train_maps: tuple[str, ...] = ()
    if painter is None:
        train_maps = _train_maps(config.painter)
        painter = open_painter(config.painter, device=config.device)
    run = Run(config, painter)
    if painter.spec.views < HEADINGS:
        raise InvalidInputError(
            f"painter {config.painter} paints at most {painter.spec.views} views jointly, and the "
            f"protocol needs {HEADINGS}."
        )
    results = run.measure(train_maps)
    results["seconds"] = round(time.monotonic() - began, 1)
    print(table(results))
    if config.json is not None:
        write_json(config.json, results)
    run.paintings.remove()
    return results


def _train_maps(name: str) -> tuple[str, ...]:
    """Return the maps that a painter's card names as its training maps."""
    folder = painter_folder(name)
    card = {} if folder is None else read_json(folder / CARD).get("card", {})
    maps = card.get("train_maps", ()) if isinstance(card, dict) else ()
    return tuple(str(one) for one in maps)


class Run:
    """One evaluation."""

    def __init__(self, config: EvaluatePainterConfig, painter: Painter) -> None:
        self.config = config
        self.device = (
            painter.device
            if isinstance(painter, NetworkPainter)
            else resolve_device(config.device or "cpu")
        )
        gpu = self.device.type == "cuda"
        self.count = config.places or (GPU_PLACES if gpu else CPU_PLACES)
        self.batch = config.batch or (GPU_BATCH if gpu else CPU_BATCH)
        self.painter = self._with_sampling(painter)
        self.paintings = Paintings(self.painter, None, self.batch, config.seed)
        self.figures = Figures(self.count, config.bootstrap, config.seed)

    def _with_sampling(self, painter: Painter) -> Painter:
        """Return the painter with the settings of the command."""
        config = self.config
        if not isinstance(painter, NetworkPainter):
            return painter
        sampling = replace(painter.config, places=self.batch)
        if config.num_inference_steps is not None:
            sampling = replace(sampling, num_inference_steps=config.num_inference_steps)
        if config.guidance_scale is not None:
            sampling = replace(sampling, guidance_scale=config.guidance_scale)
        changed = NetworkPainter(painter.network, painter.spec, sampling)
        if config.compile:
            changed.network.compile_parts()
        return changed

    def measure(self, train_maps: tuple[str, ...]) -> JsonObject:
        """Return all results."""
        config = self.config
        test = self._test(train_maps)
        places = test.places.to(self.device)
        needs_train = {"new", "memorisation", "depth"} & set(config.parts)
        train = self._train(places) if needs_train else None
        self.paintings.folder = self._folder(test.sha256)
        timed = self._time(places)
        painted = self._paint(places)
        yardstick = Yardstick(load_encoder(device=self.device))
        say("comparing")
        with torch.no_grad():
            self._compare(yardstick, painted, places, train)
        if timed is not None:
            self.figures.values["time"] = {"seconds_per_place": timed}
        results = self._about(test) | {**self.figures.values, "ci95": self.figures.ci95}
        if train is not None:
            results["train_places"] = train.count
        if config.pictures is not None:
            results |= self._draw(yardstick, painted, places, config.pictures)
        return results

    def _recordings(self) -> recorded.RecordSettings:
        config = self.config
        return recorded.RecordSettings(
            config.cache,
            config.surveyor,
            self.painter.spec,
            config.workers,
            config.engine_timeout_s,
        )

    def _test(self, train_maps: tuple[str, ...]) -> recorded.TestPlaces:
        folder = self.config.test or recorded.recorded_folder(
            self._recordings(), "test", recorded.TEST_SEED + self.config.seed, self.count
        )
        return recorded.load_test_places(folder, self.count, self.painter.spec, train_maps)

    def _train(self, places: Places) -> recorded.TrainPlaces:
        count = self.config.train_places or recorded.POOL * self.count
        folder = self.config.train or recorded.recorded_folder(
            self._recordings(), "train", recorded.TRAIN_SEED, count
        )
        return recorded.load_train_places(folder, count, places, self.painter.spec)

    def _sampling(self) -> JsonObject:
        """Return the sampling settings that decide about the views; {} for other painters."""
        painter = self.painter
        values: JsonObject = to_json(painter.config) if isinstance(painter, NetworkPainter) else {}
        return {name: value for name, value in values.items() if name != "places"}

    def _folder(self, test_sha256: str) -> Path | None:
        """Return the folder of paintings, which belongs to one painter and its settings."""
        if not isinstance(self.painter, NetworkPainter):
            return None
        key = key_of(
            [
                PROTOCOL,
                self.painter.weights_id,
                self._sampling(),
                self.config.seed,
                test_sha256,
                self.device.type,
            ]
        )
        return make_writable_folder(self.config.cache / f"paintings-{key}")

    def _time(self, places: Places) -> float | None:
        """Time a new place, and say how long the rest will take."""
        if "time" not in self.config.parts:
            return None
        say("timing a new place of 8 headings, painted alone")
        alone = self.painter
        if isinstance(alone, NetworkPainter):
            config = replace(alone.config, places=1)
            alone = NetworkPainter(alone.network, alone.spec, config).with_graphs()
        seconds = _fitting(1, lambda: seconds_per_place(alone, places))
        if self.device.type == "cpu":
            rest = seconds * self._work() * self.count
            say(
                f"one place takes {span(seconds)}; the paintings of {self.count} places take about "
                f"{span(rest)} on this CPU. Fewer --places, --num-inference-steps or --parts take "
                f"less. An interrupted evaluation resumes."
            )
        return round(seconds, 4)

    def _work(self) -> float:
        """Return the network evaluations per place over those of a new place."""
        sampling = self._sampling()
        new = 1 + (sampling.get("guidance_scale", 1.0) != 1.0)
        rest = 1 + (sampling.get("memory_guidance_scale", 1.0) != 1.0)
        own = self._views()
        views = {name: count * (new if name == "new" else rest) for name, count in own.items()}
        return sum(views.values()) / (HEADINGS * new)

    def _views(self) -> dict[str, int]:
        """Return the views that each part paints per place."""
        views = {
            "new": new_places.VIEWS,
            "completion": completion.VIEWS,
            "joint": joint.VIEWS,
            "depth": depth_errors.VIEWS,
        }
        parts = set(self.config.parts)
        if "memorisation" in parts:
            parts.add("new")
        return {name: count for name, count in views.items() if name in parts}

    def _paint(self, places: Places) -> dict[str, Painted]:
        """Paint everything that is measured, by name."""
        found: dict[str, Painted] = {}
        paint: dict[str, Callable[[Paintings, Places], Painted]] = {
            "new": new_places.paint,
            "completion": completion.paint,
            "depth": depth_errors.paint,
        }
        wanted = self._views()
        with Progress(sum(wanted.values()) * self.count, "painting", "view") as bar:
            self.paintings.progress = bar.update
            for name in wanted:
                if name in paint:
                    work = partial(paint[name], self.paintings, places)
                    found[name] = _fitting(self.batch, work)
                else:
                    found |= _fitting(self.batch, partial(joint.paint, self.paintings, places))
        return found

    def _compare(
        self,
        yardstick: Yardstick,
        painted: dict[str, Painted],
        places: Places,
        train: recorded.TrainPlaces | None,
    ) -> None:
        """Add the figures of all parts."""
        parts, figures = self.config.parts, self.figures
        if "new" in parts and train is not None:
            others = {
                "floor": train.matched,
                "inpaint": inpaint_around(places),
                "world": self._turn(places),
            }
            new_places.measure(figures, yardstick, painted["new"], places, others)
        if "completion" in parts:
            completion.measure(figures, yardstick, painted["completion"], places)
        if "memorisation" in parts and train is not None:
            views = painted["new"].rgb, places.rgb[:, :HEADINGS]
            memorisation.measure(figures, *views, train.frames)
        if "joint" in parts:
            both = {name: painted[name] for name in ("joint", "single")}
            joint.measure(figures, both, places)
        if "depth" in parts and train is not None:
            depth_errors.measure(figures, painted["depth"], places, train.median_code)

    def _turn(self, places: Places) -> Tensor | None:
        """Dream a turn on the spot in the world, if it has the painter's frames."""
        if self.config.world is None:
            return None
        world = World.from_pretrained(self.config.world, self.device)
        if not fits(world, places):
            say(
                f"world {self.config.world} is left out: its frames, actions or poses are not "
                f"those of the places"
            )
            return None
        with Progress(None, "dreaming a turn") as bar:
            return turn_round(world, places, self.config.seed, max(self.batch, 8), bar.update)

    def _about(self, test: recorded.TestPlaces) -> JsonObject:
        """Return what was measured, and how."""
        painter = self.painter
        weights = painter.weights_id if isinstance(painter, NetworkPainter) else None
        return {
            "protocol": PROTOCOL,
            "painter": self.config.painter,
            "weights_sha256": weights,
            "encoder_sha256": sha256_of(FOLDER / WEIGHTS),
            "test_places_sha256": test.sha256,
            "maps": list(test.maps),
            "places": self.count,
            "seed": self.config.seed,
            "sampling": self._sampling(),
            "device": str(self.device),
        }

    def _draw(
        self, yardstick: Yardstick, painted: dict[str, Painted], places: Places, folder: Path
    ) -> JsonObject:
        """Write the contact sheets; returns what the validator refuses."""
        out = make_writable_folder(folder)
        shown = {name: views for name, views in painted.items() if name != "depth"}
        sheets.save_sheets(shown, places, out)
        if "new" not in painted:
            return {}
        path = out / "failures.png"
        return {
            "validator": sheets.save_failures(self.painter, yardstick, painted["new"], places, path)
        }


def _fitting(batch: int, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; an out-of-memory error says what to change."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{batch} places at once do not fit on the GPU: try --batch {max(1, batch // 4)}"
        ) from error
