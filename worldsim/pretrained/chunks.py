"""The chunk buffer: generated frames that wait to be emitted, one step after another.

A video model generates several frames at once. They are right as long as the action that they were
generated for continues and the camera moves as planned. When it does not, the rest of the chunk is
dropped, and a new one is generated from what was emitted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.camera import motion_to_matrix, move, rotation_angle
from worldsim.protocols import StepInputs


@dataclass(frozen=True)
class ChunkContext:
    """The context of :class:`worldsim.pretrained.dynamics.PretrainedDynamics`.

    p is the number of past frames that the model continues, n that of frames per chunk.

    Emitting a frame copies none: past frames and those of the chunk are joined when the next chunk
    is generated (:func:`join`).

    past: (b, p, 3, h, w) uint8, the newest frames before those of the chunk, oldest first.
    present: (b, p) bool, which of them exist.
    chunk: (b, n, 3, h, w) uint8, the newest chunk.
    planned: (b, n, 4, 4) float32 camera-to-world, the cameras that it was generated for.
    position: (b,) int64 in [0, n], the frames of the chunk that are used up; n without a chunk.
    joined: (b,) int64 in [0, position], the used frames of the chunk that ``past`` holds or that
        were dropped.
    act: (b, ...), the action that it was generated for.
    generated, emitted: (b,) int64, frames generated and frames emitted since the start.
    """

    past: Tensor
    present: Tensor
    chunk: Tensor
    planned: Tensor
    position: Tensor
    joined: Tensor
    act: Tensor
    generated: Tensor
    emitted: Tensor


def empty_context(
    batch: int,
    past: int,
    frames: int,
    size: tuple[int, int],
    act: Tensor,
    device: torch.device | str,
) -> ChunkContext:
    """Return a context without frames.

    past, frames: p and n of :class:`ChunkContext`.
    size: height and width in pixels.
    act: (b, ...) of any value, for its shape and dtype.
    """
    height, width = size
    pictures = (3, height, width)
    zeros = torch.zeros(batch, dtype=torch.int64, device=device)
    return ChunkContext(
        past=torch.zeros(batch, past, *pictures, dtype=torch.uint8, device=device),
        present=torch.zeros(batch, past, dtype=torch.bool, device=device),
        chunk=torch.zeros(batch, frames, *pictures, dtype=torch.uint8, device=device),
        planned=torch.eye(4, device=device).repeat(batch, frames, 1, 1),
        position=torch.full_like(zeros, frames),
        joined=torch.full_like(zeros, frames),
        act=act.to(device),
        generated=zeros,
        emitted=zeros.clone(),
    )


def plan_cameras(pose: Tensor, motion: Tensor, frames: int) -> Tensor:
    """Return the cameras of a chunk, if the camera continues to move as it does now.

    pose: (b, 4, 4) camera-to-world of the first frame.
    motion: (b, 6), the motion that led to it, in camera axes.

    Returns (b, n, 4, 4); the first is ``pose``.
    """
    planned = [pose]
    while len(planned) < frames:
        planned.append(move(planned[-1], motion))
    return torch.stack(planned, 1)


def approach_cameras(pose: Tensor, motion: Tensor, frames: int) -> Tensor:
    """Return cameras on an imagined way to ``pose``, along which the camera moves by ``motion``.

    pose: (b, 4, 4) camera-to-world of the newest frame.
    motion: (b, 6), the next motion, in camera axes.

    Returns (b, p, 4, 4), oldest first; the last is ``pose``.
    """
    back = torch.linalg.inv(motion_to_matrix(motion.double())).to(pose.dtype)
    cameras = [pose]
    while len(cameras) < frames:
        cameras.append(cameras[-1] @ back)
    return torch.stack(cameras[::-1], 1)


def usable(
    context: ChunkContext, inputs: StepInputs, distance_m: float, angle_rad: float
) -> Tensor:
    """Return which environments can emit the next frame of their chunk, (b,) bool.

    distance_m, angle_rad: largest difference between the planned camera and the actual one.
    """
    assert inputs.pose is not None
    frames = context.chunk.shape[1]
    left = context.position < frames
    same = (context.act == inputs.act).reshape(len(left), -1).all(1)
    rows = torch.arange(len(left), device=left.device)
    planned = context.planned[rows, context.position.clamp(max=frames - 1)]
    apart = (planned[:, :3, 3] - inputs.pose[:, :3, 3]).norm(dim=1)
    turned = rotation_angle(planned, inputs.pose)
    return left & same & (apart <= distance_m) & (turned <= angle_rad)


def past_frames(context: ChunkContext, newest: Tensor) -> Tensor:
    """Return the past frames (b, p, 3, h, w), with the oldest repeated where there are fewer.

    context: joined (:func:`join`).
    newest: (b, 3, h, w) uint8, the newest frame; used where the context holds none.
    """
    p = context.present.shape[1]
    # Frames are added at the end, so the oldest one is the first that is present.
    first = torch.where(context.present.any(1), context.present.int().argmax(1), p)
    index = torch.arange(p, device=newest.device)[None].maximum(first[:, None])
    rows = torch.arange(len(newest), device=newest.device)[:, None]
    held = torch.cat([context.past, newest[:, None]], 1)
    return held[rows, index]


def join(context: ChunkContext) -> ChunkContext:
    """Return the context whose past frames include those that were emitted from the chunk."""
    p, n = context.past.shape[1], context.chunk.shape[1]
    emitted = (context.position - context.joined)[:, None]
    # Of the past frames followed by the emitted ones, the last p.
    index = torch.arange(p, device=emitted.device)[None] + emitted
    rows = torch.arange(len(index), device=index.device)[:, None]
    before = index < p
    taken = (context.joined[:, None] + index - p).clamp(0, n - 1)
    old, new = context.past[rows, index.clamp(max=p - 1)], context.chunk[rows, taken]
    return dataclasses.replace(
        context,
        past=torch.where(before[:, :, None, None, None], old, new),
        present=torch.where(before, context.present[rows, index.clamp(max=p - 1)], True),
        joined=context.position,
    )


def push(context: ChunkContext, rgb: Tensor) -> ChunkContext:
    """Return the context with a new newest frame (b, 3, h, w) uint8; the chunk is dropped."""
    context = join(context)
    true = torch.ones_like(context.present[:, :1])
    dropped = torch.full_like(context.position, context.chunk.shape[1])
    return dataclasses.replace(
        context,
        position=dropped,
        joined=dropped.clone(),
        past=torch.cat([context.past[:, 1:], rgb[:, None]], 1),
        present=torch.cat([context.present[:, 1:], true], 1),
    )
