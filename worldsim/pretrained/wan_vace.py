"""Wan-VACE pipelines: a video with a mask.

The memory's render at the planned cameras is the control video, and its holes are the mask: what
the memory shows is kept, the rest is generated. This is how GEN3C (Ren et al. 2025) conditions its
model on a 3D cache. Source: VACE, All-in-One Video Creation and Editing (Jiang et al. 2025).

Never run here with the published weights, only with small random ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.pretrained.adapter import VideoAdapter
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
        video, mask = video_and_mask(inputs.past, inputs.control, inputs.known)
        # Where the autoencoder does not compress time, the pipeline adds a frame.
        added = 1 if self.temporal() == 1 else 0
        frames = self.call(
            inputs.seed,
            height,
            width,
            video=video[None],
            mask=mask[None],
            num_frames=len(video) - added,
            guidance_scale=self.config.guidance_scale,
        )
        return frames[past:].to(inputs.past.device)


def video_and_mask(past: Tensor, control: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the control video and its mask, as the pipeline takes them.

    Training a model for this adapter calls it, too, so that both agree.

    past: (..., p, 3, h, w) uint8, the frames that the chunk continues.
    control: (..., n, 3, h, w) uint8, the memory's views at the cameras of the chunk.
    known: (..., n, h, w) bool, what of them is known.

    Returns the video (..., p + n, 3, h, w) float32 in [0, 1], grey where it is to be generated, and
    the mask of the same shape, 1 where it is.
    """
    shown = torch.where(known[..., None, :, :], control.float() / 255.0, GREY)
    video = torch.cat([past.float() / 255.0, shown], -4)
    holes = (~known[..., None, :, :]).float().expand_as(shown)
    return video, torch.cat([torch.zeros_like(past, dtype=torch.float32), holes], -4)
