"""Sharpness of dreams on pixels that the memory knows, in gaps between splats, and in holes.

    worldsim record worldsim/FreedoomReal-v0 --out data --frames 2400 --frames-per-shard 800 \\
        --episode-steps 100 --seed 5 --reset-options split train
    python experiments/unknown_pixels.py --data data --json experiments/unknown_pixels.json

Walks of the first shard at their true poses: true frames, then dreamed ones, of which the memory
takes nothing. ``oracle``: the memory holds all true frames. ``plain``: only those before the dream.
``filled``: as ``plain``, and the network sees the memory's view with its gaps filled, each by the
nearest point.

For next frames and both halves of the dream: share of pixels, sharpness over that of the true
frames on the same pixels, and PSNR.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from worldsim.camera import Camera, relative_motion
from worldsim.data.dataset import EpisodeDataset
from worldsim.diffusion.denoiser import channels_to_frame
from worldsim.evaluation.metrics import gradient
from worldsim.memory.gaps import close_gaps, close_mask
from worldsim.memory.points import PointMemory
from worldsim.runtime.json_config import write_json
from worldsim.runtime.types import JsonObject
from worldsim.state import Frame
from worldsim.world import World

KINDS = ("all", "known", "gap", "hole")
NEXT = 16
"""Next frames are measured on so many of the last true ones."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: Path
    """Recording with geometry; its first shard is used."""
    world: str = "freedoom-tiny"
    """World to measure."""
    arms: tuple[str, ...] = ("plain", "filled", "oracle")
    """What to measure."""
    walks: int = 6
    """Walks of the shard."""
    history: int = 40
    """True frames."""
    horizon: int = 24
    """Dreamed frames."""
    json: Path | None = None
    """Where to write the figures."""


class Sums:
    """Sums over the pixels of each kind."""

    def __init__(self) -> None:
        self.inner, self.pixels, self.mine, self.true, self.squared = torch.zeros(5, len(KINDS))

    def add(self, mine: Tensor, true: Tensor, known: Tensor) -> None:
        """Add frames (b, 3, h, w) uint8; known: (b, h, w) bool, what the memory showed before."""
        closed = close_mask(known)
        kinds = torch.stack([torch.ones_like(known), known, closed & ~known, ~closed], 1).float()
        error = (mine.float() - true.float()).square().mean(1)
        self.pixels += kinds.sum((0, 2, 3))
        self.squared += (error[:, None] * kinds).sum((0, 2, 3))
        # A gradient belongs to known pixels if all that it is made of are known.
        solid = F.avg_pool2d(known[:, None].float(), 3, 1)[:, 0] > 0.999
        inner = kinds[:, :, 1:-1, 1:-1].clone()
        inner[:, 1] *= solid
        self.inner += inner.sum((0, 2, 3))
        self.mine += (gradient(mine)[:, None] * inner).sum((0, 2, 3))
        self.true += (gradient(true)[:, None] * inner).sum((0, 2, 3))

    def figures(self) -> JsonObject:
        """The figures by kind of pixel."""
        return {
            name: {
                "share": round(float(self.pixels[i] / self.pixels[0]), 4),
                "sharpness": round(float(self.mine[i] / self.true[i]), 3),
                "psnr": round(float(10 * (255.0**2 * self.pixels[i] / self.squared[i]).log10()), 2),
            }
            for i, name in enumerate(KINDS)
            if self.pixels[i] > 0 and self.true[i] > 0
        }


@torch.no_grad()
def measure(config: Config, world: World, arm: str) -> JsonObject:
    """Dream the walks in one way; returns the figures by part of the walks."""
    memory, dynamics = world.memory, world.dynamics
    assert isinstance(memory, PointMemory)
    arrays, _ = EpisodeDataset(config.data).load_shard(0)
    last, device = config.history + config.horizon, torch.device("cpu")
    index = arrays["episode_start"][: config.walks, None] + np.arange(last)
    rgb, depth, pose, act = (
        torch.from_numpy(np.array(arrays[name][index], dtype))
        for name, dtype in (
            ("rgb", np.uint8), ("inverse_depth", np.int32), ("pose", np.float32), ("act", np.int64),
        )
    )  # fmt: skip
    rgb = rgb.permute(0, 1, 4, 2, 3)
    b, (h, w) = len(rgb), rgb.shape[-2:]
    intrinsics = torch.from_numpy(np.array(arrays["intrinsics"], np.float32)).repeat(b, 1)
    step = torch.zeros(b, dtype=torch.int64)

    def frame_at(t: int) -> Frame:
        return Frame(rgb[:, t].contiguous(), depth[:, t].contiguous(), pose[:, t].contiguous())

    def camera(t: int) -> Camera:
        return Camera(pose[:, t].contiguous(), intrinsics, h, w)

    generator = torch.Generator().manual_seed(1)
    data, context = memory.empty(b, device), dynamics.empty(b, device)
    if arm == "oracle":
        for t in reversed(range(config.history, last)):
            data = memory.integrate(data, frame_at(t), camera(t), step)
    names = ("next", "first half", "second half")
    sums = {name: Sums() for name in names}
    for t in range(last):
        view = memory.render(data, camera(t))
        shown = close_gaps(view) if arm == "filled" else view
        motion = relative_motion(pose[:, max(t - 1, 0)], pose[:, t])
        condition = dynamics.condition(act[:, max(t - 1, 0)], motion, shown, intrinsics)
        noise = torch.randn(2, b, 4, h, w, generator=generator)
        frame, dreamed = frame_at(t), t >= config.history
        if t >= config.history - NEXT:
            x, _, after = dynamics.sample(context, condition, noise[0])
            mine = channels_to_frame(x.float(), frame.pose)
            part = names[1 + (2 * (t - config.history) >= config.horizon)] if dreamed else "next"
            sums[part].add(mine.rgb, frame.rgb, view.mask)
            if dreamed:
                frame, context = mine, after
        context = dynamics.hold(
            context if dreamed else dynamics.flush(context), frame, condition, noise[1]
        )
        if not dreamed:
            data = memory.integrate(data, frame, camera(t), step)
    return {name: sums[name].figures() for name in names}


def main(config: Config) -> None:
    """Measure, print and write the figures."""
    world = World.from_pretrained(config.world, "cpu")
    world.network.eval()
    found: JsonObject = {"world": config.world, "walks": config.walks, "arms": {}}
    for arm in config.arms:
        found["arms"][arm] = measure(config, world, arm)
        print(arm, json.dumps(found["arms"][arm]), flush=True)
    if config.json is not None:
        write_json(config.json, found)


if __name__ == "__main__":
    main(tyro.cli(Config))
