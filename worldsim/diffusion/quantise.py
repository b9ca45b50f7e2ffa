"""Eight-bit weights on disk: matrices and filters as int8 with a scale per output channel, the rest as float16."""

from __future__ import annotations

import torch
from torch import Tensor


def quantise_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors to int8 tensors plus ``NAME.scale`` (float32, per leading index); vectors become float16."""
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.dim() < 2 or not weight.is_floating_point():
            packed[name] = weight.half() if weight.is_floating_point() else weight
            continue
        flat = weight.detach().float().flatten(1)
        scale = flat.abs().amax(1).clamp(min=1e-12) / 127.0
        packed[name] = torch.round(flat / scale[:, None]).to(torch.int8).view_as(weight).contiguous()
        packed[f"{name}.scale"] = scale
    return packed


def dequantise_weights(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of :func:`quantise_weights`, in float32."""
    weights: dict[str, Tensor] = {}
    for name, weight in packed.items():
        if name.endswith(".scale") and name.removesuffix(".scale") in packed:
            continue
        if weight.dtype == torch.int8:
            scale = packed[f"{name}.scale"]
            weights[name] = weight.float() * scale.reshape(-1, *([1] * (weight.dim() - 1)))
        else:
            weights[name] = weight.float() if weight.is_floating_point() else weight
    return weights
