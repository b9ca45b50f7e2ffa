"""Training an adapter of a video model on one's own clips.

The pipeline itself prepares the model's inputs for a clip's past and control, so training and use
agree. Its call is stopped at the first use of the denoiser, which is then run on the clip's own
latents with noise.

Wan-VACE learns the velocity of rectified flow (Liu et al. 2022); Stable Video Diffusion learns as
it was trained (EDM, Karras et al. 2022). Other conventions cannot be trained here: any LoRA in
peft's format, made elsewhere, can be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.pretrained.adapter import VideoAdapter
from worldsim.pretrained.lora import (
    ACTION_INPUT,
    MOTION,
    action_numbers,
    time_dim,
    time_module,
)
from worldsim.protocols import VideoInputs
from worldsim.runtime.extras import missing
from worldsim.runtime.files import replacing_folder, save_tensors
from worldsim.runtime.json_config import check_ranges, write_json
from worldsim.runtime.ranges import Count, Number, Rate, Seed
from worldsim.world.adapters import CONFIG, PREFIX, WEIGHTS, check_share

NAME = "adapter"
TEMPORAL = r"(.*temporal_transformer_blocks\.\d+|(vace_)?blocks\.\d+)\.attn1\.to_(q|k|v|out\.0)"
"""Layers that are adapted: temporal attention of UNets, attention over space and time of
transformers."""
SIGMA = 0.7, 1.6
"""Mean and standard deviation of log noise levels of Stable Video Diffusion's training."""
Loss = Callable[[VideoAdapter, "Captured", Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class LoraConfig:
    """How an adapter of a video model is trained."""

    rank: Count = 16
    """Rank of the matrices."""
    steps: Count = 1000
    """Training steps, one clip each."""
    learning_rate: Rate = 1e-3
    """Of AdamW; constant."""
    actions: Number = 0
    """Number of discrete actions; 0 for action vectors, or for no action input."""
    action_dim: Number = 0
    """Size of an action vector."""
    seed: Seed = 0
    """Seed of noise, noise levels and the order of clips."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Clip:
    """A clip to train on.

    inputs: what its chunk is generated from, as in use, with the action and the motion.
    frames: (n, 3, h, w) uint8, the true frames of the chunk.
    """

    inputs: VideoInputs
    frames: Tensor


@dataclass(frozen=True)
class Captured:
    """Inputs of a denoiser: ``hidden`` is its first argument, ``named`` the others."""

    hidden: Tensor
    named: dict[str, Any]


class _StopError(Exception):
    def __init__(self, captured: Captured) -> None:
        self.captured = captured


def train_lora(model: VideoAdapter, clips: Sequence[Clip], out: Path, config: LoraConfig) -> Path:
    """Train an adapter and write it to the folder ``out``; returns the folder.

    The model's own weights never change. Raises InvalidInputError for a convention that cannot be
    trained, no clips, or a rank that takes more than 5% of the model's parameters;
    MissingDependencyError without peft.
    """
    loss_of = LOSSES.get(model.name)
    if loss_of is None or not clips:
        raise InvalidInputError(
            f"adapters of {model.name} models cannot be trained here, only of {', '.join(LOSSES)}: "
            f"train a LoRA in peft's format with the model's own script, and load it"
            if loss_of is None
            else "no clips: give at least one"
        )
    model.identify()  # While the model has its own weights alone.
    denoiser = model.adapters.denoiser
    layers = adapted_layers(denoiser)
    check_share({model.adapters.part: denoiser}, layers, config.rank)
    settings = _inject(denoiser, layers, config)
    weight = _action_input(denoiser, config)
    trained = [p for name, p in denoiser.named_parameters() if ".lora_" in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [*trained, *([] if weight is None else [weight])], config.learning_rate, weight_decay=0.0
    )
    generator = torch.Generator().manual_seed(config.seed)
    hook = _add_action(denoiser, weight, config)
    try:
        for _ in range(config.steps):
            clip = clips[int(torch.randint(len(clips), (), generator=generator))]
            hook(clip.inputs)
            captured = capture(model, clip.inputs)
            loss = loss_of(model, captured, _video(clip), generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        _write(model, denoiser, weight, out, settings)
    finally:
        hook(None)
        _remove(denoiser)
    return out


def adapted_layers(denoiser: nn.Module) -> list[str]:
    """Return the names of the layers that are adapted.

    Raises InvalidInputError if there is none.
    """
    names = [name for name, _ in denoiser.named_modules() if re.fullmatch(TEMPORAL, name)]
    if not names:
        raise InvalidInputError(
            f"{type(denoiser).__name__} has no layers called {TEMPORAL}: no adapter can be trained"
        )
    return names


def capture(model: VideoAdapter, inputs: VideoInputs) -> Captured:
    """Return the inputs of the denoiser's first use for a chunk."""

    def stop(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        names = ("hidden_states", "timestep", "encoder_hidden_states")
        given = dict(zip(names, arguments, strict=False)) | named
        raise _StopError(Captured(given.pop("hidden_states", None), given))

    handle = model.adapters.denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.generate(inputs)
    except _StopError as found:
        return found.captured
    finally:
        handle.remove()
    raise WorldsimError(f"{type(model.pipeline).__name__} did not use its denoiser")


def flow_loss(
    model: VideoAdapter, captured: Captured, video: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the loss of rectified flow for a clip."""
    vae, hidden = model.pipeline.vae, captured.hidden
    with torch.no_grad():
        # (1, c, f, h, w) in [-1, 1].
        latents = vae.encode((2.0 * video - 1.0).transpose(0, 1)[None].to(vae.dtype))
        latents = latents.latent_dist.mode().float()
        shape = (1, -1, 1, 1, 1)
        mean, std = (torch.tensor(x, device=latents.device).view(shape) for x in (
            vae.config.latents_mean, vae.config.latents_std))  # fmt: skip
        latents = (latents - mean) / std
    sigma = torch.rand((), generator=generator).to(latents)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    noisy = (1.0 - sigma) * latents + sigma * noise
    time = 1000.0 * sigma.expand(len(hidden))
    out = _run(model, noisy.expand(len(hidden), *noisy.shape[1:]).to(hidden), time, captured)
    return (out.float() - (noise - latents)).square().mean()


def edm_loss(
    model: VideoAdapter, captured: Captured, video: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the loss of Stable Video Diffusion for a clip."""
    vae, hidden = model.pipeline.vae, captured.hidden
    frames = hidden.shape[1]
    with torch.no_grad():
        x = vae.encode((2.0 * video[-frames:] - 1.0).to(vae.dtype)).latent_dist.mode().float()
        # (1, f, c, h, w); a chunk of one frame is repeated, as in use.
        latents = vae.config.scaling_factor * x[None]
        latents = latents.expand(1, frames, *latents.shape[2:])
    middle, spread = SIGMA
    sigma = (middle + spread * torch.randn((), generator=generator)).exp().to(latents)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    whole = (sigma.square() + 1.0).sqrt()
    noisy = (latents + sigma * noise) / whole
    given = torch.cat([noisy, hidden[-1:, :, noisy.shape[2] :]], 2).to(hidden)
    out = _run(model, given.expand_as(hidden), 0.25 * sigma.log(), captured)
    predicted = latents / whole.square() + sigma * noise / whole.square()
    predicted = predicted - sigma / whole * out[-1:].float()
    # EDM's weight makes the error of all noise levels about as large.
    return ((predicted - latents).square() * whole.square() / sigma.square()).mean()


LOSSES: dict[str, Loss] = {"wan-vace": flow_loss, "stable-video": edm_loss}
"""By convention, the loss of a clip."""


def _run(model: VideoAdapter, hidden: Tensor, time: Tensor, captured: Captured) -> Tensor:
    named = {**captured.named, "timestep": time, "return_dict": False}
    first = "sample" if model.adapters.part == "unet" else "hidden_states"
    return model.adapters.denoiser(**{first: hidden}, **named)[0]


def _video(clip: Clip) -> Tensor:
    """Return past and true frames (p + n, 3, h, w) in [0, 1]."""
    return torch.cat([clip.inputs.past, clip.frames]).float() / 255.0


def _inject(denoiser: nn.Module, layers: Sequence[str], config: LoraConfig) -> dict[str, Any]:
    try:
        import peft
    except ImportError as error:
        raise missing("adapters are trained with peft", "adapter", error) from error
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(layers))
    denoiser.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        peft.inject_adapter_in_model(settings, denoiser, adapter_name=NAME)
    return {"peft_type": "LORA", "r": config.rank, "lora_alpha": config.rank, "bias": "none",
            "target_modules": list(layers)}  # fmt: skip


def _action_input(denoiser: nn.Module, config: LoraConfig) -> nn.Parameter | None:
    """Return the weight of a new action input, zeros; None without actions."""
    width = config.actions or config.action_dim
    if not width:
        return None
    device = next(denoiser.parameters()).device
    module = time_module(denoiser)
    return nn.Parameter(torch.zeros(time_dim(module), width + MOTION, device=device))


def _add_action(
    denoiser: nn.Module, weight: nn.Parameter | None, config: LoraConfig
) -> Callable[[VideoInputs | None], None]:
    """Return a function that sets whose action the denoiser receives; None ends it."""
    held: list[Tensor] = []
    if weight is None:
        return lambda inputs: None

    def add(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        return output + (weight @ held[0].to(weight)).to(output) if held else output

    handle = time_module(denoiser).register_forward_hook(add)

    def act(inputs: VideoInputs | None) -> None:
        held.clear()
        if inputs is None:
            handle.remove()
            return
        if inputs.act is None or inputs.motion is None:
            raise InvalidInputError("a clip has no action: give act and motion in its inputs")
        held.append(action_numbers(inputs.act[None], inputs.motion[None], config.actions)[0])

    return act


def _write(
    model: VideoAdapter,
    denoiser: nn.Module,
    weight: Tensor | None,
    out: Path,
    settings: dict[str, Any],
) -> None:
    tensors = {
        f"{PREFIX}{model.adapters.part}.{name.replace(f'.{NAME}', '')}": p.detach().float().cpu()
        for name, p in denoiser.named_parameters()
        if f".{NAME}." in name
    }
    with replacing_folder(out) as new:
        write_json(new / CONFIG, settings)
        save_tensors(tensors, new / WEIGHTS, {"format": "pt"})
        if weight is not None:
            save_tensors({"weight": weight.detach().cpu().contiguous()}, new / ACTION_INPUT)


def _remove(denoiser: nn.Module) -> None:
    """Take the adapter in training out of the denoiser."""
    for name, module in list(denoiser.named_modules()):
        if not hasattr(module, "lora_A"):
            continue
        layer: Any = module
        layer.delete_adapter(NAME)
        if not layer.lora_A:
            parent, _, own = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), own, layer.base_layer)
    configs: Any = denoiser.peft_config
    configs.pop(NAME)
    if not configs:
        del denoiser.peft_config
    denoiser.requires_grad_(False)
