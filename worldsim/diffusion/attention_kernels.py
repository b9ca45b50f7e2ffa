# mypy: disable-error-code="no-untyped-def, misc"
"""The Triton kernels of :mod:`worldsim.diffusion.attention`.

A program computes some heads at one place of one environment.
"""

import triton
import triton.language as tl


@triton.jit
def _both(old, new, before, here, cached, fresh):
    """Concatenate features of cached and of new frames along time."""
    found = tl.load(old + before, mask=cached, other=0.0).to(tl.float32)
    return found + tl.load(new + here, mask=fresh, other=0.0).to(tl.float32)


@triton.jit
def attend(
    query,
    key,
    value,
    past_key,
    past_value,
    cosine,
    sine,
    mask,
    out,
    tokens,
    query_row,
    query_frame,
    query_token,
    key_row,
    key_frame,
    key_token,
    value_row,
    value_frame,
    value_token,
    past_row,
    past_frame,
    past_token,
    mask_row,
    asking: tl.constexpr,
    frames: tl.constexpr,
    cached: tl.constexpr,
    width: tl.constexpr,
    heads: tl.constexpr,
    half: tl.constexpr,
    times: tl.constexpr,
    scale: tl.constexpr,
):
    """Attend from the newest ``asking`` of the new frames to cached and new ones.

    Keys are rotated by their times on the fly.

    query, key, value: of the new frames, (row, frame, token, width) by their strides.
    past_key, past_value: of the cached frames, likewise.
    heads: heads per program, of 2 * half features each.
    cosine, sine: (cached + frames, half).
    mask: (row or 1, asking, cached + frames) bytes.
    times: a power of two, at least cached + frames.
    """
    row, token = tl.program_id(1).to(tl.int64), tl.program_id(0)
    total: tl.constexpr = cached + frames
    time = tl.arange(0, times)[:, None, None]
    old, new = time < cached, (time >= cached) & (time < total)
    own = tl.program_id(2) * (2 * heads * half)
    place = (
        own + tl.arange(0, heads)[None, :, None] * (2 * half) + tl.arange(0, half)[None, None, :]
    )
    before = row * past_row + time * past_frame + token * past_token + place
    here = row * key_row + (time - cached) * key_frame + token * key_token + place
    first = _both(past_key, key, before, here, old, new)
    second = _both(past_key, key, before + half, here + half, old, new)
    turn = time * half + tl.arange(0, half)[None, None, :]
    c, s = (
        tl.load(cosine + turn, mask=time < total, other=0.0),
        tl.load(sine + turn, mask=time < total, other=0.0),
    )
    left, right = first * c - second * s, first * s + second * c
    there = row * value_row + (time - cached) * value_frame + token * value_token + place
    low = _both(past_value, value, before, there, old, new)
    high = _both(past_value, value, before + half, there + half, old, new)
    when = tl.arange(0, times)[:, None]
    lane = own + tl.arange(0, heads)[:, None] * (2 * half) + tl.arange(0, half)[None, :]
    for frame in tl.static_range(asking):
        asked = query + row * query_row + frame * query_frame + token * query_token + lane
        a, b = tl.load(asked).to(tl.float32), tl.load(asked + half).to(tl.float32)
        at = (total - asking + frame) * half + tl.arange(0, half)[None, :]
        c, s = tl.load(cosine + at), tl.load(sine + at)
        score = tl.sum(left * (a * c - b * s)[None] + right * (a * s + b * c)[None], 2) * scale
        seen = (
            tl.load(mask + row * mask_row + frame * total + when, mask=when < total, other=0) != 0
        )
        score = tl.where(seen, score, float("-inf"))
        share = tl.exp(score - tl.max(score, 0)[None])
        share = share / tl.sum(share, 0)[None]
        to = out + ((row * asking + frame) * tokens + token) * width + lane
        tl.store(to, tl.sum(share[:, :, None] * low, 0).to(out.dtype.element_ty))
        tl.store(to + half, tl.sum(share[:, :, None] * high, 0).to(out.dtype.element_ty))


@triton.jit
def shift(
    cache,
    new,
    size,
    cache_row,
    cache_layer,
    cache_kind,
    cache_frame,
    new_row,
    new_layer,
    new_kind,
    cached: tl.constexpr,
    block: tl.constexpr,
):
    """Shift the cache by one frame in place and append ``new``.

    A program moves one block of one layer.

    cache: (row, layer, 2, cached, size) by its strides.
    new: (row, layer, 2, size) by its strides.
    """
    row, layer = tl.program_id(1).to(tl.int64), tl.program_id(2) // 2
    kind = tl.program_id(2) % 2
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < size
    to = cache + row * cache_row + layer * cache_layer + kind * cache_kind + place
    for _ in tl.static_range(cached - 1):
        tl.store(to, tl.load(to + cache_frame, mask=inside), mask=inside)
        to += cache_frame
    found = tl.load(new + row * new_row + layer * new_layer + kind * new_kind + place, mask=inside)
    tl.store(to, found.to(cache.dtype.element_ty), mask=inside)
