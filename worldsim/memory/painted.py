"""Painted points: points that a painter invented and no true frame has observed.

Their confidence is 0, and frames that agree with them do not raise it: frames of a dream confirm
nothing. A true frame that sees them replaces them by its own pixels, from however far
(:func:`give_way`).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldsim.camera import Camera, channel_to_code, dequantise_depth
from worldsim.memory.operations import judge
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import Points
from worldsim.memory.splat import EMPTY, splat
from worldsim.state import Frame, MemoryView


def mark_painted(before: Points, after: Points) -> Points:
    """Return ``after`` with the points that are new since ``before`` marked as painted.

    before, after: the memory before and after it integrated a painted frame, batches of the same
        sizes. Points that were painted before stay so.
    """
    new = (before.kind == EMPTY) | (before.position != after.position).any(1)
    # Frames that were painted confirm nothing.
    return dataclasses.replace(after, confidence=before.confidence.masked_fill(new, 0))


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


def captured_from_afar(view: MemoryView, frame: Frame, ratio: float) -> Tensor:
    """Return the known pixels whose points were captured from much further away, (b, h, w) bool.

    view: what the memory shows at the frame's camera.
    frame: with depth. Its sky is not compared.
    ratio: much further is more than this many times the frame's depth.
    """
    depth = frame.depth
    assert depth is not None
    captured = dequantise_depth(channel_to_code(view.source.float() / 255.0))
    return view.mask & torch.isfinite(depth) & (captured > ratio * depth)


def is_painted(data: Points) -> Tensor:
    """Return which slots hold painted points, (b, c) bool."""
    return (data.kind != EMPTY) & (data.confidence == 0)


def give_way(
    memory: PointMemory, data: Points, frame: Frame, camera: Camera, rows: Tensor | None = None
) -> Points:
    """Return the memory without the painted points that a true frame sees.

    Integrate the frame into it: its pixels take their places.

    frame: with depth, seen by ``camera``.
    rows: (b,) bool, the memories that it is for. None for all.
    """
    painted = is_painted(data)
    if data.kind.device.type == "cpu" and not painted.any():
        return data
    seen = judge(memory.config, data, splat(data.position, data.kind, camera), frame)[0]
    gone = seen & painted
    if rows is not None:
        gone = gone & rows[:, None]
    return dataclasses.replace(data, kind=data.kind.masked_fill(gone, EMPTY))
