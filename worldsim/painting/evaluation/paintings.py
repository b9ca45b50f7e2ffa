"""What a painter paints of places, kept on disk so that an interrupted evaluation resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from worldsim.painting.evaluation.places import Places
from worldsim.painting.training.batches import source_views
from worldsim.protocols import Painter, PaintInputs
from worldsim.runtime.files import is_file, load_tensors, save_tensors
from worldsim.state import MemoryView

SEEDS = 2**20
"""Distance between the first places' seeds of two seeds of an evaluation."""


@dataclass(frozen=True)
class Known:
    """What the painter receives of a place.

    given: number of views, the first ones of the order, that are given as they are.
    colour_only: whether these lack their depth.
    sources: views of the place that its memory was made of.
    attributes: whether the place's attributes are given.
    """

    given: int = 0
    colour_only: bool = False
    sources: tuple[int, ...] = ()
    attributes: bool = False


@dataclass(frozen=True)
class Painted:
    """Painted views in the order asked for.

    rgb: (s, n, 3, h, w) uint8.
    code: (s, n, h, w) int32 inverse-depth codes.
    """

    rgb: Tensor
    code: Tensor


class Paintings:
    """Paints places in batches. Each finished batch is written to ``folder``, if there is one.

    The random numbers of a place depend on ``seed`` and its number alone, so batches of any size
    give the same views up to rounding.

    progress: called with the number of views that were painted or read.
    """

    def __init__(
        self,
        painter: Painter,
        folder: Path | None,
        batch: int,
        seed: int,
        progress: Callable[[int], object] = lambda views: None,
    ) -> None:
        self.painter, self.folder, self.batch, self.seed = painter, folder, batch, seed
        self.progress = progress

    def paint(
        self, name: str, places: Places, order: Sequence[int], known: Known, step: int = 0
    ) -> Painted:
        """Paint the views ``order`` of all places.

        name: of the files. Each use of another name, order or knowledge needs its own.
        step: makes the random numbers of one use differ from those of another.
        """
        parts = []
        for start in range(0, len(places), self.batch):
            part = places.part(slice(start, start + self.batch))
            seeds = [(self.seed * SEEDS + start + i) % 2**63 for i in range(len(part))]
            path = f"{name}-{start:05d}-{start + len(part):05d}.safetensors"
            painted = self._read(path)
            if painted is None:
                painted = self._paint(part, list(order), known, torch.tensor(seeds), step)
                self._write(path, painted)
            parts.append(painted)
            self.progress(len(part) * len(order))
        device = places.rgb.device
        return Painted(*(torch.cat(x).to(device) for x in zip(*parts, strict=True)))

    def _read(self, name: str) -> tuple[Tensor, Tensor] | None:
        if self.folder is None or not is_file(self.folder / name):
            return None
        tensors = load_tensors(self.folder / name)
        return tensors["rgb"], tensors["code"]

    def _write(self, name: str, painted: tuple[Tensor, Tensor]) -> None:
        if self.folder is not None:
            save_tensors(dict(zip(("rgb", "code"), painted, strict=True)), self.folder / name)

    def _paint(
        self, at: Places, order: list[int], known: Known, seed: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        inputs = inputs_of(at, order, known, seed, step)
        frame = self.painter.paint(inputs)
        assert frame.inverse_depth is not None
        shape = (len(at), len(order))
        return (
            frame.rgb.unflatten(0, shape).cpu().contiguous(),
            frame.inverse_depth.unflatten(0, shape).cpu().contiguous(),
        )

    def remove(self) -> None:
        """Delete the files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def inputs_of(
    at: Places, order: Sequence[int], known: Known, seed: Tensor, step: int = 0
) -> PaintInputs:
    """Return the painter's inputs for the views ``order`` of some places."""
    views, device = list(order), at.rgb.device
    s, n = len(at), len(views)
    pose = at.pose[:, views]
    view = _memory(at, known.sources, pose)
    given = torch.zeros(s, n, dtype=torch.bool, device=device)
    given[:, : known.given] = True
    flat = given.flatten()
    code = at.code[:, views].flatten(0, 1) * (not known.colour_only)
    view = replace(
        view,
        rgb=torch.where(flat[:, None, None, None], at.rgb[:, views].flatten(0, 1), view.rgb),
        inverse_depth=torch.where(flat[:, None, None], code, view.inverse_depth),
        mask=view.mask | flat[:, None, None],
    )
    named = known.attributes and at.attributes.shape[1] > 0
    return PaintInputs(
        view=view,
        pose=pose,
        seed=seed.to(device),
        step=torch.full((s,), step, dtype=torch.int64, device=device),
        attributes=at.attributes.clamp(0, 1) if named else None,
        given=given if known.given else None,
        colour_only=given if known.given and known.colour_only else None,
    )


def _memory(at: Places, sources: Sequence[int], pose: Tensor) -> MemoryView:
    """Render a memory of the views ``sources``, none for an empty one, at poses (s, n, 4, 4)."""
    chosen = list(sources) or [0]
    keep = torch.full_like(at.code[:, chosen], bool(sources), dtype=torch.bool)
    return source_views(
        at.rgb[:, chosen], at.code[:, chosen], at.pose[:, chosen], keep, pose, at.intrinsics
    )


def key_of(values: object) -> str:
    """Return a short name for what decides about paintings: JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
