"""Arguments of a memory handle's methods, checked: poses, sizes, shapes, arrays of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import whole

LARGEST_SIDE = 8192
"""Pixels a side of the largest picture."""
FARTHEST_PLACE = 1e6
"""Metres from the origin."""
LEAST_FOCAL, MOST_FOCAL = 1e-2, 1e6
"""Pixels. The principal point lies within as many as the latter."""


def as_pose(pose: ArrayLike) -> Tensor:
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


def as_shape(shape: tuple[ArrayLike, ...]) -> tuple[Tensor, Tensor]:
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


def as_size(size: Sequence[int]) -> tuple[int, int]:
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


def as_intrinsics(intrinsics: ArrayLike) -> Tensor:
    """Intrinsics (4,) float32 ``fx fy cx cy`` in pixels on the CPU, checked."""
    pixels = as_numbers("intrinsics", intrinsics, (4,))
    if not bool((pixels[:2] > 0).all()):
        raise InvalidInputError(
            f"intrinsics fx and fy must be positive pixels, got {pixels.tolist()}"
        )
    if float(pixels[:2].min()) < LEAST_FOCAL or float(pixels.abs().max()) > MOST_FOCAL:
        raise InvalidInputError(
            f"intrinsics lie between {LEAST_FOCAL} and {MOST_FOCAL:.0f} pixels, got "
            f"{pixels.tolist()}"
        )
    return pixels


def as_numbers(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Tensor:
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
