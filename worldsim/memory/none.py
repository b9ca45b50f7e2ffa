"""The memory that remembers nothing: for environments without geometry, and for comparisons."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.memory.splat import MAP_CELLS, hole_view
from worldsim.state import Frame, MemoryView


class NoMemory:
    """A :class:`worldsim.protocols.SceneMemory` whose views are all holes.

    Its data is the empty tuple.
    """

    remembers_nothing = True
    """It is a :class:`worldsim.protocols.BlankMemory`."""

    def empty(self, batch: int, device: torch.device | str) -> tuple[()]:
        """Nothing."""
        return ()

    def integrate(
        self,
        memory: tuple[()],
        frame: Frame,
        camera: Camera,
        step: Tensor,
        known: Tensor | None = None,
    ) -> tuple[()]:
        """Nothing, again."""
        return memory

    def render(self, memory: tuple[()], camera: Camera) -> MemoryView:
        """A view of holes."""
        return hole_view(camera)

    def surroundings(self, memory: tuple[()], pose: Tensor) -> Tensor:
        """(b, 2, 48, 48) uint8 zeros: nothing is known to be anywhere."""
        return torch.zeros(
            len(pose), 2, MAP_CELLS, MAP_CELLS, dtype=torch.uint8, device=pose.device
        )
