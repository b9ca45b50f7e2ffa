"""Painted points: points that a painter invented and no frame has observed.

Their confidence is 0. Their colours count as captured from twice their distance, so a frame that
observes them replaces them by its own pixels
(:attr:`worldsim.memory.slots.PointMemoryConfig.replace_ratio`).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldsim.camera import DEPTH_CHANNEL_SCALE, Camera
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import FURTHER, Points
from worldsim.memory.splat import EMPTY, POINT
from worldsim.state import Frame


def mark_painted(before: Points, after: Points) -> Points:
    """Return ``after`` with the points that are new since ``before`` marked as painted.

    before, after: the memory before and after it integrated a painted frame, batches of the same
        sizes. Points that were painted before stay so.
    """
    new = (before.kind == EMPTY) | (before.position != after.position).any(1)
    return dataclasses.replace(
        after,
        # Frames that were painted confirm nothing.
        confidence=before.confidence.masked_fill(new, 0),
        source=torch.where(
            new & (after.kind == POINT), capture_further(after.source), after.source
        ),
    )


def integrate_painted(
    memory: PointMemory, data: Points, frame: Frame, camera: Camera, step: Tensor, known: Tensor
) -> Points:
    """Return the memory with the invented pixels of a painted frame, marked as painted.

    The memory's own points do not change: what it knows of the view stays.

    frame: the painted frame, with depth, seen by ``camera``.
    step: (b,) int64.
    known: (b, h, w) bool, pixels that the memory already showed. They are not integrated.
    """
    return mark_painted(data, memory.integrate(data, frame, camera, step, ~known))


def is_painted(data: Points) -> Tensor:
    """Return which slots hold painted points, (b, c) bool."""
    return (data.kind != EMPTY) & (data.confidence == 0)


def capture_further(source: Tensor) -> Tensor:
    """Multiply capture distances by ``FURTHER``; (b, c) uint8, 255 * depth channel."""
    channel = source.float() / 255.0
    # channel = s / (s + d), so d = s (1 - channel) / channel.
    depth = DEPTH_CHANNEL_SCALE * (1.0 - channel) / channel.clamp(min=1e-6)
    further = DEPTH_CHANNEL_SCALE / (DEPTH_CHANNEL_SCALE + FURTHER * depth)
    return (255.0 * further).round().clamp(1, 255).to(torch.uint8)
