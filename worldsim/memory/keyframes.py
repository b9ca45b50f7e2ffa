"""The frames that a radiance field is fitted to: which are kept, and the rays of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth, rotation_angle
from worldsim.memory.fitting import Rays
from worldsim.memory.operations import agreeing
from worldsim.memory.slots import PointMemoryConfig, Points
from worldsim.memory.splat import splat
from worldsim.memory.voxels import world_rays
from worldsim.state import Frame, map_tensors

AGREEMENT = PointMemoryConfig()
"""Depths agree as in a point memory with its default tolerances."""


@dataclass(frozen=True)
class Keyframes:
    """Frames kept for fitting; slots from ``count`` on are unused.

    rgb: (b, k, 3, h, w) uint8.
    inverse_depth: (b, k, h, w) int32.
    pose, intrinsics: (b, k, 4, 4), (b, k, 4) float32.
    count: (b,) int64, number of frames ever kept; frame i is in slot i modulo k.
    """

    rgb: Tensor
    inverse_depth: Tensor
    pose: Tensor
    intrinsics: Tensor
    count: Tensor


def keep_frame(
    frames: Keyframes, frame: Frame, camera: Camera, apart_m: float, apart_deg: float
) -> Keyframes:
    """Return the keyframes with ``frame`` added in rows where it is new.

    It is new if no kept frame is both closer than ``apart_m`` metres and turned by less than
    ``apart_deg`` degrees.
    """
    most = frames.pose.shape[1]
    used = torch.arange(most, device=frames.count.device) < frames.count[:, None]
    near = (frames.pose[:, :, :3, 3] - camera.pose[:, None, :3, 3].float()).norm(dim=-1) < apart_m
    alike = torch.rad2deg(rotation_angle(camera.pose[:, None].float(), frames.pose)) < apart_deg
    new = ~(used & near & alike).any(1)
    slot, row = frames.count % most, torch.arange(len(new), device=new.device)

    def put(held: Tensor, values: Tensor) -> Tensor:
        kept = new.view(-1, *[1] * (values.ndim - 1))
        return held.index_put(
            (row, slot), torch.where(kept, values.to(held.dtype), held[row, slot])
        )

    assert frame.inverse_depth is not None
    return Keyframes(
        rgb=put(frames.rgb, frame.rgb),
        inverse_depth=put(frames.inverse_depth, frame.inverse_depth),
        pose=put(frames.pose, camera.pose),
        intrinsics=put(frames.intrinsics, camera.intrinsics),
        count=frames.count + new,
    )


def rays_of(frames: Keyframes, points: Points) -> Rays:
    """Return the rays of all pixels of the kept frames that the points do not contradict.

    What the other pixels showed has moved.

    frames, points: of one environment, a batch of one.
    """
    most, (height, width) = frames.pose.shape[1], frames.inverse_depth.shape[-2:]
    count = min(int(frames.count), most)
    kept = map_tensors(lambda x: x[0, :count] if x.ndim > 1 else x, frames)
    camera = Camera(kept.pose, kept.intrinsics, height, width)
    depth = dequantise_depth(kept.inverse_depth).flatten(1)
    believed = []
    for k in range(count):
        alone = Camera(kept.pose[k : k + 1], kept.intrinsics[k : k + 1], height, width)
        shown = splat(points.position, points.kind, alone)
        there = depth[k : k + 1].gather(1, shown.pixel)
        nearest, farthest = agreeing(AGREEMENT, there)
        agrees = shown.visible & (shown.z >= nearest) & (shown.z <= farthest)
        none = torch.zeros_like(depth[:1], dtype=torch.int32)
        believed.append(none.scatter_reduce_(1, shown.pixel, agrees.int(), "amax") > 0)
    chosen = torch.cat(believed)
    origin, ray = world_rays(camera)
    colour = kept.rgb.flatten(2).transpose(1, 2).float() / 255.0
    return Rays(origin[:, None].expand_as(ray)[chosen], ray[chosen], colour[chosen], depth[chosen])
