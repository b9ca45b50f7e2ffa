"""The seams of worldsim: each is written once here; implementations never import one another."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from worldsim.camera import Camera
from worldsim.state import Frame, MemoryView, SceneStart


@runtime_checkable
class SceneMemory(Protocol):
    """A 3D memory of what has been seen. Its data is a record of tensors with a leading batch axis;
    methods are pure."""

    def empty(self, batch: int, device: Any) -> Any:
        """Memory data of ``batch`` worlds that have seen nothing."""
        ...

    def integrate(
        self, memory: Any, frame: Frame, camera: Camera, step: Tensor, known: Tensor | None = None
    ) -> Any:
        """New data that also holds ``frame``, seen by ``camera``. step: (b,) int64.

        Where ``known`` (b, h, w) bool is False, the frame says nothing; memories that keep whole
        frames may pass it over.
        """
        ...

    def render(self, memory: Any, camera: Camera) -> MemoryView:
        """What the memory shows at ``camera``."""
        ...

    def surroundings(self, memory: Any, pose: Tensor) -> Tensor:
        """A map of what is near a pose (b, 4, 4), in world axes (z up) and centred on it: (b, 2,
        48, 48) uint8.

        Cells are 0.08 m; rows run from north (world y) to south, columns from west to east (world
        x). Channel 0: 255 where something is at the camera's height, within 0.5 m of it. Channel 1:
        255 - centimetres of the highest point under that band (so higher is more), 0 where nothing
        is known within 2.5 m of it.
        """
        ...


@runtime_checkable
class Scene(Protocol):
    """A way to start a world."""

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Frames (and memory) to begin from, drawn with ``rng``."""
        ...


@runtime_checkable
class FittingScene(Protocol):
    """A scene that fits itself to the world that starts from it; environments ask for that."""

    def fit_to(self, world: Any) -> Scene:
        """The same scene with the frame size, camera and memory of ``world``, a
        :class:`worldsim.world.World`."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Chooses actions. Stateful policies reset themselves in ``reset``."""

    def reset(self, seed: int | None = None) -> None:
        """Forget the past and reseed."""
        ...

    def act(self, obs: Any) -> Any:
        """The action for an observation."""
        ...


@runtime_checkable
class Dynamics(Protocol):
    """Predicts the next frame from context, action, camera and memory view."""

    def empty(self, batch: int, device: Any) -> Any:
        """A context that holds no frame."""
        ...

    def commit(self, context: Any, frame: Frame, condition: Any, noise: Tensor) -> Any:
        """A context that also holds ``frame``. noise: (b, c, h, w) standard normal, its context
        noise."""
        ...

    def predict(self, context: Any, condition: Any, noise: Tensor) -> tuple[Any, Any]:
        """The next frame's prediction, and the context advanced by what was pending. noise: (b, c,
        h, w) standard normal."""
        ...
