"""Where episodes of a world begin: scenes by name, at random, or given frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.camera import quantise_depth
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.protocols import Scene, fit_scene
from worldsim.runtime.files import inside
from worldsim.runtime.options import check_options
from worldsim.runtime.registries import SCENES
from worldsim.runtime.types import Env, JsonMapping
from worldsim.state import SceneStart
from worldsim.world.twin import frames_of
from worldsim.world.world import World

DEFAULT_SCENES = "recorded:"
"""The scenes of the world's own folder."""
FRAME_KEYS = ("rgb", "act", "depth", "pose", "intrinsics")
SEED_LIMIT = 2**63 - 1


@runtime_checkable
class NamedScenes(Protocol):
    """Scenes that can also be had by name."""

    def names(self) -> list[str]:
        """Return the names of all scenes."""
        ...

    def load(self, name: str) -> SceneStart:
        """Load the scene of that name."""
        ...


class Starts:
    """Where resets begin.

    scenes: a folder of scenes; ``NAME:FOLDER`` with a name of
    :data:`worldsim.runtime.registries.SCENES`, such as ``captures:FOLDER``; ``module:Class`` of a
    class that takes the world's ``scenes`` folder; ``module:Class:FOLDER`` for another folder; an
    object with the method ``start``; or None: then every reset needs frames.
    """

    def __init__(self, world: World, scenes: str | Path | Scene | None) -> None:
        self.world, self.given = world, scenes
        resolved = self._resolve(scenes)
        self.scenes = None if resolved is None else fit_scene(resolved, world)

    def choose(
        self, rng: np.random.Generator, options: JsonMapping | None
    ) -> tuple[SceneStart, int]:
        """Return the scene that ``options`` request, or a random one, and a random seed."""
        options = check_options(options)
        unknown = sorted(set(map(str, options)) - {"scene", "frames"})
        if unknown:
            raise InvalidInputError(
                f"unknown reset options {', '.join(map(repr, unknown))}: options are 'scene' and "
                f"'frames'"
            )
        if len(options) == 2:
            raise InvalidInputError(
                "reset options 'scene' and 'frames' exclude one another: give one of them"
            )
        if "frames" in options:
            scene = as_scene(options["frames"])
        elif "scene" in options:
            scene = self._load_named(options["scene"])
        else:
            scene = self._any().start(rng)
        self.world.check_start(scene)
        return scene, int(rng.integers(SEED_LIMIT))

    def _load_named(self, name: object) -> SceneStart:
        if not isinstance(name, str):
            raise InvalidInputError(f"reset option 'scene' must be a name, got {name!r}")
        scenes = self._any()
        if not isinstance(scenes, NamedScenes):
            raise InvalidInputError(
                f"{type(scenes).__name__} has no scenes by name: leave out the reset option 'scene'"
            )
        return scenes.load(name)

    def _any(self) -> Scene:
        if self.scenes is None:
            raise NotFoundError(
                "this world was not loaded from a folder and so has no start scenes: pass "
                "scenes=FOLDER, or frames in the options"
            )
        return self.scenes

    def _resolve(self, scenes: str | Path | Scene | None) -> Scene | None:
        if scenes is None:
            return None
        folder = None if self.world.folder is None else inside(self.world.folder, "scenes")
        if isinstance(scenes, Path) or (isinstance(scenes, str) and ":" not in scenes):
            folder, scenes = Path(scenes), DEFAULT_SCENES
        if not isinstance(scenes, str):
            if not isinstance(scenes, Scene):
                raise InvalidInputError(
                    f"scenes must be a folder, 'NAME:FOLDER', 'module:Class' or an object with "
                    f"start(rng), not {scenes!r}"
                )
            return scenes
        name, _, rest = scenes.partition(":")
        if name not in SCENES:
            cls, _, rest = rest.partition(":")
            name = f"{name}:{cls}"
        folder = Path(rest) if rest else folder
        try:
            creator = SCENES.of_user(name)
        except NotFoundError as error:
            forms = (
                f"a folder of scenes, 'NAME:FOLDER' with a NAME of {', '.join(SCENES)}, "
                f"'module:Class' or 'module:Class:FOLDER'"
            )
            raise NotFoundError(f"no scenes {scenes!r} ({error}): give {forms}") from None
        return None if folder is None else creator(folder)


def as_scene(frames: SceneStart | Env | Mapping[str, ArrayLike | None]) -> SceneStart:
    """Convert ``options["frames"]`` to a start scene.

    frames: a :class:`SceneStart`, a real environment, or a dict of arrays. A real environment
        starts the dream where it stands: see :func:`worldsim.world.twin.frames_of`. The arrays are
        ``rgb`` (t, h, w, 3) uint8; ``act`` (t,) or (t, n), what led to each frame (zeros by
        default); ``depth`` (t, h, w) metres; ``pose`` (t, 4, 4); ``intrinsics`` (4,) pixels (the
        world's by default).
    """
    if isinstance(frames, SceneStart):
        return dataclasses.replace(frames, name="")
    if isinstance(frames, gym.Env):
        return frames_of(frames)
    if not isinstance(frames, Mapping):
        raise InvalidInputError(
            f"frames must be a SceneStart, a real environment or a dict of arrays, got "
            f"{type(frames).__name__}"
        )
    unknown = sorted(set(map(str, frames)) - set(FRAME_KEYS))
    if unknown or frames.get("rgb") is None:
        keys = ", ".join(map(repr, frames)) or "nothing"
        raise InvalidInputError(
            f"frames hold {keys}: 'rgb' is needed, and no others than {', '.join(FRAME_KEYS)} are "
            f"known"
        )
    arrays = {name: _tensor(name, value) for name, value in frames.items() if value is not None}
    rgb = arrays["rgb"]
    if rgb.dim() != 4 or rgb.shape[-1] != 3 or rgb.dtype != torch.uint8:
        raise InvalidInputError(
            f"frames: rgb must be uint8 of shape (t, h, w, 3), got {rgb.dtype} {tuple(rgb.shape)}"
        )
    depth, pose, intrinsics = (arrays.get(name) for name in ("depth", "pose", "intrinsics"))
    for name, value in (("pose", pose), ("intrinsics", intrinsics), ("act", arrays.get("act"))):
        if value is not None and not bool(value.isfinite().all()):
            raise InvalidInputError(f"frames: {name} holds numbers that are NaN or infinite")
    if intrinsics is not None and not bool((intrinsics.flatten()[:2] > 0).all()):
        raise InvalidInputError(
            f"frames: intrinsics are {intrinsics.tolist()}, fx and fy must be positive pixels"
        )
    if depth is not None and not (depth.is_floating_point() and bool((depth > 0).all())):
        least = f" from {depth.min()}" if depth.is_floating_point() and depth.numel() else ""
        raise InvalidInputError(
            f"frames: depth must be positive float metres, inf for sky, got {depth.dtype}{least}"
        )
    return SceneStart(
        rgb=rgb.permute(0, 3, 1, 2).contiguous(),
        act=arrays.get("act", torch.zeros(len(rgb), dtype=torch.int64)),
        inverse_depth=None if depth is None else quantise_depth(depth),
        pose=None if pose is None else pose.float(),
        intrinsics=None if intrinsics is None else intrinsics.float(),
    )


def _tensor(name: str, value: ArrayLike) -> Tensor:
    try:
        return torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidInputError(
            f"frames: {name} of type {type(value).__name__} is no array ({error})"
        ) from None
