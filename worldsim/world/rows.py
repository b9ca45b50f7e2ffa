"""Environments of a world as rows of a batch: infos, forks, checks of snapshots, and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.memory.handle import MemoryHandle
from worldsim.state import WorldState, flatten
from worldsim.world.engine import free_memory
from worldsim.world.snapshots import Snapshot, check_adapters, check_generators
from worldsim.world.starts import SEED_LIMIT
from worldsim.world.world import BUCKETS, World, bucket


class Randomness(StrEnum):
    """How the futures of a fork differ."""

    COMMON = "common"
    """The same actions give the same futures, bit by bit: what differs comes from the actions
    alone."""
    INDEPENDENT = "independent"
    """Every fork dreams with a fresh seed."""


def report(world: World, state: WorldState, n: int) -> dict[str, Tensor]:
    """Return the ``info`` of the first ``n`` worlds.

    Values are copies with a leading axis of environments.
    """
    frame = state.frame
    info: dict[str, Tensor] = {}
    if frame.depth is not None and frame.pose is not None:
        info = {
            "pose": frame.pose[:n].clone(),
            "depth": frame.depth[:n],
            "intrinsics": state.intrinsics[:n].clone(),
        }
    info["memory_coverage"] = world.coverage(state)[:n].clone()
    info["generated"] = torch.ones(n, dtype=torch.bool, device=frame.rgb.device)
    return info


def fork_state(
    world: World, state: WorldState, index: int, n: int, randomness: str, rng: np.random.Generator
) -> WorldState:
    """Return ``n`` copies of one world.

    Raises OutOfMemoryError, before anything is copied, if they would not fit.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise InvalidInputError(f"fork needs a whole number of at least 1 environments, got {n!r}")
    try:
        kind = Randomness(randomness)
    except ValueError:
        raise InvalidInputError(
            f"randomness must be 'common' or 'independent', got {randomness!r}"
        ) from None
    require_memory(int(n), world)
    copies = state.select(torch.full((int(n),), index, dtype=torch.int64))
    if kind is Randomness.COMMON:
        return copies
    seeds = torch.from_numpy(rng.integers(SEED_LIMIT, size=int(n)))
    return dataclasses.replace(copies, seed=seeds.to(copies.seed.device))


def check_snapshot(snapshot: Snapshot, world: World, environments: int) -> None:
    """Raise InvalidInputError unless ``snapshot`` has that many environments of such a world."""
    if not isinstance(snapshot, Snapshot):
        raise InvalidInputError(f"restore takes what snapshot gave, got {type(snapshot).__name__}")
    if snapshot.weights and snapshot.weights != world.weights_id:
        check_adapters("this snapshot", snapshot.adapters, world.adapters)
        raise InvalidInputError(
            "this snapshot is of another world, with other weights: restore it where it was taken"
        )
    # Number formats of the context may differ: another engine's snapshot goes on, up to rounding.
    mine, other = (
        {k: (v.dtype.is_floating_point or v.dtype, v.shape[1:]) for k, v in flatten(s).items()}
        for s in (world.blank(1), snapshot.state)
    )
    counts = {len(snapshot.elapsed), len(snapshot.resetting), len(snapshot.generators)}
    if counts != {environments} or len(snapshot.state) != bucket(environments) or mine != other:
        raise InvalidInputError(
            f"this snapshot is of {len(snapshot.elapsed)} environments of another kind or number "
            f"than these {environments}: "
            "restore it where it was taken, or in an environment made with the same arguments"
        )
    check_generators(snapshot.generators)


def check_memory(world: World, state: WorldState, memory: Any) -> Any:
    """Return the data of ``memory``, a handle or data.

    Raises InvalidInputError unless it fits ``state``.
    """
    data = memory.data if isinstance(memory, MemoryHandle) else memory
    mine = {name: (value.dtype, value.shape[1:]) for name, value in flatten(state.memory).items()}
    try:
        other = {name: (value.dtype, value.shape[1:]) for name, value in flatten(data).items()}
    except (TypeError, AttributeError, InvalidInputError):
        other = {}
    if type(data) is not type(state.memory) or mine != other:
        raise InvalidInputError(
            f"{type(memory).__name__} is no memory of this world: edit takes what env.memory gives"
        )
    return data


def require_memory(environments: int, world: World) -> None:
    """Raise OutOfMemoryError unless that many environments fit in the free memory.

    The error says how many would fit.
    """
    free = free_memory(world.device)
    if bucket(environments) * world.step_bytes() <= free:
        return
    raise OutOfMemoryError(_too_many(environments, world, free))


@contextmanager
def enough_memory(environments: int, world: World) -> Iterator[None]:
    """Turn a failed allocation into an error that says how many environments would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError):
            raise
        raise OutOfMemoryError(_too_many(environments, world, free_memory(world.device))) from error


def _too_many(environments: int, world: World, memory: int) -> str:
    # Batches are computed in buckets: the estimate is rounded down to one, and below one that
    # failed.
    fit = max(
        (
            size
            for size in BUCKETS
            if size * world.step_bytes() <= memory and size < bucket(environments)
        ),
        default=0,
    )
    if fit == BUCKETS[-1]:
        fit = max(fit, min(memory // world.step_bytes(), bucket(environments) - fit) // fit * fit)
    advice = (
        f"about {fit} would fit, so make {fit} or fewer"
        if fit
        else "fewer are not sure to fit either: free memory"
    )
    return (
        f"{environments} environments (computed as {bucket(environments)}) do not fit in the "
        f"memory of {world.device}: at "
        f"{world.step_bytes() / 2**20:.0f} MiB each in a step and {memory / 2**30:.1f} GiB, "
        f"{advice}"
    )
