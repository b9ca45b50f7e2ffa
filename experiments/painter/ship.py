"""Write the shipped painter: 8-bit weights of a training's state, with its card.

    python experiments/painter/ship.py --state runs/painter/state --figures leg3.json \\
        --out worldsim/worlds/freedoom-painter
    python experiments/painter/ship.py --state out/student/state --figures student.json

    python experiments/painter/ship.py --state W/half --figures evaluation.json

The state of a distillation ships a student, with the figures of ``student.py`` or of ``worldsim
evaluate``; another state ships a painter with those of ``arms.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from worldsim.painting.checkpoint import Saved, load_painter, save_painter
from worldsim.painting.sampling import PaintConfig
from worldsim.protocols import PainterSpec
from worldsim.runtime.types import JsonObject

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


@dataclass(frozen=True)
class Choice:
    """What was chosen of a painter, and its figures in 8 bits."""

    average: bool
    """Whether the average weights are better than the last ones."""
    sampling: PaintConfig
    figures: JsonObject
    """Of new places."""
    abs_rel: float | None
    """Relative error of the depth of one picture."""


def of_training(figures: JsonObject) -> Choice:
    """The choice that ``arms.py`` made."""
    arms = figures["arms"]
    settings = {name: arms["confirm chosen"]["sampling"][name] for name in PAINT}
    sampling = PaintConfig(memory_guidance_scale=float(arms["memory_guidance"]), **settings)
    depth = figures.get("depth", arms.get("depth"))
    return Choice(arms["weights"] == "average", sampling, arms["confirm 8-bit"], depth["abs_rel"])


def of_student(saved: Saved, figures: JsonObject) -> Choice:
    """The choice that ``student.py`` made."""
    depth = figures.get("student depth", {}).get("abs_rel")
    average = figures["weights"] == "average"
    return Choice(average, saved.sampling(), figures["student 8-bit"], depth)


def of_protocol(saved: Saved, figures: JsonObject) -> Choice:
    """A student's average weights, in 8 bits, that ``worldsim evaluate`` measured."""
    new, intervals = figures["new"], figures["ci95"]
    told: JsonObject = {
        "fd": [new["fd"], *intervals["new.fd"]],
        "floor_fd": new["floor_fd"],
        "sharpness": new["sharpness_ratio"],
        "overlap": {"psnr": new["overlap_psnr"]},
    }
    depth = figures.get("depth", {}).get("abs_rel")
    return Choice(True, saved.sampling(), told, depth)


def main() -> None:
    config = tyro.cli(ShipConfig, description=__doc__)
    saved, like = load_painter(config.state), WORLDS / "freedoom-tiny" / "world.json"
    world = json.loads(like.read_text())
    figures = json.loads((HERE / config.figures).read_text())
    distilled = saved.card.get("distilled")
    if "protocol" in figures:
        choice = of_protocol(saved, figures)
    else:
        choice = of_student(saved, figures) if distilled else of_training(figures)
    network, chosen = saved.network(average=choice.average), choice.figures
    steps = choice.sampling.num_inference_steps
    card = {
        "summary": "Places of Freedoom: up to 8 RGB-D views at 64x64 jointly; "
        f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}M parameters, "
        f"{steps} sampling steps",
        "trained_on": "look-arounds of worldsim/FreedoomReal-v0",
        "train_maps": world["card"]["train_maps"],
        "licence": world["card"]["licence"].replace("; start scenes hold such frames", ""),
        "results": {
            "new_places_fd": chosen["fd"],
            "floor_fd": chosen.get("floor_fd", FLOOR_FD),
            "sharpness": chosen["sharpness"],
            "overlap_psnr": chosen["overlap"]["psnr"],
            **({"depth_abs_rel": choice.abs_rel} if choice.abs_rel is not None else {}),
            "measured": f"experiments/painter/{config.figures}; 8-bit weights, 512 test places",
        },
    }
    save_painter(
        config.out,
        network.settings,
        network.state_dict(),
        told={
            "step": saved.card["step"],
            "card": card,
            **({"distilled": distilled} if distilled else {}),
        },
        eight_bit=True,
        spec=PainterSpec(
            *SIZE,
            tuple(world["config"]["intrinsics"]),
            config.views,
            tuple(network.config.attributes),
        ),
        sampling=choice.sampling,
    )


PAINT = ("num_inference_steps", "guidance_scale", "solver", "schedule_power")
"""Sampling settings of the arm that was chosen."""
FLOOR_FD = 71.8
"""FD between real train and test places (docs/experiments/painter.md)."""
SIZE = (64, 64)
"""Rows and columns of a view."""

if __name__ == "__main__":
    main()
