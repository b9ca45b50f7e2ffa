"""The yardstick of generated places: real ones, distances, and what damage does to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder import gaussian_blur, shuffle_patches
from torch import Tensor

from worldsim.evaluation.encoder import FrameEncoder, encode
from worldsim.evaluation.frechet import frechet_with_interval, kernel_with_interval
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.store import place_attributes
from worldsim.painting.training.views import ViewSets, join, load_view_sets

HEADINGS = 8


@dataclass(frozen=True)
class Places:
    """Look-arounds as tensors. rgb: (s, k, 3, h, w) uint8. code: (s, k, h, w) int32."""

    rgb: Tensor
    code: Tensor
    pose: Tensor
    attributes: Tensor
    intrinsics: Tensor

    def part(self, index: Any) -> Places:
        """Some of them."""
        return Places(
            self.rgb[index],
            self.code[index],
            self.pose[index],
            self.attributes[index],
            self.intrinsics,
        )

    @property
    def headings(self) -> Tensor:
        """Pictures of the headings, (s * 8, 3, h, w)."""
        return self.rgb[:, :HEADINGS].flatten(0, 1)


def places_of(sets: ViewSets, device: torch.device) -> Places:
    """View sets on a device."""
    return Places(
        rgb=torch.from_numpy(sets.rgb).permute(0, 1, 4, 2, 3).contiguous().to(device),
        code=torch.from_numpy(sets.inverse_depth.astype(np.int32)).to(device),
        pose=torch.from_numpy(sets.pose).to(device),
        attributes=torch.from_numpy(place_attributes(sets)).to(device),
        intrinsics=torch.from_numpy(np.array(sets.intrinsics)).to(device),
    )


def load(folder: Path, places: int, device: torch.device) -> Places:
    """The first so many places of a folder."""
    found, total = [], 0
    for path in shard_files(folder):
        sets = load_view_sets(path)
        found.append(sets)
        total += len(sets)
        if total >= places:
            break
    return places_of(join(found), device).part(slice(0, places))


def matching(wanted: Tensor, pool: Tensor) -> Tensor:
    """For each row of ``wanted`` the nearest row of ``pool`` that is not taken yet, (s,) int64."""
    distance = torch.cdist(wanted, pool)
    chosen = []
    for row in range(len(wanted)):
        best = int(distance[row].argmin())
        distance[:, best] = torch.inf
        chosen.append(best)
    return torch.tensor(chosen, device=wanted.device)


class Yardstick:
    """Distances between sets of pictures of places, and of pairs of neighbouring headings."""

    def __init__(self, encoder: FrameEncoder) -> None:
        self.encoder = encoder

    def features(self, rgb: Tensor) -> Tensor:
        """(s * 8, 3, 64, 64) uint8 to (s * 8, 64) on the CPU."""
        return encode(self.encoder, rgb).cpu()

    def between(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        """FD and KD of features (s * 8, 64), and FD of pairs of neighbouring headings."""
        pairs = [
            torch.cat([x, x.unflatten(0, (-1, HEADINGS)).roll(-1, 1).flatten(0, 1)], 1)
            for x in (a, b)
        ]
        told = {
            "fd": frechet_with_interval(a, b, HEADINGS),
            "kd": kernel_with_interval(a, b, HEADINGS),
            "fd_pairs": frechet_with_interval(*pairs, HEADINGS),
        }
        return {name: [round(v, 5) for v in (d.value, d.low, d.high)] for name, d in told.items()}


def as_bytes(x: Tensor) -> Tensor:
    """[-1, 1] to uint8."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def yardstick(measure: Yardstick, train: Places, test: Places, pool: Places) -> dict[str, Any]:
    """The floor, and how distances grow with damage of one half of the test places."""
    real = measure.features(test.headings)
    matched = pool.part(matching(test.attributes, pool.attributes))
    half = len(test.rgb) // 2 * HEADINGS
    first, rest = test.headings[:half], real[half : 2 * half]
    clean = first.float() / 127.5 - 1.0
    torch.manual_seed(0)
    ladders: dict[str, Callable[[float], Tensor]] = {
        "blur_px": lambda s: gaussian_blur(clean, torch.full((half,), s, device=clean.device)),
        "noise": lambda s: clean + s * torch.randn_like(clean),
        "shuffled_share": lambda s: shuffle_patches(
            clean, torch.full((half,), s, device=clean.device)
        ),
    }
    steps = {
        "blur_px": (0.5, 1.0, 2.0, 4.0),
        "noise": (0.05, 0.1, 0.2, 0.4),
        "shuffled_share": (0.1, 0.25, 0.5, 1.0),
    }
    return {
        "floor_train_test": measure.between(measure.features(train.headings), real),
        "floor_train_test_matched": measure.between(measure.features(matched.headings), real),
        "halves_of_test": measure.between(real[:half], rest),
        "ladders": {
            name: {
                str(s): measure.between(measure.features(as_bytes(damaged(s))), rest)
                for s in steps[name]
            }
            for name, damaged in ladders.items()
        },
    }
