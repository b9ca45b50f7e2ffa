"""The real twin of a world: the environment that it imitates, with identical spaces.

``world.json`` names the environment, so the name is untrusted. :func:`check_twin` accepts only
environments that are already registered with Gymnasium, or that belong to the well-known packages
of :data:`worldsim.world.image_env.REGISTERED_BY`, with arguments that are plain numbers or known
words. Users must explicitly trust anything else.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.error import ResetNeeded

from worldsim.errors import InvalidInputError, NotFoundError, UntrustedFileError
from worldsim.runtime.arguments import whole
from worldsim.runtime.types import Env, Info, JsonObject, Space
from worldsim.state import SceneStart
from worldsim.world.image_env import REGISTERED_BY, PixelsConfig, make_pixels
from worldsim.world.scene_files import Visit, scene_of

if TYPE_CHECKING:
    from worldsim.world.world import World

HISTORY = 48
"""Default number of frames of a real environment that a generated episode starts from."""
LARGEST = 1_000_000
"""Largest absolute value of a number that a file may pass to an environment."""
LONGEST = 64
"""Largest length of a list that a file may pass to an environment."""
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "": {"render_mode": ("rgb_array",)},
    "ALE/": {"obs_type": ("rgb", "grayscale")},
    "FrozenLake": {"map_name": ("4x4", "8x8")},
}
"""Strings that a file may pass, by prefix of the environment's id and argument name: see
:func:`allow_words`."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Vizdoom": (
        "frame_skip",
        "max_buttons_pressed",
        "treat_episode_timeout_as_truncation",
        "use_multi_binary_action_space",
    ),
}
"""Arguments that a file may name, by prefix of the environment's id. These environments'
constructors forward all arguments (ViZDoom's to its engine, which has a setting for the program to
start). For other environments the constructor's own parameters are allowed."""
OF_MAKE = ("max_episode_steps", "render_mode")
"""Arguments that a file may name for every environment."""

_SUSPICIOUS = re.compile(
    r"path|file|folder|dir|config|args|command|module|entry|url|load|save", re.IGNORECASE
)


def allow_words(env_id: str, **words: tuple[str, ...]) -> None:
    """Allow files to pass some strings to environments whose ids start with ``env_id``.

    For example ``allow_words("Mine-v0", mode=("easy", "hard"))``.
    """
    WORDS.setdefault(env_id, {}).update(words)


def check_twin(env_id: str, env_kwargs: JsonObject, source: str | Path) -> str:
    """Return the id to make for the environment that the file ``source`` names.

    Accepted arguments are the environment's own (:data:`ARGUMENTS`). Their values are bounded
    numbers, lists of numbers, True, False, None and the words of :data:`WORDS`. Nothing that the
    file chooses is imported, except the class of a registered environment, whose parameters are
    read.

    Raises UntrustedFileError for other arguments and for an environment that is neither registered
    with Gymnasium nor part of a well-known package; NotFoundError if the id of such an environment
    has no module to trust; InvalidInputError for values of the wrong type.
    """
    if not isinstance(env_id, str) or not isinstance(env_kwargs, dict):
        raise InvalidInputError(
            f"{source}: env_id {env_id!r} and env_kwargs {env_kwargs!r} must be a text and an "
            f"object"
        )
    module, _, bare = env_id.rpartition(":")
    known = next((m for start, m in REGISTERED_BY.items() if bare.startswith(start)), None)
    if known is not None and module in ("", known):
        made = f"{known}:{bare}"
    elif bare in gym.registry and (not module or gym.registry[bare].id == bare):
        made = bare
    else:
        if not module:
            raise NotFoundError(
                f"No environment {env_id!r}, which {source} names, is registered with Gymnasium: "
                f"import the module that registers it"
            )
        raise UntrustedFileError(
            f"{source} names the environment {env_id!r}, which is not registered with Gymnasium: "
            f"making it would import the module "
            f"{module!r}. Import it yourself first, or, if you trust the file, pass --trust (in "
            f"Python trust=True)"
        )
    named = _parameters(bare, made) if env_kwargs else ()
    for name, value in env_kwargs.items():
        if name not in (*OF_MAKE, *named) or not _is_plain(bare, str(name), value):
            raise UntrustedFileError(
                f"{source} makes {env_id} with {name} = {str(value)[:80]!r}: from a file, "
                f"arguments are the environment's own "
                f"({', '.join(named) or 'none'}), with numbers, True, False, None and known words "
                f"(worldsim.world.twin.allow_words). "
                f"If you trust the file, pass --trust (in Python trust=True)"
            )
    return made


def _parameters(env_id: str, made: str) -> tuple[str, ...]:
    """Return the arguments that a file may name.

    They are the constructor parameters of the class and its base classes.
    """
    for start, names in ARGUMENTS.items():
        if env_id.startswith(start):
            return names
    module, colon, _ = made.partition(":")
    if colon:
        # A well-known package, which registers its environments on import.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    spec = gym.registry.get(env_id)
    if spec is None:
        return ()
    creator: Any = (
        load_env_creator(spec.entry_point)
        if isinstance(spec.entry_point, str)
        else spec.entry_point
    )
    makers = (
        [vars(c)["__init__"] for c in creator.__mro__ if "__init__" in vars(c)]
        if isinstance(creator, type)
        else [creator]
    )
    found = [
        p
        for maker in makers
        if maker is not object.__init__
        for p in inspect.signature(maker).parameters.values()
    ]
    named = dict.fromkeys(
        p.name
        for p in found
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
    )
    return tuple(name for name in named if not _SUSPICIOUS.search(name))


def _is_plain(env_id: str, name: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        # A NaN is also out of bounds.
        return -LARGEST <= value <= LARGEST
    if isinstance(value, (list, tuple)):
        return len(value) <= LONGEST and all(
            isinstance(v, (int, float)) and _is_plain(env_id, name, v) for v in value
        )
    allowed = {
        word
        for start, words in WORDS.items()
        if env_id.startswith(start)
        for word in words.get(name, ())
    }
    return isinstance(value, str) and value in allowed


def twin_of(world: World) -> tuple[str, JsonObject]:
    """Return id and arguments of the world's real twin for ``gymnasium.make``.

    Raises InvalidInputError if the world names no twin, and UntrustedFileError as
    :func:`check_twin` does, unless the world was loaded with ``trust=True``.
    """
    config = world.config
    if not config.env_id:
        raise InvalidInputError(
            "this world does not name its real twin (env_id in world.json), so it cannot be made"
        )
    if world.trusted:
        return config.env_id, dict(config.env_kwargs)
    source = "the world" if world.folder is None else world.folder / "world.json"
    return check_twin(config.env_id, config.env_kwargs, source), dict(config.env_kwargs)


class FrameHistory(gym.Wrapper[ObsType, ActType, ObsType, ActType]):
    """Keeps the newest frames of the current episode, so that a world can start from them.

    :func:`make_twin` returns environments with this wrapper. :attr:`frames` is the start. It
    includes depth, pose and intrinsics if ``info`` has them (see
    ``docs/reference/environments.md``).

    env: observes (h, w, 3) uint8.
    length: number of frames to keep.
    """

    def __init__(self, env: gym.Env[ObsType, ActType], length: int = HISTORY) -> None:
        super().__init__(env)
        self._visits: deque[Visit] = deque(maxlen=whole("length", length, 1, 100_000))

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[ObsType, Info]:
        """Start a new episode and a new history."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._visits.clear()
        self._visits.append(
            (np.array(obs), np.zeros(self.action_space.shape or (), np.float32), info)
        )
        return obs, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, Info]:
        """Step the environment and store the frame."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._visits.append((np.array(obs), np.array(action), info))
        return obs, reward, terminated, truncated, info

    @property
    def frames(self) -> SceneStart:
        """The newest frames, at most ``length``, with the actions that led to them.

        Raises ResetNeeded before the first reset.
        """
        if not self._visits:
            raise ResetNeeded("this environment has not been reset: call reset() first")
        return scene_of(list(self._visits), isinstance(self.action_space, gym.spaces.Discrete))


def frames_of(env: Env) -> SceneStart:
    """Return the newest frames of ``env``, from the :class:`FrameHistory` among its wrappers.

    Raises InvalidInputError if there is none and ResetNeeded before the first reset.
    """
    while not isinstance(env, FrameHistory):
        if not isinstance(env, gym.Wrapper):
            raise InvalidInputError(
                f"{env} keeps no frames to start from: wrap it in worldsim.world.twin.FrameHistory "
                f"before its reset, or make it with worldsim.world.twin.make_twin(world)"
            )
        env = env.env
    return env.frames


@dataclass(frozen=True)
class TwinRecipe:
    """What it takes to make a world's real twin, without the world; it can be sent to a process.

    env_id, env_kwargs: for ``gymnasium.make``, checked.
    pixels: how its images become observations.
    observation_space, action_space: those of the world.
    name: the environment's id, for messages.
    spec: its registration, for processes that do not know it; None if it has no such id.
    """

    env_id: str
    env_kwargs: JsonObject
    pixels: PixelsConfig | None
    observation_space: Space
    action_space: Space
    name: str
    spec: EnvSpec | None = None


def recipe_of(world: World) -> TwinRecipe:
    """Return the recipe of the world's real twin. Raises what :func:`twin_of` raises."""
    env_id, env_kwargs = twin_of(world)
    return TwinRecipe(
        env_id,
        env_kwargs,
        world.config.pixels,
        world.observation_space,
        world.action_space,
        world.config.env_id,
        gym.registry.get(env_id),
    )


def make_twin(world: World, history: int = HISTORY, **kwargs: object) -> Env:
    """Make the environment that ``world`` was trained on, wrapped as it was recorded.

    Its observation and action spaces are the world's. A :class:`FrameHistory` is the outermost
    wrapper.

    history: number of frames that it keeps.
    kwargs: further arguments of ``gymnasium.make``, such as ``max_episode_steps=525``. They
    override those of the world.

    Raises what :func:`twin_of` raises, InvalidInputError if the spaces differ, and NotFoundError or
    MissingDependencyError if it cannot be made here.
    """
    return make_from_recipe(recipe_of(world), history, **kwargs)


def make_from_recipe(recipe: TwinRecipe, history: int = HISTORY, **kwargs: object) -> Env:
    """Make a twin as :func:`make_twin` does, in any process."""
    if recipe.spec is not None:
        gym.registry.setdefault(recipe.spec.id, recipe.spec)
    env = make_pixels(recipe.env_id, {**recipe.env_kwargs, **kwargs}, recipe.pixels)
    try:
        require_same_spaces(recipe, env, recipe.name)
    except BaseException:
        env.close()
        raise
    return FrameHistory(env, history)


def require_same_spaces(world: World | TwinRecipe, env: Env, name: str) -> None:
    """Raise InvalidInputError unless the environment has the world's spaces; it names both.

    Bounds of continuous actions are compared in float32, as the world stores them.
    """
    for what in ("observation", "action"):
        mine, other = getattr(world, f"{what}_space"), getattr(env, f"{what}_space")
        if not _same(mine, other):
            raise InvalidInputError(
                f"the world's {what} space is {mine}, that of {name} is {other}: it must be made "
                f"as it was recorded "
                "(env_kwargs and pixels in world.json)"
            )


def _same(a: Space, b: Space) -> bool:
    if isinstance(a, gym.spaces.Box) and isinstance(b, gym.spaces.Box):
        alike = a.shape == b.shape and (a.dtype == np.uint8) == (b.dtype == np.uint8)
        return alike and np.allclose(a.low, b.low) and np.allclose(a.high, b.high)
    if isinstance(a, gym.spaces.Discrete) and isinstance(b, gym.spaces.Discrete):
        return a.n == b.n and a.start == b.start
    return a == b
