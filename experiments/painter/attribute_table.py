r"""Record the attributes of real places, from which prompts are completed.

    python experiments/painter/attribute_table.py --data /tmp/train \
        --out worldsim/worlds/freedoom-painter

Missing look-arounds are recorded into ``--data`` first. Only train maps are used. The table holds
the attributes that training conditions on: the mean over a set's views.
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
from worldsim.painting.attributes import TABLE, AttributePrior
from worldsim.painting.lookaround import LookAroundConfig, record_look_arounds, shard_files
from worldsim.painting.store import place_attributes
from worldsim.painting.views import load_view_sets


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: Path
    """Folder of look-arounds of train maps."""
    out: Path
    """Folder of the painter, for the table and its card."""
    places: int = 4096
    """Largest number of rows."""
    workers: int = 2
    """Processes that record missing look-arounds."""
    seed: int = 0
    """Seed of the recording and of the choice of rows."""


def read(data: Path, sets: int) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return attributes (n, a) uint8 of at least ``sets`` places, if there are, names and maps."""
    rows, maps, names = [], [], ()
    for path in shard_files(data):
        part = load_view_sets(path)
        rows.append(np.round(place_attributes(part) * 255.0).astype(np.uint8))
        maps += part.maps
        names = part.names
        if len(maps) >= sets:
            break
    return np.concatenate(rows), names, maps


def main(config: Config) -> None:
    r"""Record what is missing, and write the table."""
    record_look_arounds(
        LookAroundConfig(
            out=config.data, sets=config.places, workers=config.workers, seed=config.seed
        )
    )
    table, names, maps = read(config.data, config.places)
    if other := sorted(set(maps) - set(TRAIN_MAPS)):
        raise InvalidInputError(f"{config.data} has places of {other[0]}: give train maps only.")
    chosen = np.random.default_rng(config.seed).permutation(len(table))[: config.places]
    prior = AttributePrior(table[chosen], names, [[name for name in names if name in WALLS]])
    prior.save(config.out, {"source": "Freedoom, train maps", "maps": sorted(set(maps))})
    size = (config.out / TABLE).stat().st_size
    mean = dict(zip(names, (table[chosen] >= 5).mean(0).round(3).tolist(), strict=True))
    print(json.dumps({"places": len(prior), "bytes": size, "share_that_shows": mean}))


if __name__ == "__main__":
    main(tyro.cli(Config))
