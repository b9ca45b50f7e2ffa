"""Support for ``gymnasium.utils.play``: an integer frame rate, and keys for actions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import gymnasium as gym
import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Action, Array, Info, Space

EXACT_RATE = "steps_per_second"
"""Key of an environment's metadata: steps a second of the environment's own time, exact, a
float."""

Keys = dict[tuple[str, ...], Action]

WALK: Mapping[tuple[str, ...], int] = {
    **{(key,): action for key, action in {"w": 1, "s": 2, "a": 3, "d": 4, "q": 5, "e": 6}.items()},
    # Walking on into a turn: the turn counts.
    **{(key, "w"): action for key, action in {"a": 3, "d": 4}.items()},
}
"""Forward, backward, turn left, turn right, strafe left, strafe right."""
DISCRETE: dict[str, Mapping[tuple[str, ...], int]] = {
    "worldsim/FreedoomReal-v0": WALK,
    "worldsim/TinyRoom-v0": WALK,
    "VizdoomTakeCover-v1": {("d",): 1, ("a",): 2},
}
"""Keys of discrete actions whose meaning is known, by the id of the real twin."""
AXES: dict[str, tuple[tuple[str, str], ...]] = {
    "worldsim/TinyRoom-v0": (("s", "w"), ("d", "a")),
    "CarRacing-v3": (("a", "d"), ("", "w"), ("", "s")),
}
"""Keys that set each number of a continuous action to its lower and its upper bound, by the id of
the real twin; empty: none."""
WALKING = (
    "stand",
    "forward",
    "backward",
    "turn left",
    "turn right",
    "strafe left",
    "strafe right",
)
NAMES: dict[str, tuple[str, ...]] = {
    "worldsim/FreedoomReal-v0": WALKING,
    "worldsim/TinyRoom-v0": WALKING,
    "VizdoomTakeCover-v1": ("stand", "move right", "move left"),
    "CarRacing-v3": ("steering", "gas", "brake"),
}
"""What discrete actions do, or the numbers of a continuous one mean, by the id of the real twin."""
ROW = "123456789abcdefghijklmnopqrstuvwxyz"
"""Keys of actions 1, 2, 3 and so on where no meaning is known."""
COLUMNS = (("z", "q"), ("x", "w"), ("c", "e"), ("v", "r"))
"""Keys of the numbers of a continuous action where no meaning is known."""


def rates(steps_per_second: float) -> Info:
    """Return the part of an environment's ``metadata`` that states its frame rate.

    ``render_fps`` is the nearest integer, at least 1, as ``gymnasium.utils.play`` requires;
    :data:`EXACT_RATE` is the exact rate.
    """
    return {"render_fps": max(1, round(steps_per_second)), EXACT_RATE: float(steps_per_second)}


def exact_rate(metadata: Info) -> float | None:
    """Return the steps per second of an environment from its ``metadata``.

    This is its exact rate if it has one, else its ``render_fps``, else None.
    """
    rate = metadata.get(EXACT_RATE, metadata.get("render_fps"))
    return None if rate is None else float(rate)


def action_names(space: Space, twin: str = "") -> list[str]:
    """Return the meaning of each discrete action, or of each number of a continuous one.

    twin: id of the real twin (:data:`NAMES`). If it is unknown, they are numbered.
    """
    count = (
        int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape or ()))
    )
    names = NAMES.get(twin.rpartition(":")[2], ())
    what = "action" if isinstance(space, gym.spaces.Discrete) else "axis"
    return list(names) if len(names) == count else [f"{what} {i}" for i in range(count)]


def keys_to_action(space: Space, twin: str = "") -> Keys:
    """Return the action for each combination of keys, as ``gymnasium.utils.play`` expects it.

    twin: id of the real twin, which defines the meaning of actions (:data:`DISCRETE`,
        :data:`AXES`). If it is unknown, actions 1, 2, ... of a ``Discrete`` space have the keys
        ``1``, ``2``, ... ``9``, ``a``, ... ``z``, and the numbers of a ``Box`` have the keys of
        :data:`COLUMNS`. A number whose keys are not pressed is 0, or the bound nearest to 0.

    Raises InvalidInputError for a space that cannot be mapped: more than four continuous numbers,
    or unbounded ones.
    """
    name = twin.rpartition(":")[2]
    if isinstance(space, gym.spaces.Discrete):
        keys = DISCRETE.get(name)
        if keys is None or not all(space.contains(action) for action in keys.values()):
            keys = {(key,): int(space.start) + i for i, key in enumerate(ROW, 1) if i < space.n}
        return dict(keys)
    if isinstance(space, gym.spaces.Box) and space.is_bounded() and len(space.shape) == 1:
        axes = AXES.get(name, COLUMNS)
        axes = axes if len(axes) == space.shape[0] else COLUMNS
        if space.shape[0] <= len(axes):
            return _keys_of_box(space, axes[: space.shape[0]])
    raise InvalidInputError(
        f"no keys are known for actions of {space}: give some, gymnasium.utils.play.play(env, "
        f"keys_to_action=...)"
    )


def _keys_of_box(space: gym.spaces.Box, axes: tuple[tuple[str, str], ...]) -> Keys:
    rest = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    choices: list[list[tuple[str, float]]] = [
        [
            ("", rest[i]),
            *(
                (key, bound)
                for key, bound in zip(pair, (space.low[i], space.high[i]), strict=True)
                if key
            ),
        ]
        for i, pair in enumerate(axes)
    ]
    keys: Keys = {}
    for chosen in itertools.product(*choices):
        pressed = tuple(sorted(key for key, _ in chosen if key))
        if pressed:
            action: Array = np.array([value for _, value in chosen], space.dtype)
            keys[pressed] = action
    return keys
