"""Looks at an environment before it is recorded: which image it shows, and how fast it steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import gymnasium as gym

from worldsim.app.fit.config import FitConfig
from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Env
from worldsim.runtime.workers import Engine, Watched, WorkerPool
from worldsim.world.image_env import (
    PATCH,
    PixelsConfig,
    find_pixels,
    make_env,
    make_pixels,
    qualify,
)

PROBE_S, PROBE_STEPS = 2.0, 500
"""The probe steps the environment for about this many seconds, and at most this many steps."""
WIDEST = 2
"""Images keep their aspect ratio up to this one."""


@dataclass(frozen=True)
class Probe:
    """What the probe found.

    render: whether rendered images are used instead of observations.
    size: height and width in pixels that images are resized to.
    steps_per_s: steps per second of one process, resets included.
    episode_limit: the environment's own limit of steps; None without.
    """

    render: bool
    size: tuple[int, int]
    steps_per_s: float
    episode_limit: int | None


def probe(config: FitConfig, side: int) -> Probe:
    """Create the environment in a process of its own and play random actions.

    side: pixels of the shorter side of images, where the config names no size.

    Raises what :func:`worldsim.world.image_env.find_pixels` raises, and EngineError if the
    environment crashes or hangs.
    """
    make = partial(_Probed, config, side)
    with WorkerPool(min(config.workers, 1), make, config.engine_timeout_s) as pool:
        ((_, found),) = pool.run(_measure, [(config.seed,)])
    return found


class _Probed:
    """The environment with its images, as it will be recorded."""

    def __init__(self, config: FitConfig, side: int) -> None:
        env_id, kwargs = qualify(config.env_id), dict(config.env_kwargs)
        self.reset_options = dict(config.reset_options) or None
        self.pixels = _choose(env_id, kwargs, config)
        self.env: Env = Watched(make_pixels(env_id, kwargs, self.pixels))
        shape = self.env.observation_space.shape
        assert shape is not None
        self.size = config.size or _fit_size(shape[0], shape[1], side)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def _measure(engine: Engine[_Probed], seed: int) -> Probe:
    return engine.play(lambda probed: _play(probed, seed))


def _play(probed: _Probed, seed: int) -> Probe:
    env = probed.env
    env.action_space.seed(seed)
    env.reset(seed=seed, options=probed.reset_options)
    began, steps = time.monotonic(), 0
    while steps < PROBE_STEPS and (steps < 1 or time.monotonic() - began < PROBE_S):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if terminated or truncated:
            env.reset(options=probed.reset_options)
    seconds = max(time.monotonic() - began, 1e-6)
    return Probe(
        render=probed.pixels is not None and probed.pixels.render,
        size=probed.size,
        steps_per_s=steps / seconds,
        episode_limit=None if env.spec is None else env.spec.max_episode_steps,
    )


def _choose(
    env_id: str, kwargs: dict[str, int | float | bool | str], config: FitConfig
) -> PixelsConfig | None:
    """Return how images are obtained: the observation if it is one image, else rendering."""
    if config.render:
        return find_pixels(env_id, kwargs, render=True)
    try:
        return find_pixels(env_id, kwargs, key=config.key)
    except InvalidInputError:
        env = make_env(env_id, dict(kwargs))
        several = config.key is not None or (
            isinstance(env.observation_space, gym.spaces.Dict)
            and sum(_is_picture(one) for one in env.observation_space.spaces.values()) > 1
        )
        rendered = "rgb_array" in env.metadata.get("render_modes", [])
        env.close()
        # Which of several images to use is the user's choice.
        if several or not rendered:
            raise
    return find_pixels(env_id, kwargs, render=True)


def _is_picture(space: gym.Space[object]) -> bool:
    return isinstance(space, gym.spaces.Box) and len(space.shape) in (2, 3)


def _fit_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size of images (h, w), multiples of the patch: the shorter side has ``side``.

    Smaller images keep their size, rounded to the patch.
    """
    scale = min(1.0, side / min(height, width))
    most = WIDEST * min(side, max(PATCH, round(scale * min(height, width))))
    sides = (max(PATCH, PATCH * round(scale * n / PATCH)) for n in (height, width))
    h, w = (min(n, most - most % PATCH) for n in sides)
    return h, w
