"""A dynamics without weights, used as a baseline: the last frame warped to the next camera."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from worldsim.camera import Camera
from worldsim.memory.splat import frame_points, view_of
from worldsim.protocols import DynamicsSpec, Prediction, StepInputs
from worldsim.state import Frame

GREY = 32
"""Colour, of 255, of pixels that neither the memory nor the last frame shows."""


class WarpLastFrame:
    """Dynamics that shows the memory's view and, in its holes, the last frame warped to the camera.

    height, width: frame size in pixels. actions: number of discrete actions.

    Its features are the mean colour, and it predicts no rewards. Its context is empty, since
    ``StepInputs`` holds the last frame.
    """

    module = None

    def __init__(self, height: int, width: int, actions: int) -> None:
        self.spec = DynamicsSpec(
            height, width, actions=actions, depth=True, uses_memory=True, features=3
        )

    @classmethod
    def build(cls, config: Any, load: Callable[..., Any]) -> WarpLastFrame:
        """Build it from a world's folder. All settings are in ``world.json``."""
        return cls(**config.dynamics_settings)

    def empty(self, batch: int, device: Any) -> tuple[()]:
        """Return the empty context: nothing is kept from step to step."""
        return ()

    def observe(self, context: tuple[()], inputs: StepInputs, frame: Frame) -> tuple[()]:
        """Return the empty context: a true frame changes nothing."""
        return ()

    def predict(self, context: tuple[()], inputs: StepInputs) -> tuple[Prediction, tuple[()]]:
        """Return the memory's view, with holes filled by the warped last frame, else by grey."""
        last, pose, view = inputs.last, inputs.pose, inputs.view
        assert last.inverse_depth is not None and last.pose is not None
        assert pose is not None and view is not None
        size = self.spec.height, self.spec.width
        here, there = (Camera(p, inputs.intrinsics, *size) for p in (last.pose, pose))
        position, kind = frame_points(last.inverse_depth, here)
        warped = view_of(position, last.rgb.flatten(2), kind, torch.zeros_like(kind), there)
        rgb = torch.where(warped.mask[:, None], warped.rgb, GREY).to(torch.uint8)
        code = torch.where(
            warped.mask, warped.inverse_depth, warped.inverse_depth.amax((1, 2), True)
        )
        frame = Frame(
            rgb=torch.where(view.mask[:, None], view.rgb, rgb),
            inverse_depth=torch.where(view.mask, view.inverse_depth, code),
            pose=pose,
        )
        return Prediction(frame, frame.rgb.float().mean((2, 3)) / 255.0), ()
