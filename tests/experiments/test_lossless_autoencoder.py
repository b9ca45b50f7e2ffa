"""The small autoencoder of Wan with set weights returns its input, as its training form does."""

from __future__ import annotations

import torch

from experiments.pretrained_training.autoencoder import (
    CHANNELS,
    CLIP,
    as_flat_convolutions,
    build,
    decode_unclamped,
    make_lossless,
)


def test_it_returns_its_input() -> None:
    vae = make_lossless(build()).eval()
    video = torch.rand(1, 3, CLIP, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        assert latents.shape == (1, CHANNELS, CLIP, 8, 8)
        decoded = vae.decode(latents).sample
        with as_flat_convolutions(vae):
            flat = decode_unclamped(vae, latents)
    # 48 dB and more: the error is (|x| / 100)^2 of a pixel, at most 0.25% of white noise.
    assert (decoded - video).abs().max() < 0.005
    torch.testing.assert_close(flat, decoded, atol=1e-3, rtol=0)
