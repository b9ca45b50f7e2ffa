"""Calls of inpainting pipelines, by the convention of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from PIL import Image
from torch import Tensor

from worldsim.errors import InvalidInputError, OutOfMemoryError, WorldsimError
from worldsim.protocols import Pixels
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, NotNegative
from worldsim.runtime.types import Array

NEEDED = {
    "image": "the picture",
    "mask_image": "the pixels to paint",
    "generator": "the random numbers, without which paintings cannot be repeated",
}
"""Arguments that every inpainting pipeline must take, and what they carry."""
OWN = (*NEEDED, "prompt", "output_type")
"""Arguments that the painter sets itself."""


@dataclass(frozen=True)
class InpaintConfig:
    """Arguments of an inpainting pipeline's call."""

    num_inference_steps: Count | None = None
    """Sampling steps. None: the pipeline's own default."""
    guidance_scale: NotNegative | None = None
    """Scale of classifier-free guidance on the prompt. None: the pipeline's own default."""
    strength: Annotated[float, Gt(0), Le(1)] = 1.0
    """How much of the diffusion is applied to the unknown pixels. They hold no picture yet, so
    less than 1 keeps traces of their filling. Ignored by pipelines without it."""
    height: Pixels | None = None
    """Height of the picture that the pipeline receives. None: the pipeline's own size, or that of
    the view if it accepts any."""
    width: Pixels | None = None
    """Width, given together with the height."""
    paint_black: bool = False
    """Whether the pipeline paints where the mask is black, as RePaint does. Others paint where it
    is white."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.height is None) != (self.width is None):
            raise InvalidInputError(
                f"InpaintConfig.height = {self.height} and width = {self.width}: give both or none."
            )


class InpaintCall:
    """Calls an inpainting pipeline for one picture at a time.

    The arguments are chosen by the signature of the call, so any pipeline of diffusers works that
    takes ``image``, ``mask_image`` and ``generator``, and so does a function.

    pipeline: the pipeline. It returns its pictures as ``output.images`` or ``output[0]``.
    config: settings of the call.
    arguments: further arguments, such as ``negative_prompt``.

    Raises InvalidInputError if the pipeline lacks an argument that is needed or given, or requires
    one that is not given.
    """

    def __init__(
        self,
        pipeline: Any,
        config: InpaintConfig | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        self.pipeline, self.config = pipeline, config or InpaintConfig()
        self.further = dict(arguments or {})
        self.name = getattr(pipeline, "__name__", type(pipeline).__name__)
        self._accepted, required = self._signature()
        self._arguments = {**self._settings(), **self._further()}
        given = {*OWN, *self._arguments}
        if missing := [name for name in required if name not in given]:
            raise InvalidInputError(
                f"{self.name} requires {', '.join(missing)}: pass it in `arguments`, or use an "
                "inpainting pipeline that a prompt, an image and a mask suffice for."
            )

    @property
    def takes_prompt(self) -> bool:
        """Whether the pipeline takes a prompt."""
        return "prompt" in self._accepted

    def __call__(self, rgb: Tensor, unknown: Tensor, prompt: str, seed: int) -> Tensor:
        """Paint the unknown pixels of one picture.

        rgb: (3, h, w) uint8, filled everywhere.
        unknown: (h, w) bool, the pixels to paint.
        prompt: ignored by pipelines without one.
        seed: of a ``torch.Generator`` on the CPU, so that all devices draw the same numbers.

        Returns (3, h, w) uint8 on the device of ``rgb``. Known pixels may change, too. Raises
        OutOfMemoryError, or WorldsimError if the pipeline returns no usable picture.
        """
        height, width = rgb.shape[1:]
        image, mask = self._pictures(rgb, unknown)
        own: dict[str, object] = {
            "image": image,
            "mask_image": mask,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "prompt": prompt,
            "output_type": "np",
        }
        own = {name: value for name, value in own.items() if name in self._accepted}
        try:
            with torch.no_grad():
                output = self.pipeline(**own, **self._arguments)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{self.name} does not fit in the memory of the device: call its "
                "enable_model_cpu_offload(), load it in float16, or paint smaller views."
            ) from error
        painted = torch.from_numpy(self._picture(output)).to(rgb.device).permute(2, 0, 1)
        if painted.shape[1:] != rgb.shape[1:]:
            size = (int(height), int(width))
            painted = F.interpolate(painted[None], size, mode="bilinear", antialias=True)[0]
        return (painted * 255.0).round().clamp(0, 255).to(torch.uint8)

    def _signature(self) -> tuple[frozenset[str], list[str]]:
        """Return the named arguments of the call, and those of them without a default."""
        try:
            parameters = inspect.signature(self.pipeline).parameters.values()
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"{self.name} cannot be called: give an inpainting pipeline of diffusers."
            ) from error
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        accepted = frozenset(x.name for x in parameters if x.kind in named)
        for name, purpose in NEEDED.items():
            if name not in accepted:
                raise InvalidInputError(
                    f"{self.name} takes no argument {name!r} ({purpose}): give an inpainting "
                    f"pipeline of diffusers. It takes {', '.join(sorted(accepted)) or 'nothing'}."
                )
        required = [
            x.name for x in parameters if x.kind in named and x.default is inspect.Parameter.empty
        ]
        return accepted, required

    def _settings(self) -> dict[str, object]:
        """Return the arguments that the config sets."""
        config = self.config
        settings: dict[str, object] = {}
        for name in ("num_inference_steps", "guidance_scale"):
            value = getattr(config, name)
            if value is None:
                continue
            if name not in self._accepted:
                raise InvalidInputError(
                    f"{self.name} takes no {name}, and InpaintConfig.{name} = {value}: leave it "
                    "out."
                )
            settings[name] = value
        if "strength" in self._accepted:
            settings["strength"] = config.strength
        if config.height is not None and {"height", "width"} <= self._accepted:
            settings |= {"height": config.height, "width": config.width}
        return settings

    def _further(self) -> dict[str, object]:
        """Return the user's own arguments, checked."""
        for name in self.further:
            if name in OWN:
                raise InvalidInputError(
                    f"the argument {name!r} is set by the painter: leave it out."
                )
            if name not in self._accepted:
                raise InvalidInputError(
                    f"{self.name} takes no argument {name!r}: it takes "
                    f"{', '.join(sorted(self._accepted))}."
                )
        return self.further

    def _pictures(self, rgb: Tensor, unknown: Tensor) -> tuple[Image.Image, Image.Image]:
        """Return image and mask, white where it is to be painted, at the configured size."""
        painted = ~unknown if self.config.paint_black else unknown
        image = Image.fromarray(rgb.permute(1, 2, 0).contiguous().cpu().numpy())
        mask = Image.fromarray((painted.cpu().numpy() * 255).astype(np.uint8))
        if self.config.height is not None and self.config.width is not None:
            size = (self.config.width, self.config.height)
            image = image.resize(size, Image.Resampling.BICUBIC)
            mask = mask.resize(size, Image.Resampling.NEAREST)
        return image, mask

    def _picture(self, output: Any) -> Array:
        """Return the first picture (h, w, 3) float32 in [0, 1] of a pipeline's output."""
        if any(getattr(output, "nsfw_content_detected", None) or []):
            raise WorldsimError(
                f"the safety checker of {self.name} withheld a view: use another seed or prompt."
            )
        images = getattr(output, "images", None)
        if images is None and isinstance(output, (tuple, list)) and output:
            images = output[0]
        if isinstance(images, (list, tuple)) and images:
            images = images[0]
        if isinstance(images, Tensor):
            images = images.detach().float().cpu().movedim(-3, -1).numpy()
        if isinstance(images, Image.Image):
            images = np.asarray(images.convert("RGB"))
        picture = np.asarray(images)
        if picture.ndim == 4:
            picture = picture[0]
        if picture.ndim != 3 or picture.shape[-1] != 3:
            raise WorldsimError(
                f"{self.name} returned {type(output).__name__} instead of pictures: give a "
                "pipeline whose output has `images`, (m, h, w, 3) in [0, 1] or PIL pictures."
            )
        if picture.dtype == np.uint8:
            picture = picture.astype(np.float32) / 255.0
        if not np.isfinite(picture).all():
            raise WorldsimError(
                f"{self.name} returned numbers that are not finite: load it in float32 or bfloat16."
            )
        return picture.astype(np.float32)
