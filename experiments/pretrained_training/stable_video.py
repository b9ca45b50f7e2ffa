"""A small Stable Video Diffusion, trained on the same windows.

The picture comes from :func:`worldsim.pretrained.stable_video.animated_picture`, as at use.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.pretrained_training.autoencoder import LATENTS, loss_of
from experiments.pretrained_training.training import Training, autocast, load_weights
from experiments.pretrained_training.wan_vace import disturb
from experiments.pretrained_training.windows import (
    Recording,
    Windows,
    past_and_future,
    random_clips,
)
from worldsim.evaluation.metrics import psnr
from worldsim.pretrained.stable_video import animated_picture
from worldsim.runtime.files import replacing

CHANNELS = 16
"""Channels of a latent."""
FRAMES = 2
"""Frames per clip, the fewest that the pipeline generates. The adapter emits the first; the second
one repeats it."""
SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -0.2, 1.4
"""Noise levels in training, log-normal (Karras et al. 2022)."""
NOISE, FPS, BUCKET = 0.02, 6, 127
"""Noise on the picture, frames per second less one and motion: the pipeline's defaults."""
EMBEDDING = 64


@dataclass(frozen=True)
class Sizes:
    """Channels per resolution."""

    autoencoder: tuple[int, ...] = (64, 128)
    network: tuple[int, ...] = (64, 128, 256)


def build_autoencoder(sizes: Sizes) -> Any:
    """Build the autoencoder with random weights: 64x64 becomes 32x32."""
    from diffusers import AutoencoderKLTemporalDecoder

    torch.manual_seed(0)
    return AutoencoderKLTemporalDecoder(
        block_out_channels=sizes.autoencoder,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.autoencoder),
        latent_channels=CHANNELS,
    )


def build_networks(sizes: Sizes) -> nn.ModuleDict:
    """Build the network ``unet`` and the picture's encoder ``clip`` with random weights."""
    from diffusers import UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        in_channels=2 * CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=sizes.network,
        layers_per_block=1,
        # The finest level has no attention: it would take most of the time.
        down_block_types=(
            "DownBlockSpatioTemporal",
            *("CrossAttnDownBlockSpatioTemporal",) * (len(sizes.network) - 1),
        ),
        up_block_types=(
            *("CrossAttnUpBlockSpatioTemporal",) * (len(sizes.network) - 1),
            "UpBlockSpatioTemporal",
        ),
        cross_attention_dim=EMBEDDING,
        num_attention_heads=4,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
    )
    clip = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=EMBEDDING,
            projection_dim=EMBEDDING,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=224,
            intermediate_size=2 * EMBEDDING,
            patch_size=56,
        )
    )
    return nn.ModuleDict({"unet": unet, "clip": clip})


def pipeline_of(vae: Any, networks: Any) -> Any:
    """Return the pipeline that the adapter calls."""
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    pipeline = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=networks["clip"],
        unet=networks["unet"],
        scheduler=EulerDiscreteScheduler(
            prediction_type="v_prediction",
            use_karras_sigmas=True,
            timestep_type="continuous",
            sigma_min=SIGMA_MIN,
            sigma_max=SIGMA_MAX,
        ),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_autoencoder(folder: Path, sizes: Sizes, device: torch.device) -> Any:
    """Load a trained autoencoder."""
    vae = build_autoencoder(sizes)
    load_weights(vae, folder)
    vae.register_to_config(scaling_factor=json.loads((folder / LATENTS).read_text())["scale"])
    return vae.to(device).eval().requires_grad_(False)


def _unit(rgb: Tensor) -> Tensor:
    return rgb.float() / 127.5 - 1.0


def train_autoencoder(
    vae: Any,
    recording: Recording,
    folder: Path,
    seconds: float,
    batch: int = 64,
    steps: int | None = None,
) -> None:
    """Train it on pairs of frames, then store the scale of its latents."""
    device = recording.rgb.device
    training = Training(vae, folder, seconds, 4e-4, steps, weight_decay=0.0)
    generator = torch.Generator().manual_seed(training.step)
    for step in training.run():
        clip = _unit(random_clips(recording, FRAMES, batch, generator)).flatten(0, 1)
        with autocast(device):
            posterior = vae.encode(clip).latent_dist
            found = vae.decode(posterior.sample(), num_frames=FRAMES).sample
        loss = loss_of(found.float(), clip) + 1e-6 * posterior.kl().float().mean()
        training.update(loss)
        if step % 100 == 0:
            training.log(loss=loss)
    with torch.no_grad(), autocast(device):
        clip = random_clips(recording, FRAMES, batch, generator).flatten(0, 1)
        latents = vae.encode(_unit(clip)).latent_dist.mode().float()
        decoded = vae.decode(latents, num_frames=FRAMES).sample.float()
    frames = ((decoded / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    found = {"scale": float(1.0 / latents.std()), "psnr": float(psnr(frames, clip).mean())}
    print(folder.name, found, flush=True)
    with replacing(folder / LATENTS) as path:
        path.write_text(json.dumps(found))


def embed(clip: Any, picture: Tensor) -> Tensor:
    """Return the embeddings (b, 1, c) of pictures (b, 3, h, w) in [-1, 1], as the pipeline does."""
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as svd
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    large = svd._resize_with_antialiasing(picture, (224, 224)) / 2 + 0.5
    mean, std = (
        torch.tensor(x, device=picture.device).view(3, 1, 1)
        for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return clip((large - mean) / std).image_embeds[:, None]


def denoising_loss(networks: Any, vae: Any, picture: Tensor, future: Tensor) -> Tensor:
    """Return the loss of one batch: v-prediction at continuous noise levels.

    picture: (b, 3, h, w) uint8. future: (b, 2, 3, h, w) uint8.
    """
    b, f = future.shape[:2]
    image = _unit(picture)
    with torch.no_grad(), autocast(image.device):
        noisy = image + NOISE * torch.randn_like(image)
        shown = vae.encode(noisy).latent_dist.mode().float()
        clean = vae.encode(_unit(future.flatten(0, 1))).latent_dist.mode().float()
    clean = clean.unflatten(0, (b, f)) * vae.config.scaling_factor
    sigma = (torch.randn(b, device=image.device) * LOG_SIGMA_STD + LOG_SIGMA_MEAN).exp()
    level = sigma[:, None, None, None, None]
    noisy = clean + level * torch.randn_like(clean)
    scaled = noisy / (level**2 + 1).sqrt()
    times = torch.tensor([[FPS, BUCKET, NOISE]], device=image.device).expand(b, 3)
    with autocast(image.device):
        found = networks["unet"](
            torch.cat([scaled, shown[:, None].expand(b, f, *shown.shape[1:])], 2),
            0.25 * sigma.log(),
            encoder_hidden_states=embed(networks["clip"], image),
            added_time_ids=times,
            return_dict=False,
        )[0].float()
    target = (noisy / (level**2 + 1) - clean) * (level**2 + 1).sqrt() / level
    return (found - target).square().mean()


def train(
    networks: Any,
    vae: Any,
    recording: Recording,
    windows: Windows,
    folder: Path,
    seconds: float,
    past: int,
    batch: int = 64,
    dropout: float = 0.2,
    steps: int | None = None,
) -> None:
    """Train network and encoder; in a share ``dropout`` of the windows memory shows nothing.

    past: past frames of the windows.
    """
    device = recording.rgb.device
    training = Training(networks, folder, seconds, 3e-4, steps)
    generator = torch.Generator(device).manual_seed(training.step)
    for step in training.run():
        index = torch.randint(len(windows), (batch,), generator=generator, device=device)
        before, future = past_and_future(recording, windows, index, past)
        dropped = torch.rand(batch, generator=generator, device=device) < dropout
        known = windows.known[index] & ~dropped[:, None, None, None]
        seen = disturb(before[:, -1:], generator)
        picture = animated_picture(seen, windows.control[index], known)
        future = future[:, :1].expand(-1, FRAMES, -1, -1, -1)
        if step % 2:
            picture, future = picture.flip(-1), future.flip(-1)
        loss = denoising_loss(networks, vae, picture, future)
        training.update(loss)
        if step % 100 == 0:
            training.log(loss=loss)
