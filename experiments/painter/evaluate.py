"""Measure a painter, and the yardstick itself. Results: docs/experiments/painter.md.

    python experiments/painter/evaluate.py --encoder out/encoder --train /tmp/train \\
        --test /tmp/test --out out/evaluation [--painter out/painter/state]

Without ``--painter`` only the yardstick: the floor and how distances grow with damage. With it:
new places, places completed from a partial memory beside ``cv2.inpaint``, depth from one picture,
and contact sheets of places that nobody selected.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor
from yardstick import HEADINGS, Places, Yardstick, as_bytes, load, yardstick

from worldsim.camera import dequantise_depth
from worldsim.evaluation.encoder import load_encoder
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.io.pictures import depth_picture, save_picture
from worldsim.painting.channels import clean_channels, rays_of, unscale
from worldsim.painting.checkpoint import load_painter
from worldsim.painting.network import PainterNetwork
from worldsim.painting.sampling import PaintConfig, frames_of, paint
from worldsim.painting.training.batches import memory_channels
from worldsim.runtime.json_config import to_json, write_json
from worldsim.state import Frame

EYE_M = 41.0 / 32.0
"""Height of the camera over the floor, in metres."""
FARTHEST_M = 200.0
"""Depths beyond this count as this in errors."""


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


def overlap(rgb: Tensor, code: Tensor, at: Places) -> dict[str, float]:
    """How neighbours agree where one sees the other. rgb (s, 8, 3, h, w), code (s, 8, h, w)."""
    keep = torch.ones_like(code[:, :1], dtype=torch.bool)
    scores, covered = [], []
    for i in range(HEADINGS):
        j = (i + 1) % HEADINGS
        pose = at.pose[:, i : i + 1], at.pose[:, j : j + 1]
        shown = memory_channels(
            rgb[:, i : i + 1], code[:, i : i + 1], pose[0], keep, pose[1], at.intrinsics
        )[:, 0]
        mask = shown[:, 4:5] > 0
        error = ((unscale(shown[:, :3]) - (rgb[:, j].float() / 127.5 - 1)) * 127.5).square() * mask
        mean = error.sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)).clamp(min=1))
        scores.append(10 * torch.log10(255.0**2 / mean.clamp(min=6.5)))
        covered.append(mask.float().mean())
    return {
        "psnr": float(torch.stack(scores).mean()),
        "covered": float(torch.stack(covered).mean()),
    }


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


def partial_memory(at: Places, sources: list[int]) -> Tensor:
    """What a memory of these views shows at the headings, (s, 8, 5, h, w)."""
    keep = torch.ones_like(at.code[:, sources], dtype=torch.bool)
    parts = [
        memory_channels(
            p.rgb[:, sources],
            p.code[:, sources],
            p.pose[:, sources],
            k,
            p.pose[:, :HEADINGS],
            p.intrinsics,
        )
        for p, k in (
            (at.part(slice(i, i + 32)), keep[i : i + 32]) for i in range(0, len(at.rgb), 32)
        )
    ]
    return torch.cat(parts)


def inpaint(memory: Tensor) -> Tensor:
    """cv2.inpaint of memory views (m, 5, h, w): (m, 3, h, w) uint8."""
    rgb = as_bytes(unscale(memory[:, :3])).permute(0, 2, 3, 1).cpu().numpy()
    holes = (memory[:, 4] == 0).to(torch.uint8).cpu().numpy()
    filled = [
        cv2.inpaint(np.ascontiguousarray(p), h, 3, cv2.INPAINT_TELEA)
        for p, h in zip(rgb, holes, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2)


def from_memory(artist: Artist, measure: Yardstick, test: Places) -> dict[str, Any]:
    """8 headings completed from what the displaced views show of them, beside cv2.inpaint."""
    memory = partial_memory(test, list(range(HEADINGS, test.rgb.shape[1])))
    coverage = memory[:, :, 4].mean((2, 3))
    _, frame = artist.paint(test, HEADINGS, everything(HEADINGS, memory.device), memory, False, 1.0)
    real = measure.features(test.headings)
    truth = test.headings
    found: dict[str, Any] = {"coverage": float(coverage.mean())}
    partly = ((coverage > 0.1) & (coverage < 0.7)).flatten()
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
    one = test.part(slice(None))
    true = dequantise_depth(one.code[:, 0])
    _, frame = artist.paint(one, 1, everything(1, true.device, 1, True), None, False, 1.0)
    assert frame.inverse_depth is not None
    painted = dequantise_depth(frame.inverse_depth)
    known = true.isfinite()
    middle = dequantise_depth(
        train.code[:, 0].flatten(1).median(0).values.view(true.shape[1:])
    ).clamp(max=50.0)
    h = true.shape[1]
    below = (torch.arange(h, device=true.device) + 0.5 - test.intrinsics[3]).clamp(min=1e-3)
    floor = (EYE_M * test.intrinsics[1] / below)[:, None].expand_as(middle)
    floor = torch.where(below[:, None] > 1.0, torch.minimum(floor, 4 * middle), middle)

    def error(depth: Tensor) -> float:
        wrong = (depth.clamp(max=FARTHEST_M) - true).abs() / true
        return float(wrong[known].mean())

    sky = (frame.inverse_depth == 0) == (one.code[:, 0] == 0)
    return {
        "abs_rel": error(painted),
        "abs_rel_median_map": error(middle.expand_as(true)),
        "abs_rel_floor_plane": error(floor.expand_as(true)),
        "sky_right": float(sky.float().mean()),
    }


def sheet(rgb: Tensor, code: Tensor, path: Path) -> None:
    """Rows of 8 headings and their depth below: rgb (s, 8, 3, h, w), code (s, 8, h, w)."""
    rows = []
    for pictures, codes in zip(rgb.cpu(), code.cpu(), strict=True):
        rows.append(np.concatenate([p.permute(1, 2, 0).numpy() for p in pictures], 1))
        rows.append(np.concatenate([depth_picture(d.numpy()) for d in dequantise_depth(codes)], 1))
    save_picture(np.concatenate(rows, 0).repeat(2, 0).repeat(2, 1), path)


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
    shown = as_bytes(unscale(memory[:, :, :3])) * (memory[:, :, 4:] > 0)
    sheet(shown, at.code[:, :HEADINGS], out / "memory-shown.png")
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
