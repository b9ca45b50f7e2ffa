r"""Write the table of real places' attributes, from which prompts are completed.

    python experiments/painter/record.py --out /tmp/train --sets 4096 --sets-per-shard 32
    python experiments/painter/attribute_table.py --data /tmp/train \
        --out worldsim/worlds/freedoom-painter

Only train maps are used. The table holds the attributes that training conditions on: the mean over
a set's views.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from worldsim.envs.doom import TRAIN_MAPS
from worldsim.envs.doom_textures import WALLS
from worldsim.errors import InvalidInputError
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
    places: int = 4096
    """Largest number of rows."""
    seed: int = 0
    """Seed of the choice of rows."""


def read(data: Path) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return attributes (n, a) uint8 of all places, the attributes' names, and maps."""
    rows: list[np.ndarray] = []
    maps: list[str] = []
    names: tuple[str, ...] = ()
    for path in shard_files(data):
        part = load_view_sets(path)
        rows.append(np.round(place_attributes(part) * 255.0).astype(np.uint8))
        maps += part.maps
        names = part.names
    if not rows:
        raise InvalidInputError(f"{data} has no look-arounds: record some with record.py first.")
    return np.concatenate(rows), names, maps


def main(config: Config) -> None:
    """Write the table."""
    table, names, maps = read(config.data)
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
