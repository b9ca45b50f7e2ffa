"""Checkpoints: weights, their averages and the optimiser's state, for exact resume."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from worldsim.errors import DamagedFileError, NotFoundError, WorldsimError
from worldsim.runtime.files import (
    check_files,
    inside,
    is_folder,
    load_tensors,
    present_folder,
    replacing_folder,
    require_finite,
    save_tensors,
    sha256_of,
)
from worldsim.runtime.json_config import check_format, check_seal, read_json, to_json, write_sealed
from worldsim.runtime.types import JsonObject
from worldsim.training.sharding import part_of, split_like, to_save

FORMAT, VERSION = "worldsim-checkpoint", 2
"""Version 2 has checksums of both files."""
CHECKPOINT, STATE = "checkpoint.json", "state.safetensors"


def pack(
    model: torch.nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return all tensors of a run by name, gathered, on the CPU.

    Where weights are sharded, all processes must call it.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{i}": p for i, p in enumerate(ema.shadow_params)}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    return to_save(tensors)


def unpack(
    tensors: dict[str, Tensor],
    model: torch.nn.Module,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load tensors from :func:`pack` in place.

    Raises KeyError or RuntimeError if they do not fit.
    """
    held, weights = model.state_dict(), part_of(tensors, "model.")
    model.load_state_dict(
        {k: split_like(v, held[k]) if k in held else v for k, v in weights.items()}
    )
    for i, parameter in enumerate(ema.shadow_params):
        parameter.data.copy_(split_like(tensors[f"ema.{i}"], parameter))
    state = optimizer.state_dict()
    state["state"] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in part_of(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        state["state"].setdefault(int(index), {})[key] = (
            split_like(value, like) if value.shape == like.shape else value
        )
    optimizer.load_state_dict(state)


def write_checkpoint(out: Path, tensors: dict[str, Tensor], meta: JsonObject) -> None:
    """Replace the checkpoint in ``out`` atomically.

    Raises StorageError, and the old checkpoint stays.
    """
    with replacing_folder(out / "checkpoint") as folder:
        save_tensors(tensors, folder / STATE)
        told = {
            "format": FORMAT,
            "version": VERSION,
            **to_json(meta),
            "sha256": {STATE: sha256_of(folder / STATE)},
        }
        write_sealed(folder / CHECKPOINT, told)


def read_checkpoint(out: Path) -> tuple[Path, JsonObject, dict[str, Tensor]] | None:
    """Return the folder, metadata and tensors of the checkpoint in ``out``; None if there is none.

    Raises DamagedFileError.
    """
    folder = present_folder(out / "checkpoint")
    path = folder / CHECKPOINT
    if not os.path.lexists(path):
        if is_folder(folder) and any(folder.iterdir()):
            raise DamagedFileError(f"{path} is missing. Delete {folder} to start afresh.")
        return None
    try:
        meta = read_json(inside(folder, CHECKPOINT))
        check_seal(path, meta, required=check_format(path, meta, FORMAT, VERSION) >= 2)
        check_files(path, meta.get("sha256", {}))
        tensors = load_tensors(inside(folder, STATE))
        require_finite(tensors, folder / STATE)
    except (DamagedFileError, NotFoundError) as error:
        raise DamagedFileError(f"{error} Delete {folder} to start afresh.") from error
    return folder, meta, tensors


def read_settings(out: Path, key: str = "config") -> JsonObject:
    """Return the settings of the checkpoint in ``out``; empty if there is none that can be read.

    key: key of the settings in its card.
    """
    folder = present_folder(out / "checkpoint")
    try:
        settings = read_json(inside(folder, CHECKPOINT))[key]
    except (WorldsimError, KeyError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}
