r"""Measure whether painted places show what prompts ask for. Results: docs/experiments/words.md.

    python experiments/painter/words.py --train /tmp/train --test /tmp/test --out words.json \
        [--painter worldsim/worlds/freedoom-painter --sheet words.png]

A probe learns to tell attributes from the 8 headings of real places of train maps. Its balanced
accuracy on places of test maps is the reference. Prompts name three or four attributes each, half
of them combinations that no place of the attribute table shows. The result is the probe's balanced
accuracy on painted places over that on real ones. Without ``--painter`` only the reference is
measured.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from worldsim.camera import dequantise_depth
from worldsim.errors import InvalidInputError
from worldsim.evaluation.encoder import FOLDER, FrameEncoder, load_encoder
from worldsim.io.pictures import depth_picture, save_picture
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.store import place_attributes
from worldsim.painting.training.views import load_view_sets
from worldsim.painting.words.attributes import PRESENT, AttributePrior
from worldsim.painting.words.prompt import parse_prompt
from worldsim.painting.words.vocabulary import DIM, LIT, NONE, PLAIN, SCALES
from worldsim.protocols import PainterSpec, PaintInputs
from worldsim.runtime.json_config import write_json
from worldsim.runtime.progress import follow
from worldsim.state import MemoryView

HEADINGS = 8
"""Views of a place."""
ABSENT, SHOWN, UNCLEAR = 0, 1, -1
CLEARLY = 0.5
"""A place shows an attribute from this quantile of the places that have more than a trace of it."""
LEAST_PLACES = 10
"""An attribute is measured if at least this many test places show it and as many do not."""
RECOGNISED = 0.65
"""An attribute is measured if the probe tells it with this balanced accuracy on test places. Others
would say nothing of a painting. The choice favours the real places, so the ratio is not flattered.
"""
WORDS = {"hot": "fire", "light": "bright", "openness": "wide", "slimy": "waterfalls"}
OPPOSITES = {"light": "dark", "openness": "cramped"}
DRAWS = 1000
MOST_TRIES = 200_000
"""Draws of prompts, most of which are dropped."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    train: Path
    """Look-arounds of train maps."""
    test: Path
    """Look-arounds of test maps."""
    out: Path
    """JSON file of the results."""
    prior: Path = Path("worldsim/worlds/freedoom-painter")
    """Folder of the attribute table."""
    painter: Path | None = None
    """Folder of a painter."""
    encoder: Path = FOLDER
    """Folder of the frozen encoder whose pooled features the probe takes."""
    train_places: int = 4096
    """Places to learn from, at most."""
    test_places: int = 1024
    """Places of the reference, at most."""
    prompts: int = 200
    """Prompts, half of them unseen combinations."""
    steps: int | None = None
    """Sampling steps; by default what the painter recommends."""
    guidance: float | None = None
    """Guidance scale; by default what the painter recommends."""
    batch: int = 16
    """Places painted at once."""
    epochs: int = 60
    """Of the probe."""
    sheet: Path | None = None
    """Picture of the first 16 painted places."""
    seed: int = 0
    """Seed of probe, prompts and paintings."""


@dataclass(frozen=True)
class Seen:
    """Places of a recording: features (s, f), attributes (s, a) and poses (s, 8, 4, 4)."""

    features: Tensor
    attributes: Tensor
    pose: Tensor

    def __len__(self) -> int:
        return len(self.features)


def look_at(
    folder: Path, most: int, encoder: FrameEncoder, names: tuple[str, ...], pictures: int = 0
) -> tuple[Seen, Tensor]:
    """Read at most ``most`` places of a folder, shard by shard, with the attributes ``names``.

    Also returns the views (s, 8, 3, 64, 64) uint8 of at most ``pictures`` places.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    kept: list[Tensor] = []
    for path in follow(shard_files(folder), folder.name, "shard"):
        if sum(len(part[0]) for part in parts) >= most:
            break
        sets = load_view_sets(path)
        if missing := [name for name in names if name not in sets.names]:
            raise InvalidInputError(f"{path} has no attribute {missing[0]!r}: record it again.")
        rgb = torch.from_numpy(sets.rgb[:, :HEADINGS]).permute(0, 1, 4, 2, 3)
        attributes = place_attributes(sets)[:, [sets.names.index(name) for name in names]]
        pose = torch.from_numpy(sets.pose[:, :HEADINGS])
        parts.append((features(encoder, rgb), torch.from_numpy(attributes), pose))
        kept.append(rgb[: max(0, pictures - sum(map(len, kept)))])
    if not parts:
        raise InvalidInputError(f"{folder} has no look-arounds: record some with record.py first.")
    seen = Seen(*(torch.cat(part)[:most] for part in zip(*parts, strict=True)))
    return seen, torch.cat(kept)


class Labels:
    """Divides places into those that show an attribute, those that do not, and unclear ones.

    A place shows a share from the median of those with more than 2%, and lacks it below 2%. It is
    bright or wide from the quantile of "lit", and dark or cramped up to that of "dim". Prompts ask
    for more than these quantiles.
    """

    def __init__(self, prior: AttributePrior) -> None:
        self.names = prior.names
        low = [DIM if name in SCALES else None for name in prior.names]
        high = [LIT if name in SCALES else CLEARLY for name in prior.names]
        self.low = torch.tensor(
            [
                (PRESENT - 0.5) / 255 if q is None else prior.values({name: q})[name]
                for name, q in zip(prior.names, low, strict=True)
            ]
        )
        self.high = torch.tensor(
            [prior.values({name: q})[name] for name, q in zip(prior.names, high, strict=True)]
        )

    def of(self, attributes: Tensor) -> Tensor:
        """Return labels (s, a) int64 of attributes (s, a)."""
        x = attributes.cpu()
        label = torch.full(x.shape, UNCLEAR)
        label[x <= self.low] = ABSENT
        label[(x >= self.high) & (x > self.low)] = SHOWN
        return label


@torch.no_grad()
def features(encoder: FrameEncoder, rgb: Tensor, batch: int = 64) -> Tensor:
    """Return features (s, f) float32 of places (s, 8, 3, 64, 64) uint8."""
    parts = []
    for part in rgb.split(batch):
        x = part.flatten(0, 1).to(next(encoder.parameters()).device).float() / 127.5 - 1.0
        h = F.silu(encoder.units(x))
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1).unflatten(0, (-1, HEADINGS))
        parts.append(torch.cat([pooled.mean(1), pooled.amax(1)], 1).cpu())
    return torch.cat(parts)


class Probe(nn.Module):
    """Tells attributes from features."""

    def __init__(self, x: Tensor, attributes: int) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("std", x.std(0).clamp(min=1e-4))
        self.layers = nn.Sequential(
            nn.Linear(x.shape[1], 128), nn.SiLU(), nn.Dropout(0.3), nn.Linear(128, attributes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (s, a)."""
        return self.layers((x - self.mean) / self.std)


def train_probe(x: Tensor, label: Tensor, epochs: int, seed: int, device: torch.device) -> Probe:
    """Fit a probe to features (s, f) and labels (s, a), both classes weighted alike.

    The probe trains on ``device`` and is returned on the CPU.
    """
    torch.manual_seed(seed)
    probe = Probe(x, label.shape[1]).to(device)
    x, label = x.to(device), label.to(device)
    clear = label != UNCLEAR
    share = (label == SHOWN).sum(0) / clear.sum(0).clamp(min=1)
    weight = torch.where(label == SHOWN, 0.5 / share.clamp(min=1e-3), 0.5 / (1 - share))
    weight = weight.clamp(max=50.0) * clear
    optimizer = torch.optim.AdamW(probe.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).to(device).split(128):
            loss = F.binary_cross_entropy_with_logits(
                probe(x[index]), (label[index] == SHOWN).float(), weight[index]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return probe.eval().cpu()


def balanced(said: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return the balanced accuracy of each attribute, (a,), NaN where a class is missing.

    said: (s, a) bool. label: (s, a). weight: (s,), how often each place counts.
    """
    weight = np.ones(len(said)) if weight is None else weight
    rates = []
    for kind, right in ((SHOWN, said), (ABSENT, ~said)):
        count = weight @ (label == kind)
        with np.errstate(invalid="ignore"):
            rates.append((weight @ ((label == kind) & right)) / count)
    return (rates[0] + rates[1]) / 2


def measurable(
    said_test: np.ndarray, label: Tensor, label_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which attributes are measured, which the probe does not recognise, and its accuracy.

    said_test: (s, a) bool, what the probe says of test places. label, label_test: (n, a), (s, a).

    Returns (a,) bool, (a,) bool and (a,).
    """
    count = np.minimum((label_test == SHOWN).sum(0), (label_test == ABSENT).sum(0))
    enough = (count >= LEAST_PLACES) & ((label == SHOWN).sum(0) >= LEAST_PLACES).numpy()
    real = balanced(said_test, label_test)
    unrecognised = enough & (real < RECOGNISED)
    return enough & ~unrecognised, unrecognised, real


def drawn_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return how often each of ``n`` places is drawn in a bootstrap sample."""
    return np.bincount(rng.integers(n, size=n), minlength=n).astype(float)


def interval(values: list[float]) -> list[float]:
    """Return the 95% interval of bootstrap values."""
    return [round(float(q), 4) for q in np.nanquantile(values, (0.025, 0.975))]


@dataclass(frozen=True)
class Prompts:
    """Prompts, what they ask for as labels (p, a), and whether real places show it, (p,)."""

    texts: list[str]
    label: np.ndarray
    seen: np.ndarray


def sentence(names: tuple[str, ...], label: np.ndarray) -> str:
    """Return a prompt for a row of labels."""
    first = [
        (WORDS if label[names.index(name)] == SHOWN else OPPOSITES)[name]
        for name in SCALES
        if label[names.index(name)] != UNCLEAR
    ]
    named = [
        ("" if kind == SHOWN else "no ") + WORDS.get(name, name)
        for name, kind in sorted(zip(names, label, strict=True), key=lambda item: -item[1])
        if kind != UNCLEAR and name not in SCALES
    ]
    text = " ".join(["a", *first, "place"])
    return f"{text} with {', '.join(named)}" if named else text


def draw_prompts(
    labels: Labels, table: Tensor, measured: np.ndarray, count: int, seed: int
) -> Prompts:
    """Draw prompts in which all measured attributes are wanted and unwanted equally often.

    table: (n, a) attributes of real places. measured: (a,) bool.
    """
    rng = np.random.default_rng(seed)
    real = labels.of(table).numpy()
    used: Counter[tuple[int, int]] = Counter()
    found, seen = [], []
    for _ in range(MOST_TRIES):
        if len(found) == count:
            break
        want_seen = len(found) % 2 == 0
        number = int(rng.integers(3, 5))
        row = np.full(real.shape[1], UNCLEAR)
        source = real[rng.integers(len(real))]
        choices = [
            (a, kind)
            for a in np.flatnonzero(measured)
            for kind in (ABSENT, SHOWN)
            if not want_seen or source[a] == kind
        ]
        # Rarely used ones first, but not always: the rarest may have no combination of this kind.
        keys = {choice: used[choice] + rng.exponential(1.0) for choice in choices}
        for a, kind in sorted(choices, key=keys.__getitem__):
            if row[a] == UNCLEAR and (row != UNCLEAR).sum() < number:
                row[a] = kind
        asked = row != UNCLEAR
        shown = bool((real[:, asked] == row[asked]).all(1).any())
        if asked.sum() < 3 or shown != want_seen or not (row == SHOWN).any():
            continue
        found.append(row)
        seen.append(shown)
        used.update((int(a), int(row[a])) for a in np.flatnonzero(asked))
    if len(found) < count:
        raise InvalidInputError(
            f"{len(found)} of {count} prompts were drawn from {int(measured.sum())} attributes: "
            "give more test places, of which more attributes can be measured."
        )
    label = np.stack(found)
    return Prompts([sentence(labels.names, row) for row in label], label, np.array(seen))


def amounts_of(prompt: str, names: tuple[str, ...], label: np.ndarray) -> dict[str, float]:
    """Parse a prompt, and check that it names exactly the labelled attributes."""
    amounts = dict(parse_prompt(prompt, names))
    wanted = {name: kind for name, kind in zip(names, label, strict=True) if kind != UNCLEAR}
    assert set(amounts) == set(wanted), (prompt, amounts, wanted)
    for name, kind in wanted.items():
        middle = 0.5 if name in SCALES else (NONE + PLAIN) / 2
        assert (amounts[name] > middle) == (kind == SHOWN), (prompt, name)
    return amounts


def empty_view(views: int, spec: PainterSpec, device: torch.device) -> MemoryView:
    """Return views (m, ...) of an empty memory."""

    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(views, *shape, spec.height, spec.width, dtype=dtype, device=device)

    return MemoryView(
        rgb=zeros(3, dtype=torch.uint8),
        inverse_depth=zeros(dtype=torch.int32),
        mask=zeros(dtype=torch.bool),
        offset=zeros(2, dtype=torch.uint8),
        source=zeros(dtype=torch.uint8),
    )


def paint_places(
    painter: NetworkPainter, attributes: Tensor, told: Tensor, pose: Tensor, config: Config
) -> tuple[Tensor, Tensor]:
    """Paint places with attributes (p, a) at poses (p, 8, 4, 4): rgb (p, 8, ...), codes.

    told: (a,) bool, the attributes that are given.
    """
    rgb, code = [], []
    for i in follow(range(0, len(attributes), config.batch), "painting", "batch"):
        part = slice(i, i + config.batch)
        at = pose[part].to(painter.device)
        frame = painter.paint(
            PaintInputs(
                view=empty_view(len(at) * HEADINGS, painter.spec, painter.device),
                pose=at,
                seed=torch.arange(i, i + len(at), device=painter.device) + 1000 * config.seed,
                step=torch.zeros(len(at), dtype=torch.int64, device=painter.device),
                attributes=attributes[part].to(painter.device),
                told=told.to(painter.device).expand(len(at), -1),
            )
        )
        assert frame.inverse_depth is not None
        rgb.append(frame.rgb.unflatten(0, (-1, HEADINGS)).cpu())
        code.append(frame.inverse_depth.unflatten(0, (-1, HEADINGS)).cpu())
    return torch.cat(rgb), torch.cat(code)


def sheet(rgb: Tensor, code: Tensor, path: Path) -> None:
    """Save rows of 8 headings, and their depth below: rgb (s, 8, 3, h, w), code (s, 8, h, w)."""
    rows = []
    for pictures, codes in zip(rgb, code, strict=True):
        rows.append(np.concatenate([p.permute(1, 2, 0).numpy() for p in pictures], 1))
        rows.append(np.concatenate([depth_picture(d.numpy()) for d in dequantise_depth(codes)], 1))
    save_picture(np.concatenate(rows, 0).repeat(2, 0).repeat(2, 1), path)


def named(values: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Return values by attribute, without undefined ones."""
    return {
        name: round(float(x), 4) for name, x in zip(names, values, strict=True) if not np.isnan(x)
    }


def main(config: Config) -> None:
    """Measure, and write the results."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rng = np.random.default_rng(config.seed)
    encoder, prior = (
        load_encoder(config.encoder, device),
        AttributePrior.from_pretrained(config.prior),
    )
    labels = Labels(prior)
    train, test = (
        look_at(folder, places, encoder, prior.names)[0]
        for folder, places in (
            (config.train, config.train_places),
            (config.test, config.test_places),
        )
    )
    x, x_test = train.features, test.features
    print(f"features of {len(x)} train and {len(x_test)} test places", flush=True)
    label, label_test = labels.of(train.attributes), labels.of(test.attributes).numpy()
    probe = train_probe(x, label, config.epochs, config.seed, device)
    with torch.no_grad():
        said, said_test = (probe(z).numpy() > 0 for z in (x, x_test))
    measured, unrecognised, real = measurable(said_test, label, label_test)
    print(f"real places: {real[measured].mean():.3f}", flush=True)
    weights = [drawn_weights(rng, len(said_test)) for _ in range(DRAWS)]
    real_draws = [np.nanmean(balanced(said_test, label_test, w)[measured]) for w in weights]
    found = {
        "train_places": len(x),
        "test_places": len(x_test),
        "measured": [name for name, m in zip(prior.names, measured, strict=True) if m],
        "not_recognised": named(np.where(unrecognised, real, np.nan), prior.names),
        "thresholds": {
            "absent_up_to": named(labels.low.numpy(), prior.names),
            "shown_from": named(labels.high.numpy(), prior.names),
        },
        "train": named(balanced(said, label.numpy()), prior.names),
        "real": {
            "accuracy": round(float(real[measured].mean()), 4),
            "interval": interval(real_draws),
            "by_attribute": named(np.where(measured, real, np.nan), prior.names),
        },
    }
    prompts = draw_prompts(
        labels, torch.from_numpy(prior.table / 255.0).float(), measured, config.prompts, config.seed
    )
    wanted = [
        amounts_of(text, prior.names, row)
        for text, row in zip(prompts.texts, prompts.label, strict=True)
    ]
    found["prompts"] = prompts.texts
    if config.painter is not None:
        write_json(config.out, found)
        found["painted"] = painted(config, prior, probe, encoder, prompts, wanted, test, measured)
        draws = found["painted"].pop("draws")
        ratios = [a / b for a, b in zip(draws, real_draws, strict=True)]
        found["ratio"] = {
            "value": round(found["painted"]["accuracy"] / found["real"]["accuracy"], 4),
            "interval": interval(ratios),
        }
    write_json(config.out, found)
    print(json.dumps({key: found.get(key) for key in ("real", "painted", "ratio")}))


def painted(
    config: Config,
    prior: AttributePrior,
    probe: Probe,
    encoder: FrameEncoder,
    prompts: Prompts,
    wanted: list[dict[str, float]],
    test: Seen,
    measured: np.ndarray,
) -> dict:
    """Paint the prompts at the poses of test places, and score what the probe says of them."""
    rng = np.random.default_rng(config.seed)
    assert config.painter is not None
    painter = NetworkPainter.from_pretrained(config.painter)
    changes = {"num_inference_steps": config.steps, "guidance_scale": config.guidance}
    changes = {name: value for name, value in changes.items() if value is not None}
    painter.config = replace(painter.config, places=config.batch, **changes)
    names = painter.spec.attributes
    if missing := [name for name in prior.names if name not in names]:
        raise InvalidInputError(
            f"{config.painter} has no attribute {missing[0]!r}, which the table has: give --prior."
        )
    # A painter may know more than the table; that is left open.
    attributes, told = (
        torch.zeros(len(wanted), len(names)),
        torch.zeros(len(names), dtype=torch.bool),
    )
    at = [names.index(name) for name in prior.names]
    whole = np.stack([prior.complete(amounts, rng) for amounts in wanted])
    attributes[:, at], told[at] = torch.from_numpy(whole), True
    pose = test.pose[torch.arange(len(wanted)) % len(test.pose), :HEADINGS]
    begun = time.monotonic()
    rgb, code = paint_places(painter, attributes, told, pose, config)
    seconds = time.monotonic() - begun
    with torch.no_grad():
        said = probe(features(encoder, rgb)).numpy() > 0

    def mean(label: np.ndarray, weight: np.ndarray | None = None) -> float:
        return float(np.nanmean(balanced(said, label, weight)[measured]))

    if config.sheet is not None:
        sheet(rgb[:16], code[:16], config.sheet)
    weights = [drawn_weights(rng, len(said)) for _ in range(DRAWS)]
    draws = [mean(prompts.label, weight) for weight in weights]
    kinds = {"seen_combinations": prompts.seen, "unseen_combinations": ~prompts.seen}
    right = (said == (prompts.label == SHOWN)) & (prompts.label != UNCLEAR)
    asked = (prompts.label != UNCLEAR).sum(1)
    return {
        "sampling": {"steps": painter.config.num_inference_steps}
        | {"guidance": painter.config.guidance_scale},
        "accuracy": round(mean(prompts.label), 4),
        "interval": interval(draws),
        **{
            name: [
                round(mean(prompts.label, chosen.astype(float)), 4),
                *interval([mean(prompts.label, weight * chosen) for weight in weights]),
            ]
            for name, chosen in kinds.items()
        },
        "prompts": {name: int(chosen.sum()) for name, chosen in kinds.items()},
        "other_prompts": round(mean(prompts.label[rng.permutation(len(said))]), 4),
        "by_attribute": named(balanced(said, prompts.label), prior.names),
        "right": (right.sum(1) / asked).round(3).tolist(),
        "seconds": round(seconds, 1),
        "draws": draws,
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
