"""Small networks that look at pictures: their layers, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.module import Module
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.files import (
    check_files,
    inside,
    load_tensors,
    require_finite,
    save_tensors,
    sha256_of,
)
from worldsim.runtime.json_config import check_format, check_seal, read_json, write_sealed
from worldsim.runtime.types import JsonMapping

ModuleT = TypeVar("ModuleT", bound=Module)


class Unit(nn.Module):
    """A strided convolution and a residual pair."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, outputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (m, a, h, w) to (m, b, h / 2, w / 2)."""
        x = self.down(x)
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


def units_of(channels: Sequence[int]) -> nn.Sequential:
    """Return units from 3 colours to each of these numbers of channels, multiples of 8, in turn."""
    return nn.Sequential(*(Unit(a, b) for a, b in zip((3, *channels), channels, strict=False)))


def pool(units: nn.Sequential, x: Tensor) -> Tensor:
    """Return mean and maximum over each picture of what the units see, (m, 2 * channels)."""
    h = F.silu(units(x))
    return torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)


def save_network(network: Module, card: Path, weights: str, told: JsonMapping) -> str:
    """Write a network's 16-bit weights and its sealed card; returns the SHA-256 of the weights.

    card: the card's file, in an existing folder.
    weights: name of the file of weights, beside it.
    told: ``format``, ``version`` and further entries of the card.

    Raises StorageError.
    """
    tensors = {
        name: value.detach().cpu().half().contiguous()
        for name, value in network.state_dict().items()
    }
    save_tensors(tensors, card.parent / weights)
    digest = sha256_of(card.parent / weights)
    write_sealed(card, {**told, "settings": network.settings, "sha256": {weights: digest}})
    return digest


def load_network(
    kind: type[ModuleT],
    card: Path,
    weights: str,
    form: tuple[str, int],
    device: torch.device | str = "cpu",
) -> ModuleT:
    """Load what :func:`save_network` wrote, for use without training.

    kind: class of the network.
    form: format and version of the card.

    Raises NotFoundError or DamagedFileError.
    """
    told = read_json(card)
    check_format(card, told, *form)
    check_seal(card, told)
    check_files(card, told.get("sha256"))
    tensors = load_tensors(inside(card.parent, weights, card))
    require_finite(tensors, card.parent / weights)
    try:
        kind.check_settings(told["settings"])
        network = kind(**told["settings"])
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (KeyError, RuntimeError, InvalidInputError) as error:
        raise DamagedFileError(
            f"{card} and {weights} do not fit ({error}): copy the folder again."
        ) from error
    return network.requires_grad_(False).eval().to(device)
