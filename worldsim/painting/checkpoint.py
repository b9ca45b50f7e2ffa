"""Painters on disk: a training run's checkpoint, with 16-bit weights split into parts.

``painter.json`` holds the step, the seed and the settings. ``weights-NN`` and ``average-NN`` are
safetensors files of a limited size, so that a run can be moved to another machine in pieces. The
optimiser's moments are not saved: a resumed run rebuilds them in a short warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldsim.diffusion.quantise import dequantise_weights, quantise_weights
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.painting.network import PainterNetwork
from worldsim.painting.sampling import PaintConfig
from worldsim.protocols import PainterSpec
from worldsim.runtime.files import (
    check_files,
    inside,
    is_file,
    load_tensors,
    replacing_folder,
    require_finite,
    save_tensors,
    sha256_of,
)
from worldsim.runtime.json_config import (
    check_format,
    check_seal,
    from_json,
    read_json,
    to_json,
    write_sealed,
)
from worldsim.runtime.types import JsonMapping, JsonObject

FORMAT, VERSION = "worldsim-painter", 1
CARD = "painter.json"
PART_BYTES = 16_500_000
"""Default size limit of a part in bytes."""


@dataclass(frozen=True)
class Saved:
    """The contents of a checkpoint: float32 tensors by name, and the card."""

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    card: JsonObject

    def network(self, average: bool = True) -> PainterNetwork:
        """Build the network with its average weights, or with those of the last step if saved.

        Raises DamagedFileError if the weights do not fit the settings.
        """
        settings = self.card["settings"]
        PainterNetwork.check_settings(settings)
        network = PainterNetwork(**settings)
        weights = self.average if average or not self.weights else self.weights
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise DamagedFileError(
                f"the painter's weights do not fit its settings ({error})."
            ) from error
        return network

    def spec(self) -> PainterSpec:
        """Return the size, the camera and the attributes of the painter's views.

        Raises DamagedFileError if the card does not name them.
        """
        try:
            return from_json(PainterSpec, self.card.get("spec"), "spec")
        except InvalidInputError as error:
            raise DamagedFileError(
                f"{CARD} does not describe the painter's views ({error}): save the painter again, "
                "with its spec."
            ) from error

    def sampling(self) -> PaintConfig:
        """Return the sampling settings that the card recommends, or the defaults.

        Raises DamagedFileError.
        """
        try:
            return from_json(PaintConfig, self.card.get("sampling", {}), "sampling")
        except InvalidInputError as error:
            raise DamagedFileError(f"{CARD} is damaged ({error}): copy it again.") from error


def save_painter(
    folder: Path,
    settings: JsonMapping,
    average: Mapping[str, Tensor],
    weights: Mapping[str, Tensor] | None = None,
    told: JsonMapping | None = None,
    eight_bit: bool = False,
    part_bytes: int = PART_BYTES,
    spec: PainterSpec | None = None,
    sampling: PaintConfig | None = None,
) -> None:
    """Write a painter atomically.

    settings: arguments of the network.
    average: averaged weights, used for painting.
    weights: weights of the last step, to resume from, or None.
    told: further entries of the card.
    eight_bit: whether matrices are stored as int8 with one scale per row instead of 16-bit floats.
    part_bytes: size limit of a part.
    spec: size, camera and attributes of the views. A painter without it can be trained further, but
        not loaded by :class:`worldsim.painting.painter.NetworkPainter`.
    sampling: recommended sampling settings.

    Raises StorageError, and InvalidInputError if a tensor is larger than ``part_bytes``.
    """
    groups = {"average": average, **({"weights": weights} if weights is not None else {})}
    with replacing_folder(folder) as unfinished:
        for old in unfinished.glob("*-*.safetensors"):
            old.unlink()
        sums: dict[str, str] = {}
        for group, tensors in groups.items():
            for i, part in enumerate(_parts(_pack(tensors, eight_bit), part_bytes)):
                name = f"{group}-{i:02d}.safetensors"
                save_tensors(part, unfinished / name)
                sums[name] = sha256_of(unfinished / name)
        card = {
            "format": FORMAT,
            "version": VERSION,
            "settings": dict(settings),
            **({"spec": to_json(spec)} if spec is not None else {}),
            **({"sampling": to_json(sampling)} if sampling is not None else {}),
            **dict(told or {}),
        }
        write_sealed(unfinished / CARD, {**card, "sha256": sums})


def load_painter(folder: Path) -> Saved:
    """Read a folder written by :func:`save_painter`.

    Raises NotFoundError or DamagedFileError.
    """
    path = folder / CARD
    card = read_json(path)
    check_format(path, card, FORMAT, VERSION)
    check_seal(path, card)
    check_files(path, card.get("sha256"))
    groups: dict[str, dict[str, Tensor]] = {"average": {}, "weights": {}}
    for name in sorted(card["sha256"]):
        group = name.split("-")[0]
        if group not in groups:
            raise DamagedFileError(
                f"{path} names {name}, which is not a part of a painter: copy the folder again."
            )
        groups[group] |= load_tensors(inside(folder, name, path))
    unpacked = {group: dequantise_weights(tensors) for group, tensors in groups.items()}
    for tensors in unpacked.values():
        require_finite(tensors, path)
    return Saved(unpacked["weights"], unpacked["average"], card)


def has_painter(folder: Path) -> bool:
    """Return whether ``folder`` holds a checkpoint."""
    return is_file(folder / CARD)


def _pack(tensors: Mapping[str, Tensor], eight_bit: bool) -> dict[str, Tensor]:
    whole = {name: value.detach().float().cpu() for name, value in tensors.items()}
    if eight_bit:
        return quantise_weights(whole)
    return {name: value.to(torch.float16).contiguous() for name, value in whole.items()}


def _parts(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """Split tensors, in order, into parts of at most ``most`` bytes."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in tensors.items():
        bytes_ = value.numel() * value.element_size()
        if bytes_ > most:
            raise InvalidInputError(
                f"part_bytes = {most} is less than the size of {name} ({bytes_}): raise it."
            )
        if size + bytes_ > most:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += bytes_
    return parts
