"""``worldsim export``: a trained world as the small folder that is shipped or shared."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from worldsim.errors import InvalidInputError


@dataclass(frozen=True)
class ExportConfig:
    """Write a world (weights, card, start scenes) to a new folder."""

    world: str
    """A shipped world's name, a folder, or a repository of the Hugging Face hub (owner/name)."""
    out: Path
    """The folder to write; it must not hold a world yet."""
    eight_bit: bool = True
    """Store weights as 8-bit integers with a scale a row: a quarter of the size. Measure what that costs with evaluate."""
    push_to_hub: str | None = None
    """Also upload the folder to this repository (owner/name) of the Hugging Face hub."""


def export(config: ExportConfig) -> Path:
    """Write the world; returns its folder."""
    from worldsim.world import World

    if (config.out / "world.json").exists():
        raise InvalidInputError(f"{config.out} already holds a world: choose another folder, or remove it first")
    world = World.from_pretrained(config.world, device="cpu")
    if world.folder is not None and (world.folder / "scenes").is_dir():
        shutil.copytree(world.folder / "scenes", config.out / "scenes", dirs_exist_ok=True)
    world.save_pretrained(config.out, eight_bit=config.eight_bit)
    size = sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file())
    print(f"{config.out}: {size / 1e6:.1f} MB")
    if config.push_to_hub:
        _upload(config.out, config.push_to_hub)
    return config.out


def _upload(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    print(api.upload_folder(repo_id=repository, folder_path=folder))
