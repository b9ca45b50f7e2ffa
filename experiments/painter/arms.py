"""Arms of one painter: averaged or last weights, guidance, steps, known pixels kept.

    python experiments/painter/arms.py --encoder ENCODER --train TRAIN --test TEST \\
        --out OUT --painter PAINTER

Results: docs/experiments/painter.md. Needs a GPU; the eight arms take about four minutes on an
H200.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import torch
import tyro
from evaluate import Artist, Config, everything, inpaint, overlap, partial_memory, sheet
from torch import Tensor
from yardstick import HEADINGS, Yardstick, load

from worldsim.evaluation.encoder import load_encoder
from worldsim.evaluation.metrics import sharpness
from worldsim.painting.channels import unscale
from worldsim.painting.checkpoint import load_painter
from worldsim.runtime.json_config import write_json
from worldsim.state import Frame

LEAST_PIXELS = 40
"""Pixels of a picture from which on its error counts."""


def psnr_where(rgb: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Mean PSNR over the pixels where mask (n, 1, h, w) is 1. rgb, truth: (n, 3, h, w) uint8."""
    squares = (rgb.float() - truth.float()).square().mean(1, keepdim=True)
    count = mask.sum((1, 2, 3))
    error = (squares * mask).sum((1, 2, 3)) / count.clamp(min=1)
    values = 10 * torch.log10(255.0**2 / error.clamp(min=1.0))
    return float(values[count > LEAST_PIXELS].mean())


class Arms:
    """Paints the test places in several ways and measures each."""

    def __init__(self, config: Config, device: torch.device) -> None:
        assert config.painter is not None
        self.config, self.device = config, device
        self.yardstick = Yardstick(load_encoder(config.encoder, device))
        self.places = load(config.test, config.places, device)
        saved = load_painter(config.painter)
        self.networks = {
            average: saved.network(average=average).requires_grad_(False).eval().to(device)
            for average in (True, False)
        }
        self.truth = self.places.headings
        self.real = self.yardstick.features(self.truth)
        displaced = list(range(HEADINGS, self.places.rgb.shape[1]))
        self.memory = partial_memory(self.places, displaced)
        flat = self.memory.flatten(0, 1)
        self.flat, self.mask = flat, (flat[:, 4:5] > 0).float()
        share = self.mask.mean((1, 2, 3))
        self.partly = (share > 0.1) & (share < 0.7)
        shown = ((unscale(flat[:, :3]) + 1) * 127.5).round().clamp(0, 255)
        self.shown = shown.to(torch.uint8)
        self.found: dict[str, Any] = {"step": saved.card["step"]}

    def measure(self, rgb: Tensor) -> dict[str, Any]:
        """Figures of painted headings (n, 3, h, w) uint8."""
        some = self.partly
        return {
            **self.yardstick.between(self.yardstick.features(rgb), self.real),
            "sharpness": float(sharpness(rgb).mean() / sharpness(self.truth).mean()),
            "mean": float(rgb.float().mean()),
            "contrast": float(rgb.float().std((1, 2, 3)).mean()),
            "psnr_covered": psnr_where(rgb[some], self.truth[some], self.mask[some]),
            "psnr_holes": psnr_where(rgb[some], self.truth[some], 1 - self.mask[some]),
        }

    def paint(
        self,
        memory: Tensor | None,
        attributes: bool,
        guidance: float,
        steps: int,
        average: bool = True,
    ) -> Frame:
        """All headings of all places."""
        config = dataclasses.replace(self.config, steps=steps)
        artist = Artist(self.networks[average], config)
        order = everything(HEADINGS, self.device)
        _, frame = artist.paint(self.places, HEADINGS, order, memory, attributes, guidance)
        return frame

    def from_memory(self, guidance: float) -> dict[str, Any]:
        """Headings completed from the displaced views, as painted and with known pixels kept."""
        frame = self.paint(self.memory, False, guidance, 25)
        kept = torch.where(self.mask > 0, self.shown, frame.rgb)
        if guidance == 1.0:
            assert frame.inverse_depth is not None
            rgb, code = (
                x.unflatten(0, (-1, HEADINGS))[:16] for x in (frame.rgb, frame.inverse_depth)
            )
            sheet(rgb, code, self.config.out / "memory.png")
        return {"as_painted": self.measure(frame.rgb), "known_pixels_kept": self.measure(kept)}

    def new(self, average: bool, attributes: bool, guidance: float, steps: int) -> dict[str, Any]:
        """New places."""
        frame = self.paint(None, attributes, guidance, steps, average)
        assert frame.inverse_depth is not None
        rgb, code = (x.unflatten(0, (-1, HEADINGS)) for x in (frame.rgb, frame.inverse_depth))
        return {**self.measure(frame.rgb), "overlap": overlap(rgb, code, self.places)}

    def run(self, name: str, arm: Callable[[], dict[str, Any]]) -> None:
        """Measure an arm and write all figures so far."""
        begun = time.monotonic()
        self.found[name] = arm()
        self.found[name]["seconds"] = round(time.monotonic() - begun, 1)
        print(name, json.dumps(self.found[name]), flush=True)
        write_json(self.config.out / "arms.json", self.found)


def main() -> None:
    """All arms."""
    config = tyro.cli(Config, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    arms = Arms(config, torch.device("cuda"))
    arms.run("real", lambda: arms.measure(arms.truth))
    arms.run("inpaint", lambda: arms.measure(inpaint(arms.flat).to(arms.device)))
    arms.run("memory", lambda: arms.from_memory(1.0))
    arms.run("unconditional_last_weights", lambda: arms.new(False, False, 1.0, 25))
    arms.run("attributes_guidance_4", lambda: arms.new(True, True, 4.0, 25))
    arms.run("memory_guidance_2", lambda: arms.from_memory(2.0))
    arms.run("unconditional_50_steps", lambda: arms.new(True, False, 1.0, 50))
    arms.run("attributes_guidance_2_50_steps", lambda: arms.new(True, True, 2.0, 50))


if __name__ == "__main__":
    main()
