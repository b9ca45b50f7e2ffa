"""The worlds of a server: what there is to choose from, loaded on first use.

Sessions with the same world, engine and settings share one :class:`worldsim.world.World`, so that
their steps can be computed together.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from worldsim.errors import InvalidInputError, NotFoundError, WorldsimError
from worldsim.protocols import Painter
from worldsim.runtime.arguments import shown
from worldsim.runtime.files import as_path, files_in, inside
from worldsim.runtime.json_config import read_json
from worldsim.runtime.keyboard import action_names, keys_to_action
from worldsim.runtime.types import Array, JsonObject, Space
from worldsim.sessions.protocol import Actions, KeyBinding, SceneInfo, Settings, WorldInfo
from worldsim.sessions.stored_frames import as_picture
from worldsim.state import SceneStart
from worldsim.world.config import WorldConfig
from worldsim.world.files import WORLD, WORLDS_FOLDER, find_world, read_card, shipped_worlds
from worldsim.world.paint_ahead import PaintAheadConfig
from worldsim.world.scene_files import load_scene, scene_names
from worldsim.world.starts import Starts
from worldsim.world.twin import twin_of
from worldsim.world.world import World


@dataclass(frozen=True)
class VariantKey:
    """What sessions must have in common to be stepped together."""

    world: str
    engine: str
    settings: Settings


class Catalogue:
    """The worlds that sessions can be made of.

    names: folders or shipped worlds; by default all shipped worlds that sessions can step.
    device: of the worlds.
    painter: of dreams that are painted ahead; by default the shipped one, loaded on first use.
    worlds: loaded worlds by name, beside ``names``.
    places: folder of further scenes.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        device: str | None = None,
        painter: Painter | None = None,
        worlds: dict[str, World] | None = None,
        places: Path | None = None,
    ) -> None:
        self.device, self.places = device, places
        self._painter = painter
        self._loaded: dict[str, World] = dict(worlds or {})
        self._folders = {_short(name): find_world(name) for name in names}
        if not names and not worlds:
            self._folders = {name: WORLDS_FOLDER / name for name in shipped_worlds()}
        self._variants: weakref.WeakValueDictionary[VariantKey, World] = (
            weakref.WeakValueDictionary()
        )
        self._starts: dict[str, Starts] = {}
        self._lock = threading.RLock()

    @property
    def names(self) -> list[str]:
        """Names of the worlds."""
        return sorted({*self._folders, *self._loaded})

    @property
    def loaded(self) -> list[str]:
        """Names of the worlds whose weights are in memory."""
        return sorted(self._loaded)

    @property
    def device_in_use(self) -> torch.device | None:
        """Device of the loaded worlds, None before the first is loaded."""
        # Without the lock, which is held while a world is loaded.
        first = next(iter(self._loaded.values()), None)
        return None if first is None else first.device

    def world(self, name: str) -> World:
        """Return a world with its own settings, loaded on first use.

        Raises NotFoundError, DamagedFileError or OutOfMemoryError.
        """
        with self._lock:
            self.require(name)
            if name not in self._loaded:
                self._loaded[name] = World.from_pretrained(self._folders[name], self.device)
            return self._loaded[name]

    def variant(self, key: VariantKey) -> World:
        """Return the world of these settings, the same object for all sessions that use it.

        Raises what :meth:`worldsim.world.World.with_dynamics`, ``with_uncertainty``,
        ``with_painting`` and ``with_engine`` raise.
        """
        with self._lock:
            found = self._variants.get(key)
            if found is not None:
                return found
            world, settings = self.world(key.world), key.settings
            made = world.with_dynamics(
                num_inference_steps=settings.num_inference_steps, temperature=settings.temperature
            )
            if settings.uncertainty:
                made = made.with_uncertainty()
            if settings.paint is not None:
                made = made.with_painting(self.painter(world.device), PaintAheadConfig())
            # Last: each change makes a world of its own, whose engine is prepared anew.
            made = made if key.engine == "plain" else made.with_engine(key.engine)
            self._variants[key] = made
            return made

    def painter(self, device: torch.device) -> Painter:
        """Return the painter of dreams that are painted ahead."""
        with self._lock:
            if self._painter is None:
                from worldsim.painting.painter import DEFAULT_PAINTER, open_painter

                self._painter = open_painter(DEFAULT_PAINTER, device=device)
            return self._painter

    def starts(self, name: str) -> Starts:
        """Return where sessions of a world begin: the scenes of its folder."""
        with self._lock:
            if name not in self._starts:
                world = self.world(name)
                self._starts[name] = Starts(world, None if world.folder is None else "recorded:")
            return self._starts[name]

    def place(self, name: str, place: str) -> Starts:
        """Return a scene in the folder of places as a start of a world. Raises NotFoundError."""
        if self.places is None or place not in scene_names(self.places):
            raise NotFoundError(f"there is no place {shown(place)} to start from")
        return Starts(self.world(name), inside(self.places, place))

    def describe(self) -> list[WorldInfo]:
        """Return a description of each world; weights are not loaded."""
        return [self.describe_one(name) for name in self.names]

    def describe_one(self, name: str) -> WorldInfo:
        """Return a description of a world. Raises NotFoundError."""
        self.require(name)
        try:
            loaded = self._loaded.get(name)
            if loaded is not None:
                height, width = loaded.spec.height, loaded.spec.width
                described = describe_world(
                    name, loaded.config, loaded.card, loaded.action_space, (height, width)
                )
                more = {"weights_id": loaded.weights_id, "twin": has_twin(loaded)}
            else:
                folder = self._folders[name]
                config, card = read_card(folder / WORLD)
                shape = _module_config(folder)
                height, width = int(shape["height"]), int(shape["width"])
                space = _space(config, int(shape["actions"]), int(shape["action_dim"]))
                described = describe_world(name, config, card, space, (height, width))
                more = {"twin": bool(config.env_id)}
            return described.model_copy(
                update={**more, "scenes": self._scene_names(name), "megabytes": self._size(name)}
            )
        except (WorldsimError, KeyError, TypeError, ValueError) as error:
            return WorldInfo(name=name, error=str(error) or type(error).__name__)

    def scenes(self, name: str) -> list[SceneInfo]:
        """Return the start scenes of a world."""
        self.require(name)
        return [
            SceneInfo(name=scene, title=scene.replace("-", " "))
            for scene in self._scene_names(name)
        ]

    def scene_picture(self, name: str, scene: str) -> Array:
        """Return the last frame of a start scene, (h, w, 3) uint8. Raises NotFoundError."""
        self.require(name)
        folder = self._folder(name)
        if folder is None or scene not in self._scene_names(name):
            raise NotFoundError(f"{name} has no start scene {shown(scene)}")
        start: SceneStart = load_scene(inside(folder / "scenes", scene))
        return as_picture(start.rgb[-1])

    def _folder(self, name: str) -> Path | None:
        loaded = self._loaded.get(name)
        return self._folders.get(name, None if loaded is None else loaded.folder)

    def _scene_names(self, name: str) -> list[str]:
        folder = self._folder(name)
        return [] if folder is None else scene_names(folder / "scenes")

    def _size(self, name: str) -> float:
        folder = self._folder(name)
        if folder is None:
            return 0.0
        return round(sum(path.stat().st_size for path in files_in(folder)) / 1e6, 1)

    def require(self, name: str) -> None:
        """Raise NotFoundError unless there is such a world."""
        if name not in self._folders and name not in self._loaded:
            raise NotFoundError(
                f"this server has no world {shown(name)}: it has {', '.join(self.names)}"
            )


def describe_world(
    name: str, config: WorldConfig, card: JsonObject, space: Space, size: tuple[int, int]
) -> WorldInfo:
    """Return the description of a world.

    size: height and width of its frames.
    """
    results = card.get("results", {})
    numbers = {
        str(key): float(value)
        for key, value in (results.items() if isinstance(results, dict) else ())
        if isinstance(value, (int, float)) and np.isfinite(value)
    }
    rest: int | list[float] = 0
    if isinstance(space, gym.spaces.Box):
        rest = np.clip(np.zeros(space.shape), space.low, space.high).ravel().tolist()
    return WorldInfo(
        name=name,
        title=name,
        summary=str(card.get("summary", ""))[:2000],
        trained_on=str(card.get("trained_on", ""))[:2000],
        results=numbers,
        fps=config.fps,
        height=size[0],
        width=size[1],
        geometry=config.intrinsics is not None,
        memory=config.memory is not None,
        rewards=config.has_rewards,
        terminations=config.has_terminations,
        env_id=config.env_id,
        actions=describe_actions(space, config.env_id),
        keys=_keys(space, config.env_id),
        rest=rest,
    )


def describe_actions(space: Space, twin: str) -> Actions:
    """Return an action space as a message."""
    names = action_names(space, twin)
    if isinstance(space, gym.spaces.Discrete):
        return Actions(kind="discrete", n=int(space.n), names=names)
    assert isinstance(space, gym.spaces.Box)
    low, high = (
        np.asarray(bound, np.float64).ravel().tolist() for bound in (space.low, space.high)
    )
    return Actions(kind="box", n=len(low), low=low, high=high, names=names)


def has_twin(world: World) -> bool:
    """Return whether the world names a real twin that may be made here."""
    try:
        twin_of(world)
    except (WorldsimError, ValueError):
        return False
    return True


def _keys(space: Space, twin: str) -> list[KeyBinding]:
    try:
        keys = keys_to_action(space, twin)
    except InvalidInputError:
        return []
    return [
        KeyBinding(keys=list(pressed), action=np.asarray(action).tolist())
        for pressed, action in keys.items()
    ]


def _space(config: WorldConfig, actions: int, width: int) -> Space:
    if actions:
        return gym.spaces.Discrete(actions)
    low = np.array(config.action_low or [-1.0] * width, np.float32)
    high = np.array(config.action_high or [1.0] * width, np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


def _module_config(folder: Path) -> JsonObject:
    found = read_json(inside(folder, "dynamics/config.json"))
    if isinstance(found, dict) and found.get("_same_as") in shipped_worlds():
        return _module_config(WORLDS_FOLDER / str(found["_same_as"]))
    if not isinstance(found, dict):
        raise NotFoundError(f"{folder} has no settings of its dynamics")
    return found


def _short(name: str) -> str:
    """Return the name of a world for clients: a folder's own name, without the path."""
    return as_path(name).name if not name.startswith("hub:") else name
