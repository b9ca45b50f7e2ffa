"""Edited windows: objects that the memory shows and the past does not, or the reverse.

A user's edit changes the memory but not the past frames. To train the network for this, boxes are
drawn at the correct depth into target frames and their memory views but not into the frames before;
or into the frames before only, as if they had been removed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import (
    DEPTH_CHANNEL_SCALE,
    code_to_channel,
    dequantise_depth,
    motion_to_matrix,
    quantise_depth,
    rotation_vector_to_matrix,
)
from worldsim.diffusion.denoiser import rgb_to_channels
from worldsim.errors import MissingGeometryError
from worldsim.memory.splat import NEAR_PLANE
from worldsim.training.buffer import Windows

Uniform = Callable[..., Tensor]
"""(low, high, *shape) to (b, *shape) drawn uniformly between."""
REMOVED = 0.3
"""Share of edits that take something away."""
FARTHEST = 8.0
"""Boxes stand at most so far (m) from the camera that they are put before."""


@dataclass(frozen=True)
class Boxes:
    """One box per window.

    place: (b, 4, 4) box-to-first-camera.
    half: (b, 3) half the side lengths, metres.
    colour: (b, 6, 3) of the sides, in [0, 1].
    cell: (b,) side length of the checker pattern, metres.
    contrast: (b,) contrast of the pattern.
    """

    place: Tensor
    half: Tensor
    colour: Tensor
    cell: Tensor
    contrast: Tensor


def edit_windows(
    windows: Windows, intrinsics: Tensor, generator: torch.Generator, share: float
) -> Windows:
    """Add or remove a box in ``share`` of the windows that see the memory.

    intrinsics: (4,) ``fx fy cx cy`` in pixels.

    Raises MissingGeometryError for windows without depth or memory views.
    """
    if windows.inverse_depth is None or windows.view is None:
        raise MissingGeometryError(
            "edits need depth and memory views, these windows have none: set edits to 0"
        )
    b, t, _, h, w = windows.rgb.shape
    device = windows.rgb.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(b, *shape, generator=generator, device=device)

    camera = camera_path(windows.motion)
    depth = dequantise_depth(windows.inverse_depth)
    boxes = _drawn(windows, depth, camera, intrinsics, uniform)
    chosen = (uniform(0, 1) < share) & windows.view[:, :, 4].flatten(1).any(1)
    removed = chosen & (uniform(0, 1) < REMOVED)
    added = chosen & ~removed

    centre = torch.full((2, b, t, h, w), 0.5, device=device)
    z, colour = cast(boxes, camera, intrinsics, centre)
    shown = z < depth
    code = quantise_depth(z)

    def drawn_in(rgb: Tensor, inverse_depth: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(where[:, :, None], colour, rgb), torch.where(where, code, inverse_depth)

    # A box that was put in stands in the past from some moment on, or never; one that was taken
    # away, up to some moment.
    moment = (uniform(0, t) + t * (uniform(0, 1) < 0.5) * added).long()
    frame = torch.arange(t, device=device)
    in_past = torch.where(
        removed[:, None], frame < moment[:, None], added[:, None] & (frame >= moment[:, None])
    )
    own_rgb = windows.rgb if windows.own_rgb is None else windows.own_rgb
    own_depth = (
        windows.inverse_depth if windows.own_inverse_depth is None else windows.own_inverse_depth
    )
    own_rgb, own_depth = drawn_in(own_rgb, own_depth, shown & in_past[:, :, None, None])
    rgb, inverse_depth = drawn_in(
        windows.rgb, windows.inverse_depth, shown & added[:, None, None, None]
    )
    return dataclasses.replace(
        windows,
        rgb=rgb,
        inverse_depth=inverse_depth,
        own_rgb=own_rgb,
        own_inverse_depth=own_depth,
        view=_edited_view(
            windows.view, boxes, camera, intrinsics, depth, shown, added, removed, uniform
        ),
    )


def camera_path(motion: Tensor) -> Tensor:
    """Return poses (b, t, 4, 4) float32 in the first frame's camera.

    motion: (b, t, 6); motion i led to frame i.
    """
    # In float64: on a GPU, products of float32 matrices may be rounded to ten bits.
    step = motion_to_matrix(motion.double())
    poses = [torch.eye(4, dtype=torch.float64, device=motion.device).expand(len(motion), 4, 4)]
    for i in range(1, motion.shape[1]):
        poses.append(poses[-1] @ step[:, i])
    return torch.stack(poses, 1).float()


def cast(boxes: Boxes, camera: Tensor, intrinsics: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Render the boxes for cameras (b, t, 4, 4).

    within: (2, b, t, h, w), position of each ray inside its pixel, x and y in [0, 1].

    Returns depth (b, t, h, w) metres, ``inf`` beside the boxes, and colour (b, t, 3, h, w) uint8.
    """
    h, w = within.shape[-2:]
    fx, fy, cx, cy = intrinsics.float().unbind()
    column, row = torch.arange(w, device=within.device), torch.arange(h, device=within.device)
    ray = [
        (column + within[0] - cx) / fx,
        (row[:, None] + within[1] - cy) / fy,
        torch.ones_like(within[0]),
    ]
    box, eye = boxes.place[:, None, :3, :3], camera[:, :, :3, :3]
    # Written out: a matrix product may be rounded to ten bits.
    turn = (box[..., :, :, None] * eye[..., :, None, :]).sum(2)
    origin = (box * (camera[:, :, :3, 3] - boxes.place[:, None, :3, 3])[..., None]).sum(2)
    enter, leave, towards = [], [], []
    for axis in range(3):
        direction = sum(turn[..., axis, i, None, None] * ray[i] for i in range(3))
        assert isinstance(direction, Tensor)
        direction = torch.where(direction.abs() < 1e-6, 1e-6, direction)
        start, half = origin[..., axis, None, None], boxes.half[:, None, axis, None, None]
        one, other = (-half - start) / direction, (half - start) / direction
        enter.append(torch.minimum(one, other))
        leave.append(torch.maximum(one, other))
        towards.append(direction)
    near, side = torch.stack(enter).max(0)
    far = torch.stack(leave).amin(0)
    hit = (near <= far) & (near > NEAR_PLANE)
    direction = torch.stack(towards)
    place = torch.stack([origin[..., i, None, None] + near * direction[i] for i in range(3)])
    facing = 2 * side + (direction.gather(0, side[None])[0] < 0)
    sides = boxes.colour[:, None, None, None].expand(*facing.shape, 6, 3)
    colour = sides.gather(4, facing[..., None, None].expand(*facing.shape, 1, 3)).squeeze(4)
    square = torch.floor(place / boxes.cell[:, None, None, None] + 1e-3)
    # A number in [0, 1) for each square, the same from wherever it is seen.
    speckle = torch.sin(square[0] * 12.9898 + square[1] * 78.233 + square[2] * 37.719).mul(
        43758.5453
    )
    speckle = speckle - speckle.floor()
    colour = colour * (1.0 + boxes.contrast[:, None, None, None] * (speckle - 0.5))[..., None]
    pixels = (colour.clamp(0, 1) * 255.0).round().to(torch.uint8).movedim(-1, 2)
    return torch.where(hit, near, torch.inf), pixels


def _drawn(
    windows: Windows, depth: Tensor, camera: Tensor, intrinsics: Tensor, uniform: Uniform
) -> Boxes:
    """Sample boxes in front of visible surfaces, so that most boxes are visible."""
    b, t, h, w = depth.shape
    row = torch.arange(b, device=depth.device)
    pick = uniform(0, t).long().clamp(max=t - 1)
    u, v = (uniform(0.2, 0.8) * w).long(), (uniform(0.35, 0.75) * h).long()
    fx, fy, cx, cy = intrinsics.float().unbind()
    z = depth[row, pick, v, u].clamp(0.5, FARTHEST) * uniform(0.35, 0.95)
    centre = torch.stack([(u + 0.5 - cx) / fx * z, (v + 0.5 - cy) / fy * z, z], 1)
    half = torch.exp(math.log(0.1) + math.log(8.0) * uniform(0, 1, 3)).minimum(0.4 * z[:, None])
    upright = torch.zeros(b, 3, device=depth.device)
    upright[:, 1] = uniform(0, math.pi)
    before = camera[row, pick]
    place = torch.eye(4, device=depth.device).repeat(b, 1, 1)
    turned = rotation_vector_to_matrix(upright)
    place[:, :3, :3] = (before[:, :3, :3, None] * turned[:, None]).sum(2)
    place[:, :3, 3] = (before[:, :3, :3] * centre[:, None]).sum(2) + before[:, :3, 3]
    colour = (uniform(0, 1, 1, 3) * uniform(0.4, 1.0, 6, 1)).clamp(0, 1)
    return Boxes(place, half, colour, uniform(0.05, 0.5), uniform(0, 1) * (uniform(0, 1) < 0.7))


def _edited_view(
    view: Tensor,
    boxes: Boxes,
    camera: Tensor,
    intrinsics: Tensor,
    depth: Tensor,
    shown: Tensor,
    added: Tensor,
    removed: Tensor,
    uniform: Uniform,
) -> Tensor:
    """Return memory views (b, t, 8, h, w) with added boxes drawn and removed boxes cut out."""
    t, _, h, w = view.shape[1:]
    # Each pixel shows a point of the box somewhere in it, or none.
    within = uniform(0, 1, t, 2, h, w)
    z, colour = cast(boxes, camera, intrinsics, within.movedim(2, 0))
    kept = uniform(0, 1, t, h, w) < uniform(0.4, 1.0)[:, None, None, None]
    visible = (z < depth) & torch.isfinite(z)
    source = DEPTH_CHANNEL_SCALE / (DEPTH_CHANNEL_SCALE + uniform(0.5, 6.0))
    point = torch.cat(
        [
            rgb_to_channels(colour),
            2.0 * code_to_channel(quantise_depth(z))[:, :, None] - 1.0,
            torch.ones_like(z)[:, :, None],
            2.0 * within - 1.0,
            source[:, None, None, None, None].expand(-1, t, 1, h, w),
        ],
        2,
    )
    # What lies behind the box is hidden by it, also where none of its points falls.
    put_in = torch.where((visible | shown)[:, :, None], point * (visible & kept)[:, :, None], view)
    taken_away = view * ~(shown & kept)[:, :, None]
    view = torch.where(added[:, None, None, None, None], put_in, view)
    return torch.where(removed[:, None, None, None, None], taken_away, view)
