"""Measure a painter with several guidance scales, and the yardstick itself.

    python experiments/painter/evaluate.py --encoder out/encoder --train /tmp/train \\
        --test /tmp/test --out out/evaluation [--painter out/painter/state]

Without ``--painter`` only the yardstick: the floor and how distances grow with damage. With it, the
network paints with the same noise as ``arms.py``, and known pixels are not pasted back. The
measures are those of ``worldsim evaluate`` (:mod:`worldsim.painting.evaluation`), which measures a
painter as its users get it. Results: docs/experiments/painter.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from yardstick import HEADINGS, Places, Yardstick, load, yardstick

from worldsim.evaluation.encoder import load_encoder
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.painting.channels import clean_channels, rays_of
from worldsim.painting.checkpoint import load_painter
from worldsim.painting.evaluation.baselines import inpaint
from worldsim.painting.evaluation.completion import partly_covered
from worldsim.painting.evaluation.depth_errors import errors
from worldsim.painting.evaluation.neighbours import overlap
from worldsim.painting.evaluation.places import partial_memory
from worldsim.painting.evaluation.sheets import sheet, shown
from worldsim.painting.network import PainterNetwork
from worldsim.painting.sampling import PaintConfig, frames_of, paint
from worldsim.runtime.json_config import to_json, write_json
from worldsim.state import Frame


@dataclass(frozen=True)
class Config:
    """Settings."""

    encoder: Path
    """Folder of the frozen encoder."""
    train: Path
    """Look-arounds of train maps."""
    test: Path
    """Look-arounds of test maps."""
    out: Path
    """Folder of ``yardstick.json`` or ``painter.json`` and the pictures."""
    painter: Path | None = None
    """Folder of a painter."""
    places: int = 512
    """Places a set that is compared."""
    pool: int = 4096
    """Train places among which those with matching attributes are chosen."""
    sampling: PaintConfig = field(default_factory=lambda: PaintConfig(places=32))
    """Sampling settings; ``guidance`` replaces the scale."""
    guidance: tuple[float, ...] = (1.0, 2.0)
    """Guidance scales of new places with attributes."""
    sheet: int = 16
    """Places on a contact sheet."""
    parts: tuple[str, ...] = ("new", "memory", "depth", "sheets")
    """What is measured of the painter."""
    seed: int = 0
    """Of the noise."""


class Artist:
    """A painter at work on places."""

    def __init__(self, network: PainterNetwork, sampling: PaintConfig, seed: int = 0) -> None:
        self.network, self.sampling = network, sampling
        self.generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)

    def paint(
        self,
        at: Places,
        views: int,
        unknown: Tensor,
        memory: Tensor | None,
        told: bool,
        guidance: float,
    ) -> tuple[Tensor, Frame]:
        """The first ``views`` views of places: channels (s, n, 5, h, w), and frames of all."""
        clean = clean_channels(at.rgb[:, :views], at.code[:, :views])
        rays = rays_of(at.pose[:, :views], at.intrinsics, *clean.shape[-2:])
        memory = torch.zeros_like(clean) if memory is None else memory
        known = torch.full_like(at.attributes, float(told))
        config, parts = self.sampling, []
        config = replace(config, guidance_scale=guidance, memory_guidance_scale=guidance)
        for i in range(0, len(clean), config.places):
            s = slice(i, i + config.places)
            noise = torch.randn(clean[s].shape, generator=self.generator, device=clean.device)
            which = unknown.expand(len(noise), views, 2)
            parts.append(
                paint(
                    self.network,
                    clean[s],
                    which,
                    memory[s],
                    rays[s],
                    at.attributes[s],
                    known[s],
                    noise,
                    config,
                )
            )
        painted = torch.cat(parts)
        return painted, frames_of(painted.flatten(0, 1), at.pose[:, :views].flatten(0, 1))


def everything(views: int, device: torch.device, given: int = 0, picture: bool = False) -> Tensor:
    """(1, n, 2) bool: all unknown but the first ``given`` views; their depth too if ``picture``."""
    unknown = torch.ones(1, views, 2, dtype=torch.bool, device=device)
    unknown[:, :given, 0] = False
    unknown[:, :given, 1] = picture
    return unknown


def new_places(
    artist: Artist, measure: Yardstick, test: Places, scales: tuple[float, ...]
) -> dict[str, Any]:
    """512 new places of 8 headings, with and without attributes."""
    real = measure.features(test.headings)
    ways = {
        "unconditional": (False, 1.0),
        **{f"attributes_guidance_{g:g}": (True, g) for g in scales},
    }
    found: dict[str, Any] = {
        "real": {"overlap": overlap(test.rgb[:, :HEADINGS], test.code[:, :HEADINGS], test)}
    }
    for name, (told, guidance) in ways.items():
        begun = time.monotonic()
        unknown = everything(HEADINGS, test.rgb.device)
        _, frame = artist.paint(test, HEADINGS, unknown, None, told, guidance)
        taken = time.monotonic() - begun
        assert frame.inverse_depth is not None
        rgb, code = (x.unflatten(0, (-1, HEADINGS)) for x in (frame.rgb, frame.inverse_depth))
        found[name] = {
            **measure.between(measure.features(frame.rgb), real),
            "overlap": overlap(rgb, code, test),
            "sharpness": float(sharpness(frame.rgb).mean() / sharpness(test.headings).mean()),
            "seconds": round(taken, 1),
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def from_memory(artist: Artist, measure: Yardstick, test: Places) -> dict[str, Any]:
    """8 headings completed from what the displaced views show of them, beside cv2.inpaint."""
    memory = partial_memory(test, list(range(HEADINGS, test.rgb.shape[1])))
    _, frame = artist.paint(test, HEADINGS, everything(HEADINGS, memory.device), memory, False, 1.0)
    real = measure.features(test.headings)
    truth = test.headings
    found: dict[str, Any] = {"coverage": float(memory[:, :, 4].mean((2, 3)).mean())}
    partly = partly_covered(memory).flatten()
    for name, rgb in (
        ("painter", frame.rgb),
        ("inpaint", inpaint(memory.flatten(0, 1)).to(truth.device)),
    ):
        found[name] = {
            **measure.between(measure.features(rgb), real),
            "psnr_at_coverage_10_to_70": float(psnr(rgb, truth)[partly].mean()),
            "sharpness": float(sharpness(rgb).mean() / sharpness(truth).mean()),
        }
    return found


def depth_of_pictures(artist: Artist, test: Places, train: Places) -> dict[str, Any]:
    """Depth from one picture: mean of |d - d*| / d* over pixels that are not sky in truth."""
    true = test.code[:, 0]
    unknown = everything(1, true.device, 1, True)
    _, frame = artist.paint(test, 1, unknown, None, False, 1.0)
    assert frame.inverse_depth is not None
    middle = train.code[:, 0].flatten(1).median(0).values.view(true.shape[1:])
    found = errors(frame.inverse_depth, true, middle, test.intrinsics)
    rel = {name: float(x[:, 0].sum() / x[:, 1].sum()) for name, x in found.items()}
    return {
        "abs_rel": rel["painted"],
        "abs_rel_median_map": rel["median_map"],
        "abs_rel_floor_plane": rel["floor_plane"],
        "sky_right": float(((frame.inverse_depth == 0) == (true == 0)).float().mean()),
    }


def sheets(
    artist: Artist, test: Places, out: Path, guidance: float, guidance_memory: float = 1.0
) -> None:
    """Contact sheets of places, none selected."""
    at, device = test, test.rgb.device
    first = partial_memory(at, [0])
    memory = partial_memory(at, list(range(HEADINGS, at.rgb.shape[1])))
    ways = {
        "unconditional": (everything(HEADINGS, device), None, False, 1.0),
        "attributes": (everything(HEADINGS, device), None, True, guidance),
        "one-picture": (everything(HEADINGS, device, 1, True), None, False, 1.0),
        "one-view": (everything(HEADINGS, device, 1), first, False, guidance_memory),
        "memory": (everything(HEADINGS, device), memory, False, guidance_memory),
    }
    sheet(at.rgb[:, :HEADINGS], at.code[:, :HEADINGS], out / "real.png")
    sheet(shown(memory), at.code[:, :HEADINGS], out / "memory-shown.png")
    for name, arguments in ways.items():
        _, frame = artist.paint(at, HEADINGS, *arguments)
        assert frame.inverse_depth is not None
        sheet(
            *(x.unflatten(0, (-1, HEADINGS)) for x in (frame.rgb, frame.inverse_depth)),
            out / f"{name}.png",
        )


def main(config: Config) -> None:
    """Measure, and write what was found."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config.out.mkdir(parents=True, exist_ok=True)
    measure = Yardstick(load_encoder(config.encoder, device))
    train, test = (
        load(config.train, config.places, device),
        load(config.test, config.places, device),
    )
    if config.painter is None:
        found = yardstick(measure, train, test, load(config.train, config.pool, device))
        write_json(config.out / "yardstick.json", found)
        print(json.dumps(found))
        return
    saved = load_painter(config.painter)
    network = saved.network().requires_grad_(False).eval().to(device)
    artist = Artist(network, config.sampling, config.seed)
    found = {
        "step": saved.card["step"],
        "places": len(test.rgb),
        "sampling": to_json(config.sampling),
    }
    parts: dict[str, Callable[[], Any]] = {
        "sheets": lambda: sheets(
            artist, test.part(slice(0, config.sheet)), config.out, config.guidance[-1]
        ),
        "new": lambda: new_places(artist, measure, test, config.guidance),
        "memory": lambda: from_memory(artist, measure, test),
        "depth": lambda: depth_of_pictures(artist, test, train),
    }
    for name, part in parts.items():
        if name in config.parts:
            found[name] = part()
            print(name, json.dumps(found[name]), flush=True)
            write_json(config.out / "painter.json", found)


if __name__ == "__main__":
    main(tyro.cli(Config))
