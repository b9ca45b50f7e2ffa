"""Variants of the network's layers that inductor compiles well for CPUs.

Results are the same up to rounding. Measured with torch 2.13 on AVX-512: for a group norm in
channels-last memory, inductor sums a group's few channels per pixel in mostly empty vectors;
through a pixel shuffle it moves one number at a time.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.network import Upsampled

LARGE = 2048
"""Pixels of a feature map from which on more is saved than the small matrix products take."""


class ChannelwiseGroupNorm(nn.Module):
    """Group norm from sums over the pixels of each channel, which are adjacent in memory.

    Small matrix products combine them and give every channel its scale and shift. Their results are
    stored, where inductor would recompute them at every pixel.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.eps, groups, channels = norm.eps, norm.num_groups, norm.num_channels
        member = torch.eye(groups).repeat_interleave(channels // groups, 1)
        self.register_buffer("mean", member.T * (groups / channels), persistent=False)
        self.register_buffer("scale", member * norm.weight.detach().float().cpu(), persistent=False)
        self.register_buffer("shift", norm.bias.detach().float().cpu(), persistent=False)
        self.mean: Tensor
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (m, c, h, w)."""
        pixels = x.shape[2] * x.shape[3]
        if pixels < LARGE:
            return F.group_norm(x, self.norm.num_groups, self.norm.weight, self.norm.bias, self.eps)
        wide = x.float()
        mean = torch.mm(wide.sum((2, 3)), self.mean) / pixels
        square = torch.mm(wide.square().sum((2, 3)), self.mean) / pixels
        slope = torch.rsqrt((square - mean.square()).clamp(min=0.0) + self.eps)
        scale, shift = (
            torch.mm(slope, self.scale),
            torch.addmm(self.shift, -mean * slope, self.scale),
        )
        return (wide * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)


class SigmoidGELU(nn.Module):
    """GELU in its tanh form, computed with a sigmoid.

    Inductor's tanh takes more than twice as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        wide = x.float()
        inner = math.sqrt(8.0 / math.pi) * (wide + 0.044715 * wide * wide * wide)
        return (wide / (1.0 + torch.exp(-inner))).to(x.dtype)


class ChannelsLastUpsampled(nn.Module):
    """An :class:`Upsampled` whose outputs are ordered by pixel, then channel.

    Shuffling them moves whole pixels.
    """

    def __init__(self, up: Upsampled) -> None:
        super().__init__()
        assert up.bias is not None

        def by_pixel(x: Tensor) -> nn.Parameter:
            return nn.Parameter(
                x.detach().unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1).contiguous(),
                requires_grad=False,
            )

        self.weight, self.bias = by_pixel(up.weight), by_pixel(up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (m, c, h, w) to (m, a, 2 h, 2 w)."""
        m, _, h, w = x.shape
        y = F.conv2d(x, self.weight, self.bias).permute(0, 2, 3, 1)
        return (
            y.reshape(m, h, w, 2, 2, -1)
            .transpose(2, 3)
            .reshape(m, 2 * h, 2 * w, -1)
            .permute(0, 3, 1, 2)
        )


def for_inductor(network: nn.Module) -> nn.Module:
    """Return a copy of a network that is no longer trained, with these layers."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, ChannelwiseGroupNorm(child))
            elif isinstance(child, Upsampled):
                setattr(module, name, ChannelsLastUpsampled(child))
            elif isinstance(child, nn.GELU) and child.approximate == "tanh":
                setattr(module, name, SigmoidGELU())
    return network
