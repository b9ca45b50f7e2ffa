"""Arguments of a memory handle's methods, checked: poses, sizes, shapes, arrays of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import whole

LARGEST_SIDE = 8192
"""Pixels a side of the largest picture."""
FARTHEST_PLACE = 1e6
"""Metres from the origin."""


def as_pose(pose: Any) -> Tensor:
    """A camera-to-world matrix (4, 4) float32 on the CPU, checked."""
    matrix = as_numbers("pose", pose, (4, 4))
    turn, place, last = matrix[:3, :3].double(), matrix[:3, 3], matrix[3]
    right = float(turn.abs().max()) <= 2 and torch.allclose(
        turn.T @ turn, torch.eye(3, dtype=turn.dtype), atol=1e-3
    )
    if not right or float(torch.linalg.det(turn)) < 0:
        raise InvalidInputError(
            "pose holds a rotation that is not orthonormal, or mirrors: give a camera-to-world "
            "matrix"
        )
    if float(place.abs().max()) > FARTHEST_PLACE or not torch.equal(
        last, last.new_tensor([0.0, 0.0, 0.0, 1.0])
    ):
        raise InvalidInputError(
            f"pose has the place {place.tolist()} and the last row {last.tolist()}: places lie "
            f"within {FARTHEST_PLACE:.0f} m of "
            "the origin, and the last row is 0 0 0 1"
        )
    return matrix


def as_shape(shape: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Positions (n, 3) float32 and colours (n, 3) uint8, checked."""
    if len(shape) != 2:
        raise InvalidInputError(
            f"shape is a tuple of {len(shape)}: give positions (n, 3) in metres and colours (n, "
            f"3) uint8"
        )
    try:
        position, colour = (
            torch.as_tensor(part if isinstance(part, Tensor) else np.asarray(part))
            for part in shape
        )
        position = position.float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"shape holds no arrays of numbers ({error}): give positions and colours"
        ) from None
    alike = position.dim() == 2 and position.shape == colour.shape and position.shape[1] == 3
    if (
        not alike
        or colour.dtype != torch.uint8
        or not bool((position.abs() <= FARTHEST_PLACE).all())
    ):
        found = f"{tuple(position.shape)} and {colour.dtype} {tuple(colour.shape)}"
        raise InvalidInputError(
            f"shape must be finite positions (n, 3) in metres and colours (n, 3) uint8, got {found}"
        )
    return position, colour


def as_size(size: Any) -> tuple[int, int]:
    """Height and width of a picture in pixels, checked."""
    try:
        height, width = size
    except (TypeError, ValueError):
        raise InvalidInputError(f"size is {size!r}: give (height, width) in pixels") from None
    try:
        return whole("height", height, 1, LARGEST_SIDE), whole("width", width, 1, LARGEST_SIDE)
    except InvalidInputError:
        raise InvalidInputError(
            f"size is {size!r}: height and width must be from 1 to {LARGEST_SIDE} pixels"
        ) from None


def as_numbers(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """``value`` (a tensor, array or nested list) as float32 on the CPU."""
    try:
        tensor = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value))
        if tensor.is_complex():
            raise TypeError("complex numbers")
        tensor = tensor.detach().float().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidInputError(
            f"{name} of type {type(value).__name__} is no array of numbers ({error})"
        ) from None
    if tensor.shape != shape or not bool(torch.isfinite(tensor).all()):
        shown = tensor.flatten()[:16].tolist()
        raise InvalidInputError(
            f"{name} must be {shape} finite numbers, got {tuple(tensor.shape)}: {shown}"
        )
    return tensor
