"""Stable Video Diffusion pipelines: models that animate one picture.

They take no video, no control and no prompt. The picture is the memory's render at the first
planned camera, with the newest frame in its holes, and the frames of the chunk are what the model
makes of it. Longer chunks than one frame move as the model likes. Source: Stable Video Diffusion
(Blattmann et al. 2023).

Never run here with the published weights, only with small random ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.pretrained.adapter import VideoAdapter, as_pictures
from worldsim.protocols import VideoInputs, VideoSpec


class StableVideo(VideoAdapter):
    """Animates one picture (``StableVideoDiffusionPipeline``)."""

    name = "stable-video"
    needs = ("image", "motion_bucket_id", "noise_aug_strength")
    default_past, default_frames = 1, 1
    text = False

    @property
    def divisor(self) -> int:
        """See :attr:`VideoAdapter.divisor`: the levels of autoencoder and network."""
        levels = len(self.pipeline.unet.config.block_out_channels)
        return int(self.pipeline.vae_scale_factor * 2 ** (levels - 1))

    def check_lengths(self, spec: VideoSpec) -> None:
        """See :meth:`VideoAdapter.check_lengths`: one past frame."""
        most = int(self.pipeline.unet.config.num_frames)
        self.require(
            spec.past == 1 and spec.frames <= most,
            f"past must be 1, and frames at most {most}, the length of its clips.",
        )

    def generate(self, inputs: VideoInputs) -> Tensor:
        """See :meth:`worldsim.protocols.VideoModel.generate`."""
        height, width = inputs.past.shape[2:]
        picture = animated_picture(inputs.past, inputs.control, inputs.known)
        frames = self.call(
            inputs.seed,
            height,
            width,
            image=as_pictures(picture[None])[0],
            num_frames=max(2, len(inputs.control)),
            max_guidance_scale=self.config.guidance_scale,
        )
        return frames[: len(inputs.control)].to(inputs.past.device)


def animated_picture(past: Tensor, control: Tensor, known: Tensor) -> Tensor:
    """Return the picture (..., 3, h, w) uint8 that is animated.

    Training a model for this adapter calls it, too, so that both agree.

    past: (..., p, 3, h, w) uint8; the newest frame fills holes.
    control: (..., n, 3, h, w) uint8, the memory's views; the first is shown.
    known: (..., n, h, w) bool, what of them is known.
    """
    shown = known[..., 0, None, :, :]
    return torch.where(shown, control[..., 0, :, :, :], past[..., -1, :, :, :])
