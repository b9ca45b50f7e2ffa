"""Whether Triton kernels replace their torch references: on a GPU where Triton is installed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from torch import Tensor

_enabled = True
_installed = importlib.util.find_spec("triton") is not None


def usable(tensor: Tensor) -> bool:
    """Return whether kernels can process this tensor: it is on a GPU and Triton is installed.

    Warns once if Triton is missing.
    """
    # Known beforehand where it is there, so that compilers can look through this.
    return _enabled and tensor.is_cuda and (_installed or found("triton") is not None)


@cache
def found(module: str) -> ModuleType | None:
    """Import and return a Triton module on first use; None without Triton."""
    try:
        return importlib.import_module(module)
    except ImportError:
        warnings.warn(
            "Triton is not installed: plain torch runs in the place of its kernels, several times "
            "slower",
            stacklevel=3,
        )
        return None


def kernels(module: str) -> ModuleType:
    """Import and return a module of Triton kernels. Call it only if they are :func:`usable`."""
    loaded = found(module)
    assert loaded is not None
    return loaded


@contextmanager
def torch_only() -> Iterator[None]:
    """Context that uses the plain torch path, for comparisons."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before
