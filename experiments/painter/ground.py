"""Places on which painters are measured, and the record of what was measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from evaluate import Artist, everything, overlap, partial_memory
from torch import Tensor
from yardstick import HEADINGS, Places, Yardstick

from worldsim.evaluation.metrics import sharpness
from worldsim.painting.channels import unscale
from worldsim.runtime.json_config import to_json, write_json

LEAST_PIXELS = 40
"""Pixels of a picture from which on its error counts."""


def psnr_where(rgb: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Mean PSNR over the pixels where mask (n, 1, h, w) is 1. rgb, truth: (n, 3, h, w) uint8."""
    squares = (rgb.float() - truth.float()).square().mean(1, keepdim=True)
    count = mask.sum((1, 2, 3))
    error = (squares * mask).sum((1, 2, 3)) / count.clamp(min=1)
    values = 10 * torch.log10(255.0**2 / error.clamp(min=1.0))
    return float(values[count > LEAST_PIXELS].mean())


class Ground:
    """Places on which painters are measured, with what a memory of other views shows of them."""

    def __init__(self, places: Places, yardstick: Yardstick) -> None:
        self.places, self.yardstick = places, yardstick
        self.truth = places.headings
        self.real = yardstick.features(self.truth)
        self.memory = partial_memory(places, list(range(HEADINGS, places.rgb.shape[1])))
        self.flat = self.memory.flatten(0, 1)
        self.mask = (self.flat[:, 4:5] > 0).float()
        share = self.mask.mean((1, 2, 3))
        self.partly = (share > 0.1) & (share < 0.7)
        shown = ((unscale(self.flat[:, :3]) + 1) * 127.5).round().clamp(0, 255)
        self.shown = shown.to(torch.uint8)

    def measure(self, rgb: Tensor) -> dict[str, Any]:
        """Figures of painted headings (n, 3, h, w) uint8."""
        return {
            **self.yardstick.between(self.yardstick.features(rgb), self.real),
            "sharpness": float(sharpness(rgb).mean() / sharpness(self.truth).mean()),
            "mean": float(rgb.float().mean()),
            "contrast": float(rgb.float().std((1, 2, 3)).mean()),
        }

    def measure_completed(self, rgb: Tensor) -> dict[str, Any]:
        """The same with the PSNR of known pixels and of holes, at 10 to 70% coverage."""
        some = self.partly
        known, holes = self.mask[some], 1 - self.mask[some]
        return {
            **self.measure(rgb),
            "psnr_covered": psnr_where(rgb[some], self.truth[some], known),
            "psnr_holes": psnr_where(rgb[some], self.truth[some], holes),
            "psnr": psnr_where(rgb[some], self.truth[some], torch.ones_like(known)),
        }


def paint_headings(
    artist: Artist, places: Places, memory: Tensor | None, told: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Headings and inverse-depth codes of places, (s * 8, ...), with a guidance scale."""
    order = everything(HEADINGS, places.rgb.device)
    _, frame = artist.paint(places, HEADINGS, order, memory, told, scale)
    assert frame.inverse_depth is not None
    return frame.rgb, frame.inverse_depth


def measure_new(artist: Artist, ground: Ground, told: bool = True) -> dict[str, Any]:
    """Figures of new places, painted from attributes, or from nothing if ``told`` is False."""
    scale = artist.sampling.guidance_scale
    rgb, code = paint_headings(artist, ground.places, None, told, scale)
    both = (x.unflatten(0, (-1, HEADINGS)) for x in (rgb, code))
    return {
        "sampling": to_json(artist.sampling),
        **ground.measure(rgb),
        "overlap": overlap(*both, ground.places),
    }


class Record:
    """The figures of all arms so far, written after each.

    path: the JSON file.
    seconds: time limit, counted from here.
    found: figures by arm; further entries may be added.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds, self.begun = path, seconds, time.monotonic()
        self.found: dict[str, Any] = {}

    def run(
        self, name: str, arm: Callable[[], dict[str, Any]], cost: float = 0.0
    ) -> dict[str, Any]:
        """Measure an arm and write all figures so far; returns its figures, {} if left out.

        cost: seconds that it takes. It is left out if it would end after the time limit.
        """
        begun = time.monotonic()
        if begun - self.begun + cost > self.seconds:
            print(name, "left out for lack of time", flush=True)
            return {}
        found: dict[str, Any] = arm()
        self.found[name] = found
        found["seconds"] = round(time.monotonic() - begun, 1)
        print(name, json.dumps(found), flush=True)
        write_json(self.path, self.found)
        return found
