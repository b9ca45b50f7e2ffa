"""The configuration of a world, as stored in ``world.json``."""

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
    """Draw from the probability with the environment's own random numbers. Use it where the cause
    of a termination may be hidden, such as a player's health."""
    THRESHOLD = "threshold"
    """Terminate where the probability is more than one half. Worlds without this setting use it."""


@dataclass(frozen=True)
class WorldConfig:
    """The configuration of a world, written to ``world.json``."""

    env_id: str = ""
    """Gymnasium id of the real twin."""
    env_kwargs: JsonObject = field(default_factory=dict)
    """Constructor arguments of the recorded real twin."""
    fps: Annotated[float, Gt(0), Le(100_000)] = 8.75
    """Steps per second of the real twin."""
    has_rewards: bool = False
    """Whether the recording had non-zero rewards. If not, rewards are 0."""
    has_terminations: bool = False
    """Whether the recording had terminations. If not, episodes never terminate."""
    intrinsics: tuple[float, float, float, float] | None = None
    """``fx fy cx cy`` in pixels. None for a world without geometry."""
    action_low: tuple[float, ...] | None = None
    """Lower bounds of continuous actions. None means -1."""
    action_high: tuple[float, ...] | None = None
    """Upper bounds of continuous actions. None means 1."""
    dynamics_name: str = field(default="diffusion", repr=False)
    """Name of the dynamics in :data:`worldsim.runtime.registries.DYNAMICS`."""
    dynamics_settings: JsonObject = field(default_factory=dict, repr=False)
    """Settings of dynamics other than ``diffusion``; JSON values."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Settings of ``diffusion``."""
    memory: PointMemoryConfig | None = field(default_factory=PointMemoryConfig)
    """Settings of the scene memory. None for a world without geometry."""
    pixels: PixelsConfig | None = field(default=None, repr=False)
    """How the real twin's images are converted to observations
    (:func:`worldsim.world.image_env.make_pixels`). None if its observations are used as they
    are."""
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
