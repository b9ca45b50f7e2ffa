"""Counter-based random numbers: Philox4x32-10 in torch integer operations.

Every number is a pure function of (seed, step, purpose, position), computed on the tensors' device
without a host call. One environment's numbers never depend on its neighbours, and a fork or a
restored snapshot draws the same numbers again.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from worldsim.runtime.triton import kernels, usable

_MASK = 0xFFFFFFFF
_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BLOCKS_MULTIPLE = 16
"""Rows are padded to this many blocks, so that vector units see each row alike wherever it lies in
a batch."""


class Purpose(IntEnum):
    """The purpose of a random number: streams of different purposes are independent."""

    INITIAL = 0
    CONTEXT = 1
    NOISE = 2
    HEADS = 3
    SCENE = 4
    POLICY = 5
    TRAINING = 6
    TEST = 7
    EDIT = 8
    UNCERTAINTY = 9
    PAINT = 10


def philox4x32(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply ten rounds of Philox4x32 to four counter words and two key words.

    All are int64 tensors in [0, 2^32) that broadcast.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(c0, c1, c2, c3)
    # The two halves of a round side by side, (2, ...): a GPU then launches half as many kernels.
    even, odd = torch.stack([c0, c2]), torch.stack([c1, c3])
    key, weyl, multiplier = torch.stack([k0, k1]), _column(_WEYL, k0), _column(_MULTIPLIER, c0)
    for index in range(_ROUNDS):
        round_key = (key + weyl * index) & _MASK
        # int64 products wrap modulo 2^64, and bits 32 to 63 of the unsigned product survive: shift,
        # then mask.
        product = (even * multiplier).flip(0)
        # Odd words only ever meet an xor before the next mask, so they may keep their upper bits
        # until the end.
        even = (product >> 32).bitwise_xor_(odd).bitwise_xor_(round_key).bitwise_and_(_MASK)
        odd = product
    odd = odd & _MASK
    return even[0], odd[0], even[1], odd[1]


def _column(pair: tuple[int, int], like: Tensor) -> Tensor:
    """Return two constants as a (2, 1, ...) tensor, created on the device.

    Copying them from the host would make a GPU wait.
    """
    first, second = pair
    column = torch.arange(2, device=like.device, dtype=torch.int64) * (second - first) + first
    return column.view(2, *[1] * like.ndim)


def child_seed(seed: int, i: int) -> int:
    """Return seed ``i`` of those that belong to ``seed``, in [0, 2**63)."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1)


def bits(
    seed: Tensor, step: Tensor, purpose: Purpose, blocks: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four words of random bits per block.

    seed, step: (b,) int64.

    Returns four (b, blocks) int64 tensors in [0, 2^32).
    """
    index = torch.arange(blocks, device=seed.device, dtype=torch.int64)[None]
    seed, step = seed.to(torch.int64)[:, None], step.to(torch.int64)[:, None]
    words = (index, step & _MASK, (step >> 32) & _MASK, torch.full_like(step, int(purpose)))
    return philox4x32(*words, seed & _MASK, (seed >> 32) & _MASK)


def whole_seeds(seed: Tensor, step: Tensor, purpose: Purpose, count: int) -> Tensor:
    """Return seeds for other random generators, (b, count) int64 in [0, 2^63).

    seed, step: (b,) int64.
    """
    high, low, _, _ = bits(seed, step, purpose, count)
    return (high << 31) ^ low


def _blocks_for(count: int) -> int:
    return max(1, math.ceil(count / (4 * _BLOCKS_MULTIPLE))) * _BLOCKS_MULTIPLE


def _to_unit(words: Tensor) -> Tensor:
    # 23 bits and a half: every value is exact in float32 and lies strictly between 0 and 1.
    return (words >> 9).to(torch.float32).add_(0.5).mul_(2.0**-23)


def _shape_rows(flat: Tensor, shape: Sequence[int]) -> Tensor:
    return flat[:, : math.prod(shape)].reshape(len(flat), *shape)


def uniform(seed: Tensor, step: Tensor, purpose: Purpose, shape: Sequence[int]) -> Tensor:
    """Return uniform numbers strictly between 0 and 1.

    seed, step: (b,) int64.

    Returns (b, *shape) float32.
    """
    words = bits(seed, step, purpose, _blocks_for(math.prod(shape)))
    return _shape_rows(_to_unit(torch.cat(words, 1)), shape)


def normal(seed: Tensor, step: Tensor, purpose: Purpose, shape: Sequence[int]) -> Tensor:
    """Return standard normal numbers by the Box-Muller transform, at most 5.8 in magnitude.

    seed, step: (b,) int64.

    Returns (b, *shape) float32.
    """
    if usable(seed):
        return normal_by_kernel(seed, step, int(purpose), shape)
    w0, w1, w2, w3 = bits(seed, step, purpose, _blocks_for(math.prod(shape)))
    radius = _to_unit(torch.cat([w0, w1], 1)).log_().mul_(-2.0).sqrt_()
    angle = _to_unit(torch.cat([w2, w3], 1)).mul_(2.0 * math.pi)
    return _shape_rows(torch.cat([radius * angle.cos(), radius * angle.sin()], 1), shape)


@torch.library.custom_op("worldsim::normal", mutates_args=())
def normal_by_kernel(seed: Tensor, step: Tensor, purpose: int, shape: Sequence[int]) -> Tensor:
    """Compute :func:`normal` with one Triton kernel, from the same bits.

    The logarithm and the trigonometric functions may round differently. It is an operator that
    compilers leave as it is. Needs Triton.
    """
    count, rows = math.prod(shape), len(seed)
    blocks = _blocks_for(count)
    out = torch.empty(rows, count, device=seed.device)
    block = math.gcd(blocks, 512)
    kernels("worldsim.runtime.rng_kernels").normal[blocks // block, rows](
        seed.to(torch.int64).contiguous(),
        step.to(torch.int64).contiguous(),
        out,
        blocks,
        count,
        purpose,
        block,
    )
    return out.view(rows, *shape)


@normal_by_kernel.register_fake
def _(seed: Tensor, step: Tensor, purpose: int, shape: Sequence[int]) -> Tensor:
    return torch.empty(len(seed), *shape, device=seed.device)


def integers(
    seed: Tensor, step: Tensor, purpose: Purpose, high: int, shape: Sequence[int]
) -> Tensor:
    """Return integers in [0, high), high at most 2^31.

    By multiplication and shift; the bias is below ``high / 2^32``.

    seed, step: (b,) int64.

    Returns (b, *shape) int64.
    """
    words = bits(seed, step, purpose, _blocks_for(math.prod(shape)))
    return _shape_rows((torch.cat(words, 1) * high) >> 32, shape)
