"""Philox against its published answers, and the draws made of it."""

import math

import pytest
import torch

from worldsim.runtime.rng import Purpose, integers, normal, normal_by_kernel, philox4x32, uniform
from worldsim.runtime.triton import torch_only

pytestmark = pytest.mark.fast

ONES = 0xFFFFFFFF


# Known answers of Random123 (kat_vectors, philox4x32 10): counter, key, result.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
@pytest.mark.parametrize("length", [1, 7, 64])
def test_known_answers(counter, key, expected, length):
    words = [torch.full((length,), word, dtype=torch.int64) for word in counter + key]
    result = philox4x32(*words)
    assert [part.tolist() for part in result] == [[word] * length for word in expected]


def test_first_block_of_seed_zero_is_the_known_answer():
    zero = torch.zeros(1, dtype=torch.int64)
    words = integers(zero, zero, Purpose.INITIAL, 2**31, (64,))[0]
    # 16 blocks lie side by side: the four words of block 0 stand at 0, 16, 32 and 48, halved by the
    # range of 2^31.
    assert words[[0, 16, 32, 48]].tolist() == [
        w >> 1 for w in (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ]


def test_normal_has_the_right_moments():
    x = normal(torch.arange(4), torch.arange(4) + 10, Purpose.NOISE, (4, 64, 64)).double()
    n = x.numel()
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    # Share within one standard deviation: 0.6827.
    assert abs((x.abs() < 1).double().mean() - 0.6827) < 5 * math.sqrt(0.22 / n)


def test_uniform_is_strictly_inside_and_even():
    x = uniform(torch.tensor([5]), torch.tensor([0]), Purpose.HEADS, (65536,))
    assert x.dtype == torch.float32 and x.min() > 0 and x.max() < 1
    histogram = torch.histc(x, 16, 0, 1)
    assert ((histogram - 4096).abs() < 5 * 64).all()


def test_integers_cover_their_range_evenly():
    x = integers(torch.tensor([5]), torch.tensor([2]), Purpose.HEADS, 7, (70000,))
    assert torch.bincount(x[0], minlength=7).shape == (7,)
    assert ((torch.bincount(x[0]) - 10000).abs() < 500).all()


def test_rows_do_not_depend_on_their_neighbours():
    seed, step = torch.tensor([3, -9, 2**40 + 1, 3, 0]), torch.tensor([0, 7, 1, 2**33, 1])
    for shape in [(3,), (5, 7), (4, 16, 16), ()]:
        together = normal(seed, step, Purpose.NOISE, shape)
        assert together.shape == (5, *shape)
        for i in range(5):
            assert torch.equal(
                together[i : i + 1], normal(seed[i : i + 1], step[i : i + 1], Purpose.NOISE, shape)
            )


def test_seed_step_and_purpose_all_matter():
    def draw(seed: int, step: int, purpose: Purpose) -> torch.Tensor:
        return normal(torch.tensor([seed]), torch.tensor([step]), purpose, (4096,))[0]

    base = draw(1, 1, Purpose.NOISE)
    assert torch.equal(base, draw(1, 1, Purpose.NOISE))
    others = [draw(2, 1, Purpose.NOISE), draw(1, 2, Purpose.NOISE), draw(1, 1, Purpose.HEADS)]
    others += [draw(1 + 2**32, 1, Purpose.NOISE), draw(1, 1 + 2**32, Purpose.NOISE)]
    for other in others:
        correlation = (base * other).mean()
        assert abs(correlation) < 5 / 64


def compare(device: str) -> None:
    """The kernel's normal numbers beside torch's, for seeds and steps of more than 32 bits and
    negative ones."""
    seed = torch.tensor([0, 5, -3, 2**62 + 7], device=device)
    step = torch.tensor([0, 2**33 + 1, 7, 9], device=device)
    for shape in ((4, 64, 64), (3, 5, 7), (1,)):
        with torch_only():
            expected = normal(seed, step, Purpose.NOISE, shape)
        found = normal_by_kernel(seed, step, int(Purpose.NOISE), shape)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        # An environment's numbers are its own.
        assert torch.equal(
            normal_by_kernel(seed[2:3], step[2:3], int(Purpose.NOISE), shape), found[2:3]
        )


@pytest.mark.slow
def test_the_kernel_draws_the_same() -> None:
    if torch.cuda.is_available():
        compare("cuda")
        return
    # Here, since the program that this starts is this file and lies outside of its folders.
    from tests.helpers.kernels import run_interpreted

    run_interpreted(__file__)


if __name__ == "__main__":
    compare("cpu")
