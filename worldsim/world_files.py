"""Worlds on disk: a folder with ``world.json`` and a sub-folder a module, by path, shipped name or hub repository."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldsim.config import from_json, read_json, to_json, write_json
from worldsim.diffusion.quantise import dequantise_weights, quantise_weights
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.world_config import WorldConfig

FORMAT_VERSION = 1
PLAIN_WEIGHTS, PACKED_WEIGHTS = "diffusion_pytorch_model.safetensors", "int8.safetensors"
WORLDS_FOLDER = Path(__file__).parent / "worlds"


def save_world(
    folder: str | os.PathLike[str], modules: Mapping[str, nn.Module], config: WorldConfig, card: dict[str, Any], eight_bit: bool
) -> Path:
    """Write a world: see :meth:`worldsim.world.World.save_pretrained`. modules: by the names of their folders."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "world.json").unlink(missing_ok=True)
    for name, module in modules.items():
        (folder / name).mkdir(exist_ok=True)
        write_json(folder / name / "config.json", {"_class_name": type(module).__name__, **module.settings})  # type: ignore[dict-item]
        weights = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        target, stale = folder / name / PACKED_WEIGHTS, folder / name / PLAIN_WEIGHTS
        if not eight_bit:
            target, stale = stale, target
        half = getattr(module, "half_precision", ())
        _save_atomically(quantise_weights(weights, half) if eight_bit else weights, target)
        stale.unlink(missing_ok=True)
    write_json(
        folder / "world.json",
        {"format": "worldsim-world", "version": FORMAT_VERSION, "config": to_json(config), "card": card},
    )
    return folder


def find_world(name: str | os.PathLike[str]) -> Path:
    """The folder of a world: a shipped one's name, a path, or a hub repository (downloaded)."""
    shipped = WORLDS_FOLDER / str(name)
    for folder in (Path(name), shipped):
        if (folder / "world.json").is_file():
            return folder
    if Path(name).exists():
        raise NotFoundError(f"{str(name)!r} is not a world: it has no world.json")
    text = str(name)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "*.png", "*.webp"]))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise NotFoundError(f"no world {text!r} here or on the hub ({type(error).__name__}): {_shipped()}") from error
    raise NotFoundError(f"no world {text!r}: give a folder with a world.json, or {_shipped()}")


def shipped_worlds() -> list[str]:
    """Names of the worlds that come with worldsim."""
    return sorted(p.parent.name for p in WORLDS_FOLDER.glob("*/world.json"))


def _shipped() -> str:
    return f"one of the shipped worlds: {', '.join(shipped_worlds()) or 'none'}"


def _save_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary)
    # safetensors makes files that only their owner can read.
    temporary.chmod(0o644)
    os.replace(temporary, path)


def read_card(path: Path) -> tuple[WorldConfig, dict[str, Any]]:
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("format") != "worldsim-world":
        raise DamagedFileError(f"{path} is not a world's card: its format is not 'worldsim-world'")
    version = meta.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DamagedFileError(f"{path} has version {version!r}; this worldsim reads up to {FORMAT_VERSION}: upgrade worldsim")
    try:
        return from_json(WorldConfig, meta.get("config")), meta.get("card", {})  # type: ignore[arg-type]
    except InvalidInputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}): copy the world again") from error


def load_module(kind: Any, folder: Path) -> Any:
    """A module from its folder: diffusers' layout, or int8 weights beside the same config.

    ``_same_as`` in the config names a shipped world whose module of that name it is, weights and all: shipped worlds need not hold
    the same weights twice. Worlds that are saved hold all they need.
    """
    config = read_json(folder / "config.json")
    if "_same_as" in config:
        if config["_same_as"] not in shipped_worlds():
            raise DamagedFileError(f"{folder / 'config.json'}: {config['_same_as']!r} is no shipped world: copy the world again")
        return load_module(kind, WORLDS_FOLDER / config["_same_as"] / folder.name)
    packed, plain = folder / PACKED_WEIGHTS, folder / PLAIN_WEIGHTS
    path = packed if packed.is_file() else plain
    if not path.is_file():
        raise NotFoundError(f"{folder} has no weights ({packed.name} or {plain.name}): copy the world again")
    try:
        module = kind.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DamagedFileError(f"{folder / 'config.json'} is damaged ({error}): copy the world again") from error
    try:
        weights = load_file(path)
        module.load_state_dict(dequantise_weights(weights) if path == packed else weights)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise DamagedFileError(f"{path} is damaged or does not fit its config.json ({error}): copy the world again") from error
    return module
