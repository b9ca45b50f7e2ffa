"""Fréchet and kernel distances between sets of places, in the features of the frozen encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.evaluation.encoder import SIZE, FrameEncoder, encode
from worldsim.evaluation.frechet import Distance, frechet_with_interval, kernel_with_interval
from worldsim.evaluation.metrics import area_average
from worldsim.painting.evaluation.places import HEADINGS

LEAST_PLACES = 4
"""Fewer places give no interval of the kernel distance."""


def pairs_of(features: Tensor) -> Tensor:
    """Join each heading's features with its neighbour's: (s * 8, d) to (s * 8, 2 d)."""
    neighbour = features.unflatten(0, (-1, HEADINGS)).roll(-1, 1).flatten(0, 1)
    return torch.cat([features, neighbour], 1)


class Yardstick:
    """Distances between sets of places.

    FD: Fréchet distance of the features of single views (Heusel et al. 2017). KD: kernel distance
    (Binkowski et al. 2018). FD of pairs: Fréchet distance of the joined features of two
    neighbouring headings, 128 dimensions. See :mod:`worldsim.evaluation.frechet`.
    """

    def __init__(self, encoder: FrameEncoder) -> None:
        self.encoder = encoder

    def features(self, rgb: Tensor) -> Tensor:
        """Encode headings (s * 8, 3, h, w) uint8 to (s * 8, 64) float32 on the CPU.

        Larger pictures are reduced to 64x64. Raises InvalidInputError for smaller ones.
        """
        if min(rgb.shape[-2:]) < SIZE:
            raise InvalidInputError(
                f"views of {rgb.shape[-2]}x{rgb.shape[-1]} pixels are too small for the encoder: "
                f"it needs {SIZE}x{SIZE} or more."
            )
        if rgb.shape[-2:] != (SIZE, SIZE):
            rgb = area_average(rgb, SIZE, SIZE)
        return encode(self.encoder, rgb).cpu()

    def distances(self, a: Tensor, b: Tensor) -> dict[str, Distance]:
        """Return ``fd``, ``kd`` and ``fd_pairs`` of features (s * 8, 64) with 95% intervals.

        The intervals are over places.
        """
        return {
            "fd": frechet_with_interval(a, b, HEADINGS),
            "kd": kernel_with_interval(a, b, HEADINGS),
            "fd_pairs": frechet_with_interval(pairs_of(a), pairs_of(b), HEADINGS),
        }

    def between(self, a: Tensor, b: Tensor) -> dict[str, list[float]]:
        """Return :meth:`distances` as ``[value, low, high]``, to five decimals."""
        return {
            name: [round(v, 5) for v in (d.value, d.low, d.high)]
            for name, d in self.distances(a, b).items()
        }
