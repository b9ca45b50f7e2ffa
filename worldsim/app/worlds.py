"""``worldsim worlds``: lists shipped worlds with their size, training data and results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldsim.errors import WorldsimError
from worldsim.runtime.files import files_in
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.types import JsonObject

SHIPPED = Path(__file__).parent.parent / "worlds"

MAIN_RESULTS = {
    "next_frame_psnr": "dB next frame",
    "copy_last_psnr": "dB for copying the last",
    "seen_psnr": "dB on views seen before",
    "seen_psnr_no_memory": "dB on those without memory",
    "action_accuracy": "of actions told apart",
}
"""Which of the card's results are listed, and how they are called."""


@dataclass(frozen=True)
class WorldsConfig:
    """List the shipped worlds, or worlds in folders."""

    folders: tuple[Path, ...] = ()
    """Worlds to describe instead of the shipped ones."""

    json: Path | None = None
    """Also write the list to this file."""


def worlds(config: WorldsConfig) -> None:
    """Print the shipped worlds, or those in ``config.folders``."""
    found = [_describe(x) for x in config.folders] or describe_worlds(SHIPPED)
    if config.json:
        write_json(config.json, found)
    print("\n\n".join(map(_as_text, found)) or f"no world is shipped in {SHIPPED}")


def describe_worlds(folder: Path) -> list[JsonObject]:
    """Return one description for every world in ``folder``.

    It has the name, the size in megabytes, and the card's ``summary``, ``trained_on``, ``results``,
    ``licence`` and, for pretrained worlds, ``models``; or the problem as ``error``.
    """
    return [_describe(path.parent) for path in sorted(folder.glob("*/world.json"))]


def _describe(world: Path) -> JsonObject:
    description: JsonObject = {"name": world.name, "megabytes": 0.0}
    try:
        description["megabytes"] = round(
            sum(path.stat().st_size for path in files_in(world)) / 1e6, 1
        )
        meta = read_json(world / "world.json")
    except WorldsimError as error:
        return description | {"error": str(error)}
    card = meta.get("card", {}) if isinstance(meta, dict) else None
    if not isinstance(card, dict) or not isinstance(card.get("results", {}), dict):
        return description | {
            "error": f"{world / 'world.json'} is not a world's card: copy the world again"
        }
    return description | {
        key: card.get(key, empty)
        for key, empty in (
            ("summary", ""),
            ("trained_on", ""),
            ("results", {}),
            ("licence", ""),
            ("models", {}),
        )
    }


def _as_text(world: JsonObject) -> str:
    lines = [f"{world['name']}  {world['megabytes']} MB"]
    if "error" in world:
        return "\n".join([*lines, f"  {world['error']}"])
    if world["summary"]:
        lines.append(f"  {world['summary']}")
    if world["trained_on"]:
        lines.append(f"  trained on {world['trained_on']}")
    models = world["models"] if isinstance(world["models"], dict) else {}
    for name in ("pipeline", "depth"):
        if models.get(name):
            at = models.get("revision" if name == "pipeline" else f"{name}_revision") or "no commit"
            lines.append(f"  {name} {models[name]} at {at}")
    found = {
        name: world["results"][name]
        for name in MAIN_RESULTS
        if isinstance(world["results"].get(name), (int, float))
    }
    if found:
        lines.append(
            "  "
            + ", ".join(
                f"{_number(name, value)} {MAIN_RESULTS[name]}" for name, value in found.items()
            )
        )
    if world["licence"]:
        lines.append(f"  {world['licence']}")
    return "\n".join(lines)


def _number(name: str, value: float) -> str:
    return f"{value:.0%}" if name.endswith("accuracy") else f"{value:.1f}"
