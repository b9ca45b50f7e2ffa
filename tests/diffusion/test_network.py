"""The network by itself: sizes, kinds of actions, files, and that nothing looks ahead."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from worldsim.diffusion.network import (
    AttentionPooling,
    Condition,
    SpaceTimeTransformer,
    rotary,
    stream_mask,
)
from worldsim.errors import InvalidInputError

pytestmark = pytest.mark.fast

WINDOW, FRAMES = 3, 6


def small(**changes: Any) -> SpaceTimeTransformer:
    """12x8 frames in patches of 4, random everywhere, where it starts at zero too."""
    torch.manual_seed(0)
    settings: dict[str, Any] = dict(
        height=8, width=12, dim=32, depth=2, heads=2, levels=(8, 8), window=WINDOW
    )
    network = SpaceTimeTransformer(**(settings | changes))
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.1)
    return network.eval().requires_grad_(False)


def inputs(
    network: SpaceTimeTransformer, frames: int = FRAMES
) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """x, noise levels and conditions of both streams, 2 * frames of them."""
    generator = torch.Generator().manual_seed(1)
    n = network.config

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(2, 2 * frames, *shape, generator=generator)

    act = (
        normal(n.action_dim)
        if n.action_dim
        else torch.randint(0, n.actions, (2, 2 * frames), generator=generator)
    )
    grid = (n.height // network.patch, n.width // network.patch)
    condition = Condition(
        act, 0.1 * normal(6), normal(6, *grid), normal(max(n.view_channels, 1), n.height, n.width)
    )
    return (
        normal(n.channels, n.height, n.width),
        torch.rand(2, 2 * frames, generator=generator),
        condition,
    )


def test_frames_must_divide_into_patches() -> None:
    with pytest.raises(InvalidInputError, match="20x32.*multiples of 8"):
        SpaceTimeTransformer(height=20, width=32, dim=32, depth=1, heads=2, levels=(8, 8, 16))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"actions": 0, "action_dim": 2},
        {"channels": 3, "view_channels": 0},
        {"levels": (8,), "fold": 2},
    ],
    ids=["discrete", "continuous", "no geometry", "folded"],
)
def test_kinds_of_worlds(changes: dict[str, Any]) -> None:
    """Shapes, and that the action matters."""
    network = small(**changes)
    x, level, condition = inputs(network)
    mask, time = stream_mask(FRAMES, WINDOW)[None], torch.arange(FRAMES).repeat(2)
    out, features, cache = network(x, level, condition, mask, time, outputs=FRAMES)
    assert out.shape == (2, FRAMES, network.config.channels, 8, 12)
    assert features.shape == (2, FRAMES, 32)
    assert cache.shape == (2, 2, 2, 2 * FRAMES, 6, 32) and network.tokens == 6
    other = Condition((condition.act + 1) % 7, condition.motion, condition.rays, condition.view)
    changed, _, _ = network(x, level, other, mask, time, outputs=FRAMES)
    assert float((changed - out).abs().max()) > 1e-3


def test_a_target_sees_earlier_context_and_itself_only() -> None:
    """Frame j of the context changes targets j + 1 and later; with two layers also beyond one
    window, but none before."""
    network = small()
    x, level, condition = inputs(network)
    mask, time = stream_mask(FRAMES, WINDOW)[None], torch.arange(FRAMES).repeat(2)
    out, _, _ = network(x, level, condition, mask, time, outputs=FRAMES)
    for j in range(FRAMES):
        touched = x.clone()
        touched[:, j] += 1.0
        moved = (
            (network(touched, level, condition, mask, time, outputs=FRAMES)[0] - out)
            .abs()
            .amax((0, 2, 3, 4))
        )
        assert float(moved[: j + 1].max()) < 1e-5
        assert bool((moved[j + 1 : j + WINDOW] > 1e-4).all())
        touched = x.clone()
        touched[:, FRAMES + j] += 1.0
        moved = (
            (network(touched, level, condition, mask, time, outputs=FRAMES)[0] - out)
            .abs()
            .amax((0, 2, 3, 4))
        )
        assert float(moved[j]) > 1e-3
        assert float(torch.cat([moved[:j], moved[j + 1 :]]).max()) < 1e-5


@pytest.mark.parametrize(
    "changes", [{"levels": (8, 8)}, {"levels": (8,), "fold": 2}], ids=["pixels", "folded"]
)
def test_a_fresh_network_shows_the_memory_view(changes: dict[str, Any]) -> None:
    """The prediction is a residual on the view, and the residual starts at zero."""
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=8, width=12, dim=32, depth=1, heads=2, window=WINDOW, **changes
    )
    x, level, condition = inputs(network)
    with torch.no_grad():
        out, _, _ = network(
            x, level, condition, stream_mask(FRAMES, WINDOW)[None], torch.arange(FRAMES).repeat(2)
        )
    assert torch.equal(out, condition.view[:, :, :4])


def test_folded_pixels_stay_where_they_are() -> None:
    """Without attention between places and with convolutions of their middle alone, a pixel touches
    its own 4x4 patch."""
    network = small(levels=(8,), fold=2, depth=1)
    with torch.no_grad():
        network.blocks[0].spatial.out.weight.zero_()
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3):
                middle = layer.weight[:, :, 1, 1].clone()
                layer.weight.zero_()[:, :, 1, 1] = middle
            if isinstance(layer, torch.nn.GroupNorm):
                layer.register_forward_hook(lambda layer, args, out: args[0])
    x, level, condition = inputs(network, 1)
    rest = (level, condition, stream_mask(1, WINDOW)[None], torch.arange(1).repeat(2))
    touched = x.clone()
    touched[0, 0, :, 5, 9] += 1.0
    moved = (network(touched, *rest)[0] - network(x, *rest)[0])[0, 0].abs().amax(0)
    rows, columns = (moved > 1e-6).nonzero(as_tuple=True)
    assert (
        len(rows) and set(rows.tolist()) <= {4, 5, 6, 7} and set(columns.tolist()) <= {8, 9, 10, 11}
    )


def test_rotary_by_hand() -> None:
    """Two features at time 1 turn by one radian; products depend on the distance in time alone."""
    turned = rotary(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    torch.testing.assert_close(turned, torch.tensor([[0.540302, 0.841471]]))
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    early = rotary(q, torch.tensor([5])) @ rotary(k, torch.tensor([2])).T
    late = rotary(q, torch.tensor([25])) @ rotary(k, torch.tensor([22])).T
    torch.testing.assert_close(early, late, atol=1e-4, rtol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    """The config and safetensors, nothing pickled; the same predictions after."""
    network = small(actions=0, action_dim=2, channels=3)
    network.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["levels"] == [8, 8]
    loaded = SpaceTimeTransformer.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert loaded.config.action_dim == 2 and loaded.patch == 4
    x, level, condition = inputs(network)
    mask, time = stream_mask(FRAMES, WINDOW)[None], torch.arange(FRAMES).repeat(2)
    with torch.no_grad():
        assert torch.equal(
            loaded(x, level, condition, mask, time)[0], network(x, level, condition, mask, time)[0]
        )


def test_other_frame_sizes_keep_the_weights() -> None:
    network = small()
    same = network.resize(8, 12)
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], weight, rtol=0, atol=1e-6)
    # 2 x 3 tokens whose first feature is 5 everywhere become 4 x 6 of the same.
    network.position[..., 0] = 5.0
    larger = network.resize(16, 24)
    assert (larger.config.height, larger.config.width, larger.tokens) == (16, 24, 24)
    torch.testing.assert_close(larger.position[0, 0, :, 0], torch.full((24,), 5.0))
    assert torch.equal(larger.stem.weight, network.stem.weight)
    with torch.no_grad():
        x, level, condition = inputs(larger, 2)
        assert (
            larger(x, level, condition, stream_mask(2, WINDOW)[None], torch.arange(2).repeat(2))[
                0
            ].shape
            == x.shape
        )
    with pytest.raises(InvalidInputError, match="multiples of 4"):
        network.resize(10, 12)


def test_attention_pooling_by_hand() -> None:
    """Two tokens, one head, keys and values the normalised tokens: the query (1, -1) weighs them by
    a softmax."""
    pool = AttentionPooling(2, 1)
    with torch.no_grad():
        pool.query.copy_(torch.tensor([1.0, -1.0]))
        pool.key_value.weight.copy_(torch.eye(2).repeat(2, 1))
        pool.key_value.bias.zero_()
        pool.out.weight.copy_(torch.eye(2))
        pool.out.bias.zero_()
    # A layer norm of two numbers is (1, -1) or (-1, 1).
    tokens = torch.tensor([[[5.0, 1.0], [0.0, 3.0]]])
    share = 1.0 / (1.0 + math.exp(-4.0 / math.sqrt(2.0)))
    assert pool(tokens)[0].tolist() == pytest.approx([2 * share - 1, 1 - 2 * share], abs=1e-4)


def test_pooling_leaves_all_else_as_it_was() -> None:
    """The same initial weights, pictures and cache; features alone are others. An unknown one is
    named."""
    mean, attention = small(), small(pooling="attention")
    x, level, condition = inputs(mean)
    mask, time = stream_mask(FRAMES, WINDOW)[None], torch.arange(FRAMES).repeat(2)
    one, other = (n(x, level, condition, mask, time, outputs=FRAMES) for n in (mean, attention))
    assert not set(mean.state_dict()) - set(attention.state_dict())
    with torch.no_grad():
        attention.load_state_dict(attention.state_dict() | mean.state_dict())
    other = attention(x, level, condition, mask, time, outputs=FRAMES)
    assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
    assert one[1].shape == other[1].shape and not torch.equal(one[1], other[1])
    with pytest.raises(InvalidInputError, match="pooling = 'max'"):
        small(pooling="max")
