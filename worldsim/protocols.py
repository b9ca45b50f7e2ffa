"""The seams of worldsim: each is written once here; implementations never import one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from worldsim.camera import Camera
from worldsim.runtime.rng import Purpose
from worldsim.state import Frame, MemoryView, SceneStart


@runtime_checkable
class SceneMemory(Protocol):
    """A 3D memory of what has been seen.

    Its data is a record of tensors with a leading batch axis; methods are pure.
    """

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
        """Return a map of the surroundings of a pose (b, 4, 4), (b, 2, 48, 48) uint8.

        The map is in world axes (z up), centred on the pose. Cells are 0.08 m; rows run from north
        (world y) to south, columns from west to east (world x). Channel 0: 255 where something is
        within 0.5 m of the camera's height. Channel 1: 255 - centimetres of the highest point under
        that band (so higher is more), 0 where nothing is known within 2.5 m of it.
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
        """Return the scene with the frame size, camera and memory of ``world``.

        world: a :class:`worldsim.world.World`.
        """
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


@dataclass(frozen=True)
class DynamicsSpec:
    """The frames that a dynamics predicts and the actions that it takes."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    actions: int = 0
    """Number of discrete actions; 0: actions are vectors."""
    action_dim: int = 0
    """Numbers in an action that is a vector; 0: actions are discrete."""
    depth: bool = False
    """Whether frames carry inverse depth."""
    uses_memory: bool = False
    """Whether a prediction depends on the memory's view."""
    window: int = 1
    """Frames, the predicted one included, that a prediction depends on through the context."""
    features: int = 1
    """Numbers a frame that heads for reward and termination receive."""


@dataclass(frozen=True)
class StepInputs:
    """What a dynamics predicts the next frame from, beside its context.

    last: the newest frame, with its camera's pose. act: (b,) int64 or (b, n) float32, the action
    that leads from it to the next frame. motion: (b, 6) float32, the camera's motion between the
    two in the axes of the first camera, metres and a rotation vector in radians; zeros without
    geometry. pose: (b, 4, 4) float32 camera-to-world of the next camera, None without geometry.
    view: what the memory shows at that camera, None without geometry. intrinsics: (b, 4) float32
    ``fx fy cx cy`` in pixels. seed, step: (b,) int64, with purpose the key of all random numbers
    (:func:`worldsim.runtime.rng.normal`).
    """

    last: Frame
    act: Tensor
    motion: Tensor
    pose: Tensor | None
    view: MemoryView | None
    intrinsics: Tensor
    seed: Tensor
    step: Tensor
    purpose: Purpose = Purpose.NOISE

    def __len__(self) -> int:
        return len(self.seed)


@dataclass(frozen=True)
class Prediction:
    """The next frame and what is known of it.

    frame: at the camera ``StepInputs.pose``. features: (b, d) float32 for heads, d as the spec
    says. uncertainty: (b,) float32 in [0, 1], None where it is not computed.
    """

    frame: Frame
    features: Tensor
    uncertainty: Tensor | None = None


@runtime_checkable
class Dynamics(Protocol):
    """Predicts the next frame.

    Its context is a record of tensors with a leading batch axis, empty tuples included. Methods are
    pure: they return a new context and never change the given one. Rows of a batch never influence
    one another, and the same arguments give the same frame.

    ``worldsim.testing.check_dynamics`` tests an implementation. A world names its dynamics in
    ``world.json`` by a name in :data:`worldsim.runtime.registries.DYNAMICS`.
    """

    @property
    def spec(self) -> DynamicsSpec:
        """Its frames and actions."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """The trained weights, saved in a world's folder ``dynamics``; None without weights."""
        ...

    def empty(self, batch: int, device: Any) -> Any:
        """A context that holds no frame."""
        ...

    def predict(self, context: Any, inputs: StepInputs) -> tuple[Prediction, Any]:
        """The next frame, and the context that holds it."""
        ...

    def observe(self, context: Any, inputs: StepInputs, frame: Frame) -> Any:
        """The context that holds ``frame``, a given one, in place of a predicted one."""
        ...


# Optional capabilities of a dynamics. The library asks for them with isinstance.


@runtime_checkable
class NetworkDynamics(Protocol):
    """A dynamics that runs one network, so that an engine can run that network differently."""

    num_inference_steps: int
    """Forward passes of the network a frame."""
    network: nn.Module
    """The network."""

    def with_network(
        self, network: nn.Module, forward: Callable[..., Any] | None = None, in_place: bool = False
    ) -> Dynamics:
        """The same dynamics with a copy of the network in another number format.

        forward: runs the network, for example compiled; by default the network itself. in_place:
        whether contexts may be overwritten, for callers that own them.
        """
        ...

    def cast_context(self, context: Any) -> Any:
        """The context in the network's number format, itself if it is in it already."""
        ...


@runtime_checkable
class UncertainDynamics(Protocol):
    """A dynamics whose predictions can come with their uncertainty."""

    def with_uncertainty(self, wanted: bool) -> Dynamics:
        """The same dynamics, with :attr:`Prediction.uncertainty` or without."""
        ...


@runtime_checkable
class ContextOfViews(Protocol):
    """A dynamics whose context holds the memory's view of the newest frame and past actions."""

    def coverage(self, context: Any) -> Tensor:
        """(b,) float32 share of the newest frame that the memory knew before that frame."""
        ...

    def acts(self, context: Any) -> Tensor:
        """The actions that the context holds, to be checked when it is read from a file."""
        ...


# Optional capabilities of a memory.


@runtime_checkable
class BlankMemory(Protocol):
    """A memory that never holds anything: the world has none."""

    remembers_nothing: bool


@runtime_checkable
class HasPoints(Protocol):
    """A memory that can give its contents as points."""

    def to_points(self, memory: Any) -> Any:
        """The contents as :class:`worldsim.memory.slots.Points`."""
        ...


@runtime_checkable
class CountsPoints(Protocol):
    """A memory that counts what it holds."""

    def count(self, memory: Any) -> Tensor:
        """(b,) int64 points or frames of each environment."""
        ...


@runtime_checkable
class PadsMemory(Protocol):
    """A memory that takes a point memory's data, or its own of another size, for its own."""

    def pad(self, memory: Any) -> Any:
        """The data in this memory's sizes."""
        ...


@runtime_checkable
class SkipsUnknown(Protocol):
    """A memory whose ``integrate`` leaves out the pixels that ``known`` excludes."""

    skips_unknown: bool


@runtime_checkable
class EngineMemory(Protocol):
    """A memory whose work an engine can run differently."""

    def with_passes(self, passes: Any) -> SceneMemory:
        """The same memory with its passes over points replaced, for example by compiled ones."""
        ...

    def in_place_with(self, between: Any | None = None) -> SceneMemory:
        """The same memory for callers that own its data: it may be overwritten on a GPU."""
        ...


def remembers(memory: SceneMemory) -> bool:
    """Whether the memory can hold anything."""
    return not isinstance(memory, BlankMemory)
