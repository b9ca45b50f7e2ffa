"""The attention kernel agrees with the torch method: on a GPU if there is one, else in Triton's
interpreter."""

from __future__ import annotations

import pytest
import torch

from worldsim.diffusion.attention import attend_few, few, shift_
from worldsim.diffusion.network import Attention


def compare(device: str) -> None:
    """One and two asking frames, two new ones or one, over a cache as a step has it: strided,
    partly hidden."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    attention = Attention(32, 2).to(device).requires_grad_(False)
    b, n, cached = 3, 5, 7
    cache = torch.randn(b, 2, 2, cached, n, 32, generator=generator).to(device)
    for frames, asking, shared in ((2, 2, False), (2, 1, False), (1, 1, True)):
        q, k, v = attention.project(torch.randn(b, frames, n, 32, generator=generator).to(device))
        time = torch.arange(cached + frames, device=device)
        mask = (
            torch.rand(1 if shared else b, asking, cached + frames, generator=generator).to(device)
            < 0.6
        )
        mask[..., -asking:] |= torch.eye(asking, dtype=torch.bool, device=device)
        arguments = (
            q[:, frames - asking :],
            k.flatten(3),
            v.flatten(3),
            cache[:, 1, 0],
            cache[:, 1, 1],
            time,
            mask,
        )
        found = attend_few(*arguments)
        torch.testing.assert_close(found, attention.few(*arguments), rtol=1e-5, atol=1e-5)
        # Each environment by itself gives the same bits.
        alone = [
            attend_few(*(x[i : i + 1] if len(x) == b and x.ndim > 1 else x for x in arguments))
            for i in range(b)
        ]
        assert torch.equal(torch.cat(alone), found)


def compare_shift(device: str) -> None:
    """The oldest of three cached frames goes, the new one comes last; sizes that are no multiple of
    a program's."""
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn(2, 3, 2, 3, 5, 900, generator=generator).to(device, torch.bfloat16)
    new = torch.randn(2, 3, 2, 2, 5, 900, generator=generator).to(device, torch.bfloat16)[
        :, :, :, :1
    ]
    expected = torch.cat([cache[:, :, :, 1:], new], 3)
    shift_(cache, new)
    assert torch.equal(cache, expected)


@pytest.mark.slow
def test_kernel_agrees_with_torch() -> None:
    if torch.cuda.is_available():
        compare("cuda")
        compare_shift("cuda")
        return
    # Here, since the program that this starts is this file and lies outside of its folders.
    from tests.helpers.kernels import run_interpreted

    run_interpreted(__file__)


def test_compilers_know_its_shape() -> None:
    q = torch.empty(3, 1, 5, 2, 16, device="meta", dtype=torch.bfloat16)
    new, old = (
        torch.empty(3, frames, 5, 32, device="meta", dtype=torch.bfloat16) for frames in (2, 7)
    )
    found = few(
        q,
        new,
        new,
        old,
        old,
        torch.empty(9, device="meta"),
        torch.empty(1, 1, 9, device="meta", dtype=torch.bool),
    )
    assert found.shape == (3, 1, 5, 32) and found.dtype == torch.bfloat16


if __name__ == "__main__":
    compare("cpu")
    compare_shift("cpu")
