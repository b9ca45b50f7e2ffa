"""A small network that says which attributes a place shows, from its views.

It chooses among candidates of a painter: the one that shows most of what a prompt asks for. It is
trained on views of real places of train maps (``experiments/painter/recogniser.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim.diffusion.module import Module, register_to_config
from worldsim.diffusion.pictures import load_network, pool, save_network, units_of
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.painting.painter import DEFAULT_PAINTER, painter_folder
from worldsim.painting.words.vocabulary import NONE, SCALES
from worldsim.runtime.files import make_writable_folder
from worldsim.runtime.types import JsonMapping

FORMAT, VERSION = "worldsim-recogniser", 1
CARD, WEIGHTS = "recogniser.json", "recogniser.safetensors"
CLEARLY = 0.5
"""Words that ask for at least this amount of a share ask for more than a trace of it."""


def open_recogniser(
    name: str | Path = DEFAULT_PAINTER, device: torch.device | str = "cpu"
) -> AttributeRecogniser:
    """Load the recogniser of a shipped painter by its name, or of a painter's folder.

    Raises NotFoundError or DamagedFileError.
    """
    folder = painter_folder(name, CARD)
    if folder is not None:
        return load_recogniser(folder, device)
    raise NotFoundError(
        f"no recogniser for the painter {str(name)!r}: give a folder with {CARD}, or write one "
        "with save_recogniser."
    )


class AttributeRecogniser(Module):
    """Recognises attributes of places from their views.

    Each attribute has two logits: that its value is above ``low``, and that it is at least ``high``
    (ordinal regression). Both are trained with classes of equal weight, so a probability of 0.5 is
    neutral.

    attributes: names.
    low, high: thresholds in [0, 1] by attribute. For a share, ``low`` is a trace and ``high`` a
        typical share of the places that show it. For ``light`` and ``openness``, they are the
        values below and above which a place is dark or bright, cramped or wide.
    channels: of the levels, each of half the size of the one before; multiples of 8.
    hidden: size of the layer before the logits.
    """

    @register_to_config
    def __init__(
        self,
        attributes: tuple[str, ...],
        low: tuple[float, ...],
        high: tuple[float, ...],
        channels: tuple[int, ...] = (32, 48, 64, 96),
        hidden: int = 96,
    ) -> None:
        super().__init__()
        a = len(attributes)
        if len(low) != a or len(high) != a:
            raise InvalidInputError(
                f"{a} attributes have {len(low)} low and {len(high)} high thresholds: give one of "
                "each per attribute."
            )
        self.units = units_of(channels)
        self.view = nn.Linear(2 * channels[-1], a)
        self.place = nn.Sequential(
            nn.Linear(4 * channels[-1], hidden),
            nn.SiLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, 2 * a),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that it recognises."""
        return tuple(self.config.attributes)

    def forward(self, rgb: Tensor) -> Tensor:
        """Return logits (b, a, 2) of ``low`` and ``high``.

        rgb: (b, n, 3, h, w) float in [-1, 1], ``n`` views of each place.
        """
        return self.of_features(self.features(rgb))

    def features(self, rgb: Tensor) -> Tensor:
        """Return features (b, n, f) of views (b, n, 3, h, w)."""
        return pool(self.units, rgb.flatten(0, 1)).float().unflatten(0, rgb.shape[:2])

    def of_features(self, features: Tensor) -> Tensor:
        """Return logits (b, a, 2) of features (b, n, f)."""
        logits: Tensor = self.place(torch.cat([features.mean(1), features.amax(1)], 1))
        return logits.unflatten(1, (-1, 2))

    def agreement(self, logits: Tensor, wanted: Mapping[str, float]) -> dict[str, Tensor]:
        """Return by name the probability (b,) that a place shows what is wanted.

        logits: (b, a, 2).
        wanted: amounts in [0, 1] by attribute (:mod:`worldsim.painting.words.vocabulary`). Other
            attributes than :attr:`names` are left out.
        """
        found = {}
        for name, amount in wanted.items():
            if name not in self.names:
                continue
            low, high = logits[:, self.names.index(name)].sigmoid().unbind(-1)
            if name in SCALES:
                found[name] = high if amount > CLEARLY else 1.0 - low
                if amount == CLEARLY:
                    found[name] = low * (1.0 - high)
            else:
                found[name] = 1.0 - low if amount == NONE else high if amount >= CLEARLY else low
        return found

    @torch.no_grad()
    def look(self, rgb: Tensor, wanted: Mapping[str, float]) -> dict[str, float]:
        """Return by name the probability that one place shows what is wanted.

        rgb: (n, 3, h, w) uint8, the views of the place.
        wanted: see :meth:`agreement`.
        """
        device = next(self.parameters()).device
        logits = self((rgb.to(device).float() / 127.5 - 1.0)[None])
        return {name: float(p) for name, p in self.agreement(logits, wanted).items()}


def save_recogniser(network: AttributeRecogniser, folder: Path, told: JsonMapping) -> None:
    """Write the recogniser with 16-bit weights, and a card with ``told``, into ``folder``.

    Raises StorageError.
    """
    card = {"format": FORMAT, "version": VERSION, **told}
    save_network(network, make_writable_folder(folder) / CARD, WEIGHTS, card)


def load_recogniser(folder: Path, device: torch.device | str = "cpu") -> AttributeRecogniser:
    """Load a recogniser. Raises NotFoundError or DamagedFileError."""
    path = Path(folder) / CARD
    return load_network(AttributeRecogniser, path, WEIGHTS, (FORMAT, VERSION), device)
