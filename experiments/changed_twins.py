"""Real twins of shipped worlds with changed dynamics, for experiments/adapters.py.

``experiments.changed_twins:FastTakeCover-v0``: TakeCover whose player runs twice as fast.
``experiments.changed_twins:FastFreedoom-v0``: the same for the walks through Freedoom.
``experiments.changed_twins:IcyCarRacing-v0``: CarRacing whose tyres hardly grip the road.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import worldsim  # noqa: F401

TURBO = 200
"""Speed of the player in percent."""
GRIP = 0.3
"""Friction of the tyres relative to CarRacing's own."""


class Turbo(gym.Wrapper):
    """Sets the speed of a ViZDoom environment's player at every reset."""

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(**arguments)
        self.env.unwrapped.game.send_game_command(f"turbo {TURBO}")
        return result


def fast_take_cover(**arguments: Any) -> gym.Env:
    return Turbo(gym.make("vizdoom.gymnasium_wrapper:VizdoomTakeCover-v1", **arguments))


def fast_freedoom(**arguments: Any) -> gym.Env:
    return Turbo(gym.make("worldsim/FreedoomReal-v0", **arguments))


def icy_car_racing(**arguments: Any) -> gym.Env:
    from gymnasium.envs.box2d import car_dynamics

    own = car_dynamics.SIZE * car_dynamics.SIZE
    # A constant of the module, so an icy car needs a process of its own.
    car_dynamics.FRICTION_LIMIT = GRIP * 1_000_000 * own
    return gym.make("CarRacing-v3", **arguments)


gym.register("FastTakeCover-v0", entry_point="experiments.changed_twins:fast_take_cover")
gym.register("FastFreedoom-v0", entry_point="experiments.changed_twins:fast_freedoom")
gym.register("IcyCarRacing-v0", entry_point="experiments.changed_twins:icy_car_racing")
