"""A world in the processes of a Ray cluster, for work that is done chunk by chunk."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from functools import partial

import torch

from worldsim.runtime.chunks import Chunks, Here, OnCluster
from worldsim.world.engine import PLAIN, EngineConfig
from worldsim.world.world import World


@contextlib.contextmanager
def spread_world(world: World, cluster: str | None = None) -> Iterator[Chunks]:
    """Context with what maps functions of a world over chunks; None maps in this process.

    On a cluster each chunk takes as many CPUs as PyTorch has threads here, or one GPU if the world
    is on one. The world itself is sent there, so that the machines need none of its files.

    Raises what :class:`worldsim.runtime.chunks.OnCluster` raises.
    """
    if cluster is None:
        yield Here(world)
        return
    threads, device = torch.get_num_threads(), world.device.type
    resources = {"num_cpus": float(threads)}
    if device != "cpu":
        resources = {"num_cpus": 1.0, "num_gpus": 1.0}
    make = partial(_arrive, portable(world), device, world.engine)
    with OnCluster(cluster, make, threads, resources) as chunks:
        yield chunks


def portable(world: World) -> World:
    """Return a world that processes of other machines can read: with weights on the CPU."""
    if world.device.type == "cpu":
        return world
    return copy.deepcopy(world.with_engine(PLAIN)).to("cpu")


def _arrive(world: World, device: str, engine: EngineConfig) -> World:
    return world if device == "cpu" else world.to(device).with_engine(engine)
