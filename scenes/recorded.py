"""Start scenes stored on disk, one folder per scene.

:mod:`worldsim.world.scene_files` writes such folders, for example from frames of the real twin.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from worldsim.errors import NotFoundError
from worldsim.runtime.files import inside
from worldsim.state import SceneStart
from worldsim.world.scene_files import check_scene_folder, load_scene, scene_names


class RecordedScenes:
    """Scenes stored in a folder, such as the ``scenes`` folder of a world.

    Each scene is read on first use.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._loaded: dict[str, SceneStart] = {}
        self._checked = False

    def names(self) -> list[str]:
        """Return the names of the scenes, in natural order."""
        return scene_names(self.folder)

    def load(self, name: str) -> SceneStart:
        """Return the start of that name.

        Raises NotFoundError, which lists the existing names, or DamagedFileError.
        """
        if name not in self._loaded:
            names = self.names()
            if name not in names:
                raise NotFoundError(
                    f"no start scene {name!r} in {self.folder}; there are: "
                    f"{', '.join(names) or 'none'}"
                )
            self._loaded[name] = load_scene(inside(self.folder, name))
        return self._loaded[name]

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return a scene drawn uniformly with ``rng``.

        The first call checks all scenes. Raises DamagedFileError if one of them is damaged, and
        NotFoundError if there are none.
        """
        names = self.names()
        if not self._checked:
            # All scenes, so that a damaged one raises now and not when it happens to be drawn.
            for name in names:
                check_scene_folder(inside(self.folder, name))
            self._checked = True
        if not names:
            raise NotFoundError(
                f"{self.folder} holds no start scenes: record some with "
                f"worldsim.world.scene_files.record_scenes"
            )
        return self.load(names[int(rng.integers(len(names)))])
