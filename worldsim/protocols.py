"""The protocols between the parts of worldsim.

Each protocol is written once, here. Implementations never import one another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from typing_extensions import TypeVar

from worldsim.camera import Camera
from worldsim.errors import InvalidInputError
from worldsim.runtime.old_names import warn_renamed
from worldsim.runtime.rng import Purpose
from worldsim.runtime.types import Action, Array
from worldsim.state import Frame, MemoryView, SceneStart

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Pixels = Annotated[int, Ge(1), Le(4096)]
"""Size of a painted view."""

# A memory or a dynamics without a type argument may have any data, as in Gymnasium.
MemoryT = TypeVar("MemoryT", default=Any)
"""The data of a memory: a record of tensors with a leading batch axis."""
MemoryT_contra = TypeVar("MemoryT_contra", contravariant=True, default=Any)
ContextT = TypeVar("ContextT", default=Any)
"""The context of a dynamics: a record of tensors with a leading batch axis."""
ContextT_contra = TypeVar("ContextT_contra", contravariant=True, default=Any)


@runtime_checkable
class SceneMemory(Protocol[MemoryT]):
    """A 3D memory of the scene, built from frames with depth and pose.

    Its data is a record of tensors with a leading batch axis. Methods are pure.
    """

    def empty(self, batch: int, device: torch.device | str) -> MemoryT:
        """Return the data of ``batch`` empty memories."""
        ...

    def integrate(
        self,
        memory: MemoryT,
        frame: Frame,
        camera: Camera,
        step: Tensor,
        known: Tensor | None = None,
    ) -> MemoryT:
        """Return new data with ``frame`` added.

        camera: the camera that saw the frame.
        step: (b,) int64, the step of the frame.
        known: (b, h, w) bool. Pixels where it is False are not integrated. Memories that store
        whole frames may ignore the frame instead. None means that all pixels are known.
        """
        ...

    def render(self, memory: MemoryT, camera: Camera) -> MemoryView:
        """Render the memory at ``camera``."""
        ...

    def surroundings(self, memory: MemoryT, pose: Tensor) -> Tensor:
        """Return a top-down map around a pose, in world axes (z up), centred on the pose.

        pose: (b, 4, 4) camera-to-world.

        Returns (b, 2, 48, 48) uint8. Cells are 0.08 m. Rows run from north (world y) to south,
        columns from west to east (world x). Channel 0 is 255 where the cell is occupied within 0.5
        m of the camera's height. Channel 1 is 255 minus the distance in centimetres from that band
        down to the highest point below it. It is 0 where no point is known within 2.5 m of the
        band.
        """
        ...


@runtime_checkable
class Scene(Protocol):
    """A start of an episode."""

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Draw the frames, and optionally the memory, that a world starts from with ``rng``."""
        ...


@runtime_checkable
class FittingScene(Protocol):
    """A scene that adapts to the world that starts from it. Environments call :meth:`fit_to`."""

    def fit_to(self, world: Any) -> Scene:
        """Return the same scene with the frame size, camera and memory of ``world``.

        world: a :class:`worldsim.world.World`.
        """
        ...


@runtime_checkable
class Policy(Protocol):
    """Chooses actions. Stateful policies clear their state in ``reset``."""

    def reset(self, seed: int | None = None) -> None:
        """Clear the state and reseed."""
        ...

    def act(self, obs: Array) -> Action:
        """Return the action for an observation."""
        ...


@runtime_checkable
class DescriptionGenerator(Protocol):
    """Writes what the next place of a journey looks like, in words."""

    def next(self, previous: Sequence[str], rng: np.random.Generator) -> str:
        """Return the description of the place after those described by ``previous``, oldest first.

        It is a prompt of one place (:func:`worldsim.painting.words.prompt.parse_prompt`).
        Randomness comes from ``rng`` alone.
        """
        ...


@dataclass(frozen=True)
class DynamicsSpec:
    """The frames that a dynamics predicts and the actions that it accepts."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    actions: int = 0
    """Number of discrete actions; 0: actions are vectors."""
    action_dim: int = 0
    """Size of an action vector; 0: actions are discrete."""
    depth: bool = False
    """Whether frames carry inverse depth."""
    uses_memory: bool = False
    """Whether a prediction depends on the memory's view."""
    window: int = 1
    """Frames, the predicted one included, that a prediction depends on through the context."""
    features: int = 1
    """Number of features per frame that the reward and termination heads receive."""


@dataclass(frozen=True)
class StepInputs:
    """The inputs of a prediction, except the context.

    last: the newest frame, with its camera's pose.
    act: (b,) int64 or (b, n) float32, the action from the newest frame to the next.
    motion: (b, 6) float32, the camera's motion between the two frames, in the axes of the first
    camera: metres and a rotation vector in radians. Zeros without geometry.
    pose: (b, 4, 4) float32 camera-to-world of the next camera. None without geometry.
    view: the memory rendered at that camera. None without geometry.
    intrinsics: (b, 4) float32 ``fx fy cx cy`` in pixels.
    seed, step: (b,) int64. With ``purpose`` they are the key of all random numbers
    (:func:`worldsim.runtime.rng.normal`).
    look: renders the memory at other cameras, (b, 4, 4) camera-to-world. Given to dynamics that
    look ahead (:class:`LooksAhead`) in worlds with geometry, else None.
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
    look: Callable[[Tensor], MemoryView] | None = None

    def __len__(self) -> int:
        return len(self.seed)


@dataclass(frozen=True)
class Prediction:
    """A predicted frame with its features and uncertainty.

    frame: the next frame, at the camera ``StepInputs.pose``.
    features: (b, d) float32 input of the heads; d is ``DynamicsSpec.features``.
    uncertainty: (b,) float32 in [0, 1], None where it is not computed.
    """

    frame: Frame
    features: Tensor
    uncertainty: Tensor | None = None


@runtime_checkable
class Dynamics(Protocol[ContextT]):
    """Predicts the next frame.

    Its context is a record of tensors with a leading batch axis; empty tuples are allowed. Methods
    are pure: they return a new context and never change the given one.

    Rows of a batch are independent, and equal arguments give equal frames.
    :func:`worldsim.testing.check_dynamics` tests an implementation. A world selects its dynamics in
    ``world.json`` by a name in :data:`worldsim.runtime.registries.DYNAMICS`.
    """

    @property
    def spec(self) -> DynamicsSpec:
        """The frames that it predicts and the actions that it accepts."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """The trained weights, None for a dynamics without weights.

        They are saved in the folder ``dynamics`` of a world.
        """
        ...

    def empty(self, batch: int, device: torch.device | str) -> ContextT:
        """Return a context without frames, for ``batch`` environments."""
        ...

    def predict(self, context: ContextT, inputs: StepInputs) -> tuple[Prediction, ContextT]:
        """Predict the next frame; returns the prediction and the context that includes it."""
        ...

    def observe(self, context: ContextT, inputs: StepInputs, frame: Frame) -> ContextT:
        """Return the context with a given ``frame`` in place of a predicted one."""
        ...


@dataclass(frozen=True)
class VideoSpec:
    """The clips that a video model continues."""

    past: Annotated[int, Ge(1), Le(1024)]
    """Frames that it continues."""
    frames: Annotated[int, Ge(1), Le(1024)]
    """Frames that it generates per call, a chunk."""
    approach: bool = False
    """Whether it reads :attr:`VideoInputs.approach`."""
    action: bool = False
    """Whether it reads :attr:`VideoInputs.act` and :attr:`VideoInputs.motion`."""
    cameras: bool = False
    """Whether it reads :attr:`VideoInputs.cameras` and :attr:`VideoInputs.intrinsics`."""


@dataclass(frozen=True)
class VideoInputs:
    """What the next chunk of one environment is generated from. It has no batch axis.

    past: (p, 3, h, w) uint8, the newest frames, oldest first. At the start of an episode the oldest
        frame is repeated.
    control: (n, 3, h, w) uint8, the memory rendered at the cameras of the chunk's frames.
    known: (n, h, w) bool, where ``control`` shows something.
    approach: (p, 3, h, w) uint8, the memory on an imagined way to the newest frame, along which the
        camera moves as it will in the chunk. Holes have the nearest known colour; the last is the
        newest frame itself. None unless the model's spec asks for it.
    seed: of all random numbers, in [0, 2^63).
    act: () int64 or (k,) float32, the action of the chunk. None unless the model's spec asks for
        it.
    motion: (6,) float32, the motion of the camera from one of its frames to the next, in metres and
        radians, in camera axes. None as ``act``.
    cameras: (1 + n, 4, 4) float32 camera-to-world, relative to the newest frame: its own, which is
        the identity, and those of the chunk. None unless the model's spec asks for it.
    intrinsics: (4,) float32 pixels. None as ``cameras``.
    """

    past: Tensor
    control: Tensor
    known: Tensor
    approach: Tensor | None
    seed: int
    act: Tensor | None = None
    motion: Tensor | None = None
    cameras: Tensor | None = None
    intrinsics: Tensor | None = None


@runtime_checkable
class VideoModel(Protocol):
    """Continues videos, chunk by chunk."""

    @property
    def spec(self) -> VideoSpec:
        """The clips that it continues."""
        ...

    def check_size(self, height: int, width: int) -> None:
        """Raise InvalidInputError unless frames of this size (pixels) can be generated."""
        ...

    def generate(self, inputs: VideoInputs) -> Tensor:
        """Return the next frames (n, 3, h, w) uint8. Equal inputs give equal frames."""
        ...

    def identify(self) -> str:
        """Return the SHA-256 of everything besides the inputs that the frames depend on."""
        ...


@dataclass(frozen=True)
class PainterSpec:
    """The views that a painter completes and the words that it understands."""

    height: Pixels
    """Pixels."""
    width: Pixels
    """Pixels."""
    intrinsics: tuple[float, float, float, float]
    """``fx fy cx cy`` of all views, in pixels."""
    views: Annotated[int, Ge(1), Le(64)] = 1
    """Largest number of views of a place that are painted jointly."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes that condition a place, in order."""

    def __post_init__(self) -> None:
        if min(self.intrinsics[:2]) <= 0:
            raise InvalidInputError(
                f"PainterSpec.intrinsics = {self.intrinsics}: give fx fy cx cy in pixels, with "
                "positive focal lengths."
            )

    def cameras(self, pose: Tensor) -> Camera:
        """Return the painter's cameras at ``pose`` (n, 4, 4) camera-to-world."""
        intrinsics = torch.tensor(self.intrinsics, device=pose.device).expand(len(pose), 4)
        return Camera(pose, intrinsics, self.height, self.width)


@dataclass(frozen=True)
class PaintInputs:
    """Partial views of ``n`` cameras in each of ``b`` places.

    view: (b * n, ...) what is known at each camera, at the painter's size. Where the mask is False,
        nothing is known. Known pixels of a memory's views are approximate.
    pose: (b, n, 4, 4) float32 camera-to-world, OpenCV axes, metres. World axes have z up.
    seed, step: (b,) int64, the keys of all random numbers.
    attributes: (b, a) float32 in [0, 1], in the order of :attr:`PainterSpec.attributes`; None if
        none is given.
    told: (b, a) bool, which attributes are given; None stands for all of ``attributes``.
    given: (b, n) bool, views that are whole and exact, as a picture or an earlier frame is. None
        stands for no view.
    colour_only: (b, n) bool, given views whose depth is unknown. None stands for no view.
    """

    view: MemoryView
    pose: Tensor
    seed: Tensor
    step: Tensor
    attributes: Tensor | None = None
    told: Tensor | None = None
    given: Tensor | None = None
    colour_only: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seed)


@runtime_checkable
class Painter(Protocol):
    """Completes partial views of places to whole frames with depth.

    It is called seldom: at resets, in journeys, ahead of a walker. Places of a batch do not depend
    on one another, and equal inputs give equal frames on one device.
    """

    @property
    def spec(self) -> PainterSpec:
        """What the painter paints."""
        ...

    def paint(self, inputs: PaintInputs) -> Frame:
        """Return the whole frames (b * n, ...), with depth and the cameras' poses.

        Given views keep all that is given. Other known pixels keep their colour and depth up to a
        soft edge along holes. Raises InvalidInputError for views of another size, more views than
        :attr:`PainterSpec.views` and other attributes than its own.
        """
        ...


@runtime_checkable
class DepthEstimator(Protocol):
    """Estimates the depth of pictures, up to a scale and a shift of the inverse depth."""

    def estimate(self, rgb: Tensor) -> Tensor:
        """Return relative inverse depths (m, h, w) float32, larger is nearer, not negative.

        rgb: (m, 3, h, w) uint8.
        """
        ...


# Optional capabilities of a painter. The library tests for them with isinstance.


Setting: TypeAlias = bool | int | float | str | None
"""A setting as a JSON value."""


@dataclass(frozen=True)
class PainterIdentity:
    """What the frames of a painter depend on, besides its inputs and its :class:`PainterSpec`.

    weights: SHA-256 of the weights, empty for a painter without weights.
    settings: every setting that changes the frames, by name.
    """

    weights: str = ""
    settings: dict[str, Setting] = field(default_factory=dict)


@runtime_checkable
class IdentifiedPainter(Protocol):
    """A painter that says what its frames depend on.

    Journeys and painted dreams resume only with a painter of the same identity.
    """

    def identify(self) -> PainterIdentity:
        """Return the identity. Painters of equal identities paint equal frames on one device."""
        ...


@runtime_checkable
class SampledPainter(Protocol):
    """A painter whose sampling has settings."""

    config: DataclassInstance
    """The settings. A copy of the painter may get others of the same class."""


@runtime_checkable
class PromptPainter(Protocol):
    """A painter that follows free text, besides or instead of attributes."""

    def with_prompt(self, prompt: str) -> Painter:
        """Return the same painter with another text."""
        ...


@runtime_checkable
class ContrastPainter(Protocol):
    """A painter that can be guided away from attributes, as by a negative prompt."""

    def away_from(self, attributes: Array, told: Array) -> Painter:
        """Return the same painter, guided away from places with these attributes.

        attributes: (a,) in [0, 1], in the order of :attr:`PainterSpec.attributes`.
        told: (a,) bool, which of them are given.
        """
        ...


@runtime_checkable
class PreviewPainter(Protocol):
    """A painter that can show early, in few steps, what it is about to paint."""

    def preview(self, inputs: PaintInputs, steps: int) -> Frame:
        """Return blurred frames (b * n, ...): what ``paint`` predicts after its first ``steps``.

        Equal seeds and steps of ``inputs`` show the same place as ``paint``.
        """
        ...


@runtime_checkable
class GraphPainter(Protocol):
    """A painter that can run as CUDA graphs, for engines that do so."""

    def with_graphs(self) -> Painter:
        """Return the same painter, which runs as CUDA graphs if it is on a GPU.

        They are captured for each number of views when it is first painted.
        """
        ...


@runtime_checkable
class ScoresViews(Protocol):
    """A painter that can tell how unusual a view is."""

    def score(self, inputs: PaintInputs, frame: Frame) -> Tensor:
        """Return the denoising error of each view, (b * n,) float32; larger is more unusual.

        inputs: what the painter received. Given views are context for the others.
        frame: the painted views (b * n, ...).
        """
        ...


@runtime_checkable
class RedrawsViews(Protocol):
    """A painter that can redraw whole views in its own look."""

    def redraw(self, inputs: PaintInputs, frames: Frame, level: Tensor) -> Frame:
        """Return ``frames`` (b * n, ...) redrawn from noisy copies, with depth and poses.

        Known pixels of ``inputs`` are kept as in :meth:`Painter.paint`. Source: SDEdit (Meng et
        al. 2022).

        inputs: what the painter would receive to paint these views.
        frames: whole views with depth, at the cameras of ``inputs``.
        level: (b,) float32 in (0, 1], noise level of each place's copies. Low levels keep the
            layout; level 1 keeps nothing.
        """
        ...


# Optional capabilities of a dynamics. The library tests for them with isinstance.


@runtime_checkable
class NetworkDynamics(Protocol[ContextT]):
    """A dynamics that runs one network, so an engine can replace how the network runs."""

    num_inference_steps: int
    """Forward passes of the network per frame."""
    network: nn.Module
    """The network."""

    def with_network(
        self,
        network: nn.Module,
        forward: Callable[..., Any] | None = None,
        in_place: bool = False,
    ) -> Dynamics[ContextT]:
        """Return the same dynamics with a copy of the network, for example in another dtype.

        network: the copy.
        forward: runs the network, for example a compiled function. By default it is the network
        itself.
        in_place: whether contexts may be overwritten. Set it only if the caller owns its contexts.
        """
        ...

    def cast_context(self, context: ContextT) -> ContextT:
        """Return the context in the network's dtype; the same object if it already has it."""
        ...


@runtime_checkable
class AdaptedDynamics(Protocol):
    """A dynamics that runs adapters itself, beside weights that no module holds."""

    def load_adapter(self, path: str | os.PathLike[str]) -> str:
        """Load an adapter, turned off; returns its key, a SHA-256.

        See :meth:`worldsim.world.World.load_adapter` for the errors.
        """
        ...

    def with_adapters(self, scales: Mapping[str, float]) -> Dynamics[Any]:
        """Return the same dynamics that uses these adapters, by key, and no other ones."""
        ...


@runtime_checkable
class AdaptedModel(Protocol):
    """A :class:`VideoModel` with adapters."""

    def load_adapter(self, path: str | os.PathLike[str]) -> str:
        """See :meth:`AdaptedDynamics.load_adapter`."""
        ...

    def use_adapters(self, scales: Mapping[str, float]) -> None:
        """Use these adapters from now on, by key, and no other ones."""
        ...

    def acting(self, inputs: VideoInputs) -> AbstractContextManager[None]:
        """Return a context in which adapters receive the action and the motion of ``inputs``."""
        ...


@runtime_checkable
class LooksAhead(Protocol):
    """A dynamics that needs the memory at more cameras than the next one."""

    looks_ahead: bool
    """Whether :attr:`StepInputs.look` is wanted."""


@runtime_checkable
class IdentifiedDynamics(Protocol):
    """A dynamics whose frames depend on more than its ``module``, such as a pipeline's weights."""

    def identify(self) -> str:
        """Return the SHA-256 of everything besides the inputs that the frames depend on."""
        ...


@runtime_checkable
class UncertainDynamics(Protocol):
    """A dynamics that can return the uncertainty of its predictions."""

    uncertainty: bool
    """Whether its predictions include the uncertainty."""

    def with_uncertainty(self, wanted: bool) -> Dynamics:
        """Return the same dynamics with :attr:`Prediction.uncertainty` on or off."""
        ...


@runtime_checkable
class ContextOfViews(Protocol[ContextT_contra]):
    """A dynamics whose context holds the memory's view of the newest frame and past actions."""

    def coverage(self, context: ContextT_contra) -> Tensor:
        """Return the share of the newest frame that the memory covered before that frame.

        Returns (b,) float32 in [0, 1].
        """
        ...

    def acts(self, context: ContextT_contra) -> Tensor:
        """Return the actions in the context.

        They are validated when a context is read from a file.
        """
        ...


# Optional capabilities of a memory.


@runtime_checkable
class BlankMemory(Protocol):
    """A memory that never stores anything, for worlds without memory."""

    remembers_nothing: bool


@runtime_checkable
class HasPoints(Protocol[MemoryT_contra]):
    """A memory that can return its contents as points."""

    def to_points(self, memory: MemoryT_contra) -> Any:
        """Return the contents as :class:`worldsim.memory.slots.Points`."""
        ...


@runtime_checkable
class CountsPoints(Protocol[MemoryT_contra]):
    """A memory that counts its contents."""

    def count(self, memory: MemoryT_contra) -> Tensor:
        """Return the number of points or frames of each environment, (b,) int64."""
        ...


@runtime_checkable
class PadsMemory(Protocol):
    """A memory that accepts a point memory's data, or its own data of another size."""

    def pad(self, memory: Any) -> Any:
        """Return the data in this memory's sizes."""
        ...


@runtime_checkable
class SkipsUnknown(Protocol):
    """A memory whose ``integrate`` skips the pixels that ``known`` excludes."""

    skips_unknown: bool


@runtime_checkable
class EngineMemory(Protocol[MemoryT]):
    """A memory whose operations an engine can replace."""

    def with_passes(self, passes: Any) -> SceneMemory[MemoryT]:
        """Return the same memory with other passes over points, for example compiled ones."""
        ...

    def in_place_with(self, between: Any | None = None) -> SceneMemory[MemoryT]:
        """Return the same memory, allowed to overwrite its data on a GPU.

        Use it only if the caller owns the data.

        between: compiled versions of the operations between the memory's kernels.
        """
        ...


def identity_of(painter: Painter) -> PainterIdentity:
    """Return what a painter's frames depend on.

    Of a painter without :class:`IdentifiedPainter` only its class is known.
    """
    if isinstance(painter, IdentifiedPainter):
        return painter.identify()
    return PainterIdentity(settings={"class": type(painter).__qualname__})


def fit_scene(scene: Scene, world: Any) -> Scene:
    """Return the scene adapted to ``world``, or the scene itself if it does not adapt.

    Accepts the old name of :meth:`FittingScene.fit_to`, ``fitted``, with a DeprecationWarning.
    """
    if isinstance(scene, FittingScene):
        return scene.fit_to(world)
    fitted: Callable[[Any], Scene] | None = getattr(scene, "fitted", None)
    if callable(fitted):
        warn_renamed(f"{type(scene).__name__}.fitted", "fit_to")
        return fitted(world)
    return scene


def remembers(memory: SceneMemory) -> bool:
    """Return whether the memory can store anything."""
    return not isinstance(memory, BlankMemory)
