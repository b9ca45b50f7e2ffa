"""The layers that stand in for others under inductor on a CPU compute the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldsim.diffusion.cpu_layers import (
    LARGE,
    ChannelsLastUpsampled,
    ChannelwiseGroupNorm,
    SigmoidGELU,
    for_inductor,
)
from worldsim.diffusion.network import Condition, SpaceTimeTransformer, Upsampled, attend, band_mask


@pytest.mark.parametrize("side", [64, 8])
@pytest.mark.parametrize("channels", [8, 32, 96])
def test_group_norm(side: int, channels: int) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(8, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    # Far from zero on average, where a variance from sums of squares loses digits.
    x = 3.0 + torch.randn(2, channels, side, side).to(memory_format=torch.channels_last)
    assert (side**2 >= LARGE) == (side == 64)
    # bfloat16, in which it is used, tells apart 4e-3 at 1.
    assert torch.allclose(ChannelwiseGroupNorm(norm)(x), norm(x), atol=2e-4)


def test_group_norm_of_what_is_all_alike() -> None:
    norm = nn.GroupNorm(8, 32)
    found = ChannelwiseGroupNorm(norm)(torch.full((1, 32, 64, 64), 0.3))
    assert found.isfinite().all() and float(found.detach().abs().amax()) < 0.1


def test_upsampled() -> None:
    torch.manual_seed(0)
    up = Upsampled(12, 6)
    assert up(torch.zeros(2, 12, 4, 5)).shape == (2, 6, 8, 10)
    x = torch.randn(2, 12, 4, 5)
    assert torch.allclose(ChannelsLastUpsampled(up)(x), up(x), atol=1e-6)


def test_gelu() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-200.0, 200.0])])
    assert torch.allclose(SigmoidGELU()(x), F.gelu(x, approximate="tanh"), atol=1e-6)


def test_a_whole_network() -> None:
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=64, width=64, dim=32, depth=2, heads=2, levels=(16, 16), window=4
    ).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.05)
    twin = for_inductor(network)
    kinds = {type(module) for module in twin.modules()}
    assert {
        ChannelwiseGroupNorm,
        ChannelsLastUpsampled,
        SigmoidGELU,
    } <= kinds and Upsampled not in kinds
    assert Upsampled in {type(module) for module in network.modules()}
    view = torch.randn(2, 3, 8, 64, 64)
    condition = Condition(
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(2, 3, 6),
        torch.randn(2, 3, 6, 16, 16),
        view,
    )
    given = (
        torch.randn(2, 3, 4, 64, 64),
        torch.rand(2, 3),
        condition,
        band_mask(3, 4)[None],
        torch.arange(3),
    )
    with torch.no_grad():
        for one, other in zip(network(*given), twin(*given), strict=True):
            assert torch.allclose(one, other, atol=2e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_written_out(masked: bool) -> None:
    """Forward and backward as torch's own."""
    torch.manual_seed(0)
    mask = band_mask(12, 4)[None, None].expand(3, 1, 12, 12) if masked else None
    gradients, outputs = [], []
    for function in (attend, F.scaled_dot_product_attention):
        q, k, v = (
            torch.randn(3, 2, 12, 8, generator=torch.Generator().manual_seed(i)).requires_grad_()
            for i in range(3)
        )
        out = function(q, k, v, mask)  # type: ignore[operator]
        out.square().sum().backward()
        outputs.append(out.detach())
        gradients.append([x.grad for x in (q, k, v)])
    assert torch.allclose(*outputs, atol=1e-6)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
