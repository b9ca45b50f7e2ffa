"""What a trained freedoom-small needs to be shipped: start scenes, credit, all runs and the results
in its card, its size checked.

``python experiments/freedoom_small_card.py freedoom-small --earlier freedoom-tiny`` records scenes
and writes the card; ``... --results evaluation.json --trips return_trips.json`` adds the figures.
``--head freedoom-tiny`` takes another world's ego-motion head, which sees a map of the surroundings
and no pictures, so that it fits any frame size.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import read_json, write_json
from worldsim.world.files import find_world, read_card, write_card
from worldsim.world.scene_files import ScenesConfig, record_scenes

LIMIT = 8_000_000
"""Bytes that a shipped world may take."""
LICENCE = (
    "Weights: Apache-2.0. Trained on frames rendered from Freedoom (https://freedoom.github.io), "
    "Copyright Contributors to the "
    "Freedoom project, BSD 3-clause (see NOTICE); start scenes hold such frames."
)
SUMMARY = (
    "Freedoom walks without monsters, {width}x{height} RGB-D, 7 actions; one sampling step, point "
    "memory"
)
TEST_MAPS = tuple(f"MAP{number}" for number in range(28, 33))


@dataclass(frozen=True)
class Args:
    """Make an exported world ready to be shipped."""

    world: Annotated[Positional[Path], tyro.conf.arg(metavar="WORLD")]
    """Folder of the exported world, which is changed."""
    earlier: str | None = None
    """Name or folder of the world that it was trained from, whose runs the card lists first."""
    scenes: int = 5
    """Start scenes, spread over the test maps; 0 leaves what is there."""
    head: str | None = None
    """Shipped world whose ego-motion head it shares."""
    results: Path | None = None
    """Figures of ``worldsim evaluate`` for the card."""
    trips: Path | None = None
    """Figures of ``worldsim evaluate --protocol return-trip`` for the card."""


def main(args: Args) -> None:
    """Change the world's folder and print its size."""
    twin, card = read_card(args.world / "world.json")
    if "runs" not in card["training"]:
        earlier = (
            {"runs": []}
            if args.earlier is None
            else read_json(find_world(args.earlier) / "world.json")["card"]["training"]
        )
        card["training"] = {"runs": [*earlier.get("runs", [earlier]), card["training"]]}
    size = read_json(args.world / "dynamics" / "config.json")
    card |= {"summary": SUMMARY.format_map(size), "licence": LICENCE}
    for key, file in (("results", args.results), ("return_trips", args.trips)):
        if file is not None:
            card[key] = read_json(file)
    if args.head is not None:
        shutil.rmtree(args.world / "ego_motion")
        (args.world / "ego_motion").mkdir()
        write_json(args.world / "ego_motion" / "config.json", {"_same_as": args.head})
        card["training"]["note"] = f"ego-motion head: that of {args.head}"
    write_card(args.world, twin, card)
    if args.scenes and args.results is None and args.trips is None:
        shutil.rmtree(args.world / "scenes", ignore_errors=True)
        record_scenes(
            ScenesConfig(
                twin.env_id,
                args.world / "scenes",
                TEST_MAPS,
                count=args.scenes,
                env_kwargs=dict(twin.env_kwargs),
            )
        )
    taken = sum(file.stat().st_size for file in args.world.rglob("*") if file.is_file())
    print(f"{args.world}: {taken / 1e6:.2f} MB")
    if taken > LIMIT:
        raise InvalidInputError(
            f"{args.world} takes {taken:,} bytes, more than {LIMIT:,}: record fewer --scenes"
        )


if __name__ == "__main__":
    main(tyro.cli(Args))
