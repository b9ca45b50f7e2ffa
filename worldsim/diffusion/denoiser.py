"""Noising and encoding of frames: the same helpers in training and in use."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.camera import channel_to_code, code_to_channel
from worldsim.state import Frame, LastFrames, MemoryView


def rgb_to_channels(rgb: Tensor) -> Tensor:
    """Convert uint8 colours (any shape) to float32 in [-1, 1]."""
    return rgb.to(torch.float32) * (1.0 / 127.5) - 1.0


def frame_to_channels(rgb: Tensor, inverse_depth: Tensor | None) -> Tensor:
    """Convert frames to the network's channels in [-1, 1].

    rgb: (..., 3, h, w) uint8.
    inverse_depth: (..., h, w) codes, or None.
    """
    colour = rgb_to_channels(rgb)
    if inverse_depth is None:
        return colour
    return torch.cat([colour, 2.0 * code_to_channel(inverse_depth).unsqueeze(-3) - 1.0], -3)


def channels_to_frame(x: Tensor, pose: Tensor | None) -> Frame:
    """Convert predicted channels (b, c, h, w) to uint8 colours and 16-bit inverse depth."""
    # One memory layout, whatever the network's was: filters round differently for another, and
    # snapshots must be exact.
    x = x.contiguous()
    rgb = torch.round((x[:, :3] + 1.0) * 127.5).clamp(0, 255).to(torch.uint8)
    inverse_depth = channel_to_code((x[:, 3] + 1.0) * 0.5) if x.shape[1] > 3 else None
    return Frame(rgb=rgb, inverse_depth=inverse_depth, pose=pose)


MASK_CHANNEL = 4
"""Channel of :func:`view_to_channels` that holds the view's mask."""


def view_to_channels(view: MemoryView) -> Tensor:
    """Convert a memory view to (b, 8, h, w) float32 channels, zeros in holes.

    They are rgb and the depth channel as in :func:`frame_to_channels` (the prediction is a residual
    on these four), the mask, the offset of the shown point in its pixel in (-1, 1), and the
    distance from which it was seen as a depth channel.
    """
    mask = view.mask.unsqueeze(1).float()
    seen = frame_to_channels(view.rgb, view.inverse_depth)
    offset = (view.offset.to(torch.float32) + 0.5) * (1.0 / 8.0) - 1.0
    source = view.source.to(torch.float32).unsqueeze(1) * (1.0 / 255.0)
    return torch.cat([seen * mask, mask, offset * mask, source * mask], 1)


def last_frames_to_channels(last: LastFrames, channels: int) -> Tensor:
    """Convert the previous k frames to (b, k (channels + 1), h, w) float32, newest first.

    Each frame has a mask channel; missing frames are zeros.

    channels: 4 with depth, else 3.
    """
    seen = frame_to_channels(last.frame.rgb, last.frame.inverse_depth if channels == 4 else None)
    return push_frame(shown_last(seen, last.present), last.before)


def push_frame(newest: Tensor, before: Tensor) -> Tensor:
    """Prepend the newest frame's channels and drop the oldest frame's.

    newest: (b, c, h, w).
    before: (b, k c, h, w), as is the result.
    """
    return torch.cat([newest, before[:, : before.shape[1] - newest.shape[1]]], 1)


def keep_still(x: Tensor, last: Tensor, values: float) -> Tensor:
    """Return a predicted frame in which pixels that hardly change keep the previous frame's colour.

    In a dream, errors of a few values on a still background add up step by step.

    x: (b, c, h, w), the prediction in [-1, 1].
    last: (b, v, h, w) from :func:`last_frames_to_channels`. Where its newest frame is missing, the
        prediction stays.
    values: largest change of each of a pixel's colours, in values of 255, that is left out. Other
        channels, such as depth, stay.
    """
    before, present = last[:, :3], last[:, x.shape[1]][:, None] > 0
    # Half a value more: colours are rounded afterwards.
    still = (x[:, :3] - before).abs().amax(1, keepdim=True) < (values + 0.5) / 127.5
    return torch.cat([torch.where(still & present, before, x[:, :3]), x[:, 3:]], 1)


def shown_last(x: Tensor, present: Tensor) -> Tensor:
    """Append a mask channel to frames (..., c, h, w); zeros where not ``present`` (...).

    Returns (..., c + 1, h, w), as later frames see them.
    """
    mask = present[..., None, None, None].to(x.dtype)
    return torch.cat([x * mask, mask.expand_as(x[..., :1, :, :])], -3)


def add_noise(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Add noise on the straight line from data (sigma 0) to noise (sigma 1).

    Rectified flow (Liu et al. 2022).

    sigma: noise levels in [0, 1], of the leading axes of x.
    """
    sigma = sigma.reshape(*sigma.shape, *([1] * (x.dim() - sigma.dim())))
    return (1.0 - sigma) * x + sigma * noise
