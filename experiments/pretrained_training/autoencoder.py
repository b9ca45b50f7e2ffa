"""A small causal video autoencoder of Wan.

Frames of 64x64 become latents of 12 channels at 32x32, one per frame, as many numbers as a frame
has: splats of the memory reach 30 dB on some walks, and each generated frame passes through the
autoencoder again, so it must lose far less than that. Its weights are set, not trained
(:func:`make_lossless`); :func:`train` and :func:`train_decoder` train it further.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.pretrained_training.training import Training, autocast, load_weights
from experiments.pretrained_training.windows import Recording, random_clips
from worldsim.evaluation.metrics import psnr
from worldsim.runtime.files import replacing

CHANNELS = 12
"""Channels of a latent."""
CLIP = 5
"""Frames of a training clip: the first one, and a group of four, as the encoder reads them."""
KL_WEIGHT = 1e-6
GRADIENT_WEIGHT, SQUARE_WEIGHT = 0.5, 2.0
ROUGHNESS = 0.1
"""Largest noise on latents that the decoder learns from, in their standard deviations."""
LATENTS = "latents.json"


CONSTANT = 100.0
"""Constant channel that makes norms nearly linear. It is far above all others."""


def build(width: int = 32, blocks: int = 1) -> Any:
    """Build it with random weights.

    width: channels of the widest layers.
    blocks: residual blocks per resolution.
    """
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=width,
        z_dim=CHANNELS,
        # Squares of 2x2 pixels become channels. Nothing else is made smaller: the list below is as
        # long as it is because the pipeline takes its length for the levels of the latents.
        dim_mult=[1],
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_res_blocks=blocks,
        temperal_downsample=[False],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        scale_factor_temporal=1,
        scale_factor_spatial=2,
    )


@torch.no_grad()
def make_lossless(vae: Any) -> Any:
    """Set the weights of a new autoencoder so that it returns its input; returns it.

    Residual branches and attention end in zeros. Before the last layer stand a norm over the
    channels, x / |x|, and SiLU. A constant channel of :data:`CONSTANT` makes |x| nearly constant,
    and x = SiLU(x) - SiLU(-x), so a first layer that copies its input with both signs and a last
    one that subtracts them undo each other. The relative error is (|x| / CONSTANT)^2.
    """
    for part, inputs, outputs in (
        (vae.encoder, CHANNELS, 2 * CHANNELS),
        (vae.decoder, CHANNELS, CHANNELS),
    ):
        for name, weight in part.named_parameters():
            if name.endswith(("conv2.weight", "conv2.bias", "proj.weight", "proj.bias")):
                weight.zero_()
        first, last = part.conv_in, part.conv_out
        for layer in (first, last):
            layer.weight.zero_()
            layer.bias.zero_()
        width = first.weight.shape[0]
        if width <= 2 * inputs:
            raise ValueError(f"width {width}: more than {2 * inputs} is needed for both signs")
        # What a norm leaves of the constant is the root of the width.
        scale = CONSTANT / width**0.5
        for i in range(inputs):
            # The last of three frames, the middle of 3x3 pixels.
            first.weight[i, i, -1, 1, 1], first.weight[inputs + i, i, -1, 1, 1] = 1.0, -1.0
            last.weight[i, i, -1, 1, 1], last.weight[i, inputs + i, -1, 1, 1] = scale, -scale
        first.bias[2 * inputs] = CONSTANT
        # Logarithms of variances.
        last.bias[inputs:outputs] = -30.0
    for layer in (vae.quant_conv, vae.post_quant_conv):
        layer.weight.copy_(torch.eye(len(layer.weight))[:, :, None, None, None])
        layer.bias.zero_()
    return vae


def load(folder: Path, device: torch.device, **sizes: int) -> Any:
    """Load a trained one."""
    vae = build(**sizes)
    load_weights(vae, folder)
    found = json.loads((folder / LATENTS).read_text())
    vae.register_to_config(latents_mean=found["mean"], latents_std=found["std"])
    return vae.to(device).eval().requires_grad_(False)


def as_input(clip: Tensor) -> Tensor:
    """Convert frames (b, f, 3, h, w), uint8 or in [0, 1], to (b, 3, f, h, w) in [-1, 1]."""
    unit = clip.float() / 255.0 if clip.dtype == torch.uint8 else clip
    return (unit * 2.0 - 1.0).transpose(1, 2).contiguous()


def encode(vae: Any, video: Tensor) -> Tensor:
    """Return the normalised latents (b, c, l, y, x) float32 of a video (b, 3, f, h, w)."""
    with torch.no_grad(), autocast(video.device):
        mode = vae.encode(video).latent_dist.mode().float()
    mean, std = (
        torch.tensor(x, device=mode.device).view(1, -1, 1, 1, 1)
        for x in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (mode - mean) / std


def decode_unclamped(vae: Any, latents: Tensor) -> Tensor:
    """Decode as ``vae.decode`` does, without its clamp, behind which gradients vanish."""
    vae.clear_cache()
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    x = vae.post_quant_conv(latents)
    frames = []
    for i in range(x.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(
                x[:, :, i : i + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=i == 0,
            )
        )
    vae.clear_cache()
    return unpatchify(torch.cat(frames, 2), vae.config.patch_size)


def loss_of(found: Tensor, truth: Tensor) -> Tensor:
    """Return L1, squared and gradient errors of videos (..., h, w), weighted."""
    error = found - truth
    across = (error.diff(dim=-1)).abs().mean() + (error.diff(dim=-2)).abs().mean()
    return error.abs().mean() + SQUARE_WEIGHT * error.square().mean() + GRADIENT_WEIGHT * across


def train(
    vae: Any,
    recording: Recording,
    folder: Path,
    seconds: float,
    batch: int = 32,
    steps: int | None = None,
    learning_rate: float = 8e-4,
) -> None:
    """Train it, then store mean and standard deviation of its latents."""
    device = recording.rgb.device
    training = Training(vae, folder, seconds, learning_rate, steps, weight_decay=0.0)
    generator = torch.Generator().manual_seed(training.step)
    with as_flat_convolutions(vae):
        for step in training.run():
            video = as_input(draw_clip(recording, step, batch, generator))
            with autocast(device):
                posterior = vae.encode(video).latent_dist
                found = decode_unclamped(vae, posterior.sample())
            loss = loss_of(found.float(), video) + KL_WEIGHT * posterior.kl().float().mean()
            training.update(loss)
            if step % 100 == 0:
                training.log(loss=loss, psnr=_psnr(found, video))
    store_statistics(vae, recording, folder)


def draw_clip(recording: Recording, step: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return the clips (b, f, 3, h, w) uint8 of a step, mirrored in every other step."""
    clip = random_clips(recording, CLIP, batch, generator)
    return clip.flip(-1) if step % 2 else clip


def train_decoder(
    vae: Any,
    recording: Recording,
    folder: Path,
    seconds: float,
    batch: int = 32,
    steps: int | None = None,
    learning_rate: float = 6e-4,
) -> None:
    """Train the decoder alone, for latents that a transformer has learned already.

    Latents are roughened a little, as generated ones are.
    """
    device = recording.rgb.device
    with as_flat_convolutions(vae):
        parts = torch.nn.ModuleDict(
            {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
        )
        parts.requires_grad_(True)
        training = Training(parts, folder, seconds, learning_rate, steps, weight_decay=0.0)
        generator = torch.Generator().manual_seed(10**5 + training.step)
        std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
        for step in training.run():
            video = as_input(draw_clip(recording, step, batch, generator))
            with torch.no_grad(), autocast(device):
                latents = vae.encode(video).latent_dist.mode().float()
            rough = torch.rand(batch, 1, 1, 1, 1, device=device) * ROUGHNESS
            latents = latents + rough * std * torch.randn_like(latents)
            with autocast(device):
                found = decode_unclamped(vae, latents)
            loss = loss_of(found.float(), video)
            training.update(loss)
            if step % 50 == 0:
                training.log(loss=loss, psnr=_psnr(found, video))


def decoding_parts(vae: Any) -> torch.nn.ModuleDict:
    """Return the modules behind the latents."""
    return torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})


@contextlib.contextmanager
def as_flat_convolutions(vae: Any) -> Iterator[None]:
    """Compute the autoencoder's causal convolutions as convolutions of stacked frames.

    The results are the same. On the GPU that was used, ``conv3d`` in bfloat16 took several times as
    long.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    convolutions = [x for x in vae.modules() if isinstance(x, WanCausalConv3d)]
    changed = [x for x in convolutions if "forward" not in vars(x)]
    for convolution in changed:
        convolution.forward = functools.partial(_flat_convolution, convolution)
    try:
        yield
    finally:
        for convolution in changed:
            del convolution.forward


def _flat_convolution(convolution: Any, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    padding = list(convolution._padding)
    if cache_x is not None and padding[4] > 0:
        x = torch.cat([cache_x.to(x.device), x], dim=2)
        padding[4] -= cache_x.shape[2]
    x = F.pad(x, padding)
    weight, (step, *stride) = convolution.weight, convolution.stride
    out, _, length, *_ = weight.shape
    frames = (x.shape[2] - length) // step + 1
    shifted = [x[:, :, i : i + step * (frames - 1) + 1 : step] for i in range(length)]
    flat = torch.cat(shifted, 1).transpose(1, 2).flatten(0, 1)
    kernel = weight.transpose(1, 2).reshape(out, -1, *weight.shape[3:])
    found = F.conv2d(flat, kernel, convolution.bias, tuple(stride))
    return found.unflatten(0, (len(x), frames)).transpose(1, 2)


def _psnr(found: Tensor, truth: Tensor) -> float:
    error = (found.detach().float().clamp(-1, 1) - truth).square().mean((1, 3, 4)) / 4.0
    return float(-10.0 * error.clamp(min=1e-4).log10().mean())


@torch.no_grad()
def store_statistics(vae: Any, recording: Recording, folder: Path, clips: int = 32) -> None:
    """Write the channels' mean and deviation, and the PSNR of decoded modes, to the folder."""
    generator = torch.Generator().manual_seed(10**6)
    clip = random_clips(recording, CLIP, clips, generator)
    vae.register_to_config(latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS)
    latents = encode(vae, as_input(clip))
    with autocast(clip.device):
        decoded = vae.decode(latents).sample.float()
    frames = ((decoded / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).transpose(1, 2)
    found = {
        "mean": latents.mean((0, 2, 3, 4)).tolist(),
        "std": latents.std((0, 2, 3, 4)).tolist(),
        "psnr": float(psnr(frames, clip).mean()),
    }
    print("autoencoder", {"psnr": found["psnr"]}, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / LATENTS) as path:
        path.write_text(json.dumps(found))
    vae.register_to_config(latents_mean=found["mean"], latents_std=found["std"])
