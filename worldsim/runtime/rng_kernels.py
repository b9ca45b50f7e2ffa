# mypy: disable-error-code="no-untyped-def, misc"
"""The Triton kernel of :func:`worldsim.runtime.rng.normal`.

Each program computes some blocks of one environment's numbers.
"""

import triton
import triton.language as tl


@triton.jit
def _unit(words):
    return ((words >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def normal(seeds, steps, out, blocks, count, purpose, block: tl.constexpr):
    """Write four normal numbers for each Philox block.

    The order is the cosines of the first two words' radii, then their sines.

    seeds, steps: (row,) int64.
    out: (row, count) float32.
    blocks: blocks per row, a multiple of ``block``.
    """
    row = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * block + tl.arange(0, block)
    seed, step = tl.load(seeds + row), tl.load(steps + row)
    zero = tl.zeros((block,), tl.uint32)
    low, high = (
        zero + (step & 0xFFFFFFFF).to(tl.uint32),
        zero + ((step >> 32) & 0xFFFFFFFF).to(tl.uint32),
    )
    key, key_high = (
        zero + (seed & 0xFFFFFFFF).to(tl.uint32),
        zero + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32),
    )
    w0, w1, w2, w3 = tl.philox_impl(
        index.to(tl.uint32), low, high, zero + purpose, key, key_high, 10
    )
    near, far = tl.sqrt_rn(-2.0 * tl.log(_unit(w0))), tl.sqrt_rn(-2.0 * tl.log(_unit(w1)))
    first, second = _unit(w2) * 6.283185307179586, _unit(w3) * 6.283185307179586
    place = out + row * count
    tl.store(place + index, near * tl.cos(first), mask=index < count)
    tl.store(place + blocks + index, far * tl.cos(second), mask=blocks + index < count)
    tl.store(place + 2 * blocks + index, near * tl.sin(first), mask=2 * blocks + index < count)
    tl.store(place + 3 * blocks + index, far * tl.sin(second), mask=3 * blocks + index < count)
