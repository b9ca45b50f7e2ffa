"""Train the frozen encoder of Fréchet and kernel distances. Results: docs/experiments/painter.md.

    python experiments/painter/encoder.py --data /tmp/train --out out/encoder --seconds 70

Uses look-arounds of train maps only. The encoder's hash is printed and stands in its card.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from worldsim.evaluation.encoder import DAMAGES, FrameEncoder, save_encoder
from worldsim.painting.training.lookaround import load_folder, shard_files
from worldsim.painting.training.views import join


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: Path
    """Folder of look-arounds of train maps."""
    out: Path
    """Folder of the encoder."""
    shards: int = 60
    """Shards to wait for and to learn from."""
    seconds: float = 70.0
    """Training time."""
    batch: int = 512
    """Frames a step."""
    learning_rate: float = 2e-3
    """Peak of the one-cycle rate."""
    seed: int = 0
    """Of weights and batches."""


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur pictures (m, 3, h, w) by as many pixels as sigma (m,) says."""
    rows, columns = (_blur_matrix(size, sigma)[:, None] for size in x.shape[-2:])
    return rows @ x @ columns.transpose(-1, -2)


def _blur_matrix(size: int, sigma: Tensor) -> Tensor:
    """(m, size, size): each row the normalised weights around its pixel."""
    at = torch.arange(size, device=sigma.device, dtype=torch.float32)
    distance = (at[:, None] - at) / sigma.clamp(min=0.05)[:, None, None]
    weight = torch.exp(-0.5 * distance.square())
    return weight / weight.sum(-1, keepdim=True)


def shuffle_patches(x: Tensor, share: Tensor, size: int = 8) -> Tensor:
    """Permute this share (m,) of the patches of pictures (m, 3, h, w) in [-1, 1]."""
    m, c, h, w = x.shape
    patches = F.unfold(x, size, stride=size)
    n = patches.shape[2]
    moved = torch.rand(m, n, device=x.device) < share[:, None]
    key = torch.rand(m, n, device=x.device)
    # Those that stay keep their rank; those that move are sorted by chance among their own places.
    place = torch.arange(n, device=x.device).expand(m, n)
    slots = torch.where(moved, place, n + place).argsort(1)
    order = torch.where(moved, key, 2.0 + place).argsort(1)
    target = torch.empty_like(slots).scatter_(1, slots, order)
    shuffled = patches.gather(2, target[:, None].expand_as(patches))
    return F.fold(shuffled, (h, w), size, stride=size)


def damage(x: Tensor, kind: Tensor, severity: Tensor) -> Tensor:
    """Pictures (m, 3, h, w) in [-1, 1] with damage ``kind`` (m,) of DAMAGES and severity (m,)."""
    s = severity[:, None, None, None]
    tile = F.interpolate(x, scale_factor=0.5, mode="area").repeat(1, 1, 2, 2)
    fog = x.mean((2, 3), keepdim=True) + 0.1
    holes = (torch.rand_like(x[:, :1]) < 0.6 * s) | _blocks(x, 0.4 * s)
    ways = {
        "none": x,
        "blur": gaussian_blur(x, 0.3 + 3.0 * severity),
        "noise": x + 0.6 * s * torch.randn_like(x),
        "shuffled": shuffle_patches(x, 0.1 + 0.9 * severity),
        "holes": torch.where(holes, fog.expand_as(x), x),
        "colour": x * (1 + 0.8 * s * (torch.rand_like(x[:, :, :1, :1]) - 0.5))
        + 0.6 * s * (torch.rand_like(x[:, :, :1, :1]) - 0.5),
        "fog": x + 0.8 * s * (fog - x),
        "tiled": x + (0.3 + 0.7 * s) * (tile - x),
    }
    stacked = torch.stack([ways[name] for name in DAMAGES])
    return stacked[kind, torch.arange(len(x), device=x.device)].clamp(-1, 1)


def _blocks(x: Tensor, share: Tensor) -> Tensor:
    m, _, h, w = x.shape
    small = torch.rand(m, 1, h // 8, w // 8, device=x.device) < share
    return small.repeat_interleave(8, 2).repeat_interleave(8, 3)


def wait_for(folder: Path, shards: int) -> None:
    """Wait until so many shards are there."""
    while len(shard_files(folder)) < shards:
        time.sleep(0.5)


def main(config: Config) -> None:
    """Train, and write the encoder."""
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wait_for(config.data, config.shards)
    sets = join(load_folder(config.data, config.shards))
    rgb = torch.from_numpy(sets.rgb).flatten(0, 1).permute(0, 3, 1, 2).contiguous().to(device)
    told = torch.from_numpy(sets.attributes).flatten(0, 1).to(device)
    encoder = FrameEncoder(sets.names).to(device)
    optimizer = torch.optim.AdamW(encoder.parameters(), config.learning_rate, weight_decay=0.02)
    begun, step, log = time.monotonic(), 0, []
    while (done := (time.monotonic() - begun) / config.seconds) < 1.0 or step < 3:
        rate = config.learning_rate * min(1.0, step / 200) * max(0.01, 1.0 - done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = torch.randint(len(rgb), (config.batch,), device=device)
        x = rgb[index].float() / 127.5 - 1.0
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, x.flip(-1), x)
        kind = torch.randint(len(DAMAGES), (len(x),), device=device)
        kind = torch.where(torch.rand(len(x), device=device) < 0.3, 0, kind)
        severity = torch.rand(len(x), device=device)
        said = encoder.heads_of(encoder(damage(x, kind, severity)))
        damaged = (kind > 0).float()
        losses = {
            "attributes": 4.0 * F.binary_cross_entropy_with_logits(said["attributes"], told[index]),
            "damage": F.cross_entropy(said["damage"], kind),
            "severity": ((said["severity"][:, 0] - severity).square() * damaged).mean() * 4.0,
        }
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0 or step == 1:
            right = float((said["damage"].argmax(1) == kind).float().mean())
            log.append(
                {
                    "step": step,
                    **{k: float(v.detach()) for k, v in losses.items()},
                    "damage_right": right,
                }
            )
            print(json.dumps(log[-1]), flush=True)
    parameters = sum(p.numel() for p in encoder.parameters())
    card = {
        "task": "families of textures and kinds of damage, train maps",
        "maps": sorted(set(sets.maps)),
    }
    card |= {"parameters": parameters, "steps": step, "frames": len(rgb), "last": log[-1]}
    digest = save_encoder(encoder.float(), config.out, card)
    print(f"encoder: {parameters} parameters, {step} steps, sha256 {digest}")


if __name__ == "__main__":
    main(tyro.cli(Config))
