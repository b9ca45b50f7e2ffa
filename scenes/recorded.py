"""Starts from scenes on disk: frames of the real twin, or generated places and journeys.

:mod:`worldsim.world.scene_files` writes recorded scenes, one folder per scene.
:mod:`worldsim.painting.places.folder` writes generated ones; one of them holds several starts.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldsim.errors import NotFoundError
from worldsim.runtime.files import inside, is_file
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.resampling import resample_scene, start_of
from worldsim.world.scene_files import SCENE, check_scene_folder, load_scene, scene_names


class RecordedScenes:
    """The scenes in a folder, such as the ``scenes`` folder of a world; read on first use.

    folder: a folder of scenes, or a folder that is itself a scene with several starts, as
        ``worldsim generate`` and ``worldsim journey`` write.
    world: the world that starts from them. Generated scenes are resampled to its frame size and
        camera; recorded ones must have them. Environments fit scenes to their own world
        (:meth:`fit_to`).
    """

    def __init__(self, folder: str | os.PathLike[str], world: World | None = None) -> None:
        self.folder, self.world = Path(folder), world
        self._loaded: dict[str, list[SceneStart]] = {}
        self._checked = False

    def fit_to(self, world: World) -> RecordedScenes:
        """Return the same scenes for ``world``."""
        return self if world is self.world else RecordedScenes(self.folder, world)

    def names(self) -> list[str]:
        """Return the names of the scenes, in natural order, or of the starts of a single scene."""
        if self._is_scene():
            return [start.name for start in self._starts("")]
        return scene_names(self.folder)

    def load(self, name: str) -> SceneStart:
        """Load the scene of that name, or the first start of a scene with several.

        Raises NotFoundError, which lists the existing names, or DamagedFileError.
        """
        if self._is_scene():
            found = {start.name: start for start in self._starts("")}
            if name in found:
                return found[name]
        elif name in self._loaded or name in self.names():
            return self._starts(name)[0]
        raise NotFoundError(
            f"no start scene {name!r} in {self.folder}; there are: "
            f"{', '.join(self.names()) or 'none'}"
        )

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return one of the scenes, with equal probability, and one of its starts.

        Raises DamagedFileError, before the first, if any of them is damaged.
        """
        names = [""] if self._is_scene() else self.names()
        if not self._checked:
            # All of them, so that damage does not wait for the draw that meets it.
            for name in names:
                check_scene_folder(self._path(name))
            self._checked = True
        if not names:
            raise NotFoundError(
                f"{self.folder} holds no start scenes: record some with "
                f"worldsim.world.scene_files.record_scenes"
            )
        name = names[0] if names == [""] else names[int(rng.integers(len(names)))]
        starts = self._starts(name)
        return starts[0] if len(starts) == 1 else starts[int(rng.integers(len(starts)))]

    def _is_scene(self) -> bool:
        return is_file(self.folder / SCENE)

    def _path(self, name: str) -> Path:
        return inside(self.folder, name) if name else self.folder

    def _starts(self, name: str) -> list[SceneStart]:
        """Return the starts of the scene in the folder ``name``."""
        if name not in self._loaded:
            self._loaded[name] = self._read(self._path(name))
        return self._loaded[name]

    def _read(self, folder: Path) -> list[SceneStart]:
        described, scene = check_scene_folder(folder), load_scene(folder)
        if self.world is not None and described.generated:
            scene = resample_scene(scene, self.world)
        if not described.starts:
            return [scene]
        starts = [start_of(scene, at.first, at.count, self.world) for at in described.starts]
        if len(starts) == 1:
            return starts
        return [replace(one, name=f"{one.name}-{i}") for i, one in enumerate(starts, 1)]
