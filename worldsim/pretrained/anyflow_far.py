"""AnyFlow-FAR pipelines: chunk-causal models that continue a video.

They take no control, so the camera is controlled by the past: the frames that the model continues
show an imagined way to the newest frame, rendered from the memory, along which the camera already
moves as the action moves it. Source: FAR (Gu et al. 2025) and AnyFlow.

Never run here with the published weights, only with small random ones.
"""

from __future__ import annotations

from torch import Tensor

from worldsim.pretrained.adapter import VideoAdapter, as_video
from worldsim.protocols import VideoInputs

LATENTS = 3
"""Latent frames per chunk of the published models, after a first chunk of one."""


class AnyFlowFAR(VideoAdapter):
    """Continues a video (``AnyFlowFARPipeline``)."""

    name = "anyflow-far"
    needs = ("video", "chunk_partition", "use_kv_cache")
    default_past, default_frames = 13, 12
    approach = True

    def generate(self, inputs: VideoInputs) -> Tensor:
        """See :meth:`worldsim.protocols.VideoModel.generate`."""
        assert inputs.approach is not None
        past, height, width = len(inputs.approach), *inputs.approach.shape[2:]
        step, new = self.temporal(), len(inputs.control)
        partition = [1, *_parts((past - 1) // step), *_parts(new // step)]
        frames = self.call(
            inputs.seed,
            height,
            width,
            video=as_video(inputs.approach),
            num_frames=past + new,
            chunk_partition=partition,
            guidance_scale=self.config.guidance_scale,
        )
        return frames[past:].to(inputs.past.device)


def _parts(latents: int) -> list[int]:
    """Divide latent frames into chunks of at most :data:`LATENTS`."""
    return [min(LATENTS, latents - start) for start in range(0, latents, LATENTS)]
