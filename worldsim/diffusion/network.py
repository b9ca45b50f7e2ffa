"""The network of the dynamics: a causal space-time transformer between convolutional pixel levels.

Attention is spatial inside a frame, and causal and banded across frames at the same place
(Bertasius et al. 2021). Every frame has an independent noise level (Diffusion Forcing, Chen et al.
2024); the network predicts x. The convolutional levels around the transformer (skip connections of
a U-Net, Ronneberger et al. 2015) carry pixel detail from the memory view to the prediction, for
which one token per patch is too narrow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.module import Module, register_to_config
from worldsim.errors import InvalidInputError

POOLINGS = ("mean", "attention")
"""How a frame's tokens become the features that heads read."""
VIEW_CHANNELS = 8
"""rgb (3), depth channel, mask, offset u and v, source: see
:func:`worldsim.diffusion.denoiser.view_to_channels`."""


@dataclass(frozen=True)
class Condition:
    """The condition of a frame, fixed for the frame's life. Axes: ``b`` batch, ``f`` frames.

    act: (b, f) int64 for discrete actions or (b, f, n) float32 for continuous ones; the action that
        led to the frame.
    motion: (b, f, 6) float32, the frame's camera in the previous frame's camera (zeros without
        geometry).
    rays: (b, f, 6, h / patch, w / patch) float32 Pluecker rays in the previous frame's camera.
    view: (b, f, 8, h, w) float32 channels of the memory view, zeros where the memory has no
        coverage. For networks that see the k previous frames instead (``last_frames``): their
        channels and masks, (b, f, k (c + 1), h, w), newest first.
    """

    act: Tensor
    motion: Tensor
    rays: Tensor
    view: Tensor

    def then(self, other: Condition) -> Condition:
        """Return the conditions of these frames followed by those of ``other``."""
        return Condition(
            act=torch.cat([self.act, other.act], 1),
            motion=torch.cat([self.motion, other.motion], 1),
            rays=torch.cat([self.rays, other.rays], 1),
            view=torch.cat([self.view, other.view], 1),
        )


def rotary_angles(time: Tensor, half: int) -> Tensor:
    """Return the rotation of each feature pair at each time: (f,) to (f, half) float32."""
    frequency = torch.exp(
        -math.log(100.0) * torch.arange(half, device=time.device, dtype=torch.float32) / half
    )
    return time.to(torch.float32)[:, None] * frequency


def rotary(x: Tensor, time: Tensor) -> Tensor:
    """Rotate feature pairs by time (RoPE, Su et al. 2021). x: (..., f, d); time: (f,)."""
    half = x.shape[-1] // 2
    angle = rotary_angles(time, half)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


def band_mask(frames: int, window: int, device: torch.device | str = "cpu") -> Tensor:
    """(f, f) bool: frame i attends to frames j with 0 <= i - j < window."""
    t = torch.arange(frames, device=device)
    distance = t[:, None] - t[None, :]
    return (distance >= 0) & (distance < window)


def stream_mask(
    frames: int, window: int, targets: int = 1, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the attention mask of a context stream and target streams of the same frames.

    A target sees the context copies of its predecessors and itself. This matches a step in use:
    past frames are committed context, and the new frame is denoised alone.

    Returns (n, n) bool with n = (1 + targets) * frames.
    """
    t = torch.arange(frames, device=device)
    distance = t[:, None] - t[None, :]
    context = (distance >= 0) & (distance < window)
    past = (distance > 0) & (distance < window)
    itself = torch.block_diag(*[(distance == 0).float()] * targets).bool()
    top = torch.cat([context, context.new_zeros(frames, targets * frames)], 1)
    bottom = torch.cat([past.repeat(targets, 1), itself], 1)
    return torch.cat([top, bottom], 0)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention among few tokens (m, heads, n, d), written out.

    When training on a CPU this is faster than torch's: five times, measured forward and backward at
    72 tokens in bfloat16.

    mask: (m, 1, n, n) bool.
    """
    if q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    score = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (score if mask is None else score.masked_fill(~mask, -math.inf)).softmax(-1) @ v


def _zero(*layers: nn.Linear | nn.Conv2d) -> None:
    """Set a layer's weights to zero, so that its residual branch starts as identity."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


class Upsampled(nn.Conv2d):
    """A 1x1 convolution whose channels become the four pixels of each place.

    (m, c, h, w) to (m, a, 2 h, 2 w).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (m, c, h, w) to (m, a, 2 h, 2 w)."""
        return F.pixel_shuffle(super().forward(x), 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm, modulated by the frame's embedding."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(dim, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _zero(self.modulation, self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (m, c, h, w) to the same shape. embedding: (m, d)."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys.

    Without the normalisation, training in bfloat16 diverges.
    """

    kernel: Callable[..., Tensor] | None = None
    """In the place of :meth:`few`, if there is one."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.query_norm = nn.RMSNorm(dim // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(dim // heads, eps=1e-6)

    @property
    def fits_kernel(self) -> bool:
        """Whether :attr:`kernel` may be set.

        The number of heads and their features must be powers of two.
        """
        return not any(
            size & (size - 1) for size in (self.heads, self.qkv.in_features // self.heads)
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (..., n, heads, d / heads) of x (..., n, d)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        # PyTorch fuses a norm only if input and weight have one type: under autocast they have not.
        query, key = (
            norm(x.to(norm.weight.dtype)).to(v.dtype)
            for norm, x in ((self.query_norm, q), (self.key_norm, k))
        )
        return query, key, v

    def spatial(self, x: Tensor) -> Tensor:
        """Apply full attention among a frame's tokens. x: (m, n, d)."""
        q, k, v = (a.transpose(1, 2) for a in self.project(x))
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))

    def temporal(
        self,
        x: Tensor,
        time: Tensor,
        mask: Tensor,
        past: tuple[Tensor, Tensor] | None,
        outputs: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend across frames at the same place.

        x: (b, f, n, d).
        time: (p + f,) of the past and the new frames.
        mask: (b or 1, f, p + f) bool.
        past: keys (before rotation) and values of p cached frames, each (b, p, n, d).
        outputs: the output has the last ``outputs`` frames.

        Returns the output and the new frames' keys and values.
        """
        b, f, n, d = x.shape
        q, k, v = self.project(x)
        new_k, new_v = k.flatten(3), v.flatten(3)
        if outputs == 0:
            return x[:, :0], new_k, new_v
        q, mask, f = q[:, f - outputs :], mask[:, f - outputs :], outputs
        if past is not None:
            return (
                self.out((self.kernel or self.few)(q, new_k, new_v, *past, time, mask)),
                new_k,
                new_v,
            )

        def places(a: Tensor) -> Tensor:
            return a.reshape(b, -1, n, self.heads, d // self.heads).permute(0, 2, 3, 1, 4)

        q, keys = rotary(places(q), time[-f:]), rotary(places(new_k), time)
        attended = attend(
            q.flatten(0, 1),
            keys.flatten(0, 1),
            places(new_v).flatten(0, 1),
            self._per_place(mask, b, n),
        )
        out = attended.unflatten(0, (b, n)).permute(0, 3, 1, 2, 4).flatten(3)
        return self.out(out), new_k, new_v

    def few(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        past_k: Tensor,
        past_v: Tensor,
        time: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Attention of one or two frames, written out.

        At this size, attention kernels spend most of their time on overhead.

        q: (b, f, n, heads, d); for the other arguments see
            :func:`worldsim.diffusion.attention.attend_few`.

        Returns (b, f, n, heads * d).
        """
        f = q.shape[1]
        k, v = torch.cat([past_k, k], 1), torch.cat([past_v, v], 1)
        q, k, v = (
            q.float(),
            k.unflatten(-1, (self.heads, -1)).float(),
            v.unflatten(-1, (self.heads, -1)).float(),
        )
        q, k = (
            rotary(a.transpose(1, -2), times).transpose(1, -2)
            for a, times in ((q, time[-f:]), (k, time))
        )
        score = (q[:, :, None] * k[:, None]).sum(-1) * q.shape[-1] ** -0.5
        share = score.masked_fill(~mask[:, :, :, None, None], -math.inf).softmax(2)
        return (share[..., None] * v[:, None]).sum(2).flatten(3).to(self.out.weight.dtype)

    @staticmethod
    def _per_place(mask: Tensor, b: int, n: int) -> Tensor:
        return (
            mask[:, None, None].expand(b, n, 1, *mask.shape[1:]).reshape(b * n, 1, *mask.shape[1:])
        )


class Block(nn.Module):
    """Spatial attention, temporal attention and a perceptron, modulated by the frame's embedding.

    The modulation is adaLN-single.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.spatial = Attention(dim, heads)
        self.temporal = Attention(dim, heads)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim)
        )
        # Shared modulation plus a table per block (PixArt-alpha): adaLN weights per block would be
        # a third of the network.
        self.table = nn.Parameter(torch.zeros(8, dim))
        # Temporal layers start as the identity, so an image model grows into a video model without
        # losing anything.
        _zero(self.temporal.out)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        time: Tensor,
        mask: Tensor,
        past: tuple[Tensor, Tensor] | None,
        outputs: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last ``outputs`` frames, and the keys and values of all frames.

        x: (b, f, n, d).
        modulation: (b, f, 8, d).
        """
        shift_s, scale_s, gate_s, shift_t, scale_t, shift_m, scale_m, gate_m = (
            modulation + self.table
        )[:, :, :, None].unbind(2)
        b, f = x.shape[:2]
        h = self._norm(x) * (1 + scale_s) + shift_s
        x = x + (1 + gate_s) * self.spatial.spatial(h.flatten(0, 1)).unflatten(0, (b, f))
        h = self._norm(x) * (1 + scale_t) + shift_t
        attended, k, v = self.temporal.temporal(h, time, mask, past, outputs)
        x, scale_m, shift_m, gate_m = (a[:, f - outputs :] for a in (x, scale_m, shift_m, gate_m))
        x = x + attended
        h = self._norm(x) * (1 + scale_m) + shift_m
        return x + (1 + gate_m) * self.mlp(h), k, v

    @staticmethod
    def _norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])


class AttentionPooling(nn.Module):
    """Pools a frame's tokens to one vector: multi-head attention from a learned query.

    A mean gives each of n tokens the weight 1 / n; a query can attend to the one that holds a small
    object.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.query, std=0.02)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens (..., n, d) to (..., d)."""
        keys, values = (
            self.key_value(self.norm(tokens)).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        )
        query = self.query.unflatten(0, (self.heads, -1)).to(keys.dtype)
        score = (keys * query).sum(-1, keepdim=True) * query.shape[-1] ** -0.5
        return self.out((score.softmax(-3) * values).sum(-3).flatten(-2))


class SpaceTimeTransformer(Module):
    """Predicts clean frames from noisy ones, their conditions and earlier frames.

    height, width: frame size in pixels, divisible by the patch ``fold * 2 ** len(levels)``.
    channels: 4 (rgb and depth channel) or 3.
    view_channels: channels of the memory view, 0 for a world without memory.
    last_frames: for worlds without memory, the view holds this many previous frames, so static
        content reaches the output through convolutional skips.
    actions: number of discrete actions, or 0.
    action_dim: size of a continuous action, or 0.
    dim, depth, heads, mlp_ratio: sizes of the transformer.
    levels: channels of the pixel levels, finest first.
    fold: side length of the squares of pixels that the finest level stores as channels (space to
        depth): 2 leaves a quarter of the places and saves most of the time.
    window: number of frames that attention spans, the current one included.
    pooling: how tokens become the features that heads read: ``mean``, or ``attention``
        (:class:`AttentionPooling`).
    """

    config: Any
    _supports_gradient_checkpointing = True
    _gradient_checkpointing_func: Any

    @register_to_config
    def __init__(
        self,
        height: int = 64,
        width: int = 64,
        channels: int = 4,
        view_channels: int = VIEW_CHANNELS,
        actions: int = 7,
        action_dim: int = 0,
        dim: int = 256,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        levels: tuple[int, ...] = (32, 48, 96),
        window: int = 8,
        fold: int = 1,
        last_frames: int = 0,
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise InvalidInputError(f"pooling = {pooling!r}: choose one of {', '.join(POOLINGS)}")
        patch = fold * 2 ** len(levels)
        if height % patch or width % patch:
            raise InvalidInputError(
                f"frame size {height}x{width} must be divisible by the patch: choose multiples of "
                f"{patch}"
            )
        if last_frames and view_channels != last_frames * (channels + 1):
            raise InvalidInputError(
                f"view_channels = {view_channels}: {last_frames} frames of {channels} channels, "
                f"each with a mask, have "
                f"{last_frames * (channels + 1)}"
            )
        self.patch = patch
        self.action = nn.Embedding(actions, dim) if actions else nn.Linear(action_dim, dim)
        self.level = nn.Sequential(nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.motion = nn.Sequential(nn.Linear(6, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulation = nn.Linear(dim, 8 * dim)
        self.stem = nn.Conv2d(fold**2 * (channels + view_channels), levels[0], 3, padding=1)
        widths = (*levels, dim)
        self.encoder = nn.ModuleList(ResidualBlock(c, dim) for c in levels)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.rays = nn.Conv2d(6, dim, 1)
        self.position = nn.Parameter(torch.empty(1, 1, (height // patch) * (width // patch), dim))
        nn.init.normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.up = nn.ModuleList(Upsampled(b, a) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(ResidualBlock(c, dim) for c in levels)
        self.out_norm = nn.GroupNorm(8, levels[0])
        self.out = nn.Conv2d(levels[0], fold**2 * channels, 3, padding=1)
        _zero(self.modulation, self.out)
        # Last, so that a network without it draws the same initial weights as ever.
        self.pool = AttentionPooling(dim, heads) if pooling == "attention" else None
        # Set by diffusers' enable_gradient_checkpointing: blocks are then computed once more in the
        # backward pass.
        self.gradient_checkpointing = False

    @property
    def tokens(self) -> int:
        """Number of tokens per frame."""
        return (self.config.height // self.patch) * (self.config.width // self.patch)

    def resize(self, height: int, width: int) -> SpaceTimeTransformer:
        """Return a network with the same weights for frames of another size, on the same device.

        The positions of tokens are interpolated (bicubic).
        """
        other = SpaceTimeTransformer(**(self.settings | {"height": height, "width": width})).to(
            self.position
        )
        grids = [
            (n.config.height // self.patch, n.config.width // self.patch) for n in (self, other)
        ]
        laid_out = self.position.detach().squeeze(0).transpose(1, 2).unflatten(2, grids[0])
        position = F.interpolate(laid_out.float(), grids[1], mode="bicubic", align_corners=False)
        weights = self.state_dict() | {
            "position": position.flatten(2).transpose(1, 2)[None].to(self.position)
        }
        other.load_state_dict(weights)
        return other

    def embed(self, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the embedding (b, f, d) of noise level (b, f), action and motion."""
        frequency = torch.exp(
            math.log(1000.0) * torch.arange(32, device=sigma.device, dtype=torch.float32) / 31
        )
        angle = sigma.float()[..., None] * frequency
        dtype = self.position.dtype
        embedding = self.level(torch.cat([angle.sin(), angle.cos()], -1).to(dtype))
        act = condition.act if self.config.actions else condition.act.to(dtype)
        # Motions of a step are centimetres and hundredths of radians: bring them to order one.
        return embedding + self.action(act) + self.motion(10.0 * condition.motion.to(dtype))

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        mask: Tensor,
        time: Tensor,
        past: Tensor | None = None,
        outputs: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Denoise ``f`` frames.

        x: (b, f, c, h, w) noisy frames, in [-1, 1] before noise.
        sigma: (b, f) noise levels in [0, 1].
        mask: (b or 1, f, p + f) bool, which past and new frames each new frame attends to.
        time: (p + f,) frame times.
        past: (b, layers, 2, p, n, d) cached keys and values, or None (p = 0).
        outputs: decode only the last ``outputs`` frames (context frames need no picture); None
            decodes all.

        Returns the clean prediction (b, outputs, c, h, w), features (b, outputs, d) and the new
        frames' keys and values (b, layers, 2, f, n, d).
        """
        return self._forward(x, sigma, condition, mask, time, past, outputs, None)

    def levels_of(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        mask: Tensor,
        time: Tensor,
        outputs: int,
    ) -> list[Tensor]:
        """Return the outputs of all blocks and decoder levels, for networks that judge frames.

        The arguments are those of :meth:`forward`.

        Returns ``depth`` tensors (b, outputs, d, h / patch, w / patch), then one for each pixel
        level, coarsest first: (b, outputs, levels[i], h / s, w / s) with s = fold * 2 ** i.
        """
        found: list[Tensor] = []
        self._forward(x, sigma, condition, mask, time, None, outputs, found)
        return found

    def _forward(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        mask: Tensor,
        time: Tensor,
        past: Tensor | None,
        outputs: int | None,
        found: list[Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run :meth:`forward`, and append what :meth:`levels_of` returns to ``found``."""
        b, f = x.shape[:2]
        outputs = f if outputs is None else outputs
        embedding = self.embed(sigma, condition)
        flat = F.silu(embedding.flatten(0, 1))
        pixels = torch.cat([x, condition.view], 2) if self.config.view_channels else x
        pixels = pixels.flatten(0, 1).to(self.position.dtype)
        pixels = F.pixel_unshuffle(pixels, self.config.fold) if self.config.fold > 1 else pixels
        # An engine may have widened the convolutions at both ends: see
        # worldsim.world.engine.widened.
        spare = getattr(self.stem, "base_layer", self.stem).in_channels - pixels.shape[1]
        pixels = F.pad(pixels, (0, 0, 0, 0, 0, spare)) if spare else pixels
        h = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            h = block(h, flat)
            skips.append(h)
            h = down(h)
        h = h + self.rays(condition.rays.flatten(0, 1).to(h.dtype))
        grid = h.shape[-2:]
        tokens = h.flatten(2).transpose(1, 2).unflatten(0, (b, f)) + self.position
        modulation = self.modulation(F.silu(embedding)).unflatten(-1, (8, -1))
        new = []
        for i, block in enumerate(self.blocks):
            # Beyond the last block's keys and values, frames that are not decoded are of no use.
            kept = outputs if i + 1 == len(self.blocks) else f
            before = None if past is None else (past[:, i, 0], past[:, i, 1])
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens, k, v = self._gradient_checkpointing_func(
                    block, tokens, modulation, time, mask, before, kept
                )
            else:
                tokens, k, v = block(tokens, modulation, time, mask, before, kept)
            new.append(torch.stack([k, v], 1))
            if found is not None:
                frames = tokens[:, tokens.shape[1] - outputs :]
                found.append(frames.transpose(2, 3).unflatten(3, grid))
        cache = torch.stack(new, 1)
        if outputs == 0:
            return x[:, :0], tokens.new_zeros(b, 0, tokens.shape[-1]), cache
        features = tokens.mean(2) if self.pool is None else self.pool(tokens)
        h = tokens.flatten(0, 1).transpose(1, 2).unflatten(2, grid)
        flat = flat.unflatten(0, (b, f))[:, f - outputs :].flatten(0, 1)
        for block, up, skip in zip(
            reversed(self.decoder), reversed(self.up), reversed(skips), strict=True
        ):
            kept = skip.unflatten(0, (b, f))[:, f - outputs :].flatten(0, 1)
            h = block(up(h) + kept, flat)
            if found is not None:
                found.append(h.unflatten(0, (b, outputs)))
        out = self.out(F.silu(self.out_norm(h)))[:, : self.config.fold**2 * x.shape[2]]
        out = F.pixel_shuffle(out, self.config.fold) if self.config.fold > 1 else out
        out = out.unflatten(0, (b, outputs)).to(x.dtype)
        if self.config.view_channels:
            out = out + condition.view[:, f - outputs :, : x.shape[2]]
        return out, features, cache
