"""Carrying a training run to another machine: its weights in 16 bits, in parts of a chosen size.

A checkpoint resumes a run exactly and takes 16 bytes per parameter. What is carried takes 4: the
weights and their moving averages in 16 bits. The optimiser's moments stay behind. They are rebuilt
while the learning rate rises again for :attr:`worldsim.training.config.TrainConfig.carry_warmup`
steps. Step and seed are carried, so the random numbers of all later steps are those of a run that
was never interrupted.

The folder ``carry`` in a run's output holds ``carry.json`` and the parts. Copied into another,
empty output folder, it is what ``worldsim train`` goes on from.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from worldsim.errors import DamagedFileError, NotFoundError
from worldsim.runtime.files import (
    check_files,
    inside,
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

FORMAT, VERSION = "worldsim-carry", 1
FOLDER, CARD = "carry", "carry.json"
MEGABYTE = 10**6


def pack(model: torch.nn.Module, ema: EMAModel) -> dict[str, Tensor]:
    """Return weights, buffers and averages by name, gathered, on the CPU.

    Parameters and averages are float16. Buffers, such as the units of motions, are as they are.
    Where weights are sharded, all processes must call it.
    """
    parameters = {name for name, _ in model.named_parameters()}
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{i}": p for i, p in enumerate(ema.shadow_params)}
    return {
        name: halve(value)
        if name.removeprefix("model.") in parameters or name[:4] == "ema."
        else value
        for name, value in to_save(tensors).items()
    }


def halve(value: Tensor) -> Tensor:
    """Return a tensor in float16; as it is if it does not fit."""
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float64):
        return value
    half = value.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else value


def unpack(tensors: dict[str, Tensor], model: torch.nn.Module, ema: EMAModel) -> None:
    """Load tensors from :func:`pack` in place.

    Raises KeyError or RuntimeError if they do not fit.
    """
    held = model.state_dict()
    model.load_state_dict(
        {
            k: split_like(v.to(held[k].dtype), held[k]) if k in held else v
            for k, v in part_of(tensors, "model.").items()
        }
    )
    for i, parameter in enumerate(ema.shadow_params):
        parameter.data.copy_(split_like(tensors[f"ema.{i}"].to(parameter.dtype), parameter))


def split(tensors: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """Split tensors into parts of at most ``size`` bytes, in their order.

    A tensor that is larger has a part of its own.
    """
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, value in tensors.items():
        length = value.numel() * value.element_size()
        if parts[-1] and filled + length > size:
            parts.append({})
            filled = 0
        parts[-1][name] = value
        filled += length
    return parts


def write_carry(out: Path, tensors: dict[str, Tensor], meta: JsonObject, megabytes: float) -> None:
    """Replace the folder ``carry`` in ``out`` atomically.

    megabytes: largest size of a part, in 10^6 bytes.

    Raises StorageError, and the old folder stays.
    """
    with replacing_folder(out / FOLDER) as folder:
        files = {}
        for i, part in enumerate(split(tensors, int(megabytes * MEGABYTE))):
            name = f"part-{i:03d}.safetensors"
            save_tensors(part, folder / name)
            files[name] = sha256_of(folder / name)
        told = {"format": FORMAT, "version": VERSION, **to_json(meta), "sha256": files}
        write_sealed(folder / CARD, told)


def read_carry(out: Path) -> tuple[Path, JsonObject, dict[str, Tensor]] | None:
    """Return the folder, metadata and tensors of what was carried to ``out``; None if nothing was.

    Raises DamagedFileError, which names a part that is missing or damaged.
    """
    folder = present_folder(out / FOLDER)
    path = folder / CARD
    if not os.path.lexists(path):
        return None
    try:
        meta = read_json(inside(folder, CARD))
        check_format(path, meta, FORMAT, VERSION)
        check_seal(path, meta)
        files = meta.get("sha256", {})
        check_files(path, files)
        tensors: dict[str, Tensor] = {}
        for name in sorted(files):
            tensors |= load_tensors(inside(folder, name))
        require_finite(tensors, path)
    except (DamagedFileError, NotFoundError) as error:
        raise DamagedFileError(
            f"{error} Copy {folder} again, with all its parts, or delete it to start afresh."
        ) from error
    return folder, meta, tensors
