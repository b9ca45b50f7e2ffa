"""Starts in the middle of recorded episodes, for agents that learn in the dream.

There are many, as varied as the recording.
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
"""Frames of a moment where no world says how many it attends to."""


class EpisodeScenes:
    """Random moments of a recording: a few consecutive frames of one episode, before its end.

    Names are like ``episode-12-340``: episode and frame.

    folder: folder of a dataset, or of several, such as the rounds of a task; their episodes are
        numbered consecutively.
    count: number of moments.
    frames: frames per moment, for momentum and context; by default as many as the world attends to
        (8 before a world is known).
    beginnings: share of moments that are the first frames of their episodes.
    seed: seed of the choice.
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
            # The last frame is where an episode ended: nothing goes on from there.
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
        """Episode ``index``, counted through all datasets."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        episode: Episode = self.datasets[which][
            index - int(self._ends[which]) + len(self.datasets[which])
        ]
        return episode

    def names(self) -> list[str]:
        """Names of the moments."""
        return list(self._moments)

    def load(self, name: str) -> SceneStart:
        """The moment of that name. Raises NotFoundError."""
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
        """One of the moments, each as likely."""
        return self.load(self.names()[int(rng.integers(len(self._moments)))])

    def fit_to(self, world: World) -> EpisodeScenes:
        """Itself; raises InvalidInputError if the world sees frames of another size."""
        n, shape = world.spec, tuple(self.datasets[0].info.observation_space["shape"])
        if shape != (n.height, n.width, 3):
            raise InvalidInputError(
                f"{self.folder} holds frames of {shape}, the world sees {(n.height, n.width, 3)}"
            )
        if self._by_world and self.frames != n.window:
            self.frames = n.window
            self._loaded.clear()
        return self
