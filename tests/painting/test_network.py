"""The painter's network: shapes, what depends on what, and its size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from worldsim.diffusion.shapes import shapes_only
from worldsim.errors import InvalidInputError
from worldsim.painting.network import PainterBatch, PainterNetwork


def small(seed: int = 0) -> PainterNetwork:
    """Layers that start at zero get random weights, so that everything has an effect."""
    torch.manual_seed(seed)
    network = PainterNetwork(("brick", "sky"), dim=32, depth=2, heads=2, pixel=8).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def random_batch(b: int, n: int, h: int = 16, w: int = 16) -> PainterBatch:
    generator = torch.Generator().manual_seed(b * 100 + n)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    level = torch.rand(b, n, 2, generator=generator)
    known = torch.ones(b, 2)
    return PainterBatch(
        normal(b, n, 5, h, w), level, normal(b, n, 5, h, w), normal(b, n, 6, h, w), known / 2, known
    )


@pytest.mark.parametrize(("b", "n", "h", "w"), [(2, 1, 16, 16), (1, 8, 16, 16), (1, 3, 12, 24)])
def test_shapes(b: int, n: int, h: int, w: int):
    out = small()(random_batch(b, n, h, w))
    assert out.shape == (b, n, 5, h, w) and out.dtype == torch.float32


def test_the_shipped_size_is_at_most_23_million():
    with shapes_only():
        network = PainterNetwork(attributes=tuple("abcdefghijklmnopqrst"))
    assert sum(p.numel() for p in network.parameters()) <= 23_000_000


def test_the_same_input_gives_the_same_output_and_sets_do_not_mix():
    network, batch = small(), random_batch(3, 2)
    first = network(batch)
    assert torch.equal(first, network(batch))
    parts = {f.name: getattr(batch, f.name)[1:2] for f in dataclasses.fields(batch)}
    torch.testing.assert_close(network(PainterBatch(**parts)), first[1:2], atol=1e-5, rtol=1e-5)


def test_views_of_a_set_see_one_another():
    network, batch = small(), random_batch(1, 3)
    other = dataclasses.replace(batch, noisy=batch.noisy.clone())
    other.noisy[:, 2] += 1.0
    assert not torch.allclose(network(batch)[:, 0], network(other)[:, 0], atol=1e-4)


@pytest.mark.parametrize("name", ["level", "memory", "rays", "attributes"])
def test_every_condition_has_an_effect(name: str):
    network, batch = small(), random_batch(1, 2)
    other = dataclasses.replace(batch, **{name: getattr(batch, name) * 0.5})
    assert not torch.allclose(network(batch), network(other), atol=1e-5)


def test_attributes_that_are_not_told_have_none():
    network, batch = small(), random_batch(1, 2)
    untold = dataclasses.replace(batch, known=torch.zeros(1, 2))
    other = dataclasses.replace(untold, attributes=torch.ones(1, 2))
    assert torch.equal(network(untold), network(other))


def test_bad_sizes_are_named():
    with pytest.raises(InvalidInputError, match="18x16"):
        small()(random_batch(1, 1, 18, 16))
    with pytest.raises(InvalidInputError, match="dim = 30"):
        PainterNetwork(dim=30, heads=2)
