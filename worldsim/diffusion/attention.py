"""Attention of one or two new frames to cached ones at the same place, as one kernel.

:meth:`worldsim.diffusion.network.Attention.few` is the reference; the kernel sums in another order,
so results differ by rounding. An engine on a GPU replaces that method by the kernel: see
:func:`worldsim.world.engine.prepare_network`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.diffusion.network import rotary_angles
from worldsim.runtime.triton import kernels

HEADS, WARPS = 2, 1
"""Heads of a program, a power of two, and its warps: the quickest on an H100."""
SHIFTED = 2048
"""Numbers of a frame's keys or values that a program moves."""


def attend_few(
    q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor, time: Tensor, mask: Tensor
) -> Tensor:
    """Apply rotated, masked attention across time. Needs Triton.

    q: (b, a, n, heads, d), of the last ``a`` of the new frames.
    k, v: (b, f, n, heads * d) of the new frames.
    past_k, past_v: (b, p, n, heads * d) of cached frames; keys before rotation.
    time: (p + f,).
    mask: (b or 1, a, p + f) bool, True where a frame is attended to; each attends to at least one.

    heads and d are powers of two. Returns (b, a, n, heads * d) in the type of ``v``.
    """
    b, asking, n, heads, d = q.shape
    q, k, v, past_k, past_v = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q.flatten(3), k, v, past_k, past_v)
    )
    if past_k.stride() != past_v.stride():
        past_k, past_v = past_k.contiguous(), past_v.contiguous()
    cached, frames, half, together = past_k.shape[1], k.shape[1], d // 2, min(heads, HEADS)
    angle = rotary_angles(time, half)
    mask = mask.to(torch.uint8).contiguous()
    out = torch.empty(b, asking, n, heads * d, device=q.device, dtype=v.dtype)
    kernels("worldsim.diffusion.attention_kernels").attend[n, b, heads // together](
        q,
        k,
        v,
        past_k,
        past_v,
        angle.cos(),
        angle.sin(),
        mask,
        out,
        n,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *past_k.stride()[:3],
        0 if len(mask) == 1 else mask.stride(0),
        asking,
        frames,
        cached,
        heads * d,
        together,
        half,
        1 << (cached + frames - 1).bit_length(),
        d**-0.5,
        num_warps=WARPS,
    )
    return out


@torch.library.custom_op("worldsim::shift_", mutates_args=("cache",))
def shift_(cache: Tensor, new: Tensor) -> None:
    """Drop the oldest cached frame and append ``new``, in place. Needs Triton.

    cache: (b, layers, 2, p, n, d), contiguous.
    new: (b, layers, 2, 1, n, d).
    """
    new = new if new[0, 0, 0, 0].is_contiguous() else new.contiguous()
    b, layers, _, cached, n, d = cache.shape
    grid = (-(-n * d // SHIFTED), b, 2 * layers)
    kernels("worldsim.diffusion.attention_kernels").shift[grid](
        cache, new, n * d, *cache.stride()[:4], *new.stride()[:3], cached, SHIFTED
    )


few = torch.library.custom_op("worldsim::attend_few", attend_few, mutates_args=())
"""The same as an operator that compilers leave as it is."""


@few.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor, time: Tensor, mask: Tensor
) -> Tensor:
    return torch.empty(*q.shape[:3], q.shape[3] * q.shape[4], device=q.device, dtype=v.dtype)
