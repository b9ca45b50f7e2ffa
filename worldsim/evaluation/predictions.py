"""Figures of a training run's predicted frames, for its log."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldsim.evaluation.encoder import SIZE, encode, load_encoder
from worldsim.evaluation.frechet import frechet_distance
from worldsim.evaluation.metrics import sharpness


def prediction_measure(
    device: torch.device | str = "cpu",
) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """Return a function that compares predicted with true frames, both (m, 3, h, w) uint8.

    It returns ``sharpness_ratio``, predicted over true, and, for frames of 64x64 pixels,
    ``frechet_distance`` in the features of the frozen encoder. Both are measurements, and no loss
    depends on them. More frames give a smaller distance, so compare equal counts only.

    Raises NotFoundError or DamagedFileError for the encoder's files.
    """
    encoder = load_encoder(device=device)

    def measure(predicted: Tensor, true: Tensor) -> dict[str, float]:
        found = {"sharpness_ratio": float(sharpness(predicted).mean() / sharpness(true).mean())}
        if predicted.shape[-2:] == (SIZE, SIZE):
            distance = frechet_distance(encode(encoder, predicted), encode(encoder, true))
            found["frechet_distance"] = distance
        return found

    return measure
