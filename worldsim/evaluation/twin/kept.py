"""Dreams the scripted trajectories, and scores what comes back into sight.

Four figures per trajectory, PSNR in dB as everywhere (per frame, capped at 40, then averaged):

- ``input_kept``: pixels that the true input frames showed, out of sight since, beside the twin's.
- ``generated_kept``: pixels that the dream itself made up on its way, out of sight since, beside
  what it had shown. Points are followed by the dream's own depth.
- ``self_consistent``: what the dream shows of a point, and what it showed of it 8 frames before.
- ``mirrored``: the frame m steps after the turning point beside the one m steps before it, where
  the true camera came back to within 5 cm and 2 degrees.

The real twin gets the same figures from its own frames: about the most that can be reached, since
points are followed to the nearest pixel. So does a dream that shows the last input frame for ever:
it is perfectly mirrored and may be consistent with itself, but it keeps no input. No figure says
enough alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import dequantise_depth, relative_motion
from worldsim.evaluation.figures import Figures
from worldsim.evaluation.measure import start_walks
from worldsim.evaluation.metrics import masked_psnr, psnr
from worldsim.evaluation.twin.gate import GAP, LEAST_SHARE, Shown, returned
from worldsim.evaluation.twin.trajectories import Trajectories
from worldsim.runtime.types import Array
from worldsim.state import concatenate
from worldsim.world import World

LAG = 8
"""Frames between the two of ``self_consistent``."""
STRIDE = 2
"""Every second frame of the way back is scored: neighbours show nearly the same."""
NEAR_METRES, NEAR_DEGREES = 0.05, 2.0
"""Two poses are the same pose within this."""
KEPT = ("input_kept", "generated_kept", "self_consistent", "mirrored")
Tick = Callable[[], object]


@dataclass(frozen=True)
class Kept:
    """Scores of one trajectory, CPU tensors (e, j) float32 in dB; NaN where a frame does not count.

    input, generated: of the scored frames of the way back.
    consistent: of all dreamed frames from the ``LAG``-th on.
    mirrored: of the frames of the way back.
    shares: (e, j, 2) of the pixels that pass the gate, input and generated.
    """

    input: Tensor
    generated: Tensor
    consistent: Tensor
    mirrored: Tensor
    shares: Tensor


def steps_of(walks: Trajectories) -> int:
    """Return how often :func:`dream` calls its ``tick``."""
    return walks.rgb.shape[1] - 1


def true_frames(walks: Trajectories) -> Shown:
    """Return what the real twin showed."""
    depth = dequantise_depth(walks.inverse_depth)
    return Shown(walks.rgb, depth, walks.pose, walks.intrinsics)


def stand(walks: Trajectories) -> Shown:
    """Return a dream that shows the last input frame for ever, whatever the camera does."""
    truth, last = true_frames(walks), walks.config.history - 1
    frames = torch.arange(walks.rgb.shape[1], device=walks.rgb.device).clamp(max=last)
    return dataclasses.replace(truth, rgb=truth.rgb[:, frames], depth=truth.depth[:, frames])


@torch.no_grad()
def dream(world: World, walks: Trajectories, tick: Tick = lambda: None) -> Shown:
    """Dream the ways out and back at the true poses.

    Returns the true input frames followed by the dreamed ones.
    """
    history = walks.config.history
    state = start_walks(world, walks)
    for t in range(1, history):
        state = world.observe(state, walks.act[:, t - 1], walks.frame(t))
        tick()
    rgb, code = (
        list(walks.rgb[:, :history].unbind(1)),
        list(walks.inverse_depth[:, :history].unbind(1)),
    )
    for t in range(history, walks.rgb.shape[1]):
        state, transition = world.step(state, walks.act[:, t - 1], pose=walks.pose[:, t])
        frame = transition.frame
        assert frame.inverse_depth is not None
        rgb.append(frame.rgb.clone())
        code.append(frame.inverse_depth.clone())
        tick()
    depth = dequantise_depth(torch.stack(code, 1))
    return Shown(torch.stack(rgb, 1), depth, walks.pose, walks.intrinsics)


def scored_frames(walks: Trajectories) -> range:
    """Return the indices of the frames of the way back that are scored."""
    return range(walks.turn + 1, walks.rgb.shape[1], STRIDE)


@torch.no_grad()
def input_gates(walks: Trajectories) -> list[Tensor]:
    """Return which pixels (e, h, w) of each scored frame the input frames showed, by true depth."""
    truth = true_frames(walks)
    return [returned(truth, t, walks.config.history).input for t in scored_frames(walks)]


@torch.no_grad()
def score(walks: Trajectories, shown: Shown, gates: Sequence[Tensor] | None = None) -> Kept:
    """Score what was shown along the trajectories.

    shown: of :func:`dream`, :func:`true_frames` or :func:`stand`.
    gates: of :func:`input_gates`; computed if not given.
    """
    history, frames = walks.config.history, walks.rgb.shape[1]
    inputs, generated, shares = [], [], []
    for t, gate in zip(scored_frames(walks), gates or input_gates(walks), strict=True):
        back = returned(shown, t, history)
        inputs.append(_of_frame(shown.rgb[:, t], walks.rgb[:, t], gate))
        generated.append(_of_frame(shown.rgb[:, t], back.colour, back.generated))
        shares.append(
            torch.stack([mask.float().mean((1, 2)) for mask in (gate, back.generated)], 1)
        )
    consistent = []
    for t in range(history + LAG, frames):
        seen, pixel = shown.sighted(t, t - LAG)
        consistent.append(_of_frame(shown.rgb[:, t], shown.colours(t - LAG, pixel), seen))
    return Kept(
        input=torch.stack(inputs, 1).cpu(),
        generated=torch.stack(generated, 1).cpu(),
        consistent=torch.stack(consistent, 1).cpu(),
        mirrored=_mirrored(walks, shown).cpu(),
        shares=torch.stack(shares, 1).cpu(),
    )


def _of_frame(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return the PSNR (e,) over the mask; NaN where it covers too little of the frame."""
    enough = mask.float().mean((1, 2)) >= LEAST_SHARE
    return torch.where(enough, masked_psnr(a, b, mask), torch.nan)


def _mirrored(walks: Trajectories, shown: Shown) -> Tensor:
    """Return the PSNR (e, n) of each frame of the way back beside that of the same pose."""
    turn, found = walks.turn, []
    for m in range(1, walks.out + 1):
        there, here = turn - m, turn + m
        motion = relative_motion(walks.pose[:, there].double(), walks.pose[:, here].double())
        near = (motion[:, :3].norm(dim=1) <= NEAR_METRES) & (
            torch.rad2deg(motion[:, 3:].norm(dim=1)) <= NEAR_DEGREES
        )
        # Frames between the two: within the gap, attention alone could keep them.
        fair = near & (2 * m > GAP)
        found.append(torch.where(fair, psnr(shown.rgb[:, here], shown.rgb[:, there]), torch.nan))
    return torch.stack(found, 1)


def join(parts: Sequence[Kept]) -> Kept:
    """Join chunks over walks."""
    return concatenate(list(parts))


def add(figures: Figures, kept: Kept, name: str, kind: str) -> None:
    """Add the four means of one trajectory, as ``input_kept.yaw`` for ``kind = ""``.

    kind: ends the figure's name, such as ``_no_memory``.
    """
    for key, values in zip(
        KEPT, (kept.input, kept.generated, kept.consistent, kept.mirrored), strict=True
    ):
        array: Array = values.double().numpy()
        figures.mean(f"{key}{kind}.{name}", array, np.isfinite(array))
