"""Devices by name."""

from __future__ import annotations

import difflib

import torch

from worldsim.errors import InvalidInputError

KNOWN = ("cpu", "cuda")
"""Kinds of devices that worlds run on."""
SAME = dict.fromkeys(("gpu", "nvidia", "rocm", "hip", "amd"), "cuda")
"""What others call them."""


def resolve_device(name: torch.device | str | None) -> torch.device:
    """Return the device of that name; for None, CUDA if it is available, else the CPU.

    Raises InvalidInputError for a device that is not available.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise InvalidInputError(
            f"device {str(name)!r} cannot be used here: {_meant(name)}there are {there}"
        ) from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise InvalidInputError(
            f"device {str(name)!r}: {_meant(name)}worlds run on {' and '.join(KNOWN)}"
        )
    return device


def _meant(name: torch.device | str) -> str:
    """Return a hint if the name is of no known kind of device."""
    kind, _, number = str(name).lower().partition(":")
    near = SAME.get(kind) or next(iter(difflib.get_close_matches(kind, KNOWN, n=1)), None)
    return (
        ""
        if near is None or kind in KNOWN
        else f"did you mean {near + (':' + number if number else '')!r}? "
    )
