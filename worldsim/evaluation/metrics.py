"""Metrics of pictures, poses and seen places, frame by frame.

:mod:`worldsim.evaluation.statistics` turns them into means and intervals.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, project, relative_motion, unproject
from worldsim.errors import InvalidInputError

PSNR_CAP = 40.0
"""dB that two equal pictures get; anything better counts as this."""
CHANGED = 8
"""Values of 255 by which a channel of a pixel must differ to count as changed: less is rounding and
anti-aliasing."""
MOVED_METRES = 0.01
MOVED_DEGREES = 0.5
"""A frame counts as moved if its true camera went this far, or turned this much, since the frame
before."""
SEEN_METRES = 0.15
SEEN_SHARE = 0.07
"""A point was seen by a frame whose depth there differs from the point's by at most the larger of
0.15 m and 7%."""
COMMON_SIZE = 64
"""Pixels a side at which worlds of different frame sizes are compared."""


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of uint8 pictures in dB, capped at 40.

    a, b: (..., 3, h, w), broadcast.

    Returns (...) float32.
    """
    if a.dtype != torch.uint8 or b.dtype != torch.uint8:
        raise InvalidInputError(
            f"psnr compares uint8 pictures, got {a.dtype} and {b.dtype}: convert what is emitted, "
            f"not floats"
        )
    difference = a.to(torch.int32) - b.to(torch.int32)
    return _decibels((difference * difference).to(torch.float64).mean((-3, -2, -1)))


def _decibels(error: Tensor) -> Tensor:
    """Return the PSNR of mean squared errors (...) float64 in dB, capped, float32."""
    # The cap's own error keeps the logarithm finite.
    floor = 255.0**2 / 10.0 ** (PSNR_CAP / 10.0)
    return (10.0 * torch.log10(255.0**2 / error.clamp(min=floor))).to(torch.float32)


def changed_psnr(a: Tensor, b: Tensor, before: Tensor) -> Tensor:
    """Return :func:`psnr` over the pixels that changed, in dB; NaN where none did.

    A pixel changed if a channel of ``b`` differs from that of ``before`` by more than
    :data:`CHANGED`. Where most of a picture stays as it is, the error of the whole says little of
    what moves.

    a, b, before: (..., 3, h, w) uint8: the prediction, the truth, and an earlier true picture.

    Returns (...) float32.
    """
    changed = ((b.to(torch.int32) - before.to(torch.int32)).abs() > CHANGED).any(-3)
    return masked_psnr(a, b, changed)


def masked_psnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return :func:`psnr` over some pixels, in dB; NaN where there are none.

    a, b: (..., 3, h, w) uint8.
    mask: (..., h, w) bool.

    Returns (...) float32.
    """
    difference = a.to(torch.int32) - b.to(torch.int32)
    squares = difference.square().sum(-3).to(torch.float64) * mask
    # 0 / 0 is NaN.
    return _decibels(squares.sum((-2, -1)) / (3.0 * mask.sum((-2, -1))))


def scores(a: Tensor, b: Tensor) -> Tensor:
    """Return :func:`psnr` of the frames and, if they are larger, of both reduced to 64x64.

    a, b: (..., 3, h, w) uint8, broadcast.

    Returns (..., k) float32, k = 1 or 2.
    """
    found = [psnr(a, b)]
    if comparable(*a.shape[-2:]):
        found.append(
            psnr(
                area_average(a, COMMON_SIZE, COMMON_SIZE), area_average(b, COMMON_SIZE, COMMON_SIZE)
            )
        )
    return torch.stack(found, -1)


def comparable(height: int, width: int) -> bool:
    """Return whether frames of this size are reduced to 64x64 for comparison: larger ones are."""
    return min(height, width) >= COMMON_SIZE and max(height, width) > COMMON_SIZE


def area_average(rgb: Tensor, height: int, width: int) -> Tensor:
    """Reduce pictures to (..., 3, height, width) uint8 by averaging the area of each pixel.

    rgb: (..., 3, h, w) uint8.
    """
    rows = _overlaps(rgb.shape[-2], height, rgb.device)
    columns = _overlaps(rgb.shape[-1], width, rgb.device)
    return (rows @ rgb.double() @ columns.T).round().to(torch.uint8)


def _overlaps(source: int, target: int, device: torch.device) -> Tensor:
    """Return the share of each target cell that each source pixel covers.

    (target, source) float64; rows sum to one.
    """
    size = source / target
    start = size * torch.arange(target, device=device, dtype=torch.float64)[:, None]
    pixel = torch.arange(source, device=device, dtype=torch.float64)
    return (torch.minimum(start + size, pixel + 1) - torch.maximum(start, pixel)).clamp(
        min=0
    ) / size


def gradient(rgb: Tensor) -> Tensor:
    """Return the magnitude of the luminance's Sobel gradient at inner pixels.

    A vertical step edge between luminances 0 and L has magnitude 4 L in the two columns beside it.

    rgb: (..., 3, h, w) uint8.

    Returns (..., h - 2, w - 2) float32.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device=rgb.device)
    luminance = torch.einsum("...chw,c->...hw", rgb.to(torch.float32), weights)
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=rgb.device)
    flat = luminance.reshape(-1, 1, *luminance.shape[-2:])
    found = F.conv2d(flat, torch.stack([kernel, kernel.T])[:, None]).norm(dim=1)
    return found.reshape(*luminance.shape[:-2], *found.shape[-2:])


def sharpness(rgb: Tensor) -> Tensor:
    """Return the mean of :func:`gradient` over inner pixels.

    rgb: (..., 3, h, w) uint8.

    Returns (...) float32.
    """
    return gradient(rgb).mean((-2, -1))


def moved_frames(pose: Tensor) -> Tensor:
    """Return which frames moved at least 1 cm, or turned 0.5 degrees, since the previous one.

    pose: (..., t, 4, 4) camera-to-world, metres.

    Returns (..., t - 1) bool.
    """
    motion = relative_motion(pose[..., :-1, :, :].double(), pose[..., 1:, :, :].double())
    far = motion[..., :3].norm(dim=-1) >= MOVED_METRES
    return far | (torch.rad2deg(motion[..., 3:].norm(dim=-1)) >= MOVED_DEGREES)


def seen_mask(
    depth: Tensor, camera: Camera, history_depth: Tensor, history_camera: Camera
) -> Tensor:
    """Return which pixels show something that a history frame of the same episode saw, too.

    A pixel is seen if a history frame has :func:`sighted` it. Needs true geometry.

    depth: (b, h, w) metres, of the frames to judge.
    camera: their cameras (b).
    history_depth: (k, h, w) metres.
    history_camera: (k) cameras.

    Returns (b, h, w) bool.
    """
    seen = torch.zeros_like(depth, dtype=torch.bool)
    b = len(depth)
    for k in range(len(history_depth)):
        one = Camera(
            history_camera.pose[k].expand(b, 4, 4),
            history_camera.intrinsics[k].expand(b, 4),
            history_camera.height,
            history_camera.width,
        )
        seen |= sighted(depth, camera, history_depth[k].expand(b, -1, -1), one)[0]
    return seen


def sighted(
    depth: Tensor, camera: Camera, other_depth: Tensor, other_camera: Camera
) -> tuple[Tensor, Tensor]:
    """Return which pixels another frame saw, and where.

    A pixel was seen if its 3D point projects into the other frame within max(0.15 m, 7%) of that
    frame's depth; an infinitely far pixel, if its direction meets infinity there.

    depth, camera: (b, h, w) metres and cameras (b) of the frames to judge.
    other_depth, other_camera: (b, y, x) metres and cameras (b) of the other frames.

    Returns (b, h, w) bool, and (b, h, w) int64 flat pixel indices into the other frames.
    """
    b, height, width = len(depth), other_camera.height, other_camera.width
    infinite = torch.isinf(depth).reshape(b, -1)
    u, v, z = project(unproject(depth, camera).reshape(b, -1, 3), infinite, other_camera)
    inside = (z > 1e-6) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    column = u.clamp(0, width - 1).nan_to_num().long()
    pixel = v.clamp(0, height - 1).nan_to_num().long() * width + column
    there = other_depth.reshape(b, -1).gather(1, pixel)
    close = (z - there).abs() <= (SEEN_SHARE * there).clamp(min=SEEN_METRES)
    seen = inside & torch.where(infinite, torch.isinf(there), close & torch.isfinite(there))
    return seen.reshape(depth.shape), pixel.reshape(depth.shape)
