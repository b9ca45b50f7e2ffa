"""The painter's network: multi-view RGB-D diffusion in pixel space.

A transformer over 4x4 patches of N views, in which every second block attends across the tokens of
all views (CAT3D, Gao et al. 2024), between two convolutional blocks at full resolution. It predicts
clean pixels ("Back to basics: let denoising generative models denoise", Li and He 2025).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.module import Module, register_to_config
from worldsim.diffusion.network import Attention, ResidualBlock
from worldsim.errors import InvalidInputError
from worldsim.painting.channels import constant
from worldsim.painting.knots import KnotEmbedding

CHANNELS = 5
"""rgb (3), depth channel, sky; see :mod:`worldsim.painting.channels`."""
MEMORY_CHANNELS = 5
"""rgb (3), depth channel and mask; all 0 in holes."""
RAY_CHANNELS = 6
"""Pluecker coordinates in the frame of the set's first camera."""
MOMENT_SCALE = 0.25
"""Scale of the rays' moments. Cameras of a set are metres apart, so moments exceed directions."""
MODALITIES = 2
"""Colour, and depth with sky. Each has its own noise level."""
FREQUENCIES = (1.0, 2.0, 4.0, 8.0)
"""Frequencies of the Fourier features of rays, in units of pi."""


@dataclass(frozen=True)
class PainterBatch:
    """The network's input: ``b`` sets of ``n`` views, all float32.

    noisy: (b, n, 5, h, w) channels at their noise levels.
    level: (b, n, 2) in [0, 1], noise levels of colour and of depth with sky; 0 is clean.
    memory: (b, n, 5, h, w) memory views, zeros in holes.
    rays: (b, n, 6, h, w) Pluecker rays in the frame of the first view's camera, metres.
    attributes: (b, a) in [0, 1].
    known: (b, a), 1 where an attribute is given, else 0.
    """

    noisy: Tensor
    level: Tensor
    memory: Tensor
    rays: Tensor
    attributes: Tensor
    known: Tensor


def level_features(level: Tensor, size: int) -> Tensor:
    """Return sinusoidal features (m, 2 * size) float32 of noise levels (m, 2) in [0, 1]."""
    half = size // 2
    frequency = torch.exp(-math.log(1000.0) * torch.arange(half, device=level.device) / half)
    angle = 1000.0 * level.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1).flatten(1)


def place_features(rows: int, columns: int, dim: int, device: torch.device | str) -> Tensor:
    """Return sinusoidal position features of a token's row and column.

    Returns (rows * columns, dim) float32.
    """
    quarter = dim // 4
    frequency = torch.exp(-math.log(100.0) * torch.arange(quarter, device=device) / quarter)
    row = torch.arange(rows, device=device)[:, None] * frequency
    column = torch.arange(columns, device=device)[:, None] * frequency
    row_part = torch.cat([row.sin(), row.cos()], -1)[:, None].expand(-1, columns, -1)
    column_part = torch.cat([column.sin(), column.cos()], -1)[None].expand(rows, -1, -1)
    return torch.cat([row_part, column_part], -1).flatten(0, 1)


def ray_features(rays: Tensor, patch: int) -> Tensor:
    """Return Fourier features (m, tokens, 54) of the rays (m, 6, h, w) at the patches' centres."""
    scale = constant((MOMENT_SCALE,) * 3 + (1.0,) * 3, rays.device)
    mean = F.avg_pool2d(rays.float(), patch).flatten(2).transpose(1, 2) * scale
    angle = math.pi * torch.cat([mean * f for f in FREQUENCIES], -1)
    return torch.cat([mean, angle.sin(), angle.cos()], -1)


class PainterBlock(nn.Module):
    """Attention and an MLP, modulated by the view's embedding (adaLN-single, PixArt-alpha).

    across: whether attention covers all views of a set instead of each view's own tokens.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, across: bool) -> None:
        super().__init__()
        self.across = across
        self.attention = Attention(dim, heads)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim)
        )
        self.table = nn.Parameter(torch.zeros(6, dim))

    def forward(self, x: Tensor, modulation: Tensor, views: int) -> Tensor:
        """Return updated tokens (b * n, tokens, d).

        x: (b * n, tokens, d).
        modulation: (b * n, 6, d).
        views: n, the number of views per set.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (modulation + self.table)[
            :, :, None
        ].unbind(1)
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale_a) + shift_a
        if self.across:
            h = self.attention.spatial(h.unflatten(0, (-1, views)).flatten(1, 2))
            h = h.unflatten(1, (views, -1)).flatten(0, 1)
        else:
            h = self.attention.spatial(h)
        x = x + (1 + gate_a) * h
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale_m) + shift_m
        return x + (1 + gate_m) * self.mlp(h)


class PixelsIn(nn.Module):
    """Converts pixels to features at full resolution and to tokens."""

    def __init__(self, inputs: int, pixel: int, patch: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, pixel, 3, padding=1)
        self.block = ResidualBlock(pixel, dim)
        self.tokens = nn.Conv2d(pixel, dim, patch, stride=patch)

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Convert (m, inputs, h, w) to features (m, pixel, h, w) and tokens (m, tokens, dim)."""
        features = self.block(self.first(x), embedding)
        return features, self.tokens(features).flatten(2).transpose(1, 2)


class PixelsOut(nn.Module):
    """Converts tokens and full-resolution features to pixels."""

    def __init__(self, outputs: int, pixel: int, patch: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.tokens = nn.Linear(dim, pixel * patch * patch)
        self.skip = nn.Conv2d(pixel, pixel, 1)
        self.block = ResidualBlock(pixel, dim)
        self.last = nn.Conv2d(pixel, outputs, 3, padding=1)

    def forward(self, x: Tensor, features: Tensor, embedding: Tensor) -> Tensor:
        """Return pixels (m, outputs, h, w).

        x: (m, tokens, dim).
        features: (m, pixel, h, w).
        embedding: (m, dim).
        """
        rows = features.shape[-2] // self.patch
        up = self.tokens(x).transpose(1, 2).unflatten(2, (rows, -1))
        h = self.block(F.pixel_shuffle(up, self.patch) + self.skip(features), embedding)
        return self.last(F.silu(h))


class PainterNetwork(Module):
    """Predicts the clean views of a set from noisy views, memory views, rays and attributes.

    attributes: names of the attributes that condition a set.
    knots: values of each attribute, for a :class:`worldsim.painting.knots.KnotEmbedding` beside
        the plain values; () for none.
    dim, depth, heads, mlp_ratio: size of the transformer. Blocks 1, 3, 5... attend across views.
    patch: side length of a token in pixels. Any frame size divisible by it is supported.
    pixel: channels at full resolution.
    """

    config: Any

    @register_to_config
    def __init__(
        self,
        attributes: tuple[str, ...] = (),
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 3.75,
        patch: int = 4,
        pixel: int = 64,
        knots: tuple[tuple[float, ...], ...] = (),
    ) -> None:
        super().__init__()
        if knots and len(knots) != len(attributes):
            raise InvalidInputError(
                f"knots are for {len(knots)} attributes, the network has {len(attributes)}: give "
                "knots for each, or none."
            )
        if dim % (4 * heads) or pixel % 8:
            raise InvalidInputError(
                f"dim = {dim} must be a multiple of 4 * heads = {4 * heads}, pixel = {pixel} of 8"
            )
        inputs = CHANNELS + MEMORY_CHANNELS + RAY_CHANNELS
        self.embed = nn.Sequential(
            nn.Linear(MODALITIES * 128 + 2 * len(attributes), dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.words = KnotEmbedding(knots, dim) if knots else None
        self.modulation = nn.Linear(dim, 6 * dim)
        self.rays = nn.Linear(RAY_CHANNELS * (1 + 2 * len(FREQUENCIES)), dim)
        self.pixels_in = PixelsIn(inputs, pixel, patch, dim)
        self.blocks = nn.ModuleList(
            PainterBlock(dim, heads, mlp_ratio, across=bool(i % 2)) for i in range(depth)
        )
        self.norm_table = nn.Parameter(torch.zeros(2, dim))
        self.pixels_out = PixelsOut(CHANNELS, pixel, patch, dim)
        for layer in (self.modulation, self.pixels_out.last):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, batch: PainterBatch) -> Tensor:
        """Return clean channels (b, n, 5, h, w) float32: rgb, depth channel and sky, scaled.

        Raises InvalidInputError if the frame size is not divisible by the patch.
        """
        b, n, _, h, w = batch.noisy.shape
        patch = self.config.patch
        if h % patch or w % patch:
            raise InvalidInputError(
                f"views of {h}x{w} pixels do not divide into patches of {patch}: choose multiples"
            )
        embedding = self._embedding(batch)
        rays = batch.rays.flatten(0, 1)
        # Scale a copy: under autocast the ray features below need the rays in float32.
        scaled = torch.cat([MOMENT_SCALE * rays[:, :3], rays[:, 3:]], 1)
        x = torch.cat([batch.noisy.flatten(0, 1), batch.memory.flatten(0, 1), scaled], 1)
        active = F.silu(embedding)
        features, tokens = self.pixels_in(x.contiguous(memory_format=torch.channels_last), active)
        places = place_features(h // patch, w // patch, tokens.shape[-1], x.device)
        tokens = tokens + places + self.rays(ray_features(rays, patch))
        modulation = self.modulation(active).unflatten(1, (6, -1))
        for block in self.blocks:
            tokens = block(tokens, modulation, n)
        shift, scale = (embedding[:, None] + self.norm_table)[:, :, None].unbind(1)
        tokens = F.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift
        return self.pixels_out(tokens, features, active).float().unflatten(0, (b, n))

    def _embedding(self, batch: PainterBatch) -> Tensor:
        """Return the embedding (b * n, dim) of noise levels and attributes."""
        b, n = batch.level.shape[:2]
        levels = level_features(batch.level.flatten(0, 1), 128)
        told = torch.cat([batch.attributes * batch.known, batch.known], -1)
        told = told[:, None].expand(b, n, -1).flatten(0, 1)
        embedding: Tensor = self.embed(torch.cat([levels, told.float()], -1))
        if self.words is None:
            return embedding
        words: Tensor = self.words(batch.attributes, batch.known)
        return embedding + words[:, None].expand(b, n, -1).flatten(0, 1)

    def compile_parts(self) -> None:
        """Compile the blocks and the convolutional layers in place, each separately."""
        for part in (self.pixels_in, self.pixels_out, *self.blocks):
            part.compile()
