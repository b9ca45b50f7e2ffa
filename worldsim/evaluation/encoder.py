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
from worldsim.diffusion.pictures import load_network, pool, save_network, units_of
from worldsim.errors import InvalidInputError
from worldsim.runtime.types import JsonObject

FOLDER = Path(__file__).parent / "frechet_encoder"
"""Where the shipped encoder lies."""
FORMAT, VERSION = "worldsim-encoder", 1
CARD, WEIGHTS = "encoder.json", "encoder.safetensors"
DIMENSIONS = 64
SIZE = 64
"""Rows and columns of the pictures it looks at."""
DAMAGES = ("none", "blur", "noise", "shuffled", "holes", "colour", "fog", "tiled")
"""Kinds of damage that it tells apart."""


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
        self.units = units_of(levels)
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
        return self.features(pool(self.units, x)).float()

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
    return save_network(
        encoder, folder / CARD, WEIGHTS, {"format": FORMAT, "version": VERSION, **told}
    )


def load_encoder(folder: Path = FOLDER, device: torch.device | str = "cpu") -> FrameEncoder:
    """Load the shipped encoder, or one from a folder. Raises NotFoundError or DamagedFileError."""
    return load_network(FrameEncoder, folder / CARD, WEIGHTS, (FORMAT, VERSION), device)
