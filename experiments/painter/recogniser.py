r"""Train the recogniser of attributes, with which a painter's candidates are compared.

    python experiments/painter/record.py --out /tmp/train --sets 12288
    python experiments/painter/recogniser.py --data /tmp/train --skip 8192 --out out/recogniser \
        [--test /tmp/test]

It learns from real places of train maps. Thresholds come from the painter's attribute table.
Results: docs/experiments/words.md.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.store import place_attributes
from worldsim.painting.training.views import load_view_sets
from worldsim.painting.words.attributes import PRESENT, AttributePrior
from worldsim.painting.words.recogniser import CLEARLY, AttributeRecogniser, save_recogniser
from worldsim.painting.words.vocabulary import DIM, LIT, SCALES
from worldsim.runtime.progress import follow

HEADINGS = 8
LEAST_EXAMPLES = 10
"""Test places of either kind without which a logit's accuracy is not told."""
VIEW_WEIGHT = 1.0
"""Weight of the loss of single views."""
MOST_WEIGHT = 50.0


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: Path
    """Look-arounds of train maps."""
    out: Path
    """Folder of the recogniser."""
    test: Path | None = None
    """Look-arounds of test maps, on which its accuracy is measured."""
    prior: Path = Path("worldsim/worlds/freedoom-painter")
    """Folder of the attribute table."""
    skip: int = 0
    """First places that are left out. The probe of words.py learns from them."""
    places: int = 8192
    """Places to learn from, at most."""
    epochs: int = 30
    seconds: float = 60.0
    """Training ends after this time at the latest; the learning rate has fallen to 0 then."""
    batch: int = 64
    """Places per step."""
    lr: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class Looks:
    """Places: rgb (s, n, 3, h, w) uint8, attributes of views (s, n, a) and of places (s, a)."""

    rgb: Tensor
    views: Tensor
    places: Tensor


def load(folder: Path, most: int, names: tuple[str, ...], skip: int = 0) -> Looks:
    """Read at most ``most`` places after the first ``skip`` ones. Shards are of one size."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    shards = shard_files(folder)
    if skip and shards:
        shards = shards[skip // len(load_view_sets(shards[0])) :]
    for path in follow(shards, folder.name, "shard"):
        if sum(len(part[0]) for part in parts) >= most:
            break
        sets = load_view_sets(path)
        at = [sets.names.index(name) for name in names]
        rgb = torch.from_numpy(sets.rgb[:, :HEADINGS]).permute(0, 1, 4, 2, 3).contiguous()
        views = torch.from_numpy(sets.attributes[:, :HEADINGS].astype(np.float32))[..., at]
        parts.append((rgb, views, torch.from_numpy(place_attributes(sets)[:, at])))
    if not parts:
        raise InvalidInputError(f"{folder} has no look-arounds: record some with record.py first.")
    return Looks(*(torch.cat(part)[:most] for part in zip(*parts, strict=True)))


def thresholds(prior: AttributePrior) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the low and the high thresholds of all attributes."""
    trace = (PRESENT - 0.5) / 255.0
    low = [prior.values({n: DIM})[n] if n in SCALES else trace for n in prior.names]
    high = [prior.values({n: LIT if n in SCALES else CLEARLY})[n] for n in prior.names]
    return tuple(low), tuple(high)


def augment(rgb: Tensor) -> Tensor:
    """Mirror, blur and add noise to places (b, n, 3, h, w) in [-1, 1], each place alike."""
    b, device = len(rgb), rgb.device

    def some(share: float) -> Tensor:
        return (torch.rand(b, device=device) < share)[:, None, None, None, None]

    rgb = torch.where(some(0.5), rgb.flip(-1), rgb)
    soft = F.avg_pool2d(rgb.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(rgb)
    rgb = torch.where(some(0.3), torch.lerp(rgb, soft, torch.rand((), device=device)), rgb)
    noise = 0.05 * torch.rand(b, 1, 1, 1, 1, device=device) * torch.randn_like(rgb)
    return rgb + torch.where(some(0.3), noise, torch.zeros_like(noise))


def train(network: AttributeRecogniser, looks: Looks, config: Config, device: torch.device) -> int:
    """Fit the network; returns the number of steps."""
    torch.manual_seed(config.seed)
    network.to(device).train()
    low, high = (
        torch.tensor(getattr(network.config, name), device=device) for name in ("low", "high")
    )
    values = looks.places.to(device)
    target = torch.stack([values > low, values >= high], -1).float()
    share = target.mean(0)
    weight = torch.where(target > 0, 0.5 / share.clamp(min=1e-3), 0.5 / (1 - share).clamp(min=1e-3))
    weight = weight.clamp(max=MOST_WEIGHT)
    rgb, views = looks.rgb.to(device), looks.views.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=0.05)
    total = config.epochs * -(-len(rgb) // config.batch)
    begun, step = time.monotonic(), 0
    while True:
        for index in torch.randperm(len(rgb), device=device).split(config.batch):
            spent = max(step / total, (time.monotonic() - begun) / config.seconds)
            if spent >= 1.0:
                return step
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min(1.0, (step + 1) / 50) * (1.0 - spent)
            x = augment(rgb[index].float() / 127.5 - 1.0)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                features = network.features(x)
            logits, single = network.of_features(features), network.view(features)
            loss = F.binary_cross_entropy_with_logits(logits, target[index], weight[index])
            loss += VIEW_WEIGHT * F.binary_cross_entropy_with_logits(single, views[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                print(f"step {step} of {total}: {float(loss.detach()):.3f}", flush=True)
            step += 1


@torch.no_grad()
def accuracy(network: AttributeRecogniser, looks: Looks, device: torch.device) -> dict:
    """Return the balanced accuracy of both logits by attribute, None with too few places."""
    said = torch.cat(
        [network(part.to(device).float() / 127.5 - 1.0).cpu() > 0 for part in looks.rgb.split(64)]
    )
    told = {}
    for i, name in enumerate(network.names):
        rates = []
        for j, true in enumerate(
            [
                looks.places[:, i] > network.config.low[i],
                looks.places[:, i] >= network.config.high[i],
            ]
        ):
            right = said[:, i, j] == true
            enough = min(int(true.sum()), int((~true).sum())) >= LEAST_EXAMPLES
            rates.append(
                round(float((right[true].float().mean() + right[~true].float().mean()) / 2), 4)
                if enough
                else None
            )
        told[name] = rates
    return told


def main(config: Config) -> None:
    """Train, measure and save."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = AttributePrior.from_pretrained(config.prior)
    low, high = thresholds(prior)
    looks = load(config.data, config.places, prior.names, config.skip)
    torch.manual_seed(config.seed)
    network = AttributeRecogniser(prior.names, low, high)
    begun = time.monotonic()
    steps = train(network, looks, config, device)
    told = {
        "source": "Freedoom, train maps",
        "places": len(looks.rgb),
        "steps": steps,
        "seconds": round(time.monotonic() - begun, 1),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    network.eval()
    if config.test is not None:
        told["accuracy"] = accuracy(network, load(config.test, 4096, prior.names), device)
    save_recogniser(network, config.out, told)
    print(json.dumps(told))


if __name__ == "__main__":
    main(tyro.cli(Config))
