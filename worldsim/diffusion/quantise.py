"""Eight-bit weights on disk: matrices and filters as int8 with a scale per output channel, the rest
as float16."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor


def quantise_weights(weights: dict[str, Tensor], half: Sequence[str] = ()) -> dict[str, Tensor]:
    """Float tensors to int8 tensors plus ``NAME.scale`` (float16, per leading index); vectors
    become float16.

    half: beginnings of names whose matrices become float16, too.
    """
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.dim() < 2 or not weight.is_floating_point() or name.startswith(tuple(half)):
            packed[name] = weight.half() if weight.is_floating_point() else weight
            continue
        flat = weight.detach().float().flatten(1)
        scale = _rounded_up(flat.abs().amax(1) / 127.0)
        codes = torch.round(flat / scale.float()[:, None])
        packed[name] = codes.to(torch.int8).view_as(weight).contiguous()
        packed[f"{name}.scale"] = scale
    return packed


def _rounded_up(scale: Tensor) -> Tensor:
    """The smallest positive float16 that is not below: codes then stay in range, and packing packed
    weights changes nothing."""
    half = scale.clamp(min=2.0**-24).to(torch.float16)
    # The bits of positive floats are ordered as the floats are.
    return torch.where(half.float() < scale, (half.view(torch.int16) + 1).view(torch.float16), half)


def dequantise_weights(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of :func:`quantise_weights`, in float32."""
    weights: dict[str, Tensor] = {}
    for name, weight in packed.items():
        if _is_scale(name, packed):
            continue
        if weight.dtype == torch.int8:
            scale = packed[f"{name}.scale"].float()
            weights[name] = weight.float() * scale.reshape(-1, *([1] * (weight.dim() - 1)))
        else:
            weights[name] = weight.float() if weight.is_floating_point() else weight
    return weights


def stored_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights that :func:`quantise_weights` packed, from those of the packed
    tensors."""
    return {name: shape for name, shape in shapes.items() if not _is_scale(name, shapes)}


def _is_scale(name: str, packed: Collection[str]) -> bool:
    return name.endswith(".scale") and name.removesuffix(".scale") in packed
