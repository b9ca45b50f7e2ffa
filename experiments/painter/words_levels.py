"""At which noise levels does a painter learn its attributes? Results: docs/experiments/words.md.

    python experiments/painter/record.py --out /tmp/train --sets 1344
    python experiments/painter/words_levels.py small --data /tmp/train --out small.json
    python experiments/painter/words_levels.py painter --painters PAINTER --data /tmp/test

``small`` trains small painters on a CPU, with and without levels near noise and knots. ``painter``
measures painters. The measure is what the prediction from pure noise tells of places: the
explained variance of the mean luminance, depth and sky of a place, and the change of each when
``light``, ``openness`` or ``sky`` moves from its 10% to its 90% quantile, over that of real places.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from scale import learn, store_of
from torch import Tensor

from worldsim.painting.channels import clean_channels, rays_of
from worldsim.painting.checkpoint import load_painter
from worldsim.painting.knots import knots_of
from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.painting.training.batches import BatchConfig
from worldsim.painting.training.lookaround import load_folder
from worldsim.painting.training.store import ViewStore
from worldsim.painting.training.views import ViewSets, join
from worldsim.runtime.json_config import write_json

HEADINGS = 8
MEASURES = {"light": slice(0, 3), "openness": slice(3, 4), "sky": slice(4, 5)}
"""Channels whose mean an attribute tells."""


@dataclass(frozen=True)
class Small:
    """Train and measure small painters."""

    data: Path
    """Look-arounds of train maps."""
    out: Path
    """JSON file of the results. Arms that are in it are not trained again."""
    steps: int = 400
    """Steps of 24 views."""
    learning_rate: float = 1e-3
    test: int = 352
    """Last sets, on which the painters are measured."""
    factor: int = 4
    """Views are this much smaller on each side."""


@dataclass(frozen=True)
class Painter:
    """Measure painters."""

    painters: tuple[Path, ...]
    data: Path
    """Look-arounds."""
    places: int = 256
    out: Path | None = None
    """JSON file of the result."""


def shrink(sets: ViewSets, factor: int) -> ViewSets:
    """Return sets of smaller views: mean colours, and the depth of the middle pixels."""
    s, k, h, w, _ = sets.rgb.shape
    blocks = sets.rgb.reshape(s, k, h // factor, factor, w // factor, factor, 3)
    middle = slice(factor // 2, None, factor)
    return replace(
        sets,
        rgb=blocks.mean((3, 5)).round().astype(np.uint8),
        inverse_depth=np.ascontiguousarray(sets.inverse_depth[:, :, middle, middle]),
        intrinsics=sets.intrinsics / factor,
    )


def part(sets: ViewSets, at: slice) -> ViewSets:
    """Return some of the sets."""
    arrays = {
        name: getattr(sets, name)[at]
        for name in ("rgb", "inverse_depth", "pose", "attributes", "maps")
    }
    return replace(sets, **arrays)


@torch.no_grad()
def response(network: PainterNetwork, store: ViewStore, batch: int = 16) -> dict:
    """Return what predictions from pure noise tell of places with all attributes given."""
    device, names = store.device, tuple(network.config.attributes)
    store.select(names)
    drawn = store.get(torch.arange(len(store), device=device))
    attributes = drawn.attributes
    rgb, code = drawn.rgb[:, :HEADINGS], drawn.code[:, :HEADINGS]
    generator = torch.Generator(device).manual_seed(0)

    def means(channels: Tensor) -> Tensor:
        return torch.stack([channels[:, :, at].mean((1, 2, 3, 4)) for at in MEASURES.values()], 1)

    real = torch.cat(
        [
            means(clean_channels(*some))
            for some in zip(rgb.split(batch), code.split(batch), strict=True)
        ]
    )
    rays = rays_of(drawn.pose[:, :HEADINGS], store.intrinsics, store.height, store.width)

    def predict(values: Tensor) -> Tensor:
        found = []
        for i in range(0, len(values), batch):
            at = slice(i, i + batch)
            shape = (len(values[at]), HEADINGS, 5, store.height, store.width)
            noise = torch.randn(shape, generator=generator, device=device)
            told = PainterBatch(
                noise,
                torch.ones(*shape[:2], 2, device=device),
                torch.zeros_like(noise),
                rays[at],
                values[at],
                torch.ones_like(values[at]),
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                found.append(means(network(told)))
        return torch.cat(found)

    predicted = predict(attributes)
    explained = 1 - (predicted - real).square().mean(0) / real.var(0)
    result = {"explained": dict(zip(MEASURES, explained.tolist(), strict=True)), "moved": {}}
    few = attributes[: 4 * batch]
    for i, name in enumerate(MEASURES):
        column = attributes[:, names.index(name)]
        low, high = column.quantile(0.1), column.quantile(0.9)
        ends = []
        for value in (low, high):
            values = few.clone()
            values[:, names.index(name)] = value
            ends.append(predict(values)[:, i].mean())
        wanted = real[column >= high, i].mean() - real[column <= low, i].mean()
        result["moved"][name] = float((ends[1] - ends[0]) / wanted)
    return result


def train_small(config: Small) -> None:
    """Train and measure all arms."""
    sets = shrink(join(load_folder(config.data)), config.factor)
    train, test = part(sets, slice(-config.test)), part(sets, slice(len(sets) - config.test, None))
    knots = knots_of(train.attributes.mean(1))
    plain = BatchConfig(no_memory=0.5, given=0.3)
    near = replace(plain, near_noise=0.2)
    arms = {
        "as before": (plain, ()),
        "knots": (plain, knots),
        "near noise": (near, ()),
        "near noise, knots": (near, knots),
        "near noise, knots, few, balanced": (
            replace(near, few_attributes=0.7, balanced=0.5),
            knots,
        ),
    }
    found: dict = json.loads(config.out.read_text()) if config.out.is_file() else {}
    found |= {"places": [len(train), len(test)], "steps": config.steps}
    for name, (batches, some) in arms.items():
        if name in found:
            continue
        begun = time.monotonic()
        torch.manual_seed(0)
        network = learn(store_of(train), config.steps, config.learning_rate, batches, some)
        found[name] = response(network, store_of(test))
        found[name]["seconds"] = round(time.monotonic() - begun, 1)
        write_json(config.out, found)
        print(name, json.dumps(found[name]), flush=True)


def measure_painter(config: Painter) -> None:
    """Measure painters."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sets = part(join(load_folder(config.data, 64)), slice(0, config.places))
    found: dict = {"places": len(sets)}
    for folder in config.painters:
        network = load_painter(folder).network().eval().to(device)
        found[folder.name] = response(network, store_of(sets, device))
    if config.out is not None:
        write_json(config.out, found)
    print(json.dumps(found))


if __name__ == "__main__":
    chosen = tyro.cli(Small | Painter)
    train_small(chosen) if isinstance(chosen, Small) else measure_painter(chosen)
