"""SANA-WM pipelines: models that animate one picture along given cameras.

They receive the camera of every frame, so the camera is controlled exactly. They see the newest
frame alone, and nothing of the memory: a place behind the camera is invented anew. Source: SANA-WM,
as diffusers 0.42 has it.

Never run here with the published weights, only with small random ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from worldsim.pretrained.adapter import VideoAdapter, as_pictures
from worldsim.protocols import VideoInputs, VideoSpec


class SanaWM(VideoAdapter):
    """Animates one picture along cameras (``SanaWMPipeline``)."""

    name = "sana-wm"
    needs = ("c2w", "intrinsics", "chi_prompt")
    default_past, default_frames = 1, 16
    cameras = True

    @property
    def divisor(self) -> int:
        """See :attr:`VideoAdapter.divisor`."""
        return int(self.pipeline.vae_spatial_compression_ratio)

    def check_lengths(self, spec: VideoSpec) -> None:
        """See :meth:`VideoAdapter.check_lengths`: one past frame, and whole latent frames."""
        step = self.temporal()
        self.require(
            spec.past == 1 and spec.frames % step == 0,
            f"past must be 1, and frames a multiple of {step}.",
        )

    def generate(self, inputs: VideoInputs) -> Tensor:
        """See :meth:`worldsim.protocols.VideoModel.generate`."""
        assert inputs.cameras is not None and inputs.intrinsics is not None
        height, width = inputs.past.shape[2:]
        frames = self.call(
            inputs.seed,
            height,
            width,
            image=as_pictures(inputs.past[-1:])[0],
            prompt=self.config.prompt,
            negative_prompt=self.config.negative_prompt,
            c2w=inputs.cameras.cpu().numpy(),
            intrinsics=inputs.intrinsics.tolist(),
            num_frames=len(inputs.cameras),
            guidance_scale=self.config.guidance_scale,
        )
        return frames[1:].to(inputs.past.device)

    @cached_property
    def _encoded(self) -> Mapping[str, Tensor]:
        """Nothing: the pipeline encodes prompts in a way of its own."""
        return {}
