"""What a world is made of, as ``world.json`` holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from annotated_types import Gt, Le

from worldsim.diffusion.dynamics import DynamicsConfig
from worldsim.errors import InvalidInputError
from worldsim.memory.points import PointMemoryConfig
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.types import JsonObject
from worldsim.world.image_env import PixelsConfig


class Termination(StrEnum):
    """How the termination head's probability ends an episode."""

    SAMPLE = "sample"
    """By a draw, from the environment's own random numbers: what ends episodes may be hidden, such
    as a player's health."""
    THRESHOLD = "threshold"
    """Where it is more than one half. Worlds made before there was a choice do so."""


@dataclass(frozen=True)
class WorldConfig:
    """What a world is made of, written to ``world.json``."""

    env_id: str = ""
    """Gymnasium id of the real twin."""
    env_kwargs: JsonObject = field(default_factory=dict)
    """Arguments with which the real twin was recorded."""
    fps: Annotated[float, Gt(0), Le(100_000)] = 8.75
    """Steps a second of the real twin."""
    has_rewards: bool = False
    """Whether the recording had rewards other than zero: only then the reward head speaks."""
    has_terminations: bool = False
    """Whether the recording had terminations: only then the termination head speaks."""
    intrinsics: tuple[float, float, float, float] | None = None
    """``fx fy cx cy`` in pixels, None for a world without geometry."""
    action_low: tuple[float, ...] | None = None
    """Lower bounds of continuous actions, None for -1."""
    action_high: tuple[float, ...] | None = None
    """Upper bounds of continuous actions, None for 1."""
    dynamics_name: str = field(default="diffusion", repr=False)
    """Name of the dynamics in :data:`worldsim.runtime.registries.DYNAMICS`."""
    dynamics_settings: JsonObject = field(default_factory=dict, repr=False)
    """Settings of dynamics other than ``diffusion``, JSON values."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Settings of ``diffusion``."""
    memory: PointMemoryConfig | None = field(default_factory=PointMemoryConfig)
    """The scene memory, None for a world without geometry."""
    pixels: PixelsConfig | None = field(default=None, repr=False)
    """How the real twin's images became observations
    (:func:`worldsim.world.image_env.make_pixels`), None if it observes such images."""
    termination: Termination = field(default=Termination.THRESHOLD, repr=False)
    """``sample`` or ``threshold``."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.intrinsics is not None and not min(self.intrinsics[:2]) > 0:
            raise InvalidInputError(
                f"WorldConfig.intrinsics = {self.intrinsics}: fx and fy must be more than 0 pixels"
            )
        low, high = self.action_low or (), self.action_high or ()
        if (
            low
            and high
            and (len(low) != len(high) or any(not a <= b for a, b in zip(low, high, strict=True)))
        ):
            raise InvalidInputError(
                f"WorldConfig.action_low = {low} and action_high = {high}: low bounds lie below "
                f"high ones"
            )
