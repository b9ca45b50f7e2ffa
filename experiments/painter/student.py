"""Measure a distilled painter beside its teacher. Results: docs/experiments/painter_distil.md.

    python experiments/painter/student.py --teacher TEACHER --student STUDENT --test TEST \\
        --out OUT

The student's weights (average or last) and the teacher's guidance by attributes are measured on
test places after the first 512, everything else on the first 512. Needs a GPU; all arms take about
four minutes on an H200. ``--seconds`` leaves out the last ones.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from evaluate import Artist, depth_of_pictures, sheets
from ground import Ground, Record, measure_new, paint_headings
from torch import Tensor
from yardstick import HEADINGS, Places, Yardstick, load

from worldsim.evaluation.encoder import FOLDER, load_encoder
from worldsim.painting.checkpoint import Saved, load_painter, save_painter
from worldsim.painting.network import PainterNetwork
from worldsim.painting.sampling import PaintConfig
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.views import load_view_sets
from worldsim.runtime.json_config import to_json

CUTS = (8, 6, 4)
"""Steps of the teacher with guidance that are measured beside the student."""
WORDS = (1.0, 2.0, 3.0, 5.0)
"""Guidance scales of attributes that are measured on places with a memory."""
REPEATS = 5
"""Times that a place is painted and timed, after one that is not."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    teacher: Path
    """Folder of the teacher, whose last weights are used."""
    student: Path
    """Folder of the student."""
    test: Path
    """Look-arounds of test maps."""
    out: Path
    """Folder of ``student.json`` and the pictures. The student in 8 bits is written to ``shipped``
    there."""
    train: Path | None = None
    """Look-arounds of train maps, for the median depth. Without it, depth is not measured."""
    encoder: Path = FOLDER
    """Folder of the frozen encoder."""
    places: int = 512
    """Places that are measured, the first of ``test``."""
    choose: int = 128
    """Places on which choices are made, the next ones."""
    batch: int = 32
    """Places painted at once."""
    sheet: int = 16
    """Places on a contact sheet."""
    steps: int = 25
    """Sampling steps of the teacher."""
    seconds: float = 1e9
    """Time limit. An arm that would begin later is left out."""
    compile: bool = True
    """Whether the networks are compiled."""
    seed: int = 0
    """Seed of the noise."""


def places_of(folder: Path, count: int, device: torch.device, names: tuple[str, ...]) -> Places:
    """The first places of a folder, with the attributes ``names`` of those that were recorded."""
    recorded = load_view_sets(shard_files(folder)[0]).names
    places = load(folder, count, device)
    at = [recorded.index(name) for name in names]
    return dataclasses.replace(places, attributes=places.attributes[:, at])


class Comparison:
    """Paints places by teacher and student, and measures both."""

    def __init__(self, config: Config, device: torch.device, names: tuple[str, ...]) -> None:
        self.config, self.device = config, device
        self.record = Record(config.out / "student.json", config.seconds)
        self.found = self.record.found
        self.yardstick = Yardstick(load_encoder(config.encoder, device))
        places = places_of(config.test, config.places + config.choose, device, names)
        told = self.yardstick.encoder.config.attributes
        self.told = [names.index(name) for name in told]
        """Where the encoder's attributes are among the painter's."""
        self.test = Ground(places.part(slice(0, config.places)), self.yardstick)
        self.extra = Ground(places.part(slice(config.places, None)), self.yardstick)
        self.found["places"] = len(self.test.places.rgb)
        self.found["places_chosen_on"] = len(self.extra.places.rgb)

    def ready(self, saved: Saved, average: bool, compiled: bool = True) -> PainterNetwork:
        """A network for painting."""
        network = saved.network(average=average).requires_grad_(False).eval().to(self.device)
        if self.config.compile and compiled:
            network.compile_parts()
        return network

    def paint(
        self,
        network: PainterNetwork,
        sampling: PaintConfig,
        places: Places,
        memory: Tensor | None = None,
        told: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Headings and inverse-depth codes of places, (s * 8, ...)."""
        artist = Artist(network, sampling, self.config.seed)
        scale = sampling.guidance_scale if memory is None else sampling.memory_guidance_scale
        return paint_headings(artist, places, memory, told, scale)

    def new(
        self, network: PainterNetwork, sampling: PaintConfig, ground: Ground | None = None
    ) -> dict[str, Any]:
        """Figures of new places with attributes."""
        return measure_new(Artist(network, sampling, self.config.seed), ground or self.test)

    def completed(self, network: PainterNetwork, sampling: PaintConfig) -> dict[str, Any]:
        """Figures of headings completed from the displaced views, without attributes."""
        rgb, _ = self.paint(network, sampling, self.test.places, self.test.memory, told=False)
        return {"sampling": to_json(sampling), **self.test.measure_completed(rgb)}

    def steered(self, network: PainterNetwork, sampling: PaintConfig) -> dict[str, Any]:
        """The same with attributes: the places' own, and those of another place.

        ``steering`` is the share of the difference of two places' attributes that the encoder finds
        in the paintings, over what it finds in the real places.
        """
        ground = self.extra
        own = ground.places.attributes
        other = own.roll(1, 0)
        swapped = dataclasses.replace(ground.places, attributes=other)
        rgb, _ = self.paint(network, sampling, ground.places, ground.memory)
        wrong, _ = self.paint(network, sampling, swapped, ground.memory)
        real = self.shown(ground.truth)
        wanted = (other - own)[:, self.told]
        moved = ((self.shown(wrong) - self.shown(rgb)) * wanted).sum()
        return {
            "sampling": to_json(sampling),
            **ground.measure_completed(rgb),
            "steering": float(moved / ((real.roll(1, 0) - real) * wanted).sum()),
            "other_attributes": ground.measure_completed(wrong),
        }

    def shown(self, rgb: Tensor) -> Tensor:
        """What the encoder finds of the attributes in headings (s * 8, ...), (s, a) in [0, 1]."""
        encoder = self.yardstick.encoder
        features = self.yardstick.features(rgb).to(self.device)
        shares = encoder.heads_of(features)["attributes"].sigmoid()
        return shares.unflatten(0, (-1, HEADINGS)).mean(1)

    def timed(self, network: PainterNetwork, sampling: PaintConfig) -> dict[str, Any]:
        """Seconds of a new place of 8 headings that is painted alone."""
        sampling = dataclasses.replace(sampling, places=1)
        place, taken = self.test.places.part(slice(0, 1)), []
        for _ in range(REPEATS + 1):
            begun = time.monotonic()
            self.paint(network, sampling, place)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.monotonic() - begun)
        return {"sampling": to_json(sampling), "seconds_per_place": sorted(taken[1:])[REPEATS // 2]}


def main() -> None:
    """All arms, in the order of their importance."""
    config = tyro.cli(Config, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64
    of_teacher, of_student = load_painter(config.teacher), load_painter(config.student)
    names = tuple(of_student.card["settings"]["attributes"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compare = Comparison(config, device, names)
    run = compare.record.run
    teacher = compare.ready(of_teacher, average=False)
    compare.found["distilled"] = of_student.card.get("distilled")
    compare.found["step"] = of_student.card["step"]

    few = dataclasses.replace(of_student.sampling(), places=config.batch)
    many = PaintConfig(config.steps, places=config.batch)
    weights = {"average": True, "last": False} if of_student.weights else {"average": True}
    students = {name: compare.ready(of_student, average) for name, average in weights.items()}
    found = {
        name: run(f"choose {name}", lambda n=network: compare.new(n, few, compare.extra))
        for name, network in students.items()
    }
    chosen = min(found, key=lambda name: found[name]["fd"][0])
    student = students[chosen]
    compare.found["weights"] = chosen
    save_painter(
        config.out / "shipped",
        of_student.card["settings"],
        student.state_dict(),
        told={"step": of_student.card["step"], "distilled": of_student.card.get("distilled")},
        eight_bit=True,
        spec=of_student.spec(),
        sampling=of_student.sampling(),
    )

    def cut(steps: int) -> PaintConfig:
        return dataclasses.replace(many, num_inference_steps=steps)

    run("student", lambda: compare.new(student, few))
    run(f"teacher {config.steps}", lambda: compare.new(teacher, many))
    run("student completes", lambda: compare.completed(student, few))
    run(f"teacher {config.steps} completes", lambda: compare.completed(teacher, many))
    # Not compiled: few places at once, as in use.
    plain = compare.ready(of_student, average=chosen == "average", compiled=False)
    plain_teacher = compare.ready(of_teacher, average=False, compiled=False)
    run("student time", lambda: compare.timed(plain, few))
    run("teacher time", lambda: compare.timed(plain_teacher, many))
    for steps in CUTS:
        run(f"teacher {steps}", lambda s=steps: compare.new(teacher, cut(s)))
    run(f"teacher {CUTS[0]} completes", lambda: compare.completed(teacher, cut(CUTS[0])))
    eight_bit = compare.ready(load_painter(config.out / "shipped"), average=True)
    run("student 8-bit", lambda: compare.new(eight_bit, few))
    run("student 8-bit completes", lambda: compare.completed(eight_bit, few))
    artist, places = Artist(plain, few, config.seed), compare.test.places
    first = places.part(slice(0, config.sheet))
    run("sheets", lambda: sheets(artist, first, config.out, few.guidance_scale) or {})
    run("steered student", lambda: compare.steered(student, few))
    for scale in WORDS:
        guided = dataclasses.replace(many, attribute_guidance_scale=scale)
        run(f"steered teacher {scale:g}", lambda g=guided: compare.steered(teacher, g))
    if config.train is not None:
        train = places_of(config.train, config.places, device, names)
        run("student depth", lambda: depth_of_pictures(artist, places, train))
    for steps in (4, 6, 12):
        other = dataclasses.replace(few, num_inference_steps=steps)
        run(f"student in {steps} steps", lambda o=other: compare.new(student, o))


if __name__ == "__main__":
    main()
