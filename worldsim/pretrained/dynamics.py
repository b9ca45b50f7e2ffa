"""A pretrained video model as the dynamics of a world.

A step of :class:`PretrainedDynamics` emits the next frame of the newest chunk. If there is none
that fits the action and the camera, a chunk is generated first:

1. The ego-motion tells where the action moves the camera (:class:`worldsim.world.step.Step`).
2. The chunk's cameras are planned by continuing this motion (:mod:`worldsim.pretrained.chunks`).
3. The memory is rendered there. What it shows is the model's control, as in GEN3C (Ren et al.
   2025); what it does not show is the model's to invent.
4. The model continues the emitted frames (:class:`worldsim.protocols.VideoModel`).

The depth of each emitted frame is estimated and aligned with what the memory shows.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.painting.depth import (
    AlignConfig,
    align_inverse_depth,
    code_to_inverse_depth,
    inverse_depth_to_code,
    relative_inverse_depth,
)
from worldsim.painting.holes import fill_holes
from worldsim.pretrained.chunks import (
    ChunkContext,
    approach_cameras,
    empty_context,
    join,
    past_frames,
    plan_cameras,
    push,
    usable,
)
from worldsim.protocols import (
    AdaptedModel,
    DepthEstimator,
    DynamicsSpec,
    Prediction,
    StepInputs,
    VideoInputs,
    VideoModel,
)
from worldsim.runtime.json_config import check_ranges, content_sha256, to_json
from worldsim.runtime.ranges import NotNegative
from worldsim.runtime.rng import whole_seeds
from worldsim.state import Frame, MemoryView, map_tensors


@dataclass(frozen=True)
class PretrainedConfig:
    """When a chunk is dropped, and how estimated depth becomes metric."""

    distance_m: NotNegative = 0.02
    """Largest distance in metres between the planned and the actual camera of a frame. Beyond it,
    the rest of the chunk is dropped."""
    angle_deg: Annotated[float, Ge(0), Le(180)] = 0.5
    """The same for their orientations, in degrees."""
    align: AlignConfig = field(default_factory=AlignConfig)
    """How estimated depth is aligned with the memory's."""

    def __post_init__(self) -> None:
        check_ranges(self)


class PretrainedDynamics:
    """A :class:`worldsim.protocols.Dynamics` that emits the chunks of a video model.

    model: continues videos.
    depth: estimates the depth of emitted frames.
    height, width: frame size in pixels.
    actions: number of discrete actions; 0 for action vectors.
    action_dim: size of an action vector.

    Equal rows of a batch are generated once: forks with common randomness cost nothing until their
    actions differ.

    Its features are the mean colour of the frame, and it has no weights of its own (``module`` is
    None). Raises InvalidInputError for a model that cannot generate frames of this size.
    """

    module = None
    looks_ahead = True

    def __init__(
        self,
        model: VideoModel,
        depth: DepthEstimator,
        height: int,
        width: int,
        actions: int = 0,
        action_dim: int = 0,
        config: PretrainedConfig | None = None,
    ) -> None:
        if bool(actions) == bool(action_dim):
            raise InvalidInputError(
                f"actions = {actions} and action_dim = {action_dim}: give one of them, the number "
                "of discrete actions or the size of action vectors."
            )
        model.check_size(height, width)
        self.scales: dict[str, float] = {}
        self.model, self.depth, self.config = model, depth, config or PretrainedConfig()
        self.spec = DynamicsSpec(
            height=height,
            width=width,
            actions=actions,
            action_dim=action_dim,
            depth=True,
            uses_memory=True,
            window=model.spec.past + 1,
            features=3,
        )

    def load_adapter(self, path: str | os.PathLike[str]) -> str:
        """See :meth:`worldsim.protocols.AdaptedDynamics.load_adapter`.

        Raises InvalidInputError for a model that takes no adapters.
        """
        if not isinstance(self.model, AdaptedModel):
            raise InvalidInputError(
                f"{type(self.model).__name__} takes no adapters: it needs load_adapter and "
                f"use_adapters (worldsim.protocols.AdaptedModel)"
            )
        return self.model.load_adapter(path)

    def with_adapters(self, scales: Mapping[str, float]) -> PretrainedDynamics:
        """See :meth:`worldsim.protocols.AdaptedDynamics.with_adapters`."""
        other = copy.copy(self)
        other.scales = dict(scales)
        return other

    def identify(self) -> str:
        """See :meth:`worldsim.protocols.IdentifiedDynamics.identify`."""
        settings = {"config": to_json(self.config), "depth": type(self.depth).__qualname__}
        return content_sha256({**settings, "model": self.model.identify()})

    def empty(self, batch: int, device: torch.device | str) -> ChunkContext:
        """Return a context without frames, for ``batch`` environments."""
        spec = self.spec
        act = (
            torch.zeros(batch, dtype=torch.int64)
            if spec.actions
            else torch.zeros(batch, spec.action_dim)
        )
        size = spec.height, spec.width
        return empty_context(batch, self.model.spec.past, self.model.spec.frames, size, act, device)

    def observe(self, context: ChunkContext, inputs: StepInputs, frame: Frame) -> ChunkContext:
        """Return the context with a given frame. The rest of the chunk is dropped."""
        return push(context, frame.rgb)

    def predict(self, context: ChunkContext, inputs: StepInputs) -> tuple[Prediction, ChunkContext]:
        """Emit the next frame of each chunk. Chunks that do not fit are generated anew.

        Raises MissingGeometryError for inputs without geometry.
        """
        if inputs.pose is None or inputs.view is None:
            raise MissingGeometryError(
                "a pretrained model follows actions through the camera: its world needs poses "
                "and a scene memory, and these inputs have none"
            )
        fits = usable(context, inputs, self.config.distance_m, math.radians(self.config.angle_deg))
        missing = [row for row, fit in enumerate(fits.tolist()) if not fit]
        if missing:
            context = self._generate(context, inputs, missing)
        rows = torch.arange(len(fits), device=fits.device)
        # One copy per row; indexing by two tensors takes twenty times as long.
        n = self.model.spec.frames
        rgb = context.chunk.flatten(0, 1).index_select(0, rows * n + context.position)
        frame = Frame(rgb, self._depth_of(rgb, inputs.view), inputs.pose)
        context = dataclasses.replace(
            context, position=context.position + 1, emitted=context.emitted + 1
        )
        return Prediction(frame, rgb.float().mean((2, 3)) / 255.0), context

    def generated_per_emitted(self, context: ChunkContext) -> Tensor:
        """Return the generated frames per emitted frame since the start, (b,) float32.

        1 where every chunk was used up, more where chunks were dropped; 0 before the first step.
        """
        return context.generated / context.emitted.clamp(min=1)

    def _generate(
        self, context: ChunkContext, inputs: StepInputs, missing: list[int]
    ) -> ChunkContext:
        """Return the context with new chunks in the rows ``missing``."""
        assert inputs.pose is not None and inputs.view is not None
        if isinstance(self.model, AdaptedModel):
            # Worlds with other adapters may share the model.
            self.model.use_adapters(self.scales)
        acts, looks = self.model.spec.action, self.model.spec.cameras
        frames = self.model.spec.frames
        planned = plan_cameras(inputs.pose, inputs.motion, frames)
        views = [inputs.view, *(self._look(inputs, planned[:, i]) for i in range(1, frames))]
        # (b, n, ...) each.
        control = torch.stack([view.rgb for view in views], 1)
        known = torch.stack([view.mask for view in views], 1)
        joined = join(context)
        past = past_frames(joined, inputs.last.rgb)
        cameras = self._relative(inputs, planned) if looks else None
        approach = self._approach(inputs) if self.model.spec.approach else None
        seeds = whole_seeds(inputs.seed, inputs.step, inputs.purpose, 1)[:, 0].tolist()

        chunk, done = context.chunk.clone(), dict[bytes, int]()
        for row in missing:
            wanted = VideoInputs(
                past[row],
                control[row],
                known[row],
                None if approach is None else approach[row],
                seeds[row],
                inputs.act[row] if acts else None,
                inputs.motion[row] if acts else None,
                None if cameras is None else cameras[row],
                inputs.intrinsics[row] if looks else None,
            )
            key = _digest(wanted)
            if key in done:
                chunk[row] = chunk[done[key]]
                continue
            with self._acting(wanted):
                chunk[row] = self._checked(self.model.generate(wanted))
            done[key] = row
        new = torch.zeros_like(context.position, dtype=torch.bool)
        new[missing] = True
        act = new.reshape(-1, *[1] * (inputs.act.ndim - 1))
        rest = new[:, None]
        return dataclasses.replace(
            context,
            past=torch.where(rest[:, :, None, None, None], joined.past, context.past),
            present=torch.where(rest, joined.present, context.present),
            joined=context.joined.masked_fill(new, 0),
            chunk=chunk,
            planned=torch.where(new[:, None, None, None], planned, context.planned),
            position=context.position.masked_fill(new, 0),
            act=torch.where(act, inputs.act.to(context.act.dtype), context.act),
            generated=context.generated + new * frames,
        )

    def _acting(self, inputs: VideoInputs) -> AbstractContextManager[None]:
        """Return a context in which the model's adapters receive the action."""
        return self.model.acting(inputs) if isinstance(self.model, AdaptedModel) else nullcontext()

    @staticmethod
    def _relative(inputs: StepInputs, planned: Tensor) -> Tensor:
        """Return :attr:`worldsim.protocols.VideoInputs.cameras` of all rows, (b, 1 + n, 4, 4)."""
        newest = inputs.last.pose
        assert newest is not None
        cameras = torch.cat([newest[:, None], planned], 1).double()
        return (torch.linalg.inv(cameras[:, :1]) @ cameras).float()

    def _approach(self, inputs: StepInputs) -> Tensor:
        """Return :attr:`worldsim.protocols.VideoInputs.approach` of all rows, (b, p, 3, h, w)."""
        last = inputs.last
        assert last.pose is not None
        cameras = approach_cameras(last.pose, inputs.motion, self.model.spec.past)
        views = [self._look(inputs, cameras[:, i]) for i in range(cameras.shape[1] - 1)]
        filled = [
            torch.stack([fill_holes(*pair) for pair in zip(view.rgb, view.mask, strict=True)])
            for view in views
        ]
        return torch.stack([*filled, last.rgb], 1)

    def _look(self, inputs: StepInputs, pose: Tensor) -> MemoryView:
        """Return the memory at other cameras; nothing but holes where it cannot be rendered."""
        assert inputs.view is not None
        if inputs.look is None:
            return map_tensors(torch.zeros_like, inputs.view)
        return inputs.look(pose)

    def _checked(self, frames: Tensor) -> Tensor:
        """Return the frames of a chunk. Raises InvalidInputError for a wrong shape or dtype."""
        shape = (self.model.spec.frames, 3, self.spec.height, self.spec.width)
        if frames.dtype != torch.uint8 or tuple(frames.shape) != shape:
            raise InvalidInputError(
                f"{type(self.model).__name__}.generate returns {frames.dtype} "
                f"{tuple(frames.shape)}: uint8 {shape} is needed."
            )
        return frames

    def _depth_of(self, rgb: Tensor, view: MemoryView) -> Tensor:
        """Return the inverse-depth codes (b, h, w) int32 of frames, aligned with ``view``."""
        codes, done = list[Tensor](), dict[bytes, int]()
        for row in range(len(rgb)):
            here = slice(row, row + 1)
            parts = rgb[here], view.inverse_depth[here], view.mask[here]
            key = _digest(parts) if len(rgb) > 1 else b""
            if key in done:
                codes.append(codes[done[key]])
                continue
            done[key] = row
            relative = relative_inverse_depth(self.depth, parts[0])
            aligned = align_inverse_depth(
                relative, code_to_inverse_depth(parts[1]), parts[2], self.config.align
            )
            codes.append(inverse_depth_to_code(aligned))
        return torch.cat(codes)


def _digest(record: object) -> bytes:
    """Return a digest of the tensors and numbers of a record, equal for equal records."""
    total = hashlib.blake2b(digest_size=16)

    def add(tensor: Tensor) -> Tensor:
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return tensor

    map_tensors(add, record)
    total.update(str(getattr(record, "seed", "")).encode())
    return total.digest()
