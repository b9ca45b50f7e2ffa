"""Look-arounds as tensors: real places that paintings are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.painting.training.batches import memory_channels
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.store import place_attributes
from worldsim.painting.training.views import ViewSets, join, load_view_sets

HEADINGS = 8
"""Views of a place that stand at one point, evenly rotated. They come first."""
CHUNK = 32
"""Places whose memories are rendered at once."""


@dataclass(frozen=True)
class Places:
    """``s`` places with ``k`` views each.

    rgb: (s, k, 3, h, w) uint8.
    code: (s, k, h, w) int32 inverse-depth codes, 0 = sky.
    pose: (s, k, 4, 4) float32 camera-to-world, metres.
    attributes: (s, a) float32 in [0, 1].
    intrinsics: (4,) float32 pixels.
    """

    rgb: Tensor
    code: Tensor
    pose: Tensor
    attributes: Tensor
    intrinsics: Tensor

    def __len__(self) -> int:
        return len(self.rgb)

    def part(self, index: slice | Tensor) -> Places:
        """Return some of the places."""
        return Places(
            self.rgb[index],
            self.code[index],
            self.pose[index],
            self.attributes[index],
            self.intrinsics,
        )

    def to(self, device: torch.device | str) -> Places:
        """Return the same places on a device."""
        return Places(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @property
    def headings(self) -> Tensor:
        """Pictures of the headings, (s * 8, 3, h, w) uint8."""
        return self.rgb[:, :HEADINGS].flatten(0, 1)


def places_of(sets: ViewSets, device: torch.device | str = "cpu") -> Places:
    """Convert view sets to places on a device."""
    return Places(
        rgb=torch.from_numpy(sets.rgb).permute(0, 1, 4, 2, 3).contiguous().to(device),
        code=torch.from_numpy(sets.inverse_depth.astype(np.int32)).to(device),
        pose=torch.from_numpy(sets.pose).to(device),
        attributes=torch.from_numpy(place_attributes(sets)).to(device),
        intrinsics=torch.from_numpy(np.array(sets.intrinsics)).to(device),
    )


def first_sets(folder: Path, places: int) -> ViewSets:
    """Return the first ``places`` sets of a folder of shards, all of them if there are fewer.

    Raises NotFoundError or DamagedFileError.
    """
    found: list[ViewSets] = []
    total = 0
    for path in shard_files(folder):
        found.append(load_view_sets(path))
        total += len(found[-1])
        if total >= places:
            break
    if not found:
        raise NotFoundError(
            f"{folder} holds no look-arounds (views-*.safetensors): record some with "
            "experiments/painter/record.py, or leave the option out to record them now."
        )
    return cut(join(found), places)


def cut(sets: ViewSets, places: int) -> ViewSets:
    """Return the first ``places`` sets."""
    return ViewSets(
        rgb=sets.rgb[:places],
        inverse_depth=sets.inverse_depth[:places],
        pose=sets.pose[:places],
        intrinsics=sets.intrinsics,
        attributes=sets.attributes[:places],
        names=sets.names,
        maps=sets.maps[:places],
    )


def load(folder: Path, places: int, device: torch.device | str = "cpu") -> Places:
    """Load the first ``places`` places of a folder of shards.

    Raises NotFoundError or DamagedFileError.
    """
    return places_of(first_sets(folder, places), device)


def each_shard(folder: Path, places: int) -> Iterator[ViewSets]:
    """Yield the first ``places`` sets of a folder, one shard at a time."""
    left = places
    for path in shard_files(folder):
        if left <= 0:
            return
        sets = cut(load_view_sets(path), left)
        left -= len(sets)
        yield sets


def digest(sets: ViewSets) -> str:
    """Return the hexadecimal SHA-256 of pictures, depths, poses and attributes."""
    total = hashlib.sha256()
    for name in ("rgb", "inverse_depth", "pose", "attributes", "intrinsics"):
        total.update(np.ascontiguousarray(getattr(sets, name)).tobytes())
    return total.hexdigest()


def check_views(sets: ViewSets, displaced: int = 1) -> None:
    """Raise InvalidInputError unless each set has the headings and ``displaced`` further views."""
    if sets.rgb.shape[1] < HEADINGS + displaced:
        raise InvalidInputError(
            f"sets of {sets.rgb.shape[1]} views: {HEADINGS} headings and at least {displaced} "
            "displaced views are needed; record them so."
        )


def matching(wanted: Tensor, pool: Tensor) -> Tensor:
    """Choose for each row of ``wanted`` the nearest row of ``pool`` that is not taken yet.

    wanted: (s, a).
    pool: (p, a), p at least s.

    Returns (s,) int64.
    """
    distance = torch.cdist(wanted, pool)
    chosen = []
    for row in range(len(wanted)):
        best = int(distance[row].argmin())
        distance[:, best] = torch.inf
        chosen.append(best)
    return torch.tensor(chosen, device=wanted.device)


def partial_memory(at: Places, sources: Sequence[int]) -> Tensor:
    """Render what a memory of the views ``sources`` shows at the headings.

    Returns (s, 8, 5, h, w), see :func:`worldsim.painting.training.batches.memory_channels`.
    """
    chosen = list(sources)
    keep = torch.ones_like(at.code[:, chosen], dtype=torch.bool)
    parts = [
        memory_channels(
            p.rgb[:, chosen],
            p.code[:, chosen],
            p.pose[:, chosen],
            k,
            p.pose[:, :HEADINGS],
            p.intrinsics,
        )
        for p, k in (
            (at.part(slice(i, i + CHUNK)), keep[i : i + CHUNK]) for i in range(0, len(at), CHUNK)
        )
    ]
    return torch.cat(parts)


def as_bytes(x: Tensor) -> Tensor:
    """Convert [-1, 1] to uint8."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
