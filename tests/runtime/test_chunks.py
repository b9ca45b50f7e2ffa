"""Chunks that are computed here, and what is sent to other machines."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from worldsim.runtime.chunks import Here
from worldsim.runtime.cluster import seal

pytestmark = pytest.mark.fast


def test_here() -> None:
    ticks: list[int] = []

    def function(held: int, factor: int, part: int, tick: object) -> int:
        ticks.append(part)
        return held + factor * part

    assert Here(100).map(function, [(1,), (2,)], shared=(10,)) == [110, 120]
    assert ticks == [1, 2]


def test_a_part_of_a_tensor_is_sent_alone() -> None:
    """By value: other machines have no part of this one's memory."""
    whole = torch.arange(100_000)
    sealed = seal({"part": whole[10:14], "wide": torch.ones(1).expand(50_000)})
    assert len(sealed) < 2_000
    found = ForkingPickler.loads(sealed)
    assert found["part"].tolist() == [10, 11, 12, 13] and found["wide"].shape == (50_000,)
    parameter = torch.nn.Parameter(torch.ones(2))
    assert isinstance(ForkingPickler.loads(seal(parameter)), torch.nn.Parameter)
