"""``worldsim train`` and ``worldsim distil``: opens the painter of painted walks and trains."""

from __future__ import annotations

import dataclasses
import os

import torch

from worldsim.protocols import Painter
from worldsim.training import distil as distilling
from worldsim.training import train as training
from worldsim.training.distil import DistilConfig
from worldsim.training.painted import PaintedConfig
from worldsim.training.train import TrainConfig
from worldsim.world import World

__all__ = ["DistilConfig", "TrainConfig", "distil", "open_painter_of", "train"]


def train(config: TrainConfig) -> World:
    """Train a world, or resume; see :func:`worldsim.training.train.train`."""
    return training.train(config, open_painter_of(config.painted))


def distil(config: DistilConfig) -> World:
    """Distil a student, or resume; see :func:`worldsim.training.distil.distil`.

    Where a discriminator judges the student, the log has the figures of
    :mod:`worldsim.evaluation.predictions`.
    """
    measure = None
    if config.method == distilling.MCM:
        from worldsim.evaluation.predictions import prediction_measure

        measure = prediction_measure(local_device())
    return distilling.distil(config, open_painter_of(config.painted), measure)


def local_device() -> str:
    """Return this process's device."""
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "cpu"


def open_painter_of(config: PaintedConfig) -> Painter | None:
    """Return the painter of painted walks on this process's device; None if none are painted.

    It samples without guidance, in the configured number of steps.

    Raises NotFoundError or DamagedFileError.
    """
    if not config.share:
        return None
    # Loading it takes time that other trainings need not spend.
    from worldsim.painting.painter import open_painter

    painter = open_painter(config.painter, device=local_device())
    painter.config = dataclasses.replace(
        painter.config,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=1.0,
        memory_guidance_scale=1.0,
        places=config.places,
    )
    return painter
