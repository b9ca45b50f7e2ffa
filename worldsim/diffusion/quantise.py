"""Eight-bit storage of weights.

Matrices and filters are int8 with a scale per output channel; the rest is float16.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor


def quantise_weights(weights: dict[str, Tensor], half: Sequence[str] = ()) -> dict[str, Tensor]:
    """Quantise float tensors to int8 tensors and ``NAME.scale`` (float16, per leading index).

    Vectors become float16.

    half: prefixes of names whose matrices become float16, too.
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
    """Return the smallest float16 that is positive and not below ``scale``.

    Codes then stay in range, and quantising quantised weights changes nothing.
    """
    half = scale.clamp(min=2.0**-24).to(torch.float16)
    # The bits of positive floats are ordered as the floats are.
    return torch.where(half.float() < scale, (half.view(torch.int16) + 1).view(torch.float16), half)


def dequantise_weights(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Restore float32 weights from :func:`quantise_weights`."""
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
    """Return the shapes of weights before :func:`quantise_weights`.

    shapes: shapes of the packed tensors, by name.
    """
    return {name: shape for name, shape in shapes.items() if not _is_scale(name, shapes)}


def _is_scale(name: str, packed: Collection[str]) -> bool:
    return name.endswith(".scale") and name.removesuffix(".scale") in packed
