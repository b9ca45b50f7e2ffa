"""Do scaled channels help? Two small painters on a CPU. Results: docs/experiments/painter.md.

    python experiments/painter/record.py --out /tmp/a16 --sets 160 --sets-per-shard 32 --height 16
    --width 16 python experiments/painter/record.py --out /tmp/t16 --sets 32 --sets-per-shard 32
    --height 16 --width 16 \
        --split test --seed 9
    python experiments/painter/scale.py --train /tmp/a16 --test /tmp/t16 --arm scaled
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.painting import channels
from worldsim.painting.channels import rays_of
from worldsim.painting.levels import loss_of
from worldsim.painting.network import PainterNetwork
from worldsim.painting.sampling import PaintConfig, frames_of, paint
from worldsim.painting.training.batches import (
    VIEW_COUNTS,
    VIEW_SHARES,
    BatchConfig,
    BatchMaker,
    memory_channels,
)
from worldsim.painting.training.lookaround import load_folder
from worldsim.painting.training.store import ViewStore
from worldsim.painting.training.views import ViewSets, join

HEADINGS, SHOWN = 8, 4


@dataclass(frozen=True)
class Config:
    """Settings."""

    train: Path
    """Look-arounds of train maps."""
    test: Path
    """Look-arounds of test maps."""
    arm: Literal["plain", "scaled"]
    """Channels in [-1, 1], or scaled."""
    steps: int = 600
    """Steps of 24 views."""
    learning_rate: float = 1e-3
    """After 50 steps, until a third is left."""


def store_of(sets: ViewSets, device: torch.device | str = "cpu") -> ViewStore:
    """A store that holds the sets."""
    store = ViewStore(sets, len(sets), torch.device(device))
    store.add(sets)
    return store


def learn(
    store: ViewStore,
    steps: int,
    learning_rate: float,
    batches: BatchConfig | None = None,
    knots: tuple[tuple[float, ...], ...] = (),
) -> PainterNetwork:
    """A small network's moving average after training."""
    maker = BatchMaker(store, batches or BatchConfig(), torch.Generator().manual_seed(0))
    network = PainterNetwork(store.names, dim=96, depth=4, heads=4, pixel=32, knots=knots)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, (0.9, 0.98))
    average = {name: p.detach().clone() for name, p in network.named_parameters()}
    counts = np.random.default_rng(0)
    for step in range(steps):
        views = int(counts.choice(VIEW_COUNTS, p=VIEW_SHARES))
        example = maker.make(24 // views, views)
        left = 3 * (steps - step) / steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 50, left)
        loss = loss_of(network(example.batch), example.clean, example.batch.level)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        for name, p in network.named_parameters():
            average[name].lerp_(p.detach(), 0.02)
    # Buffers have no average.
    network.load_state_dict(average, strict=False)
    return network.eval()


def measure(network: PainterNetwork, store: ViewStore) -> dict[str, dict[str, float]]:
    """Four headings of test places, with what the displaced views show of them and with nothing."""
    drawn = store.get(torch.arange(len(store)))
    pose, truth = drawn.pose[:, :SHOWN], drawn.rgb[:, :SHOWN].flatten(0, 1)
    clean = channels.clean_channels(drawn.rgb[:, :SHOWN], drawn.code[:, :SHOWN])
    sources = [x[:, HEADINGS:] for x in (drawn.rgb, drawn.code, drawn.pose)]
    keep = torch.ones_like(sources[1], dtype=torch.bool)
    memory = memory_channels(*sources, keep, pose, store.intrinsics)
    rays = rays_of(pose, store.intrinsics, store.height, store.width)
    known = torch.zeros_like(drawn.attributes)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    unknown = torch.ones(*clean.shape[:2], 2, dtype=torch.bool)
    mask = (memory[:, :, 4:] > 0).flatten(0, 1)

    def told(shown: Tensor) -> dict[str, float]:
        x = paint(
            network, clean, unknown, shown, rays, drawn.attributes, known, noise, PaintConfig()
        )
        rgb = frames_of(x.flatten(0, 1), pose.flatten(0, 1)).rgb
        error = ((rgb.float() - truth.float()).square() * mask).sum() / (3 * mask.sum())
        return {
            "psnr": float(psnr(rgb, truth).mean()),
            "psnr_known": float(10 * torch.log10(255.0**2 / error)),
            "sharpness": float(sharpness(rgb).mean() / sharpness(truth).mean()),
        }

    return {"memory": told(memory), "nothing": told(torch.zeros_like(memory))}


def main(config: Config) -> None:
    """Train one arm and measure it."""
    torch.manual_seed(0)
    if config.arm == "plain":
        channels.MEAN, channels.SCALE = (0.0,) * 5, (1.0,) * 5
    train, test = (store_of(join(load_folder(folder))) for folder in (config.train, config.test))
    network = learn(train, config.steps, config.learning_rate)
    print(json.dumps({"arm": config.arm, **measure(network, test)}))


if __name__ == "__main__":
    main(tyro.cli(Config))
