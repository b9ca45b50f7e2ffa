"""LTX-Video pipelines with conditions: pictures and clips at chosen frames.

The past frames are the condition at the start. The memory's render at the last planned camera is a
second condition, whose strength is the share of it that the memory covers: it pulls the clip to
where the camera goes. Source: LTX-Video (HaCohen et al. 2024).

Never run here with the published weights, only with small random ones.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from worldsim.painting.holes import fill_holes
from worldsim.pretrained.adapter import VideoAdapter, as_pictures
from worldsim.protocols import VideoInputs

LEAST = 0.1
"""Smallest share of the last view that the memory must cover for it to be a condition."""


class LTXCondition(VideoAdapter):
    """Continues a video towards a picture (``LTXConditionPipeline``)."""

    name = "ltx-condition"
    needs = ("conditions", "image_cond_noise_scale")
    default_past, default_frames = 17, 64

    @property
    def divisor(self) -> int:
        """See :attr:`VideoAdapter.divisor`."""
        return int(self.pipeline.vae_spatial_compression_ratio)

    def generate(self, inputs: VideoInputs) -> Tensor:
        """See :meth:`worldsim.protocols.VideoModel.generate`."""
        from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

        past, height, width = len(inputs.past), *inputs.past.shape[2:]
        total = past + len(inputs.control)
        conditions: list[Any] = [
            LTXVideoCondition(video=as_pictures(inputs.past), frame_index=0, strength=1.0)
        ]
        covered = float(inputs.known[-1].float().mean())
        if covered >= LEAST:
            goal = fill_holes(inputs.control[-1], inputs.known[-1])
            conditions.append(
                LTXVideoCondition(
                    image=as_pictures(goal[None])[0], frame_index=total - 1, strength=covered
                )
            )
        frames = self.call(
            inputs.seed,
            height,
            width,
            conditions=conditions,
            num_frames=total,
            guidance_scale=self.config.guidance_scale,
        )
        return frames[past:].to(inputs.past.device)
