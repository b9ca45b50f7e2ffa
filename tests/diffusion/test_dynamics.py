"""The cached context against the network's own banded forward: what is trained must be what is
used."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from worldsim.camera import code_to_channel
from worldsim.diffusion.denoiser import add_noise, frame_to_channels
from worldsim.diffusion.dynamics import Context, DiffusionDynamics, DynamicsConfig
from worldsim.diffusion.network import Condition, SpaceTimeTransformer, band_mask, stream_mask
from worldsim.errors import InvalidInputError
from worldsim.state import Frame

B, WINDOW, SIZE = 2, 4, 16
FRAMES = 4 * WINDOW


@pytest.fixture
def network() -> SpaceTimeTransformer:
    """Random everywhere, where it starts at zero too: so that every path has an effect."""
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=SIZE, width=SIZE, dim=32, depth=2, heads=2, levels=(8, 8), window=WINDOW
    )
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.1)
    return network.eval().requires_grad_(False)


@pytest.fixture
def frames() -> list[Frame]:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (FRAMES, B, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    code = torch.randint(0, 65536, (FRAMES, B, SIZE, SIZE), dtype=torch.int32, generator=generator)
    return [Frame(r, c, torch.eye(4).repeat(B, 1, 1)) for r, c in zip(rgb, code, strict=True)]


@pytest.fixture
def conditions() -> list[Condition]:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        Condition(
            act=torch.randint(0, 7, (B, 1), generator=generator),
            motion=0.1 * normal(B, 1, 6),
            rays=normal(B, 1, 6, SIZE // 4, SIZE // 4),
            view=normal(B, 1, 8, SIZE, SIZE),
        )
        for _ in range(FRAMES)
    ]


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(FRAMES, B, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def joined(conditions: list[Condition]) -> Condition:
    return Condition(
        *(
            torch.cat([getattr(c, f.name) for c in conditions], 1)
            for f in dataclasses.fields(Condition)
        )
    )


def noised(frames: list[Frame], noise: Tensor, level: float) -> Tensor:
    """(b, f, c, h, w), as they enter the context."""
    x = torch.stack([frame_to_channels(f.rgb, f.inverse_depth) for f in frames], 1)
    return add_noise(x, noise.transpose(0, 1), torch.full((B, len(frames)), level))


def walked(
    dynamics: DiffusionDynamics, frames: list[Frame], conditions: list[Condition], noise: Tensor
) -> Context:
    """The context after all frames but the last are in the cache, the last one pending."""
    context = dynamics.empty(B, "cpu")
    for frame, condition, z in zip(frames, conditions, noise, strict=True):
        context = dynamics.hold(dynamics.flush(context), frame, condition, z)
    return context


def test_frames_to_channels_by_hand() -> None:
    """rgb 0, 128, 255 to -1, 1/255, 1; 4 m is half of the depth channel's range, which is 0 in [-1,
    1]."""
    rgb = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    code = torch.tensor([[[round(65535 * 0.125 / 4.0)]]], dtype=torch.int32)
    assert float(code_to_channel(code)) == pytest.approx(0.5, abs=1e-3)
    assert frame_to_channels(rgb, code).flatten().tolist() == pytest.approx(
        [-1.0, 1 / 255, 1.0, 0.0], abs=2e-3
    )


def test_cached_context_equals_the_banded_forward(
    network: SpaceTimeTransformer, frames: list[Frame], conditions: list[Condition], noise: Tensor
) -> None:
    """Four windows long: the keys and values in the ring are those of one forward over everything
    under the band."""
    dynamics = DiffusionDynamics(network)
    level = dynamics.config.context_sigma
    context = dynamics.flush(walked(dynamics, frames, conditions, noise))
    x = noised(frames, noise, level)
    mask = band_mask(FRAMES, WINDOW)[None]
    _, _, cache = network(
        x, torch.full((B, FRAMES), level), joined(conditions), mask, torch.arange(FRAMES)
    )
    assert context.valid.all() and not context.present.any()
    assert context.cache.shape == (B, 2, 2, WINDOW - 1, 16, 32)
    torch.testing.assert_close(context.cache, cache[:, :, :, -(WINDOW - 1) :], atol=1e-4, rtol=0)
    # The band reaches back further than the cache is long, through the layers: an unbanded forward
    # differs.
    full = torch.ones(1, FRAMES, FRAMES, dtype=torch.bool).tril()
    _, _, other = network(
        x, torch.full((B, FRAMES), level), joined(conditions), full, torch.arange(FRAMES)
    )
    assert float((other - cache)[:, :, :, -(WINDOW - 1) :].abs().max()) > 1e-2


@pytest.mark.parametrize("length", [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, FRAMES - 1])
def test_predict_equals_the_training_forward(
    network: SpaceTimeTransformer,
    frames: list[Frame],
    conditions: list[Condition],
    noise: Tensor,
    length: int,
) -> None:
    """The target stream of a two-stream forward predicts what a step at use does, after any number
    of frames."""
    dynamics = DiffusionDynamics(network)
    level = dynamics.config.context_sigma
    t = length + 1
    context = walked(dynamics, frames[:length], conditions[:length], noise[:length])
    drawn = torch.randn(B, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    x, seen, after = dynamics.sample(context, conditions[length], drawn)
    known = noised(frames[:t], noise[:t], level)
    target = torch.randn_like(known)
    target[:, -1] = drawn
    both = torch.cat([known, target], 1)
    levels = torch.cat([torch.full((B, t), level), torch.ones(B, t)], 1)
    stream = joined(conditions[:t])
    time = torch.arange(t).repeat(2)
    out, features, cache = network(
        both, levels, joined([stream, stream]), stream_mask(t, WINDOW)[None], time
    )
    torch.testing.assert_close(x, out[:, -1], atol=1e-4, rtol=0)
    torch.testing.assert_close(seen, features[:, -1], atol=1e-4, rtol=0)
    kept = min(length, WINDOW - 1)
    torch.testing.assert_close(
        after.cache[:, :, :, -kept:], cache[:, :, :, length - kept : length], atol=1e-4, rtol=0
    )
    assert after.valid.sum(1).tolist() == [kept] * B and not after.present.any()


def test_fused_commit_equals_advance(
    network: SpaceTimeTransformer, frames: list[Frame], conditions: list[Condition], noise: Tensor
) -> None:
    """Whether a pending frame enters the cache with a prediction or without, the context is the
    same."""
    dynamics = DiffusionDynamics(network, DynamicsConfig(num_inference_steps=3))
    context = walked(dynamics, frames[:6], conditions[:6], noise[:6])
    *_, fused = dynamics.sample(context, conditions[6], noise[6])
    alone = dynamics.flush(context)
    torch.testing.assert_close(fused.cache, alone.cache, atol=1e-5, rtol=0)
    assert torch.equal(fused.valid, alone.valid) and torch.equal(fused.present, alone.present)


def test_several_steps_refine_from_the_same_context(
    network: SpaceTimeTransformer, frames: list[Frame], conditions: list[Condition], noise: Tensor
) -> None:
    """Two Euler steps by hand: half of the way at level 1, the rest at level 0.5."""
    context = walked(DiffusionDynamics(network), frames[:6], conditions[:6], noise[:6])
    one = DiffusionDynamics(network)
    first, _, after = one.sample(context, conditions[6], noise[6])
    halfway = 0.5 * first + 0.5 * noise[6]
    expected, _, _ = one._denoise(after, conditions[6], halfway, 0.5)
    x, *_ = DiffusionDynamics(network, DynamicsConfig(num_inference_steps=2)).sample(
        context, conditions[6], noise[6]
    )
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)


def test_temperature_scales_the_noise(
    network: SpaceTimeTransformer, frames: list[Frame], conditions: list[Condition], noise: Tensor
) -> None:
    context = walked(DiffusionDynamics(network), frames[:6], conditions[:6], noise[:6])
    for steps in (1, 2):
        calm = DiffusionDynamics(
            network, DynamicsConfig(num_inference_steps=steps, temperature=0.25)
        )
        scaled, *_ = DiffusionDynamics(network, DynamicsConfig(num_inference_steps=steps)).sample(
            context, conditions[6], 0.25 * noise[6]
        )
        assert torch.equal(calm.sample(context, conditions[6], noise[6])[0], scaled)
    cold = DiffusionDynamics(network, DynamicsConfig(temperature=0.0))
    one, other = (cold.sample(context, conditions[6], z)[0] for z in noise[6:8])
    assert torch.equal(one, other)
    with pytest.raises(InvalidInputError, match=r"temperature = 1\.5: it must be at most 1"):
        DynamicsConfig(temperature=1.5)


def test_an_empty_context_is_no_context(
    network: SpaceTimeTransformer, conditions: list[Condition], noise: Tensor
) -> None:
    """What lies in an empty cache has no effect."""
    dynamics = DiffusionDynamics(network)
    empty = dynamics.empty(B, "cpu")
    filled = dataclasses.replace(
        empty, cache=torch.randn_like(empty.cache), x=torch.randn_like(empty.x)
    )
    first, *_ = dynamics.sample(empty, conditions[0], noise[0])
    second, *_ = dynamics.sample(filled, conditions[0], noise[0])
    assert torch.equal(first, second)


def test_each_row_is_alone(
    network: SpaceTimeTransformer, frames: list[Frame], conditions: list[Condition], noise: Tensor
) -> None:
    """A row that holds more frames than its neighbour predicts as if it were alone."""
    dynamics = DiffusionDynamics(network)
    long = walked(dynamics, frames[:6], conditions[:6], noise[:6])
    short = walked(dynamics, frames[:2], conditions[:2], noise[:2])

    def mixed(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a[:1], b[1:]])

    names = [field.name for field in dataclasses.fields(Condition)]
    both = Context(
        cache=mixed(long.cache, short.cache),
        valid=mixed(long.valid, short.valid),
        x=mixed(long.x, short.x),
        present=mixed(long.present, short.present),
        condition=Condition(
            *(mixed(getattr(long.condition, n), getattr(short.condition, n)) for n in names)
        ),
    )
    got, *_ = dynamics.sample(both, conditions[7], noise[7])
    for row, context in ((0, long), (1, short)):
        wanted, *_ = dynamics.sample(context, conditions[7], noise[7])
        assert torch.equal(got[row], wanted[row])


def test_time_is_the_identity_at_first(conditions: list[Condition], noise: Tensor) -> None:
    """A fresh network, with random output weights to show something: a frame does not depend on
    other frames."""
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=SIZE, width=SIZE, dim=32, depth=2, heads=2, levels=(8, 8), window=WINDOW
    )
    torch.nn.init.normal_(network.out.weight)
    x, level = noise[:3].transpose(0, 1).contiguous(), torch.tensor([[0.1, 0.5, 1.0]] * B)
    mask = band_mask(3, WINDOW)[None]
    with torch.no_grad():
        out, _, _ = network(x, level, joined(conditions[:3]), mask, torch.arange(3))
        for i in range(3):
            alone, _, _ = network(
                x[:, i : i + 1],
                level[:, i : i + 1],
                conditions[i],
                mask[:, :1, :1],
                torch.arange(1),
            )
            torch.testing.assert_close(out[:, i], alone[:, 0], atol=1e-5, rtol=0)
        # And the picture does depend on its own noise: the comparison says something.
        other, _, _ = network(x + 1, level, joined(conditions[:3]), mask, torch.arange(3))
        assert float((other - out).abs().max()) > 0.1
        torch.nn.init.normal_(network.blocks[0].temporal.out.weight, 0.0, 0.1)
        linked, _, _ = network(x, level, joined(conditions[:3]), mask, torch.arange(3))
        assert float((linked - out)[:, 2].abs().max()) > 1e-2
