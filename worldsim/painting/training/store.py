"""View sets on a training device, with a fixed capacity that fills during a recording."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.views import ViewSets, load_view_sets
from worldsim.protocols import PainterSpec

POLL_S = 1.0
"""Seconds between checks of the folder."""


@dataclass(frozen=True)
class Drawn:
    """Sets drawn from the store.

    Axes are those of :class:`worldsim.painting.training.views.ViewSets`.

    rgb: (b, k, 3, h, w) uint8.
    code: (b, k, h, w) int32 inverse-depth codes.
    pose: (b, k, 4, 4) float32 camera-to-world.
    attributes: (b, a) float32 in [0, 1], one value for the whole place.
    """

    rgb: Tensor
    code: Tensor
    pose: Tensor
    attributes: Tensor


class ViewStore:
    """Up to ``capacity`` sets on a device. New sets replace the oldest.

    like: any sets of the recording. They provide sizes, intrinsics and names and are not stored.
    """

    def __init__(self, like: ViewSets, capacity: int, device: torch.device) -> None:
        _, k, h, w, _ = like.rgb.shape
        if capacity < 1:
            raise InvalidInputError(f"capacity = {capacity}: a store holds at least one set.")
        self.capacity, self.device = capacity, device
        self.names = self._recorded = like.names
        self.intrinsics = torch.from_numpy(np.array(like.intrinsics)).to(device)
        self.views, self.height, self.width = k, h, w
        self._rgb = torch.empty(capacity, k, 3, h, w, dtype=torch.uint8, device=device)
        self._code = torch.empty(capacity, k, h, w, dtype=torch.int16, device=device)
        self._pose = torch.empty(capacity, k, 4, 4, device=device)
        self._attributes = torch.empty(capacity, len(like.names), device=device)
        self._columns: Tensor | None = None
        self.added = 0
        """Number of sets added so far."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def spec(self, views: int) -> PainterSpec:
        """Return what a painter of these sets paints, ``views`` at once."""
        fx, fy, cx, cy = (float(value) for value in self.intrinsics.cpu())
        return PainterSpec(self.height, self.width, (fx, fy, cx, cy), views, self.names)

    def select(self, names: Sequence[str]) -> None:
        """Let drawn sets have only the attributes ``names``, in this order.

        A painter trains so on a recording that has further attributes.

        Raises InvalidInputError if the recording lacks one.
        """
        if missing := [name for name in names if name not in self._recorded]:
            raise InvalidInputError(
                f"the recording has the attributes {', '.join(self._recorded)}, without "
                f"{missing[0]!r}: record it again with this version."
            )
        self.names = tuple(names)
        at = [self._recorded.index(name) for name in names]
        self._columns = torch.tensor(at, dtype=torch.int64, device=self.device)

    def add(self, sets: ViewSets) -> None:
        """Copy sets to the device."""
        at = (torch.arange(len(sets)) + self.added) % self.capacity
        at = at.to(self.device)
        rgb = torch.from_numpy(sets.rgb).to(self.device).permute(0, 1, 4, 2, 3)
        self._rgb[at] = rgb
        # The 16-bit codes are stored as int16: few operations support uint16.
        self._code[at] = torch.from_numpy(sets.inverse_depth.view(np.int16)).to(self.device)
        self._pose[at] = torch.from_numpy(sets.pose).to(self.device)
        self._attributes[at] = torch.from_numpy(place_attributes(sets)).to(self.device)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self.added += len(sets)

    def attributes(self, index: Tensor | None = None) -> Tensor:
        """Return the attributes (b, a) of the sets at ``index`` (b,) int64, by default of all."""
        found = self._attributes[: len(self)] if index is None else self._attributes[index]
        return found if self._columns is None else found[:, self._columns]

    def get(self, index: Tensor) -> Drawn:
        """Return the sets at ``index`` (b,) int64."""
        code = self._code[index].to(torch.int32) & 0xFFFF
        return Drawn(self._rgb[index], code, self._pose[index], self.attributes(index))

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Draw ``count`` sets uniformly, with replacement."""
        index = torch.randint(len(self), (count,), generator=generator, device=self.device)
        return self.get(index)


def place_attributes(sets: ViewSets) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the attributes of each place, (s, a): the mean over its views."""
    mean: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = sets.attributes.mean(1).astype(
        np.float32
    )
    return mean


class FolderReader:
    """Fills a store from a folder of shards, including new ones, in its own thread.

    part, parts: this process reads every ``parts``-th shard, starting at number ``part``.
    """

    def __init__(
        self, folder: Path, capacity: int, device: torch.device, part: int = 0, parts: int = 1
    ):
        self.folder, self.part, self.parts = folder, part, parts
        first = self._wait_for_first()
        self.store = ViewStore(load_view_sets(first), capacity, device)
        self._read: set[str] = set()
        self._stop = threading.Event()
        self.read_new()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _wait_for_first(self, timeout_s: float = 300.0) -> Path:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if mine := self._shards():
                return mine[0]
            time.sleep(POLL_S)
        raise InvalidInputError(
            f"{self.folder} had no shard for part {self.part} of {self.parts} within "
            f"{timeout_s:g} s: record look-arounds into it first."
        )

    def _shards(self) -> list[Path]:
        """Return the shards of this part, sorted by number."""
        shards = shard_files(self.folder)
        return [path for path in shards if int(path.stem[6:]) % self.parts == self.part]

    def read_new(self) -> int:
        """Read the shards that appeared since the last call; returns their number."""
        new = [path for path in self._shards() if path.name not in self._read]
        for path in new:
            self._read.add(path.name)
            try:
                self.store.add(load_view_sets(path))
            except WorldsimError as error:
                warnings.warn(f"{path} is skipped: {error}", stacklevel=2)
        return len(new)

    def _run(self) -> None:
        # Copies in the training's stream would wait for the work queued there.
        device = self.store.device
        with torch.cuda.stream(torch.cuda.Stream(device) if device.type == "cuda" else None):
            while not self._stop.wait(POLL_S):
                self.read_new()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
