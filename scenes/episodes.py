"""Start scenes at random moments of recorded episodes, for agents that learn in the dream.

They give an agent more varied starts than a world's own scenes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.data.starts import scene_at
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.state import SceneStart
from worldsim.training.recordings import recordings_in, require_alike
from worldsim.world import World

USUAL = 8
"""Frames per moment until :meth:`EpisodeScenes.fit_to` sets the world's attention window."""


class EpisodeScenes:
    """Scenes that start at random moments of a recording.

    A moment is a few consecutive frames of one episode, before its last frame. Its name holds the
    episode and the frame that the start ends with, such as ``episode-12-340``.

    folder: folder of a dataset, or of several datasets, such as the rounds of a task. Episodes of
        several datasets are numbered consecutively.
    count: number of moments to draw, at least 1.
    frames: frames per moment, which give the world context and motion history. By default the
        world's attention window, or ``USUAL`` until :meth:`fit_to` is called.
    beginnings: share of moments, in [0, 1], that are the first frame of an episode.
    seed: seed of the draw.

    Raises InvalidInputError for values out of range or datasets that differ, and NotFoundError if
    the folder holds no recording or no episodes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        count: int = 1024,
        frames: int | None = None,
        beginnings: float = 0.25,
        seed: int = 0,
    ) -> None:
        if count < 1 or (frames is not None and frames < 1) or not 0.0 <= beginnings <= 1.0:
            raise InvalidInputError(
                f"count {count} and frames {frames} must be at least 1, beginnings {beginnings} a "
                f"share in [0, 1]"
            )
        self.folder, self.frames = Path(folder), frames or USUAL
        self._by_world = frames is None
        folders = recordings_in(self.folder)
        if not folders:
            raise NotFoundError(
                f"{self.folder} is no recording, nor a folder of some (no dataset.json): give "
                f"what `worldsim record` wrote"
            )
        self.datasets = [EpisodeDataset(one) for one in folders]
        require_alike(self.datasets)
        self._ends = np.cumsum([len(one) for one in self.datasets])
        if not self._ends[-1]:
            raise NotFoundError(f"{self.folder} holds no episodes yet: record some first")
        rng = np.random.default_rng(seed)
        drawn = []
        for index in rng.integers(self._ends[-1], size=count):
            # The last frame ended the episode, so no dream can continue from it.
            last = len(self._episode(int(index)).rgb) - 2
            drawn.append(
                (
                    int(index),
                    0 if last < 1 or rng.random() < beginnings else int(rng.integers(1, last + 1)),
                )
            )
        self._moments = {f"episode-{index}-{frame}": (index, frame) for index, frame in drawn}
        self._loaded: dict[str, SceneStart] = {}

    def _episode(self, index: int) -> Episode:
        """Return episode ``index``, counted across all datasets."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        episode: Episode = self.datasets[which][
            index - int(self._ends[which]) + len(self.datasets[which])
        ]
        return episode

    def names(self) -> list[str]:
        """Return the names of the moments."""
        return list(self._moments)

    def load(self, name: str) -> SceneStart:
        """Return the start at the moment with that name. Raises NotFoundError."""
        if name not in self._moments:
            raise NotFoundError(
                f"no moment {name!r} among the {len(self._moments)} drawn from {self.folder}: see "
                f"names()"
            )
        if name not in self._loaded:
            index, frame = self._moments[name]
            self._loaded[name] = scene_at(self._episode(index), frame, self.frames, name)
        return self._loaded[name]

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return the start at a moment drawn uniformly with ``rng``."""
        return self.load(self.names()[int(rng.integers(len(self._moments)))])

    def fit_to(self, world: World) -> EpisodeScenes:
        """Set the frames per moment to the attention window of ``world`` and return this object.

        Raises InvalidInputError if the recording's frames have another size than the world's.
        """
        n, shape = world.spec, tuple(self.datasets[0].info.observation_space["shape"])
        if shape != (n.height, n.width, 3):
            raise InvalidInputError(
                f"{self.folder} holds frames of {shape}, the world sees {(n.height, n.width, 3)}"
            )
        if self._by_world and self.frames != n.window:
            self.frames = n.window
            self._loaded.clear()
        return self
