"""Wan-VACE pipelines: a video with a mask.

The memory's render at the planned cameras is the control video, and its holes are the mask: what
the memory shows is kept, the rest is generated. This is how GEN3C (Ren et al. 2025) conditions its
model on a 3D cache. Source: VACE, All-in-One Video Creation and Editing (Jiang et al. 2025).

Never run here with the published weights, only with small random ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.pretrained.adapter import VideoAdapter, as_video
from worldsim.protocols import VideoInputs, VideoSpec

GREY = 0.5
"""Value of pixels that are to be generated, as VACE was trained."""


class WanVACE(VideoAdapter):
    """Continues a video under a control video (``WanVACEPipeline``)."""

    name = "wan-vace"
    needs = ("video", "mask", "conditioning_scale")
    default_past, default_frames = 17, 64

    def check_lengths(self, spec: VideoSpec) -> None:
        """See :meth:`VideoAdapter.check_lengths`: past and chunk together are 4k + 1 frames."""
        step = self.temporal()
        self.require(
            (spec.past + spec.frames) % step == 1 % step,
            f"together they must be a multiple of {step}, plus 1.",
        )

    def generate(self, inputs: VideoInputs) -> Tensor:
        """See :meth:`worldsim.protocols.VideoModel.generate`."""
        past, height, width = len(inputs.past), *inputs.past.shape[2:]
        known = inputs.known[:, None]
        control = torch.where(known, inputs.control.float() / 255.0, GREY)
        video = torch.cat([as_video(inputs.past), control[None]], 1)
        holes = (~known).float().expand_as(control)
        mask = torch.cat([torch.zeros_like(video[:, :past]), holes[None]], 1)
        frames = self.call(
            inputs.seed,
            height,
            width,
            video=video,
            mask=mask,
            num_frames=video.shape[1],
            guidance_scale=self.config.guidance_scale,
        )
        return frames[past:].to(inputs.past.device)
