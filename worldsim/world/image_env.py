"""Image observations for any Gymnasium environment, with standard wrappers.

The choice of wrappers is made once and saved with the recording.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AddRenderObservation, ResizeObservation

from worldsim.errors import InvalidInputError, MissingDependencyError, NotFoundError, WorldsimError
from worldsim.runtime.extras import how_to_install, missing_module
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.types import Array, Env, JsonObject, Space

MOST_PIXELS = 16_384
"""Largest number of rows or columns that images are resized to."""
PATCH = 8
"""Heights and widths for training are multiples of this, the patch of every preset."""
REGISTERED_BY = {
    "Vizdoom": "vizdoom.gymnasium_wrapper",
    "ALE/": "ale_py",
    "MiniGrid-": "minigrid",
    "MiniWorld-": "miniworld",
}
"""Prefixes of well-known ids and the module whose import registers them, so that users need not
write ``module:Id``."""


@dataclass(frozen=True)
class PixelsConfig:
    """How an environment's images are converted to observations of a world's size."""

    size: tuple[int, int] | None = None
    """Height and width in pixels to which images are resized by area averaging, without keeping the
    aspect ratio. None keeps the size."""
    key: str | None = None
    """Key of the image in a Dict observation. None if the observation is the image."""
    render: bool = False
    """Whether to observe the result of ``render()`` (with ``render_mode="rgb_array"``) instead of
    the observation."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.size is not None and (
            len(self.size) != 2 or min(self.size) < 1 or max(self.size) > MOST_PIXELS
        ):
            raise InvalidInputError(
                f"PixelsConfig.size = {self.size!r}: height and width in pixels, such as 64 64"
            )
        if self.render and self.key is not None:
            raise InvalidInputError(
                f"PixelsConfig.key = {self.key!r} names a part of the observation, but render "
                f"is set: give one of them"
            )


def require_trainable(size: Sequence[int], what: str) -> None:
    """Raise InvalidInputError unless frames of this height and width can be trained on.

    what: name of the source of the frames, for the message.
    """
    height, width = size
    if height % PATCH or width % PATCH or min(height, width) < PATCH:
        near = [max(PATCH, PATCH * round(n / PATCH)) for n in (height, width)]
        raise InvalidInputError(
            f"{what} has frames of {height}x{width} pixels, which no world can be trained on: "
            f"height and width must be multiples "
            f"of {PATCH}. The nearest such size: --size {near[0]} {near[1]}"
        )


def qualify(env_id: str) -> str:
    """Return the id as ``module:Name-v0`` if its module is known.

    ``gymnasium.make`` then finds it in any process.
    """
    module = next((m for start, m in REGISTERED_BY.items() if env_id.startswith(start)), None)
    return env_id if module is None else f"{module}:{env_id}"


def make_env(env_id: str, kwargs: JsonObject) -> Env:
    """Make an environment with ``gymnasium.make``, with worldsim's errors.

    Ids of :data:`REGISTERED_BY` need no module prefix. Raises NotFoundError, MissingDependencyError
    or InvalidInputError.
    """
    try:
        return gym.make(qualify(env_id), disable_env_checker=True, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise NotFoundError(
            f"No environment {env_id!r}: {error} Ids look like 'worldsim/FreedoomReal-v0'; for "
            f"one that a module of yours "
            f"registers, write 'module:Name-v0'."
        ) from None
    except gym.error.DependencyNotInstalled as error:
        raise MissingDependencyError(
            f"{env_id} needs a package that is not installed ({error}): "
            f"{how_to_install(missing_module(error))}"
        ) from None
    except WorldsimError:
        raise
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{env_id} needs a module that is not installed ({error}): "
            f"{how_to_install(missing_module(error))}"
        ) from None
    except (gym.error.Error, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(f"{env_id} cannot be made with {kwargs!r}: {error}") from error


def make_pixels(env_id: str, env_kwargs: JsonObject, pixels: PixelsConfig | None) -> Env:
    """Make the environment, wrapped to observe ``Box(0, 255, (h, w, 3), uint8)`` images.

    pixels: the result of :func:`find_pixels`; None for an environment that already observes such
    images.

    Source images may be (h, w, 3), (h, w, 1) or (h, w), uint8. Raises NotFoundError,
    InvalidInputError or MissingDependencyError.
    """
    if pixels is None:
        return make_env(env_id, dict(env_kwargs))
    env = make_env(
        env_id, {"render_mode": "rgb_array", **env_kwargs} if pixels.render else dict(env_kwargs)
    )
    try:
        return _wrap(env, env_id, pixels)
    except BaseException:
        env.close()
        raise


def find_pixels(
    env_id: str,
    env_kwargs: JsonObject,
    size: tuple[int, int] | None = None,
    key: str | None = None,
    render: bool = False,
) -> PixelsConfig | None:
    """Return the settings of :func:`make_pixels` for an environment.

    They are None if it already observes (h, w, 3) uint8 images of the requested size.

    size: requested height and width; None keeps the environment's own.
    key: key of a Dict observation, required if several entries are images.
    render: observe the rendered image.

    Raises InvalidInputError if the environment has no image; the message lists what it has.
    """
    if render:
        return PixelsConfig(size, key, render=True)
    env = make_env(env_id, dict(env_kwargs))
    space, modes = env.observation_space, env.metadata.get("render_modes", [])
    symbols = _symbols_of(env)
    env.close()
    if isinstance(space, gym.spaces.Dict):
        images = [k for k, s in space.spaces.items() if _is_image(s)]
        if key is None and len(images) != 1:
            raise InvalidInputError(
                f"{env_id} observes {_list_keys(space)}: {_choose(images, modes)}"
            )
        if key is not None and key not in images:
            there = f"one of {', '.join(map(repr, images))}" if images else "none"
            raise InvalidInputError(
                f"{env_id} has no image {key!r} in its observation {_list_keys(space)}: images are "
                f"{there}"
            )
        _require_picture(env_id, space[key or images[0]], symbols, modes)
        return PixelsConfig(size, key or images[0])
    if key is not None:
        raise InvalidInputError(f"{env_id} observes {space} and no Dict: leave out the key {key!r}")
    if not _is_image(space):
        raise InvalidInputError(f"{env_id} observes {space}: {_choose([], modes)}")
    _require_picture(env_id, space, symbols, modes)
    shape = space.shape
    assert shape is not None
    if len(shape) == 3 and shape[2] == 3 and size in (None, shape[:2]):
        return None
    return PixelsConfig(size)


def _wrap(env: Env, env_id: str, pixels: PixelsConfig) -> Env:
    if pixels.render:
        try:
            env = Rendered(env)
        except (TypeError, ValueError, AssertionError, gym.error.Error) as error:
            raise InvalidInputError(f"{env_id} cannot be observed by rendering: {error}") from error
    if pixels.key is not None:
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict) or pixels.key not in space.spaces:
            raise InvalidInputError(
                f"{env_id} observes {space}, without the image {pixels.key!r}: it has changed"
            )
        env = Part(env, pixels.key)
    if not _is_image(env.observation_space):
        raise InvalidInputError(
            f"{env_id} observes {env.observation_space}, no uint8 image (h, w, 3), (h, w, 1) or "
            f"(h, w)"
        )
    if pixels.size is not None and env.observation_space.shape[:2] != pixels.size:  # type: ignore[index]
        env = Resized(env, pixels.size)
    return env if env.observation_space.shape[2:] == (3,) else InColour(env)  # type: ignore[index]


# An environment's spec cannot store the functions and tuples that some of Gymnasium's wrappers
# take, nor, in older versions, the arguments of AddRenderObservation.


class Rendered(AddRenderObservation):
    """Observes the rendered image."""

    def __init__(self, env: Env) -> None:
        # Only the first recorded arguments count.
        RecordConstructorArgs.__init__(self)
        super().__init__(env, render_only=True)

    def observation(self, observation: object) -> Array:
        """Return the rendered image (h, w, 3), contiguous in memory.

        Some engines, such as MuJoCo's, render a flipped view, which PyTorch does not take.
        """
        return np.ascontiguousarray(super().observation(observation))


class Part(gym.ObservationWrapper[Array, ActType, Mapping[str, Array]], RecordConstructorArgs):
    """Observes the entry ``key`` of a Dict observation."""

    def __init__(self, env: Env, key: str) -> None:
        RecordConstructorArgs.__init__(self, key=key)
        super().__init__(env)
        self.key = key
        self.observation_space = env.observation_space[key]  # type: ignore[index]

    def observation(self, observation: Mapping[str, Array]) -> Array:
        """Return the entry ``key``."""
        return observation[self.key]


class Resized(ResizeObservation):
    """Resizes images to the height and width ``shape`` by area averaging."""

    def __init__(self, env: Env, shape: tuple[int, int]) -> None:
        super().__init__(env, tuple(shape))  # type: ignore[arg-type]


class InColour(gym.ObservationWrapper[Array, ActType, Array], RecordConstructorArgs):
    """Converts grey images (h, w) or (h, w, 1) to (h, w, 3)."""

    def __init__(self, env: Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        height, width, *_ = env.observation_space.shape  # type: ignore[misc]
        self.observation_space = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)

    def observation(self, observation: Array) -> Array:
        """Return the image with three equal channels."""
        return np.repeat(observation.reshape(*observation.shape[:2], 1), 3, axis=2)


def _is_image(space: Space) -> bool:
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8:
        return False
    # Byte vectors, such as an Atari machine's RAM, and stacks of frames are not images.
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3))


def _symbols_of(env: Env) -> set[tuple[int, int]]:
    """Return the sizes of images that hold MiniGrid's symbols instead of colours.

    Symbols are the kind, colour and state of each cell, so such an image has one pixel per cell.
    """
    grid = env.unwrapped
    view, width, height = (
        getattr(grid, name, None) for name in ("agent_view_size", "width", "height")
    )
    if not (isinstance(view, int) and isinstance(width, int) and isinstance(height, int)):
        return set()
    return {(view, view), (width, height), (height, width)}


def _require_picture(
    env_id: str, space: Space, symbols: set[tuple[int, int]], modes: list[str]
) -> None:
    """Raise InvalidInputError for an image of symbols or one that is too small."""
    assert space.shape is not None
    height, width = space.shape[:2]
    if (height, width) not in symbols and min(height, width) >= PATCH:
        return
    what = (
        "the symbols of a grid's cells"
        if (height, width) in symbols
        else "too small for a picture, perhaps symbols"
    )
    rendered = (
        "record what it renders, with --render --size 64 64, or " if "rgb_array" in modes else ""
    )
    wrapper = (
        "such as minigrid.wrappers.RGBImgPartialObsWrapper" if symbols else "that observes colours"
    )
    raise InvalidInputError(
        f"{env_id} observes {height}x{width} numbers, {what}: {rendered}wrap it (in a wrapper "
        f"{wrapper}) and register that"
    )


def _list_keys(space: gym.spaces.Dict) -> str:
    return ", ".join(f"{k!r} {s}" for k, s in space.spaces.items())


def _choose(images: list[str], modes: list[str]) -> str:
    if images:
        return f"name the image with --key, one of {', '.join(map(repr, images))}"
    rendered = "rgb_array" in modes
    advice = (
        "record what it renders, with --render"
        if rendered
        else "nor does it render rgb_array: wrap it so that it does"
    )
    return f"no uint8 image (h, w, 3), (h, w, 1) or (h, w) is among it; {advice}"


def as_dict(pixels: PixelsConfig | None) -> JsonObject | None:
    """Return the config as plain values for ``dataset.json``."""
    if pixels is None:
        return None
    return dataclasses.asdict(pixels) | {"size": None if pixels.size is None else list(pixels.size)}


def to_pixels(observations: Array | Mapping[str, Array], pixels: PixelsConfig) -> Array:
    """Convert stored observations to the images that :func:`make_pixels` would give.

    observations: (t, h, w, 3) uint8, or a dict of such arrays.

    Returns (t, height, width, 3) uint8.
    """
    images = np.asarray(observations[pixels.key] if pixels.key is not None else observations)
    if pixels.size is None or images.shape[1:3] == pixels.size:
        return images
    import cv2

    height, width = pixels.size
    return np.stack(
        [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
    )
