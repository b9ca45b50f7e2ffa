"""Kernels are used where Triton is, and missing ones are told of once."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from worldsim.runtime import triton as kernels


def test_without_triton_it_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        is_cuda = True

    # What sys.modules holds None for cannot be imported.
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(kernels, "_installed", False)
    kernels.found.cache_clear()
    with pytest.warns(UserWarning, match="Triton is not installed: plain torch"):
        assert not kernels.usable(OnGpu())  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels.usable(OnGpu())  # type: ignore[arg-type]
    kernels.found.cache_clear()
    assert not kernels.usable(torch.zeros(1))
