"""Write the shipped painter: 8-bit weights of a training's state, with its card.

    python experiments/painter/ship.py --state runs/painter/state --figures leg3.json \\
        --out worldsim/worlds/freedoom-painter
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from worldsim.painting.checkpoint import load_painter, save_painter
from worldsim.painting.sampling import PaintConfig
from worldsim.protocols import PainterSpec

HERE = Path(__file__).parent
WORLDS = HERE.parent.parent / "worldsim" / "worlds"


@dataclass(frozen=True)
class ShipConfig:
    """Write the shipped painter."""

    state: Path
    """Folder of the training's state."""
    figures: str = "leg3.json"
    """Its figures, in this folder."""
    out: Path = WORLDS / "freedoom-painter"
    """The painter's folder."""
    views: int = 8
    """Views that are painted jointly."""


def main() -> None:
    config = tyro.cli(ShipConfig, description=__doc__)
    saved, like = load_painter(config.state), WORLDS / "freedoom-tiny" / "world.json"
    world = json.loads(like.read_text())
    figures = json.loads((HERE / config.figures).read_text())
    arms, (h, w) = figures["arms"], (64, 64)
    chosen = arms["confirm 8-bit"]
    settings = {name: arms["confirm chosen"]["sampling"][name] for name in PAINT}
    network = saved.network(average=arms["weights"] == "average")
    card = {
        "summary": "Places of Freedoom: up to 8 RGB-D views at 64x64 jointly; 22.6M parameters",
        "trained_on": "look-arounds of worldsim/FreedoomReal-v0",
        "train_maps": world["card"]["train_maps"],
        "licence": world["card"]["licence"].replace("; start scenes hold such frames", ""),
        "results": {
            "new_places_fd": chosen["fd"],
            "floor_fd": FLOOR_FD,
            "sharpness": chosen["sharpness"],
            "overlap_psnr": chosen["overlap"]["psnr"],
            "depth_abs_rel": figures["depth"]["abs_rel"]
            if "depth" in figures
            else arms["depth"]["abs_rel"],
            "measured": f"experiments/painter/{config.figures}; 8-bit weights, 512 test places",
        },
    }
    save_painter(
        config.out,
        network.settings,
        network.state_dict(),
        told={"step": saved.card["step"], "card": card},
        eight_bit=True,
        spec=PainterSpec(
            h,
            w,
            tuple(world["config"]["intrinsics"]),
            config.views,
            tuple(network.config.attributes),
        ),
        sampling=PaintConfig(
            memory_guidance_scale=float(arms["memory_guidance"]), **{**settings, "places": 1}
        ),
    )


PAINT = ("num_inference_steps", "guidance_scale", "solver", "schedule_power")
"""Sampling settings of the arm that was chosen."""
FLOOR_FD = 71.8
"""FD between real train and test places (docs/experiments/painter.md)."""

if __name__ == "__main__":
    main()
