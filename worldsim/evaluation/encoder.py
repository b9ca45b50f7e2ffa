"""The frozen encoder of the Fréchet and kernel distances: 64 features of a 64x64 picture.

It was trained on true frames of train maps, clean and damaged, to predict the visible families of
textures, liquids and sky, and the kind of damage. It is used for measurements, never as a loss.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.module import Module, register_to_config
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
from worldsim.runtime.types import JsonObject

FOLDER = Path(__file__).parent / "frechet_encoder"
"""Where the shipped encoder lies."""
FORMAT = "worldsim-encoder"
CARD, WEIGHTS = "encoder.json", "encoder.safetensors"
DIMENSIONS = 64
SIZE = 64
"""Rows and columns of the pictures it looks at."""
DAMAGES = ("none", "blur", "noise", "shuffled", "holes", "colour", "fog", "tiled")
"""Kinds of damage that it tells apart."""


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


class FrameEncoder(Module):
    """Features of pictures, and the heads that they were trained with.

    attributes: names of the shares that it predicts of a clean frame.
    levels: channels of the levels, each of half the size of the one before.
    """

    @register_to_config
    def __init__(
        self, attributes: tuple[str, ...] = (), levels: tuple[int, ...] = (24, 48, 64, 96)
    ) -> None:
        super().__init__()
        self.units = nn.Sequential(
            *(Unit(a, b) for a, b in zip((3, *levels), levels, strict=False))
        )
        self.features = nn.Linear(2 * levels[-1], DIMENSIONS)
        self.heads = nn.ModuleDict(
            {
                "attributes": nn.Linear(DIMENSIONS, len(attributes)),
                "damage": nn.Linear(DIMENSIONS, len(DAMAGES)),
                "severity": nn.Linear(DIMENSIONS, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features (m, 64) float32 of pictures (m, 3, 64, 64) float in [-1, 1]."""
        h = F.silu(self.units(x))
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)
        return self.features(pooled).float()

    def heads_of(self, features: Tensor) -> dict[str, Tensor]:
        """Return logits of attributes (m, a) and damage (m, 8), and severity (m, 1).

        features: (m, 64).
        """
        active = F.silu(features)
        return {name: head(active) for name, head in self.heads.items()}


@torch.no_grad()
def encode(encoder: FrameEncoder, rgb: Tensor, batch: int = 512) -> Tensor:
    """Return features (m, 64) float32 of pictures (m, 3, 64, 64) uint8.

    Runs on the encoder's device. Raises InvalidInputError for other sizes or types.
    """
    if rgb.dtype != torch.uint8 or rgb.shape[1:] != (3, SIZE, SIZE):
        raise InvalidInputError(
            f"the encoder needs (m, 3, {SIZE}, {SIZE}) uint8, got {tuple(rgb.shape)} {rgb.dtype}: "
            "resize by worldsim.evaluation.metrics.area_average first."
        )
    device = next(encoder.parameters()).device
    parts = [encoder(part.to(device).float() / 127.5 - 1.0) for part in rgb.split(batch)]
    return torch.cat(parts)


def save_encoder(encoder: FrameEncoder, folder: Path, told: JsonObject) -> str:
    """Write the encoder with 16-bit weights and a card; returns the SHA-256 of its weights."""
    weights = {
        name: value.detach().cpu().half().contiguous()
        for name, value in encoder.state_dict().items()
    }
    save_tensors(weights, folder / WEIGHTS)
    digest = sha256_of(folder / WEIGHTS)
    card = {
        "format": FORMAT,
        "version": 1,
        "settings": encoder.settings,
        **told,
        "sha256": {WEIGHTS: digest},
    }
    write_sealed(folder / CARD, card)
    return digest


def load_encoder(folder: Path = FOLDER, device: torch.device | str = "cpu") -> FrameEncoder:
    """Load the shipped encoder, or one from a folder. Raises NotFoundError or DamagedFileError."""
    path = folder / CARD
    card = read_json(path)
    check_format(path, card, FORMAT, 1)
    check_seal(path, card)
    check_files(path, card.get("sha256"))
    weights = load_tensors(inside(folder, WEIGHTS, path))
    require_finite(weights, folder / WEIGHTS)
    try:
        FrameEncoder.check_settings(card["settings"])
        encoder = FrameEncoder(**card["settings"])
        encoder.load_state_dict({name: value.float() for name, value in weights.items()})
    except (KeyError, RuntimeError, InvalidInputError) as error:
        raise DamagedFileError(
            f"{path} and its weights do not fit ({error}): copy the folder again."
        ) from error
    return encoder.requires_grad_(False).eval().to(device)
