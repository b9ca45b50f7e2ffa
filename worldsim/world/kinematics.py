"""Ego-motion by a fixed rule, for worlds without a trained ego-motion head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.diffusion.module import Module, register_to_config
from worldsim.errors import InvalidInputError
from worldsim.world.heads import to_world_axes


class KinematicMotion(Module):
    """Moves the camera by the same motion whenever an action is taken, without collisions.

    The motion of a discrete action is a row of :attr:`steps`; that of an action vector is the sum
    of the rows, weighted by its components.

    actions: number of discrete actions; 0 for action vectors.
    action_dim: size of an action vector.
    """

    @register_to_config
    def __init__(self, actions: int = 7, action_dim: int = 0) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(actions or action_dim, 6))
        self.steps: Tensor

    @classmethod
    def of(cls, steps: Sequence[Sequence[float]], continuous: bool = False) -> KinematicMotion:
        """Build it from the motions of the actions.

        steps: (n, 6), per action or per component of an action vector: metres along the camera's
            x (right), y (down) and z (forward), and a rotation vector in radians about these axes.
        continuous: whether actions are vectors.

        Raises InvalidInputError for other shapes and numbers that are not finite.
        """
        try:
            table = torch.tensor(steps, dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"the motions of the actions are no table of numbers ({error}): give (n, 6)"
            ) from None
        if table.ndim != 2 or table.shape[1] != 6 or not len(table) or not table.isfinite().all():
            raise InvalidInputError(
                f"the motions of the actions are {tuple(table.shape)}: give six finite numbers per "
                "action, metres (right, down, forward) and a rotation vector in radians"
            )
        made = cls(0, len(table)) if continuous else cls(len(table))
        made.steps.copy_(table)
        return made

    @classmethod
    def walking(cls, step_m: float = 0.25, turn_deg: float = 15.0) -> KinematicMotion:
        """Return the motions of a walker with the seven actions of ``worldsim/FreedoomReal-v0``.

        They are: no-op, forward, backward, turn left, turn right, strafe left, strafe right.

        step_m: metres per step.
        turn_deg: degrees per turn.
        """
        turn = math.radians(turn_deg)
        steps = [
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 0.0, step_m, 0.0, 0.0, 0.0),
            (0.0, 0.0, -step_m, 0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0, 0.0, -turn, 0.0),
            (0.0, 0.0, 0.0, 0.0, turn, 0.0),
            (-step_m, 0.0, 0.0, 0.0, 0.0, 0.0),
            (step_m, 0.0, 0.0, 0.0, 0.0, 0.0),
        ]
        return cls.of(steps)

    def forward(
        self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor
    ) -> Tensor:
        """Return the motion (b, 6) of ``act``, in metres and radians, in world axes.

        The arguments are those of :meth:`worldsim.world.heads.EgoMotionHead.forward`; only ``pose``
        and ``act`` are used.
        """
        if self.config.actions:
            return to_world_axes(self.steps[act], pose)
        return to_world_axes(act.float() @ self.steps, pose)
