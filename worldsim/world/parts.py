"""What a step computes between its passes over the scene memory: functions of tensors, so that an
engine can compile each whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldsim.camera import move, relative_motion
from worldsim.diffusion.denoiser import channels_to_frame, last_frames_to_channels, view_to_channels
from worldsim.diffusion.dynamics import Context, DiffusionDynamics
from worldsim.diffusion.network import Condition
from worldsim.runtime.rng import Purpose, normal
from worldsim.state import Frame, LastFrames, MemoryView
from worldsim.world.heads import EgoMotionHead, OutcomeHead, to_camera_axes


def frames_before(frame: Frame, context: Context) -> LastFrames:
    """What a network that looks at the frames before is shown next, after ``frame`` and what was
    shown for it."""
    return LastFrames(frame, context.present, context.condition.view[:, -1])


def condition_of(
    dynamics: DiffusionDynamics,
    act: Tensor,
    motion: Tensor,
    view: MemoryView | LastFrames | None,
    intrinsics: Tensor,
) -> Condition:
    """A frame's condition from what the memory shows there, or the frames before; None for a
    network that looks at neither."""
    n = dynamics.network.config
    if isinstance(view, LastFrames):
        channels = last_frames_to_channels(view, n.channels)
    elif view is not None and n.view_channels:
        channels = view_to_channels(view)
    else:
        channels = torch.zeros(
            len(act), max(n.view_channels, 1), n.height, n.width, device=act.device
        )
    return dynamics.condition(act, motion, channels, intrinsics)


@dataclass(frozen=True, eq=False)
class Aim:
    """Where an action leads the camera."""

    ego_motion: EgoMotionHead

    def __call__(
        self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next camera's pose (b, 4, 4), snapped, and the motion to it (b, 6) in the axes of
        ``pose``.

        around: (b, 2, 48, 48) uint8 the surroundings of ``pose`` (b, 4, 4); motion: (b, 8, 6) and
        acts: (b, 8, ...) the past.
        """
        following = move(
            pose, to_camera_axes(self.ego_motion(around, pose, motion, acts, act), pose)
        )
        return following, relative_motion(pose, following)


@dataclass(frozen=True, eq=False)
class PredictFrame:
    """The next frame, what the heads say of it, and the context that it goes into."""

    dynamics: DiffusionDynamics
    outcome: OutcomeHead
    uncertainty: bool = False
    """Whether each frame is drawn twice, to tell how far the draws differ."""

    def __call__(
        self,
        context: Context,
        act: Tensor,
        motion: Tensor,
        view: MemoryView | LastFrames | None,
        intrinsics: Tensor,
        seed: Tensor,
        step: Tensor,
        pose: Tensor | None,
    ) -> tuple[Frame, Tensor, Tensor, Context, Tensor | None]:
        """The frame at ``pose``, its rewards (b, 2) of going on and of ending, the termination's
        logit (b,), the context after, and the frame's uncertainty (b,), if that is told.

        motion: (b, 6) to ``pose`` in the axes of the camera before. seed, step: (b,) int64, of the
        random numbers.
        """
        n: Any = self.dynamics.network.config
        shape = (n.channels, n.height, n.width)
        condition = condition_of(self.dynamics, act, motion, view, intrinsics)
        prediction, context = self.dynamics.predict(
            context, condition, normal(seed, step, Purpose.NOISE, shape)
        )
        uncertainty = None
        if self.uncertainty:
            other = self.dynamics.redraw(
                context, condition, normal(seed, step, Purpose.UNCERTAINTY, shape)
            )
            uncertainty = difference(prediction.x, other)
        frame = channels_to_frame(prediction.x, pose)
        rewards, logit = self.outcome(prediction.features.float())
        context = self.dynamics.commit(
            context, frame, condition, normal(seed, step, Purpose.CONTEXT, shape)
        )
        return frame, rewards, logit, context, uncertainty


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Root mean square difference of two frames' colours, (b, c, h, w) channels in [-1, 1] to (b,)
    float32 in [0, 1]."""
    colours = (x[:, :3].float().clamp(-1.0, 1.0) for x in (one, other))
    return (next(colours) - next(colours)).square().mean((1, 2, 3)).sqrt() * 0.5
