"""A small depth estimator, for the frames that video models emit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.pretrained_training.training import Training, autocast, load_weights
from experiments.pretrained_training.windows import Recording
from worldsim.camera import channel_to_code, code_to_channel
from worldsim.painting.depth import code_to_inverse_depth


def build(width: int = 32) -> Any:
    """Build a U-Net with random weights."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        in_channels=3,
        out_channels=1,
        block_out_channels=(width, 2 * width, 3 * width, 4 * width),
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=16,
    )


class SmallDepth:
    """A :class:`worldsim.protocols.DepthEstimator` of a trained network."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @classmethod
    def load(cls, folder: Path, device: torch.device, **sizes: int) -> SmallDepth:
        """Load a trained one."""
        network = build(**sizes)
        load_weights(network, folder)
        return cls(network.to(device).eval().requires_grad_(False))

    @torch.no_grad()
    def estimate(self, rgb: Tensor) -> Tensor:
        """See :meth:`worldsim.protocols.DepthEstimator.estimate`."""
        channel = _channel(self.network, rgb.to(self.network.device)).to(rgb.device)
        return code_to_inverse_depth(channel_to_code(channel.float()))


def _channel(network: Any, rgb: Tensor) -> Tensor:
    """Return the depth channel (b, h, w) of pictures (b, 3, h, w) uint8."""
    return network(rgb.float() / 127.5 - 1.0, 0).sample[:, 0]


def train(
    network: Any,
    recording: Recording,
    folder: Path,
    seconds: float,
    batch: int = 128,
    steps: int | None = None,
) -> None:
    """Train it on the recorded depth, as a channel in [0, 1) that is 0 at infinity."""
    device = recording.rgb.device
    training = Training(network, folder, seconds, 1e-3, steps)
    generator = torch.Generator().manual_seed(training.step)
    for step in training.run():
        index = torch.randint(len(recording.rgb), (batch,), generator=generator)
        rows = index.to(device)
        target = code_to_channel(recording.code[rows])
        rgb = recording.rgb[rows]
        if step % 2:
            rgb, target = rgb.flip(-1), target.flip(-1)
        with autocast(device):
            found = _channel(network, rgb)
        loss = (found.float() - target).abs().mean()
        training.update(loss)
        if step % 100 == 0:
            training.log(loss=loss)
