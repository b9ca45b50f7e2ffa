"""What the dreams share: loading a world, and checks of seeds, masks and actions of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldsim.diffusion.dynamics import MAX_STEPS
from worldsim.errors import InvalidInputError
from worldsim.protocols import Painter
from worldsim.runtime.arguments import shown, whole
from worldsim.runtime.threads import use_threads
from worldsim.runtime.types import Array, Batch
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
    if paint is None:
        raise InvalidInputError(
            f"a painter paints nothing alone: give paint={AHEAD!r} or a PaintAheadConfig, too"
        )
    if not isinstance(paint, PaintAheadConfig):
        raise InvalidInputError(
            f"paint must be None, {AHEAD!r} or a PaintAheadConfig, got {paint!r}"
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


def list_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """Return the seed of each environment: ``seed + i``, or those of a list; None keeps its own."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)):
        return [whole("seed", seed, 0, math.inf) + i for i in range(num_envs)]
    try:
        seeds = list(seed)
    except TypeError:
        raise InvalidInputError(
            f"seed = {shown(seed)}: give a whole number, or a list with one for each environment"
        ) from None
    if len(seeds) != num_envs:
        raise InvalidInputError(
            f"a list of seeds needs one for each of the {num_envs} environments, got {len(seeds)}"
        )
    return [None if s is None else whole(f"seed[{i}]", s, 0, math.inf) for i, s in enumerate(seeds)]


def check_mask(mask: object, num_envs: int) -> Array:
    """Return a copy of a ``reset_mask`` (n,) bool; all True for None."""
    if mask is None:
        return np.ones(num_envs, bool)
    if isinstance(mask, Tensor):
        mask = mask.cpu().numpy()
    if (
        not isinstance(mask, np.ndarray)
        or mask.shape != (num_envs,)
        or mask.dtype != np.bool_
        or not mask.any()
    ):
        raise InvalidInputError(
            f"reset_mask must be a bool array of shape ({num_envs},) with a True in it, got "
            f"{mask!r}"
        )
    return mask.copy()


def check_actions(actions: Batch, space: gym.Space[Any], num_envs: int) -> Tensor:
    """Return the actions of a batch, (n,) int64 or (n, k) float32, where they are.

    space: of one environment, Discrete or Box.
    """
    try:
        act = actions if isinstance(actions, Tensor) else torch.as_tensor(np.asarray(actions))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"{type(actions).__name__} is no array of {num_envs} actions ({error})"
        ) from None
    # Where they are: a GPU need not be waited for to look at what comes from the host.
    device = act.device
    if isinstance(space, gym.spaces.Discrete):
        fits = act.shape == (num_envs,) and not (
            act.is_floating_point() or act.is_complex() or act.dtype == torch.bool
        )
        inside = fits and bool(((act >= 0) & (act < int(space.n))).all())
        kind = torch.int64
    else:
        assert isinstance(space, gym.spaces.Box)
        low, high = (torch.from_numpy(bound).to(device) for bound in (space.low, space.high))
        fits = act.shape == (num_envs, *space.shape) and not act.is_complex()
        kind = torch.float32
        # As for a single environment: numbers are cast first, then checked.
        act = act.to(kind) if fits else act
        inside = fits and bool(((act >= low) & (act <= high)).all())
    if not inside:
        told = act.flatten()[:16].tolist()
        raise InvalidInputError(
            f"actions of shape {tuple(act.shape)}, {told}, are not {num_envs} actions of {space}"
        )
    return act.to(kind)
