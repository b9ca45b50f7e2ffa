r"""Write the table of real places' attributes, from which prompts are completed.

    python experiments/painter/record.py --out /tmp/train --sets 4096 --sets-per-shard 32
    python experiments/painter/attribute_table.py --data /tmp/train \
        --out worldsim/worlds/freedoom-painter --painter worldsim/worlds/freedoom-painter

Only train maps are used. The table holds the attributes that training conditions on: the mean over
a set's views.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from worldsim.envs.doom import TRAIN_MAPS
from worldsim.envs.doom_textures import WALLS
from worldsim.errors import InvalidInputError
from worldsim.painting.checkpoint import load_painter
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.store import place_attributes
from worldsim.painting.training.views import load_view_sets
from worldsim.painting.words.attributes import PRESENT, TABLE, AttributePrior


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: Path
    """Folder of look-arounds of train maps."""
    out: Path
    """Folder of the painter, for the table and its card."""
    painter: Path | None = None
    """Folder of the painter whose attributes the table holds; by default those of the recording."""
    places: int = 4096
    """Largest number of rows."""
    seed: int = 0
    """Seed of the choice of rows."""


def read(data: Path, names: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return attributes (n, a) uint8 of all places, the attributes' names, and maps."""
    rows: list[np.ndarray] = []
    maps: list[str] = []
    for path in shard_files(data):
        part = load_view_sets(path)
        names = part.names if names is None else names
        if missing := [name for name in names if name not in part.names]:
            raise InvalidInputError(f"{path} has no attribute {missing[0]!r}: record it again.")
        values = place_attributes(part)[:, [part.names.index(name) for name in names]]
        rows.append(np.round(values * 255.0).astype(np.uint8))
        maps += part.maps
    if not rows or names is None:
        raise InvalidInputError(f"{data} has no look-arounds: record some with record.py first.")
    return np.concatenate(rows), tuple(names), maps


def main(config: Config) -> None:
    """Write the table."""
    card = {} if config.painter is None else load_painter(config.painter).card["settings"]
    table, names, maps = read(config.data, card.get("attributes"))
    if other := sorted(set(maps) - set(TRAIN_MAPS)):
        raise InvalidInputError(f"{config.data} has places of {other[0]}: give train maps only.")
    chosen = np.random.default_rng(config.seed).permutation(len(table))[: config.places]
    prior = AttributePrior(table[chosen], names, [[name for name in names if name in WALLS]])
    prior.save(config.out, {"source": "Freedoom, train maps", "maps": sorted(set(maps))})
    size = (config.out / TABLE).stat().st_size
    shown = (table[chosen] >= PRESENT).mean(0).round(3).tolist()
    told = {"places": len(prior), "bytes": size}
    print(json.dumps({**told, "share_that_shows": dict(zip(names, shown, strict=True))}))


if __name__ == "__main__":
    main(tyro.cli(Config))
