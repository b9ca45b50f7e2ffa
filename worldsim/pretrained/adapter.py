"""What all adapters of diffusers' video pipelines share: settings, prompts, calls, pictures.

An adapter is one class in a file of its own. It says how a pipeline is called for one chunk.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from PIL import Image
from torch import Tensor

from worldsim.errors import InvalidInputError, OutOfMemoryError, WorldsimError
from worldsim.pretrained.lora import ModelAdapters
from worldsim.protocols import VideoInputs, VideoSpec
from worldsim.runtime.json_config import check_ranges, content_sha256, to_json
from worldsim.runtime.ranges import NotNegative
from worldsim.state import checksum, weights_of_parts

EMBEDDINGS = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)
"""Arguments that carry an encoded prompt."""
NO_GUIDANCE = 1.0
"""Scale of classifier-free guidance that means none, in diffusers."""


@dataclass(frozen=True)
class ClipConfig:
    """The clips that a pipeline generates, and how."""

    past: Annotated[int, Ge(1), Le(1024)] | None = None
    """Emitted frames that a chunk continues. None: the adapter's default."""
    frames: Annotated[int, Ge(1), Le(1024)] | None = None
    """Frames per chunk. None: the adapter's default."""
    num_inference_steps: Annotated[int, Ge(1), Le(1000)] | None = None
    """Sampling steps per chunk. None: the pipeline's default."""
    guidance_scale: NotNegative = NO_GUIDANCE
    """Scale of classifier-free guidance. 1: none, which takes half the time."""
    prompt: str = ""
    """Describes the world."""
    negative_prompt: str = ""
    """Describes what should not appear. Used with guidance only."""

    def __post_init__(self) -> None:
        check_ranges(self)


class VideoAdapter(ABC):
    """A :class:`worldsim.protocols.VideoModel` made of a pipeline of diffusers.

    pipeline: the pipeline.
    config: its clips.
    arguments: further arguments of its call, such as ``prompt_embeds`` for a pipeline without a
        text encoder. They replace the adapter's own.

    Raises InvalidInputError for a pipeline of another call convention, clips whose lengths do not
    fit, arguments that it does not take, and a pipeline without text encoder and embeddings.
    """

    name: ClassVar[str]
    """Name of the call convention."""
    needs: ClassVar[tuple[str, ...]]
    """Arguments of the call that no other convention has together."""
    default_past: ClassVar[int]
    default_frames: ClassVar[int]
    approach: ClassVar[bool] = False
    """Whether :attr:`worldsim.protocols.VideoInputs.approach` is read."""
    cameras: ClassVar[bool] = False
    """Whether :attr:`worldsim.protocols.VideoInputs.cameras` is read."""
    text: ClassVar[bool] = True
    """Whether the pipeline takes a prompt."""

    def __init__(
        self,
        pipeline: Any,
        config: ClipConfig | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        self.pipeline, self.config = pipeline, config or ClipConfig()
        self.further = dict(arguments or {})
        title = type(pipeline).__name__
        if not self.accepts(pipeline):
            raise InvalidInputError(
                f"{title} takes no {', '.join(sorted(set(self.needs) - _arguments(pipeline)))}: it "
                f"cannot be called as {self.name} pipelines are."
            )
        self.adapters = ModelAdapters(pipeline)
        if unknown := sorted(set(self.further) - _arguments(pipeline)):
            raise InvalidInputError(
                f"{title} takes no argument {', '.join(unknown)}: it takes "
                f"{', '.join(sorted(_arguments(pipeline)))}."
            )
        past = self.config.past or self.default_past
        frames = self.config.frames or self.default_frames
        self._spec = VideoSpec(past, frames, self.approach, cameras=self.cameras)
        self.check_lengths(self._spec)
        encoded = not self.text or "prompt_embeds" in self.further
        if not encoded and getattr(pipeline, "text_encoder", None) is None:
            raise InvalidInputError(
                f"this {title} has no text encoder: pass prompt_embeds in `arguments`, or load the "
                "pipeline with its text encoder."
            )

    @classmethod
    def accepts(cls, pipeline: Any) -> bool:
        """Return whether the pipeline's call has the arguments of this convention."""
        return set(cls.needs) <= _arguments(pipeline)

    @property
    def spec(self) -> VideoSpec:
        """See :attr:`worldsim.protocols.VideoModel.spec`."""
        return dataclasses.replace(self._spec, action=self.adapters.reads_action)

    @property
    def divisor(self) -> int:
        """Number that divides the height and the width of all frames, in pixels."""
        parts = self.pipeline
        patch = parts.transformer.config.patch_size
        side = patch[1] if isinstance(patch, (tuple, list)) else patch
        return int(parts.vae_scale_factor_spatial * side)

    def check_size(self, height: int, width: int) -> None:
        """See :meth:`worldsim.protocols.VideoModel.check_size`."""
        if height % self.divisor or width % self.divisor or min(height, width) < self.divisor:
            raise InvalidInputError(
                f"{type(self.pipeline).__name__} generates frames whose sides are multiples of "
                f"{self.divisor} pixels, not {height}x{width}."
            )

    def check_lengths(self, spec: VideoSpec) -> None:
        """Raise InvalidInputError unless the pipeline can generate clips of these lengths.

        By default past and chunk are whole latent frames each: k n + 1 and k m frames, where k
        frames are one latent frame and the very first frame is one of its own.
        """
        step = self.temporal()
        self.require(
            spec.past % step == 1 % step and spec.frames % step == 0,
            f"past must be a multiple of {step}, plus 1, and frames a multiple of {step}.",
        )

    @abstractmethod
    def generate(self, inputs: VideoInputs) -> Tensor:
        """See :meth:`worldsim.protocols.VideoModel.generate`."""

    def identify(self) -> str:
        """See :meth:`worldsim.protocols.VideoModel.identify`."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        further = {
            name: checksum({"": value}) if isinstance(value, Tensor) else repr(value)
            for name, value in self.further.items()
        }
        scheduler = self.pipeline.scheduler
        return content_sha256(
            {
                "adapter": self.name,
                "pipeline": type(self.pipeline).__name__,
                "clip": to_json(self.config),
                "arguments": further,
                "scheduler": type(scheduler).__name__,
                "schedule": repr(sorted(dict(scheduler.config).items())),
                "weights": checksum(weights_of_parts(self.pipeline.components)),
            }
        )

    def load_adapter(self, path: str | os.PathLike[str]) -> str:
        """See :meth:`worldsim.protocols.AdaptedDynamics.load_adapter`."""
        # The model's own identity has no adapters: it is computed before there are any.
        self.identify()
        return self.adapters.load(os.fspath(path))

    def use_adapters(self, scales: Mapping[str, float]) -> None:
        """See :meth:`worldsim.protocols.AdaptedModel.use_adapters`."""
        self.adapters.use(scales)

    def acting(self, inputs: VideoInputs) -> AbstractContextManager[None]:
        """See :meth:`worldsim.protocols.AdaptedModel.acting`."""
        return self.adapters.acting(inputs.act, inputs.motion)

    # For adapters.

    def call(self, seed: int, height: int, width: int, **arguments: object) -> Tensor:
        """Call the pipeline; returns its frames (f, 3, h, w) uint8 on the CPU.

        seed: of a ``torch.Generator`` on the CPU, so that all devices draw the same numbers.

        Raises OutOfMemoryError, or WorldsimError if the pipeline returns no usable frames.
        """
        own: dict[str, object] = {
            "height": height,
            "width": width,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "pt",
            **self._prompt(),
            **arguments,
        }
        if self.config.num_inference_steps is not None:
            own["num_inference_steps"] = self.config.num_inference_steps
        title = type(self.pipeline).__name__
        try:
            with torch.no_grad():
                output = self.pipeline(**{**own, **self.further})
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{title} does not fit in the memory of the device: load it with offload='model' "
                "(or 'sequential'), take shorter clips, or smaller frames."
            ) from error
        # Some pipelines return the frames of one video, others those of a batch.
        frames = output.frames if getattr(output.frames, "ndim", 0) == 4 else output.frames[0]
        if not isinstance(frames, Tensor) or tuple(frames.shape[1:]) != (3, height, width):
            found = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
            raise WorldsimError(
                f"{title} returns {found} instead of frames (f, 3, {height}, {width}): this "
                "adapter does not fit its version of diffusers."
            )
        if not bool(torch.isfinite(frames).all()):
            raise WorldsimError(f"{title} returns NaN: load it in bfloat16 or float32.")
        return (frames.float().cpu() * 255.0).round().clamp(0, 255).to(torch.uint8)

    def _prompt(self) -> dict[str, object]:
        """Return the arguments that carry the prompt, encoded once."""
        if not self.text or "prompt_embeds" in self.further:
            return {}
        return dict(self._encoded)

    @cached_property
    def _encoded(self) -> Mapping[str, Tensor]:
        config, pipeline = self.config, self.pipeline
        with torch.no_grad():
            found = pipeline.encode_prompt(
                prompt=config.prompt,
                negative_prompt=config.negative_prompt,
                do_classifier_free_guidance=config.guidance_scale > NO_GUIDANCE,
            )
        # Prompt and negative prompt, or each of them with its attention mask.
        names = EMBEDDINGS if len(found) == len(EMBEDDINGS) else EMBEDDINGS[::2]
        return {name: x for name, x in zip(names, found, strict=True) if x is not None}

    def temporal(self) -> int:
        """Frames per latent frame of the pipeline's autoencoder."""
        for name in ("vae_scale_factor_temporal", "vae_temporal_compression_ratio"):
            if hasattr(self.pipeline, name):
                return int(getattr(self.pipeline, name))
        return 1

    def require(self, fits: bool, rule: str) -> None:
        """Raise InvalidInputError with ``rule`` unless the lengths of the clips fit."""
        if not fits:
            raise InvalidInputError(
                f"{self.name}: past = {self._spec.past} and frames = {self._spec.frames}: {rule}"
            )


def _arguments(pipeline: Any) -> set[str]:
    """Return the names of the arguments of a pipeline's call."""
    try:
        return set(inspect.signature(pipeline.__call__).parameters)
    except (AttributeError, TypeError, ValueError):
        return set()


def as_video(frames: Tensor) -> Tensor:
    """Convert frames (f, 3, h, w) uint8 to a video (1, f, 3, h, w) float32 in [0, 1]."""
    return frames.float()[None] / 255.0


def as_pictures(frames: Tensor) -> list[Image.Image]:
    """Convert frames (f, 3, h, w) uint8 to PIL pictures."""
    return [Image.fromarray(x.permute(1, 2, 0).contiguous().cpu().numpy()) for x in frames]
