"""Modules without storage, to check the shapes that a file claims before allocating memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import init

_INITIALISERS = [name for name in dir(init) if name.endswith("_") and not name.startswith("_")]


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Context in which new modules have weights without storage (torch's device ``meta``).

    Initialisers do nothing: random numbers on ``meta`` would import torch's compiler, which takes
    seconds.
    """

    def nothing(tensor: Tensor, *arguments: object, **named: object) -> Tensor:
        return tensor

    kept = {name: getattr(init, name) for name in _INITIALISERS}
    try:
        for name in _INITIALISERS:
            setattr(init, name, nothing)
        with torch.device("meta"):
            yield
    finally:
        for name, initialiser in kept.items():
            setattr(init, name, initialiser)
