"""Whether Triton kernels stand in for torch functions, which are the reference: on a GPU, where
Triton is installed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor

_enabled = True
_installed = importlib.util.find_spec("triton") is not None


def usable(tensor: Tensor) -> bool:
    """Whether kernels are to be used on this tensor: it is on a GPU and Triton is there. Says once
    if it is not."""
    # Known beforehand where it is there, so that compilers can look through this.
    return _enabled and tensor.is_cuda and (_installed or found("triton") is not None)


@cache
def found(module: str) -> Any:
    """That module, None without Triton. Imported when it is needed: Triton takes long."""
    try:
        return importlib.import_module(module)
    except ImportError:
        warnings.warn(
            "Triton is not installed: plain torch runs in the place of its kernels, several times "
            "slower",
            stacklevel=3,
        )
        return None


@contextmanager
def torch_only() -> Iterator[None]:
    """The plain torch path within the block, for comparisons."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before
