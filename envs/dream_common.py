"""Loading a world for the single and the batched dream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from worldsim.diffusion.dynamics import MAX_STEPS
from worldsim.errors import InvalidInputError
from worldsim.protocols import Painter
from worldsim.runtime.threads import use_threads
from worldsim.world import World
from worldsim.world.engine import EngineConfig
from worldsim.world.paint_ahead import PaintAheadConfig

Adapters: TypeAlias = str | Path | Sequence[str | Path] | Mapping[str | Path, float] | None
"""Folders of adapters, or their scales by folder."""
AHEAD = "ahead"
"""Value of ``paint`` for dreams that are painted ahead with default settings."""


def load_world(
    world: str | Path | World | None,
    device: torch.device | str | None,
    num_inference_steps: int | None,
    engine: str | EngineConfig | None = None,
    temperature: float | None = None,
    uncertainty: bool = False,
    threads: int | None = None,
    paint: str | PaintAheadConfig | None = None,
    painter: str | Path | Painter | None = None,
    adapters: Adapters = None,
) -> World:
    """Return the world to dream in.

    A :class:`World` is used as it is, or on ``device`` and with ``engine`` if they are given.

    threads: CPU threads of the whole process; None leaves PyTorch's choice.
    paint, painter, adapters: see :class:`worldsim.envs.world_env.WorldEnv`.
    """
    use_threads(threads)
    if isinstance(world, World):
        loaded = world if device is None else world.to(device)
    elif isinstance(world, (str, Path)):
        loaded = World.from_pretrained(world, device)
    else:
        raise InvalidInputError(
            f"world must be a name (see `worldsim worlds`), a folder or a World, got {world!r}"
        )
    if num_inference_steps is not None and (
        isinstance(num_inference_steps, bool)
        or not isinstance(num_inference_steps, int)
        or not 1 <= num_inference_steps <= MAX_STEPS
    ):
        raise InvalidInputError(
            f"sampling steps must be a whole number from 1 to {MAX_STEPS}, got "
            f"{num_inference_steps!r}"
        )
    loaded = loaded.with_dynamics(num_inference_steps=num_inference_steps, temperature=temperature)
    if uncertainty:
        loaded = loaded.with_uncertainty()
    if paint is not None or painter is not None:
        loaded = loaded.with_painting(*painting_of(paint, painter, loaded))
    if adapters is not None:
        loaded = loaded.with_adapters(adapters)
    # Last: each change makes a world of its own, whose engine is prepared anew.
    return loaded if engine is None else loaded.with_engine(engine)


def painting_of(
    paint: str | PaintAheadConfig | None, painter: str | Path | Painter | None, world: World
) -> tuple[Painter, PaintAheadConfig]:
    """Return the painter and its settings, see :class:`worldsim.envs.world_env.WorldEnv`."""
    if isinstance(paint, str) and paint == AHEAD:
        paint = PaintAheadConfig()
    if not isinstance(paint, PaintAheadConfig):
        raise InvalidInputError(
            f"paint must be None, {AHEAD!r} or a PaintAheadConfig, got {paint!r}"
            + (" with a painter" if paint is None else "")
        )
    if isinstance(painter, Painter):
        return painter, paint
    from worldsim.painting.painter import DEFAULT_PAINTER, open_painter

    return open_painter(painter or DEFAULT_PAINTER, device=world.device), paint


def check_uncertainty_limit(limit: float | None) -> None:
    """Raise InvalidInputError unless the limit is None or a number above 0."""
    if limit is not None and not (
        isinstance(limit, (int, float, np.integer, np.floating)) and limit > 0
    ):
        raise InvalidInputError(
            f"uncertainty_limit must be more than 0 (colours differ by at most 1), or None, got "
            f"{limit!r}"
        )
