"""What a task's world and agent need to be shipped: name, credit and figures in their cards, no
paths of where they were made.

``python experiments/task_card.py carracing WORLD AGENT --agent-figures a.json --world-figures
evaluation.json`` copies both into the package. Sizes are checked: 3 MB for a world, 1 MB for an
agent.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import read_json
from worldsim.scenes.episodes import EpisodeScenes
from worldsim.shipped.agent_files import SHIPPED_FOLDER, load_agent, save_agent, update_card
from worldsim.world.files import WORLDS_FOLDER, read_card, write_card
from worldsim.world.scene_files import save_scene

LIMITS = {"world": 3_000_000, "agent": 1_000_000}
"""Bytes."""
FREEDOOM = (
    "Weights: Apache-2.0. Trained on frames rendered from Freedoom (https://freedoom.github.io), "
    "Copyright Contributors to the "
    "Freedoom project, BSD 3-clause (see NOTICE); start scenes hold such frames."
)
GYMNASIUM = (
    "Weights: Apache-2.0. Trained on frames rendered by Gymnasium's CarRacing (MIT licence); "
    "start scenes hold such frames."
)
ABOUT = {
    "carracing": (
        GYMNASIUM,
        "Gymnasium's CarRacing-v3, 64x64 colours, continuous actions, rewards; one sampling step",
    ),
    "takecover": (
        FREEDOOM,
        "ViZDoom's TakeCover, 64x64 colours, 3 actions of 4 tics, rewards and ends; one sampling "
        "step",
    ),
    "healthgathering": (
        FREEDOOM,
        "ViZDoom's HealthGathering, 64x64, 4 actions of 4 tics, rewards and ends; one sampling "
        "step",
    ),
}


@dataclass(frozen=True)
class Args:
    """Ship a task's world and agent."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """Of both: carracing, takecover or healthgathering."""
    world: Annotated[Positional[Path], tyro.conf.arg(metavar="WORLD")]
    """Folder of the exported world."""
    agent: Annotated[Positional[Path], tyro.conf.arg(metavar="AGENT")]
    """Folder of the agent."""
    agent_figures: Path
    """What ``worldsim evaluate-agent AGENT --json`` wrote."""
    world_figures: Path | None = None
    """What ``worldsim evaluate WORLD --json`` wrote."""
    recording: Path | None = None
    """Recording from whose episodes moments become start scenes, too, beside the beginnings that
    training left."""
    moments: int = 5
    """How many, ``moment-1`` and so on."""
    eight_bit: bool = False
    """Store the agent's weights at 8 bits. Its figures are those of what was measured: measure it
    as it is shipped."""


def without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the folders of a machine that nobody else has."""
    return {
        name: value
        for name, value in settings.items()
        if name not in ("data", "out", "init_from", "world", "scenes")
    }


def main(args: Args) -> None:
    """Copy both and write their cards."""
    if args.name not in ABOUT:
        raise InvalidInputError(f"NAME is {', '.join(ABOUT)}, not {args.name!r}")
    world, agent = WORLDS_FOLDER / args.name, SHIPPED_FOLDER / args.name
    for source, target in ((args.world, world), (args.agent, agent)):
        if source.resolve() != target.resolve():
            shutil.copytree(
                source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint*")
            )
    if args.recording is not None:
        found = EpisodeScenes(args.recording, args.moments, frames=4, beginnings=0.0)
        for i, name in enumerate(found.names()):
            save_scene(
                dataclasses.replace(found.load(name), name=f"moment-{i + 1}"),
                world / "scenes" / f"moment-{i + 1}",
            )
    config, told = read_card(world / "world.json")
    licence, summary = ABOUT[args.name]
    told |= {"licence": licence, "summary": summary}
    told["training"]["config"] = without_folders(told["training"]["config"])
    if args.world_figures is not None:
        figures = read_json(args.world_figures)
        told["results"] = {k: v for k, v in figures.items() if k not in ("device", "seconds")}
    write_card(world, config, told)
    training = read_json(agent / "agent.json")["training"]
    training["args"] = without_folders(training["args"])
    figures = read_json(args.agent_figures) | {"agent": args.name, "world": args.name}
    card = update_card(agent, world=args.name, results=figures, training=training)
    if args.eight_bit:
        save_agent(load_agent(agent), agent, card, eight_bit=True)
    for kind, folder in (("world", world), ("agent", agent)):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder.name} ({kind}): {size} bytes")
        if size > LIMITS[kind]:
            raise InvalidInputError(f"{folder} takes {size} bytes, more than {LIMITS[kind]}")


if __name__ == "__main__":
    main(tyro.cli(Args))
