"""A world that returns the real twin's frames, for tests of figures."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from worldsim.evaluation.benchmark_set import RecordedWalks
from worldsim.state import Frame, Transition, WorldState
from worldsim.world import World


class Oracle(World):
    """Returns the frames of ``truth``, their pictures changed by ``change``."""

    truth: RecordedWalks

    @staticmethod
    def change(rgb: Tensor) -> Tensor:
        return rgb

    def step(
        self, state: WorldState, act: Tensor, pose: Tensor | None = None
    ) -> tuple[WorldState, Transition]:
        now = int(state.step[0]) + 1
        after, transition = super().step(state, act, pose)
        truth = self.truth.frame(now)
        frame = Frame(self.change(truth.rgb), truth.inverse_depth, truth.pose)
        return after, dataclasses.replace(transition, frame=frame)
