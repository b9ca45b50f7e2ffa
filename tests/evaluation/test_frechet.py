"""Fréchet and kernel distances against values computed by hand, and the frozen encoder's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.evaluation.encoder import (
    DIMENSIONS,
    FOLDER,
    WEIGHTS,
    FrameEncoder,
    encode,
    load_encoder,
    save_encoder,
)
from worldsim.evaluation.frechet import (
    frechet_distance,
    frechet_with_interval,
    kernel_distance,
    kernel_with_interval,
)
from worldsim.runtime.files import sha256_of


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_frechet_of_numbers():
    # Means 1 and 5, unbiased variances 2 and 8: 4^2 + 2 + 8 - 2 sqrt(16).
    assert frechet_distance(column(0, 2), column(3, 7)) == pytest.approx(16 + 2 + 8 - 8)


def test_frechet_of_correlated_pairs():
    # Covariances diag(2, 0) and diag(0, 2), equal means: their product is 0, traces remain.
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    b = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    assert frechet_distance(a, b) == pytest.approx(4.0)


def test_frechet_does_not_depend_on_axes():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 6, generator=generator) * (1 + torch.arange(6)) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(
        frechet_distance(a, b), rel=1e-4
    )
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def test_kernel_of_numbers():
    # d = 1: k(0, 2) = 1, k(1, 3) = 64; across 1, 1, 27, 343 / 4 = 93.
    assert kernel_distance(column(0, 2), column(1, 3)) == pytest.approx(1 + 64 - 2 * 93)


def test_intervals_hold_the_estimate():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(400, 4, generator=generator)
    b = torch.randn(400, 4, generator=generator) + 0.5
    found = frechet_with_interval(a, b, groups=8)
    assert 0 < found.low < found.value < found.high
    assert found.value == pytest.approx(frechet_distance(a, b))
    kernel = kernel_with_interval(a, b, groups=8)
    assert 0 < kernel.low < kernel.value < kernel.high
    same = kernel_with_interval(a, torch.randn(400, 4, generator=generator), groups=8)
    assert same.low < 0.05


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "2 or more"),
        (torch.full((4, 3), float("nan")), torch.zeros(4, 3), "not finite"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "use one encoder"),
    ],
)
def test_bad_features_are_named(a: torch.Tensor, b: torch.Tensor, words: str):
    with pytest.raises(InvalidInputError, match=words):
        frechet_distance(a, b)
    with pytest.raises(InvalidInputError, match=words):
        kernel_distance(a, b)


def test_too_few_for_an_interval():
    with pytest.raises(InvalidInputError, match="too few"):
        kernel_with_interval(torch.zeros(16, 3), torch.zeros(16, 3), groups=8)


def test_the_shipped_encoder_is_the_frozen_one():
    # Distances of different encoders cannot be compared: it must never change.
    digest = "14862bba73821cdd19535501df0ed685e040d9ac54306725a9f7549004583901"
    assert sha256_of(FOLDER / WEIGHTS) == digest
    encoder = load_encoder()
    rgb = torch.full((2, 3, 64, 64), 40, dtype=torch.uint8)
    rgb[1, :, ::2] = 90
    features = encode(encoder, rgb)
    assert features.shape == (2, DIMENSIONS) and bool(features.isfinite().all())
    assert float((features[0] - features[1]).norm()) > 1.0


def test_encoder_comes_back_from_its_files(tmp_path: Path):
    torch.manual_seed(0)
    encoder = FrameEncoder(("brick", "sky"), levels=(8, 16))
    digest = save_encoder(encoder, tmp_path, {"task": "test"})
    loaded = load_encoder(tmp_path)
    rgb = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    features = encode(loaded, rgb, batch=2)
    assert features.shape == (5, DIMENSIONS) and features.dtype == torch.float32
    torch.testing.assert_close(
        features, encode(encoder.requires_grad_(False), rgb), atol=0.02, rtol=0.02
    )
    assert len(digest) == 64
    with pytest.raises(InvalidInputError, match="uint8"):
        encode(loaded, rgb.float())
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFileError):
        load_encoder(tmp_path)
