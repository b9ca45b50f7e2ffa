"""Devices by name."""

from __future__ import annotations

import torch

from worldsim.errors import InvalidInputError


def device_named(name: torch.device | str | None) -> torch.device:
    """The device of that name; for None, CUDA where there is one, else the CPU. InvalidInputError for one that is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise InvalidInputError(f"device {str(name)!r} cannot be used here: there are {there}") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise InvalidInputError(f"device {str(name)!r}: worlds run on cpu and cuda")
    return device
