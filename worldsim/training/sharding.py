"""Sharded weights (FSDP): gathering them, splitting them, and the launches that support them."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from worldsim.errors import InvalidInputError


def prepare_sharding(accelerator: Accelerator) -> bool:
    """Return whether the launch requests sharded weights, and set up the accelerator for them.

    Raises InvalidInputError for ways of sharding that training does not support, and if there is
    only one process.
    """
    kind, count = accelerator.distributed_type, accelerator.num_processes
    if kind == DistributedType.DEEPSPEED:
        raise InvalidInputError(
            "DeepSpeed is not supported: to shard weights, launch with --use_fsdp --fsdp_version 2"
        )
    if kind != DistributedType.FSDP:
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise InvalidInputError(
                f"FSDP was asked for, and accelerate shards nothing over {count} process(es) on "
                f"{accelerator.device.type}: "
                "use two GPUs or more, or launch without --use_fsdp"
            )
        return False
    if not accelerator.is_fsdp2:
        raise InvalidInputError(
            "FSDP is supported in its second version only: launch with --fsdp_version 2"
        )
    plugin = accelerator.state.fsdp_plugin
    # Autocast decides what is rounded: this would round poses and depth on their way in as well.
    plugin.mixed_precision_policy = None
    # Else the weights pass through the meta device, from which what is held elsewhere of the
    # modules does not come back.
    plugin.cpu_ram_efficient_loading = False
    return True


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; return any other tensor as is.

    All processes must call it.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a whole tensor, the same on all processes, as ``like`` is sharded."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def to_save(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return whole copies on the CPU."""
    return {
        name: whole(torch.as_tensor(value)).detach().cpu().contiguous().clone()
        for name, value in tensors.items()
    }
