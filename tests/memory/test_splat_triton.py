"""The Triton kernels give the bits of the torch functions: on a GPU if there is one, else in
Triton's interpreter."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from worldsim.memory import splat_triton
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points
from worldsim.runtime.triton import torch_only
from worldsim.state import flatten, map_tensors
from worldsim.testing import _move, _synthetic_frames


def assert_same(a: object, b: object) -> None:
    first, second = flatten(a), flatten(b)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def filled(empty: Points, centre: torch.Tensor) -> Points:
    """One full memory, one with a few free slots, one with nothing but free ones; around ``centre``
    (3, 3, 1)."""
    generator = torch.Generator().manual_seed(0)
    shape = empty.kind.shape

    def numbers(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator).to(empty.kind.device)

    kind = numbers(1, 3).to(torch.uint8)
    kind[1, 5:3000:20], kind[2] = 0, 0
    return dataclasses.replace(
        empty,
        position=4.0 * torch.randn(empty.position.shape, generator=generator).to(kind.device)
        + centre,
        kind=kind,
        source=numbers(0, 256).to(torch.uint8),
        seen=numbers(-30, 10).to(torch.int32),
        confidence=numbers(250, 256).to(torch.uint8),
    )


def compare(device: str, capacities: tuple[int, ...]) -> None:
    """Two frames into memories of these sizes, and what they show then."""
    frame, camera, step = _synthetic_frames(device, 16, 24)
    for capacity in capacities:
        memory = PointMemory(PointMemoryConfig(capacity=capacity))
        now = memory.empty(3, device)
        for full in (False, True):
            now = filled(now, camera.pose[:, :3, 3:4]) if full else now
            for i, seen in enumerate((frame, _move(frame))):
                known = (
                    torch.arange(16 * 24, device=device).view(16, 24).expand(3, 16, 24) % 3 > 0
                    if i
                    else None
                )
                with torch_only():
                    after = memory.integrate(now, seen, camera, step + i, known)
                    around, view = (
                        memory.surroundings(after, camera.pose),
                        memory.render(after, camera),
                    )
                in_place = map_tensors(torch.clone, now)
                assert (
                    splat_triton.integrate_(memory.config, in_place, seen, camera, step + i, known)
                    is in_place
                )
                assert_same(after, in_place)
                assert_same(
                    around,
                    splat_triton.map_around(
                        after.position, after.kind, camera.pose, memory.config.body_m
                    ),
                )
                again = splat_triton.view_of(after, camera)
                assert_same(view, again)
                now = after


@pytest.mark.slow
def test_kernels_give_the_bits_of_torch() -> None:
    if torch.cuda.is_available():
        compare("cuda", (300, 5000, 131072, 262144))
        return
    # Here, since the program that this starts is this file and lies outside of its folders.
    from tests.helpers.kernels import run_interpreted

    run_interpreted(__file__)


if __name__ == "__main__":
    # From 2**16 + 1 slots on, the least recently seen ones are found by counting; of fewer they are
    # sorted.
    compare("cpu", (300, 5000, 2**16 + 300))
