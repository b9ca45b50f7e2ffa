"""Look-arounds of places that are made up, and a painter that covers them with wallpaper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import pixel_rays, quantise_depth
from worldsim.painting.network import PainterNetwork
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.sampling import PaintConfig
from worldsim.painting.training.lookaround import LookAround, shard_path
from worldsim.painting.training.views import ViewSets, save_view_sets
from worldsim.protocols import PainterSpec, PaintInputs
from worldsim.state import Frame

PIXELS = 64
LENS = (42.67, 51.2, 32.0, 32.0)
NAMES = ("brick", "sky")
SPEC = PainterSpec(PIXELS, PIXELS, LENS, 8, NAMES)
METRES = 4.0


def heading_poses(start: float, at: np.ndarray) -> np.ndarray:
    """Cameras at 8 even headings, counter-clockwise, (8, 4, 4) float32, at a point (3,)."""
    poses = np.tile(np.eye(4, dtype=np.float32), (8, 1, 1))
    for i, angle in enumerate(start + np.arange(8) * np.pi / 4):
        c, s = np.cos(angle), np.sin(angle)
        poses[i, :3, :3] = np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]])
        poses[i, :3, 3] = at
    return poses


def wallpaper(pose: Tensor, seed: Tensor) -> Tensor:
    """Colours (b, n, 3, 64, 64) uint8 that depend on the direction and on each place's seed."""
    rays = pixel_rays(torch.tensor([LENS]), PIXELS, PIXELS)[0].flatten(1)
    way = pose[..., :3, :3] @ rays
    way = way / way.norm(dim=-2, keepdim=True)
    found = []
    for place, number in zip(way, seed.tolist(), strict=True):
        rng = np.random.default_rng(number)
        waves = torch.tensor(rng.normal(0, 4, (3, 6, 3)), dtype=torch.float32)
        phase = torch.tensor(rng.uniform(0, 6.28, (3, 6, 1)), dtype=torch.float32)
        pairs = zip(waves, phase, strict=True)
        found.append(torch.stack([(w @ place + p).sin().sum(1) for w, p in pairs], 1))
    colours = torch.stack(found).unflatten(-1, (PIXELS, PIXELS))
    return (128 + 25 * colours).clamp(0, 255).to(torch.uint8)


def made_up_sets(count: int, seed: int, maps: str = "MAP") -> ViewSets:
    """Places with 8 headings and 2 displaced views, a wall of wallpaper around each."""
    rng = np.random.default_rng(seed)
    poses = []
    for _ in range(count):
        around = heading_poses(rng.uniform(0, 6), rng.uniform(-9, 9, 3))
        moved = around[[1, 4]].copy()
        moved[:, :2, 3] += rng.uniform(-1, 1, (2, 2))
        poses.append(np.concatenate([around, moved]))
    pose = np.stack(poses).astype(np.float32)
    rgb = wallpaper(torch.from_numpy(pose), torch.arange(count) + 1000 * (seed + 1))
    metres = METRES + 0.5 * torch.arange(count)
    depth = metres[:, None, None, None].repeat(1, 10, PIXELS, PIXELS)
    depth[:, :, : PIXELS // 8] = torch.inf
    return ViewSets(
        rgb=rgb.permute(0, 1, 3, 4, 2).numpy(),
        inverse_depth=quantise_depth(depth).numpy().astype(np.uint16),
        pose=pose,
        intrinsics=np.array(LENS, np.float32),
        attributes=np.repeat(rng.uniform(0, 1, (count, 1, 2)), 10, 1).astype(np.float32),
        names=NAMES,
        maps=tuple(f"{maps}{i}" for i in range(count)),
    )


def write_places(folder: Path, count: int, seed: int, maps: str = "MAP", shards: int = 1) -> Path:
    """Write shards of :func:`made_up_sets`; returns the folder."""
    folder.mkdir()
    for i in range(shards):
        save_view_sets(made_up_sets(count, seed + i, maps), shard_path(folder, i))
    return folder


class Wallpaperer:
    """Paints wallpaper that depends on seed and step, so views agree if painted in one call."""

    spec = SPEC

    def paint(self, inputs: PaintInputs) -> Frame:
        """Known pixels are kept."""
        rgb = wallpaper(inputs.pose, inputs.seed * 100 + inputs.step).flatten(0, 1)
        known = inputs.view.mask
        depth = torch.full(known.shape, METRES)
        whole = known if inputs.colour_only is None else torch.zeros_like(known)
        code = torch.where(whole, inputs.view.inverse_depth, quantise_depth(depth))
        rgb = torch.where(known[:, None], inputs.view.rgb, rgb)
        return Frame(rgb, code, inputs.pose.flatten(0, 1))


def make_small_painter(steps: int = 1) -> NetworkPainter:
    """64x64 views with random weights."""
    torch.manual_seed(0)
    network = PainterNetwork(NAMES, dim=32, depth=2, heads=2, patch=16, pixel=8)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    return NetworkPainter(network, SPEC, PaintConfig(num_inference_steps=steps))


class Survey:
    """A surveyor of noise. Its test maps are called ``test`` and a number."""

    names = NAMES

    def __init__(self, height: int, width: int) -> None:
        assert (height, width) == (PIXELS, PIXELS)
        self.intrinsics = np.array(LENS, np.float32)

    def begin(self, split: str, rng: np.random.Generator) -> str:
        return f"{split}{rng.integers(100)}"

    def look_around(
        self, headings: int, displaced: int, reach: tuple[float, float], rng: np.random.Generator
    ) -> LookAround | None:
        k = headings + displaced
        around = heading_poses(rng.uniform(0, 6), rng.uniform(-9, 9, 3))
        return LookAround(
            rgb=rng.integers(0, 256, (k, PIXELS, PIXELS, 3), dtype=np.uint8),
            depth=np.full((k, PIXELS, PIXELS), np.inf, np.float32),
            pose=np.concatenate([around, around])[:k],
            attributes=np.repeat(rng.uniform(0, 1, (1, 2)), k, 0).astype(np.float32),
        )

    def close(self) -> None:
        pass
