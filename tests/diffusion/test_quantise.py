"""Eight-bit weights: types, sizes and the bound of the error."""

from __future__ import annotations

import pytest
import torch

from worldsim.diffusion.quantise import dequantise_weights, quantise_weights


def test_by_hand() -> None:
    """Row [127, -63.5, 0.4]: scale 1, so 127, -64 (ties to even) and 0."""
    packed = quantise_weights({"w": torch.tensor([[127.0, -63.5, 0.4], [0.0, 0.0, 0.0]])})
    assert packed["w"].tolist() == [[127, -64, 0], [0, 0, 0]]
    assert float(packed["w.scale"][0]) == 1.0
    assert dequantise_weights(packed)["w"].tolist() == [[127.0, -64.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 3), (2, 1, 7, 8)])
def test_error_is_at_most_half_a_step_of_each_channel(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    # Channels of very different sizes: a scale for all would drown the small ones.
    size = 10.0 ** torch.arange(-2, shape[0] - 2).float()
    weight = torch.randn(shape, generator=generator) * size.reshape(-1, *[1] * (len(shape) - 1))
    packed = quantise_weights({"layer.weight": weight})
    assert (
        packed["layer.weight"].dtype == torch.int8 and packed["layer.weight"].shape == weight.shape
    )
    scale = packed["layer.weight.scale"]
    assert scale.dtype == torch.float16 and scale.shape == (shape[0],)
    # Never too small for the largest weight, and larger than needed by one step of float16 at most.
    needed = weight.flatten(1).abs().amax(1) / 127
    assert bool((scale.float() >= needed).all()) and bool(
        (scale.float() <= (1 + 2**-10) * needed).all()
    )
    again = quantise_weights(dequantise_weights(packed))
    assert all(torch.equal(again[name], packed[name]) for name in packed)
    error = (dequantise_weights(packed)["layer.weight"] - weight).flatten(1).abs().amax(1)
    assert bool((error <= scale.float() / 2 * 1.0001).all())


def test_what_shall_not_be_eight_bit() -> None:
    weights = {
        "first.weight": torch.tensor([[1.0, 1 / 3]]),
        "second.weight": torch.tensor([[1.0, 1 / 3]]),
    }
    packed = quantise_weights(weights, ("first.",))
    assert (
        packed["first.weight"].dtype == torch.float16
        and packed["second.weight"].dtype == torch.int8
    )
    torch.testing.assert_close(
        dequantise_weights(packed)["first.weight"], weights["first.weight"], atol=0, rtol=2**-11
    )


def test_vectors_are_half_precision_and_the_rest_as_it_was() -> None:
    weights = {
        "bias": torch.tensor([1.0, -0.5, 1 / 3]),
        "count": torch.tensor([[3, 70000]]),
        "norm.scale": torch.tensor([2.0]),
    }
    packed = quantise_weights(weights)
    assert set(packed) == set(weights)
    assert packed["bias"].dtype == torch.float16 and packed["count"].dtype == torch.int64
    back = dequantise_weights(packed)
    assert back["bias"].dtype == torch.float32
    torch.testing.assert_close(back["bias"], weights["bias"], atol=0, rtol=2**-11)
    assert back["count"].tolist() == [[3, 70000]]
    # A parameter of that name of its own is no scale of another.
    assert back["norm.scale"].tolist() == [2.0]
