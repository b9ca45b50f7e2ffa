"""SkyReels-V2 pipelines with diffusion forcing: models that continue a video.

As with AnyFlow-FAR, the camera is controlled by the past: the video that is continued shows an
imagined way to the newest frame, rendered from the memory. Source: SkyReels-V2 (Chen et al. 2025).

Never run here with the published weights, only with small random ones.
"""

from __future__ import annotations

from torch import Tensor

from worldsim.pretrained.adapter import VideoAdapter, as_pictures
from worldsim.protocols import VideoInputs


class SkyReelsForcing(VideoAdapter):
    """Continues a video (``SkyReelsV2DiffusionForcingVideoToVideoPipeline``)."""

    name = "skyreels-forcing"
    needs = ("video", "overlap_history", "addnoise_condition")
    default_past, default_frames = 17, 80
    approach = True

    def generate(self, inputs: VideoInputs) -> Tensor:
        """See :meth:`worldsim.protocols.VideoModel.generate`."""
        assert inputs.approach is not None
        past, height, width = len(inputs.approach), *inputs.approach.shape[2:]
        new = len(inputs.control)
        frames = self.call(
            inputs.seed,
            height,
            width,
            video=as_pictures(inputs.approach),
            num_frames=past + new,
            base_num_frames=past + new,
            overlap_history=past,
            # Its noise would come from the global generator.
            addnoise_condition=0,
            guidance_scale=self.config.guidance_scale,
        )
        # The pipeline returns the given video, the same once more, and then the new frames.
        return frames[-new:].to(inputs.past.device)
