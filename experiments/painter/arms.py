"""Choose a painter's weights and sampling settings, and confirm the choice on other places.

    python experiments/painter/arms.py --encoder ENCODER --train TRAIN --test TEST \\
        --out OUT --painter PAINTER

The settings are chosen on test places after the first 512, one after another: weights, solver and
schedule, guidance scale. The chosen ones are measured on the first 512, which no choice has seen.
Results: docs/experiments/painter.md. Needs a GPU; all arms take about four minutes on an H200.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from evaluate import Artist, depth_of_pictures, inpaint, sheets
from ground import Ground, Record, measure_new, paint_headings
from yardstick import Yardstick, load

from worldsim.evaluation.encoder import load_encoder
from worldsim.painting.checkpoint import Saved, load_painter, save_painter
from worldsim.painting.network import PainterNetwork
from worldsim.painting.sampling import PaintConfig
from worldsim.runtime.json_config import to_json

SCALES = (2.0, 3.0, 4.0, 6.0)
"""Guidance scales that are tried."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    encoder: Path
    """Folder of the frozen encoder."""
    train: Path
    """Look-arounds of train maps, for the median depth."""
    test: Path
    """Look-arounds of test maps."""
    out: Path
    """Folder of ``arms.json`` and the pictures."""
    painter: Path
    """Folder of the painter."""
    places: int = 512
    """Places on which choices are confirmed, the first of ``test``."""
    choose: int = 128
    """Places on which choices are made, the next ones."""
    batch: int = 32
    """Places painted at once."""
    sheet: int = 16
    """Places on a contact sheet."""
    steps: int = 25
    """Sampling steps; twice as many are tried, too."""
    seconds: float = 1e9
    """Time limit. An arm that would probably exceed it is left out."""
    compile: bool = True
    """Whether the networks are compiled."""
    seed: int = 0
    """Seed of the noise."""


class Arms:
    """Paints places in several ways and measures each."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.record = Record(config.out / "arms.json", config.seconds)
        self.found = self.record.found
        self.yardstick = Yardstick(load_encoder(config.encoder, device))
        places = load(config.test, config.places + config.choose, device)
        self.test = Ground(places.part(slice(0, config.places)), self.yardstick)
        self.extra = Ground(places.part(slice(config.places, None)), self.yardstick)
        self.saved = load_painter(config.painter)
        self.networks = {
            "average": self.ready(self.saved.network(average=True)),
            "last": self.ready(self.saved.network(average=False)),
        }
        self.weights = "average"
        self.fd: dict[tuple[str, PaintConfig], float] = {}
        self.found["step"] = self.saved.card["step"]
        self.found["places_confirmed"] = len(self.test.places.rgb)
        self.found["places_chosen_on"] = len(self.extra.places.rgb)

    def ready(self, network: PainterNetwork) -> PainterNetwork:
        """A network for painting, compiled if wanted."""
        network = network.requires_grad_(False).eval().to(self.device)
        if self.config.compile:
            network.compile_parts()
        return network

    def new(
        self,
        ground: Ground,
        sampling: PaintConfig,
        attributes: bool = True,
        network: PainterNetwork | None = None,
    ) -> dict[str, Any]:
        """Measure new places."""
        artist = Artist(network or self.networks[self.weights], sampling, self.config.seed)
        return {"weights": self.weights, **measure_new(artist, ground, attributes)}

    def completed(self, ground: Ground, sampling: PaintConfig) -> dict[str, Any]:
        """Measure headings completed from the displaced views, also with known pixels kept."""
        artist = Artist(self.networks[self.weights], sampling, self.config.seed)
        scale = sampling.guidance_scale
        rgb, _ = paint_headings(artist, ground.places, ground.memory, False, scale)
        kept = torch.where(ground.mask > 0, ground.shown, rgb)
        return {
            "sampling": to_json(sampling),
            "weights": self.weights,
            **ground.measure_completed(rgb),
            "known_pixels_kept": ground.measure_completed(kept),
        }

    def run(self, name: str, cost: float, arm: Callable[[], dict[str, Any]]) -> float:
        """Measure an arm; returns its FD, 0 if it has none, infinite if left out.

        cost: seconds that it takes.
        """
        found = self.record.run(name, arm, cost)
        return float("inf") if not found else float(found["fd"][0]) if "fd" in found else 0.0

    def choice(self, name: str, sampling: PaintConfig, cost: float) -> float:
        """Return the FD of new places on the places for choices."""
        key = self.weights, sampling
        if key not in self.fd:
            self.fd[key] = self.run(f"choose {name}", cost, lambda: self.new(self.extra, sampling))
        return self.fd[key]

    def choose(self, arms: dict[str, PaintConfig], cost: float) -> PaintConfig:
        """Return the settings of the arm with the smallest FD on the places for choices."""
        fd = {name: self.choice(name, sampling, cost) for name, sampling in arms.items()}
        best = min(fd, key=fd.__getitem__)
        print("chosen:", best, flush=True)
        return arms[best]


def completions(arms: Arms, best: PaintConfig, one: float, whole: float) -> None:
    """Complete partial memories with several guidance scales, and confirm with 1 and the best."""
    scaled = {g: dataclasses.replace(best, guidance_scale=g) for g in (1.0, 1.5, 2.0, 3.0)}
    fd = {
        g: arms.run(f"choose memory guidance {g:g}", one, lambda s=s: arms.completed(arms.extra, s))
        for g, s in scaled.items()
    }
    arms.found["memory_guidance"] = chosen = min(fd, key=fd.__getitem__)
    truth, test = arms.test.truth, arms.test
    inpainted = inpaint(test.flat).to(arms.device)
    arms.run("confirm inpaint", 0.0, lambda: test.measure_completed(inpainted))
    arms.run("real", 0.0, lambda: test.measure_completed(truth))
    for g in sorted({1.0, chosen}):
        cost = whole if g != 1.0 else whole / 2
        name = f"confirm memory guidance {g:g}"
        arms.run(name, cost, lambda g=g: arms.completed(test, scaled[g]))


def pictures(arms: Arms, best: PaintConfig) -> None:
    """Write contact sheets, and measure the depth of pictures."""
    config, scale = arms.config, float(arms.found.get("memory_guidance", 1.0))
    network = arms.saved.network(average=arms.weights == "average")
    # Not compiled: the number of places is another one.
    artist = Artist(network.requires_grad_(False).eval().to(arms.device), best, config.seed)
    places = arms.test.places.part(slice(0, config.sheet))

    def draw() -> dict[str, Any]:
        sheets(artist, places, config.out, best.guidance_scale, scale)
        return {"guidance": best.guidance_scale, "guidance_memory": scale}

    arms.run("sheets", 8.0, draw)
    train = load(config.train, config.places, arms.device)
    arms.run("depth", 4.0, lambda: depth_of_pictures(artist, arms.test.places, train))


def shipped(arms: Arms, best: PaintConfig, cost: float) -> None:
    """Save the chosen weights in 8 bits, and measure them."""
    saved: Saved = arms.saved
    weights = saved.average if arms.weights == "average" else saved.weights
    card = {"step": saved.card["step"]}
    save_painter(arms.config.out / "shipped", saved.card["settings"], weights, None, card, True)
    network = arms.ready(load_painter(arms.config.out / "shipped").network())
    arms.run("confirm 8-bit", cost, lambda: arms.new(arms.test, best, network=network))


def main() -> None:
    """All arms, in the order of their importance."""
    config = tyro.cli(Config, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    arms = Arms(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    # Seconds of a guided arm of 25 steps on the places for choices, and on the others.
    one, whole = (8.0 * places / 192 for places in (config.choose, config.places))
    euler = PaintConfig(config.steps, 2.0, solver="euler", schedule_power=1.0, places=config.batch)
    fd = {}
    for weights in arms.networks:
        arms.weights = weights
        fd[weights] = arms.choice(f"{weights} weights", euler, one)
    arms.weights = min(fd, key=fd.__getitem__)
    arms.found["weights"] = arms.weights

    def settings(**changes: Any) -> PaintConfig:
        return dataclasses.replace(euler, **changes)

    second = "dpmsolver++"
    sampler = arms.choose(
        {
            "euler": euler,
            "2m": settings(solver=second),
            "2m power 1.5": settings(solver=second, schedule_power=1.5),
            "2m power 2": settings(solver=second, schedule_power=2.0),
            "euler power 1.5": settings(schedule_power=1.5),
        },
        one,
    )
    scales = {f"guidance {g:g}": dataclasses.replace(sampler, guidance_scale=g) for g in SCALES}
    best = arms.choose(scales, one)
    long = dataclasses.replace(best, num_inference_steps=2 * config.steps)
    arms.choice("twice the steps", long, 2 * one)
    arms.run("confirm chosen", whole, lambda: arms.new(arms.test, best))
    completions(arms, best, one, whole)
    pictures(arms, best)
    arms.run("confirm leg 2's settings", whole, lambda: arms.new(arms.test, euler))
    arms.run("confirm twice the steps", 2 * whole, lambda: arms.new(arms.test, long))
    shipped(arms, best, whole)
    free = dataclasses.replace(best, guidance_scale=1.0)
    arms.run("confirm unconditional", whole / 2, lambda: arms.new(arms.test, free, False))


if __name__ == "__main__":
    main()
