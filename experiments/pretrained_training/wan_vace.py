"""A small Wan-VACE transformer, trained with flow matching on windows with the memory's views.

Video and mask come from :func:`worldsim.pretrained.wan_vace.video_and_mask`, as at use. Their
latents are laid out as ``WanVACEPipeline`` does it; :func:`check_conditions` compares the two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.pretrained_training import autoencoder
from experiments.pretrained_training.training import Training, autocast
from experiments.pretrained_training.windows import Recording, Windows, past_and_future
from worldsim.pretrained.wan_vace import video_and_mask

PAST, FRAMES = 4, 1
"""Frames that a chunk continues, and frames of a chunk. Longer chunks would be cut: the camera of
these walks rarely moves as planned."""
TEXT, TOKENS = 32, 4
"""Width and number of prompt embeddings, all zero: no prompt takes part."""
SHIFT = 3.0
"""Shift of the noise levels of ``FlowMatchEulerDiscreteScheduler``, in training and sampling."""
MASK_CHANNELS = 4
"""Pixels of a frame per latent pixel: 2x2."""
PATCH = 4
"""Side of a token in latent pixels: 64 tokens per latent frame."""
LEVELS = 1000
PAST_WEIGHT = 0.1
"""Weight of the loss of latents of past frames, which no one reads."""


@dataclass(frozen=True)
class Sizes:
    """The transformer's sizes."""

    heads: int = 6
    head_dim: int = 64
    layers: int = 8
    control: tuple[int, ...] = (0, 2, 4, 6)
    """Layers that receive the control branch."""


def build(sizes: Sizes) -> Any:
    """Build the transformer with random weights."""
    from diffusers import WanVACETransformer3DModel

    torch.manual_seed(0)
    width = sizes.heads * sizes.head_dim
    return WanVACETransformer3DModel(
        patch_size=(1, PATCH, PATCH),
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_dim,
        in_channels=autoencoder.CHANNELS,
        out_channels=autoencoder.CHANNELS,
        text_dim=TEXT,
        freq_dim=128,
        ffn_dim=4 * width,
        num_layers=sizes.layers,
        vace_layers=list(sizes.control),
        vace_in_channels=2 * autoencoder.CHANNELS + MASK_CHANNELS,
        rope_max_seq_len=64,
    )


def pipeline_of(vae: Any, transformer: Any) -> Any:
    """Return the pipeline that the adapter calls."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanVACEPipeline

    pipeline = WanVACEPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def prompt(device: torch.device) -> Tensor:
    """Return the prompt embeddings (1, 4, 32), zeros."""
    return torch.zeros(1, TOKENS, TEXT, device=device)


def conditions(vae: Any, video: Tensor, mask: Tensor) -> Tensor:
    """Return the control latents (b, 28, l, y, x) float32, as the pipeline prepares them.

    video, mask: (b, f, 3, h, w) of :func:`worldsim.pretrained.wan_vace.video_and_mask`.
    """
    x, holes = autoencoder.as_input(video), (mask > 0.5).float().transpose(1, 2)
    inactive = autoencoder.encode(vae, x * (1 - holes))
    # What is to be generated is grey, which is 0: the second video is the same for all windows.
    reactive = x[:1] * holes[:1]
    assert not bool((x * holes).any()), "holes must be grey"
    empty = autoencoder.encode(vae, reactive).expand_as(inactive)
    latents, height, width = inactive.shape[2:]
    b, _, f = holes.shape[:3]
    side = holes.shape[-1] // width
    cells = holes[:, 0].reshape(b, f, height, side, width, side).permute(0, 3, 5, 1, 2, 4)
    cells = F.interpolate(cells.flatten(1, 2), (latents, height, width), mode="nearest-exact")
    return torch.cat([inactive, empty, cells], 1)


@torch.no_grad()
def check_conditions(pipeline: Any, video: Tensor, mask: Tensor) -> None:
    """Raise AssertionError unless :func:`conditions` gives what the pipeline prepares.

    video, mask: (1, f, 3, h, w).
    """
    device = next(pipeline.vae.parameters()).device
    height, width = video.shape[-2:]
    ready = pipeline.preprocess_conditions(
        video, mask, None, 1, height, width, video.shape[1], torch.float32, device
    )
    with autocast(device):
        latents = pipeline.prepare_video_latents(*ready, None, device)
    theirs = torch.cat([latents.float(), pipeline.prepare_masks(ready[1], ready[2])], 1)
    ours = conditions(pipeline.vae, video.to(device), mask.to(device))
    worst = float((ours - theirs).abs().max())
    assert worst < 0.5, f"control latents differ by {worst} from the pipeline's"


@dataclass(frozen=True)
class Encoded:
    """Latents of windows: the clip (w, c, l, y, x) and its conditions without the constant part.

    clip, inactive: (w, 12, l, y, x) bfloat16. mask: (w, 4, l, y, x) bool. empty: (1, 12, l, y, x).
    """

    clip: Tensor
    inactive: Tensor
    mask: Tensor
    empty: Tensor

    def __len__(self) -> int:
        return len(self.clip)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return clips and control latents (b, 28, l, y, x), float32."""
        inactive = self.inactive[index].float()
        empty = self.empty.float().expand_as(inactive)
        control = torch.cat([inactive, empty, self.mask[index].float()], 1)
        return self.clip[index].float(), control


def disturb(past: Tensor, generator: torch.Generator, share: float = 0.6) -> Tensor:
    """Blur and roughen some of the past frames (b, p, 3, h, w) uint8, as generated ones are."""
    b, p = past.shape[:2]
    x = past.float()
    small = F.avg_pool2d(x.flatten(0, 1), 2)
    soft = F.interpolate(small, x.shape[-2:], mode="bilinear").view_as(x)

    def draw(scale: float) -> Tensor:
        return torch.rand(b, 1, 1, 1, 1, generator=generator, device=past.device) * scale

    disturbed = torch.lerp(x, soft, draw(1.0))
    noise = torch.randn(x.shape, generator=generator, device=past.device)
    disturbed = disturbed + noise * draw(6.0) + (draw(2.0) - 1.0) * 6.0
    chosen = draw(1.0) < share
    return torch.where(chosen, disturbed, x).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def encode_windows(
    vae: Any,
    recording: Recording,
    windows: Windows,
    count: int,
    dropout: float,
    seed: int,
    batch: int = 128,
) -> Encoded:
    """Encode ``count`` windows, drawn at random.

    Some past frames are disturbed, some windows are mirrored, and in a share ``dropout`` of them
    the memory shows nothing.
    """
    device = recording.rgb.device
    generator = torch.Generator(device).manual_seed(seed)
    chosen = torch.randperm(len(windows), generator=generator, device=device)[:count]
    clips, inactive, masks, empty = [], [], [], None
    for index in chosen.split(batch):
        past, future = past_and_future(recording, windows, index, PAST)
        control, known = windows.control[index], windows.known[index]
        mirror = torch.rand(len(index), generator=generator, device=device) < 0.5
        dropped = torch.rand(len(index), generator=generator, device=device) < dropout
        known = known & ~dropped[:, None, None, None]
        clip = torch.cat([past, future], 1)
        seen = disturb(past, generator)
        parts = [_mirror(x, mirror) for x in (clip, seen, control, known)]
        video, mask = video_and_mask(*parts[1:])
        found = conditions(vae, video, mask)
        clips.append(autoencoder.encode(vae, autoencoder.as_input(parts[0])).bfloat16())
        channels = autoencoder.CHANNELS
        inactive.append(found[:, :channels].bfloat16())
        empty = found[:1, channels : 2 * channels].bfloat16()
        masks.append(found[:, 2 * channels :].bool())
    assert empty is not None
    return Encoded(torch.cat(clips), torch.cat(inactive), torch.cat(masks), empty)


def _mirror(x: Tensor, mirror: Tensor) -> Tensor:
    return torch.where(mirror.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def flow_loss(transformer: Any, clip: Tensor, control: Tensor) -> Tensor:
    """Return the flow-matching loss of one batch (Lipman et al. 2023), with the levels of Wan."""
    u = torch.rand(len(clip), device=clip.device)
    sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
    noise = torch.randn_like(clip)
    share = sigma[:, None, None, None, None]
    with autocast(clip.device):
        found = transformer(
            hidden_states=(1 - share) * clip + share * noise,
            timestep=sigma * LEVELS,
            encoder_hidden_states=prompt(clip.device).expand(len(clip), -1, -1),
            control_hidden_states=control,
            return_dict=False,
        )[0]
    error = (found.float() - (noise - clip)).square().mean((0, 1, 3, 4))
    weight = torch.ones_like(error)
    weight[:PAST] = PAST_WEIGHT
    return (error * weight).sum() / weight.sum()


def train(
    transformer: Any,
    vae: Any,
    recording: Recording,
    windows: Windows,
    folder: Path,
    seconds: float,
    batch: int = 128,
    count: int = 30_000,
    dropout: float = 0.2,
    rounds: int = 3,
    steps: int | None = None,
    learning_rate: float = 6e-4,
    compiled: bool = True,
) -> None:
    """Train it; windows are encoded anew ``rounds`` times, with other draws.

    compiled: compile its blocks on a GPU.
    """
    device = recording.rgb.device
    if compiled and device.type == "cuda":
        transformer.compile_repeated_blocks(dynamic=False)
    training = Training(transformer, folder, seconds, learning_rate, steps)
    encoded, done, renew = None, 0, 0.0
    for step in training.run():
        if encoded is None or (training.elapsed >= renew and done < rounds):
            encoded, begun = None, time.perf_counter()
            with autoencoder.as_flat_convolutions(vae):
                encoded = encode_windows(vae, recording, windows, count, dropout, done + 1)
            done += 1
            now = training.elapsed + time.perf_counter() - begun
            renew = now + (seconds - now) / (rounds - done + 1)
        index = torch.randint(len(encoded), (batch,), device=device)
        try:
            loss = flow_loss(transformer, *encoded.batch(index))
            training.update(loss)
        except Exception as error:
            if not compiled:
                raise
            print(f"not compiled: {type(error).__name__}: {str(error)[:500]}", flush=True)
            compiled = False
            for module in transformer.modules():
                module._compiled_call_impl = None
            continue
        if step % 100 == 0:
            training.log(loss=loss)
