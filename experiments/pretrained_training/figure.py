"""Draw ways back side by side: ``python -m experiments.pretrained_training.figure --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from safetensors.torch import load_file

from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.runtime.types import Array

ROWS = {
    "truth": "real",
    "wan": "Wan-VACE, memory",
    "wan_no_memory": "without memory",
    "splat_near": "splats, filled",
    "svd": "SVD, memory",
}
"""Rows by the name of their scores, and their titles."""


@dataclass(frozen=True)
class Args:
    """Settings of the figure."""

    scores: Path
    """Folder of an evaluation's scores."""
    out: Path = Path("docs/images/pretrained.webp")
    """The picture."""
    trips: tuple[int, ...] = (0, 1)
    """Numbers of the trips, of those whose frames were kept."""
    steps: tuple[int, ...] = (6, 11, 16, 21, 26, 31)
    """Steps of the way back, from 0."""
    scale: int = 2
    """Pixels of the picture per pixel of a frame, along each axis."""


def main(args: Args) -> None:
    """Draw the figure."""
    kept: dict[str, dict[int, Array]] = {name: {} for name in ROWS}
    for name in ROWS:
        for path in args.scores.glob(f"*-{name}.safetensors"):
            found = load_file(path)
            for trip, frames in zip(found["trip"].tolist(), found["frames"], strict=False):
                kept[name][trip] = frames.numpy()
    rows = {
        f"walk {number + 1}\n{title}": [
            kept[name][trip][step].transpose(1, 2, 0) for step in args.steps
        ]
        for number, trip in enumerate(args.trips)
        for name, title in ROWS.items()
        if trip in kept[name]
    }
    columns = [f"step {step + 1}" for step in args.steps]
    save_picture(contact_sheet(rows, columns, args.scale), args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
