"""The records of a step: frames, memory views, world states, transitions.

All are frozen dataclasses of tensors with a leading batch axis ``b``. :func:`map_tensors`,
:func:`flatten` and :func:`unflatten` traverse them, so snapshots, forks and files need no code per
class.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from worldsim.camera import Camera, dequantise_depth, snap_pose
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.runtime.old_names import warn_renamed

Record = TypeVar("Record")


@dataclass(frozen=True)
class Frame:
    """One frame, as a step emits it and ingests it.

    rgb: (b, 3, h, w) uint8.
    inverse_depth: (b, h, w) int32 code in [0, 65535], 0 = infinitely far (see
        :func:`worldsim.camera.quantise_depth`).
    pose: (b, 4, 4) float32 camera-to-world, OpenCV axes, snapped.

    ``inverse_depth`` and ``pose`` are None for environments without geometry.
    """

    rgb: Tensor
    inverse_depth: Tensor | None = None
    pose: Tensor | None = None

    @property
    def depth(self) -> Tensor | None:
        """(b, h, w) float32 metres along the optical axis, ``inf`` where nothing is hit."""
        return None if self.inverse_depth is None else dequantise_depth(self.inverse_depth)


@dataclass(frozen=True)
class MemoryView:
    """The scene memory rendered at a camera. Holes have mask False and zeros everywhere else.

    rgb: (b, 3, h, w) uint8.
    inverse_depth: (b, h, w) int32 code (0 under the mask = infinitely far).
    mask: (b, h, w) bool, True where the memory covers the pixel.
    offset: (b, 2, h, w) uint8 in [0, 15], position (u, v) of the shown point inside the pixel, in
        sixteenths.
    source: (b, h, w) uint8, the distance from which the point was seen, as 255 * depth channel
        (``worldsim.camera.code_to_channel``). It indicates how fine the stored colour is.
    """

    rgb: Tensor
    inverse_depth: Tensor
    mask: Tensor
    offset: Tensor
    source: Tensor

    @property
    def depth(self) -> Tensor:
        """(b, h, w) float32 metres; ``inf`` at sky and in holes."""
        return dequantise_depth(self.inverse_depth)

    @property
    def coverage(self) -> Tensor:
        """(b,) float, share of pixels that the memory covers."""
        return self.mask.float().mean((1, 2))


@dataclass(frozen=True)
class LastFrames:
    """The previous frames, for networks of worlds without memory.

    frame: the newest one.
    present: (b,) bool, whether there is one.
    before: (b, k, h, w) channels of the older frames, newest first.
    """

    frame: Frame
    present: Tensor
    before: Tensor


@dataclass(frozen=True)
class SceneStart:
    """The start of an episode: the last true frames of one place and what was seen before them.

    It has no batch axis.

    rgb: (t, 3, h, w) uint8.
    act: (t, ...), the action that led *to* each frame (the first may be a no-op).
    inverse_depth: (t, h, w) int32 code or None.
    pose: (t, 4, 4) float32 camera-to-world or None.
    intrinsics: (4,) float32 pixels or None.
    memory: scene memory of everything before these frames, batch of one; None for an empty one.
    name: where it comes from, such as ``MAP30-2``.
    """

    rgb: Tensor
    act: Tensor
    inverse_depth: Tensor | None = None
    pose: Tensor | None = None
    intrinsics: Tensor | None = None
    memory: Any = None
    name: str = ""


@dataclass(frozen=True)
class Transition:
    """The result of one step of a world.

    frame: the new frame.
    rew: (b,) float32.
    term: (b,) bool.
    coverage: (b,) float32, the share of the frame's pixels that the memory covered before it
        integrated the frame.
    termination_prob: (b,) float32, the probability from which ``term`` was drawn, or None.
    uncertainty: (b,) float32 in [0, 1], for worlds that estimate it
        (:meth:`worldsim.world.World.with_uncertainty`).
    """

    frame: Frame
    rew: Tensor
    term: Tensor
    coverage: Tensor
    view: MemoryView | None = None
    termination_prob: Tensor | None = None
    uncertainty: Tensor | None = None

    @property
    def ending(self) -> Tensor | None:
        """The old name of :attr:`termination_prob`."""
        warn_renamed("Transition.ending", "termination_prob")
        return self.termination_prob


@dataclass(frozen=True)
class WorldState:
    """The complete state of a batch of dreams. A snapshot is a copy of one.

    frame: the newest frame.
    context: context of the dynamics.
    memory: the scene memory, or None.
    motion: (b, k, 6) float32 recent motions in world axes, oldest first.
    act: (b, k, ...) the actions that caused them.
    seed, step: (b,) int64, the keys of all random numbers.
    coverage: (b,) float32 in [0, 1], the share of the newest frame that the memory covered before
        it integrated that frame. None where the context holds the memory's view
        (:class:`worldsim.protocols.ContextOfViews`).
    looked: (b,) int64, the step at which a painter last looked ahead
        (:mod:`worldsim.world.paint_ahead`); None for dreams that are not painted ahead.
    recent: (b, k, 3, h, w) uint8, the last k emitted frames, oldest first. None for worlds whose
        head reads no frames (:class:`worldsim.world.frame_outcome.FrameOutcomeHead`).
    """

    frame: Frame
    context: Any
    memory: Any
    motion: Tensor
    act: Tensor
    intrinsics: Tensor
    seed: Tensor
    step: Tensor
    coverage: Tensor | None = None
    looked: Tensor | None = None
    recent: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seed)

    def clone(self) -> WorldState:
        """Return a deep copy that shares no storage."""
        return map_tensors(torch.clone, self)

    def select(self, index: Tensor) -> WorldState:
        """Return a copy of the environments in ``index`` (int64, repeats allowed)."""
        return map_tensors(lambda x: x.index_select(0, index.to(x.device)), self)

    def put(self, index: Tensor, other: WorldState) -> WorldState:
        """Return a copy in which ``other`` replaces the environments ``index``."""
        return map_tensors(
            lambda mine, new: mine.index_copy(0, index.to(mine.device), new.to(mine.dtype)),
            self,
            other,
        )

    def to(self, device: torch.device | str) -> WorldState:
        """Return the same state on another device."""
        return map_tensors(lambda x: x.to(device), self)


@dataclass(frozen=True)
class Trajectory:
    """The frames of one walk in order, CPU tensors without a batch axis.

    rgb: (t, 3, h, w) uint8. inverse_depth: (t, h, w) int32 code in [0, 65535], 0 = infinitely far
    (see :func:`worldsim.camera.quantise_depth`). pose: (t, 4, 4) float32 camera-to-world, OpenCV
    axes, metres. intrinsics: (4,) float32 ``fx fy cx cy`` in pixels.
    """

    rgb: Tensor
    inverse_depth: Tensor
    pose: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        t, _, h, w = self.rgb.shape
        if (
            self.inverse_depth.shape != (t, h, w)
            or self.pose.shape != (t, 4, 4)
            or self.intrinsics.shape != (4,)
        ):
            found = ", ".join(
                str(tuple(x.shape))
                for x in (self.rgb, self.inverse_depth, self.pose, self.intrinsics)
            )
            raise InvalidInputError(
                f"a trajectory's rgb, inverse_depth, pose and intrinsics do not fit one another: "
                f"{found}"
            )

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def depth(self) -> Tensor:
        """(t, h, w) float32 metres along the optical axis, ``inf`` where nothing is hit."""
        return dequantise_depth(self.inverse_depth)

    @property
    def cameras(self) -> Camera:
        """Return all cameras as a batch of ``t``."""
        return Camera(self.pose, self.intrinsics.expand(len(self), 4), *self.rgb.shape[-2:])

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Return the single frames, each a batch of one; the inverse of :meth:`of`."""
        return tuple(
            Frame(self.rgb[t, None], self.inverse_depth[t, None], self.pose[t, None])
            for t in range(len(self))
        )

    @staticmethod
    def start_frames(rgb: Tensor, inverse_depth: Tensor, pose: Tensor) -> tuple[Frame, ...]:
        """Return the frames of a start scene, (t, ...) each, as a world ingests them.

        Their poses are snapped.
        """
        snapped = snap_pose(pose)
        return tuple(
            Frame(rgb[t, None], inverse_depth[t, None], snapped[t, None]) for t in range(len(rgb))
        )

    @classmethod
    def of(cls, frames: Sequence[Frame], intrinsics: Tensor) -> Trajectory:
        """Return a trajectory of single frames, each a batch of one.

        Raises MissingGeometryError for frames without depth or pose.
        """
        if not frames:
            raise InvalidInputError("a trajectory needs at least one frame")
        depths, poses = [f.inverse_depth for f in frames], [f.pose for f in frames]
        if any(x is None for x in (*depths, *poses)):
            raise MissingGeometryError(
                "a trajectory needs frames with depth and pose, and these have none"
            )
        # One by one: start frames may be on another device than dreamed ones.
        rgb, depth, pose = (
            torch.cat([x.cpu() for x in column if x is not None])
            for column in ([f.rgb for f in frames], depths, poses)
        )
        return cls(rgb, depth, pose, intrinsics.reshape(4).float().cpu().clone())


def map_tensors(function: Callable[..., Tensor], record: Record, *others: Record) -> Record:
    """Apply ``function`` to every tensor of a record and rebuild the record.

    Records are dataclasses, tuples, lists and dicts. With further records of the same structure,
    ``function`` receives the matching tensors of all of them.
    """
    if isinstance(record, Tensor):
        return function(record, *others)  # type: ignore[return-value]
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        values = {
            f.name: map_tensors(
                function, getattr(record, f.name), *(getattr(o, f.name) for o in others)
            )
            for f in dataclasses.fields(record)
        }
        return dataclasses.replace(record, **values)
    rest: tuple[Any, ...] = others
    if isinstance(record, Mapping):
        return type(record)(
            {k: map_tensors(function, v, *(o[k] for o in rest)) for k, v in record.items()}
        )  # type: ignore[call-arg]
    if isinstance(record, (tuple, list)):
        return type(record)(
            map_tensors(function, v, *(o[i] for o in rest)) for i, v in enumerate(record)
        )
    return record


def where_rows(chosen: Tensor, this: Tensor, other: Tensor) -> Tensor:
    """Return rows of ``this`` where ``chosen`` (b,) is True, else of ``other``; both (b, ...)."""
    return torch.where(chosen.reshape(-1, *[1] * (this.dim() - 1)), this, other)


def concatenate(records: Sequence[Record]) -> Record:
    """Join records of the same structure along the batch axis."""
    return map_tensors(lambda *parts: torch.cat(parts, 0), records[0], *records[1:])


def flatten(record: object, prefix: str = "") -> dict[str, Tensor]:
    """Return all tensors of a record by dotted name, ready for safetensors."""
    if isinstance(record, Tensor):
        return {prefix: record}
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        items: list[tuple[str, object]] = [
            (f.name, getattr(record, f.name)) for f in dataclasses.fields(record)
        ]
    elif isinstance(record, Mapping):
        items = [(str(k), v) for k, v in record.items()]
    elif isinstance(record, (tuple, list)):
        items = [(str(i), v) for i, v in enumerate(record)]
    else:
        return {}
    flat: dict[str, Tensor] = {}
    for name, value in items:
        flat.update(flatten(value, f"{prefix}.{name}" if prefix else name))
    return flat


def bytes_of(record: object) -> int:
    """Return the number of bytes of all tensors of a record."""
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(record).values())


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, types, shapes and content, in any order."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def weights_of_parts(parts: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the weights of those parts that are modules, by ``part.weight``.

    Weights that are offloaded piece by piece, on the device ``meta``, are not there to be read.
    """
    return {
        f"{name}.{key}": tensor
        for name, part in parts.items()
        if isinstance(part, nn.Module)
        for key, tensor in part.state_dict().items()
        if not tensor.is_meta
    }


def unflatten(template: Record, flat: Mapping[str, Tensor], prefix: str = "") -> Record:
    """Return a record like ``template`` with the tensors of :func:`flatten`."""
    if isinstance(template, Tensor):
        return flat[prefix]  # type: ignore[return-value]

    def name_of(name: str) -> str:
        return f"{prefix}.{name}" if prefix else name

    if dataclasses.is_dataclass(template) and not isinstance(template, type):
        values = {
            f.name: unflatten(getattr(template, f.name), flat, name_of(f.name))
            for f in dataclasses.fields(template)
        }
        return dataclasses.replace(template, **values)
    if isinstance(template, Mapping):
        return type(template)({k: unflatten(v, flat, name_of(str(k))) for k, v in template.items()})  # type: ignore
    if isinstance(template, (tuple, list)):
        return type(template)(unflatten(v, flat, name_of(str(i))) for i, v in enumerate(template))
    return template
