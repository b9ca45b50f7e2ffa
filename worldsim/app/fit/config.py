"""The options of ``worldsim fit``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, Positive, Seed, Workers
from worldsim.runtime.workers import ENGINE_TIMEOUT_S
from worldsim.training.config import PRESETS
from worldsim.world.image_env import require_trainable

MAY_CHANGE = ("rounds", "json", "workers", "engine_timeout_s", "out")
"""Options that may be others when a run resumes."""


@dataclass(frozen=True)
class FitConfig:
    """Options of ``worldsim fit``."""

    env_id: str
    """Gymnasium id, such as ``CartPole-v1``; ``module:Name-v0`` imports ``module`` first."""
    out: Path
    """Folder of everything: recordings, world, agent, figures, and the page ``report.html``. If it
    holds part of the same run, the run resumes."""
    minutes: Positive = 15.0
    """Minutes of wall time of each round, from the recording to the page; at most a fifth of them
    go to recording."""
    rounds: Count = 1
    """Rounds. From the second on, the last round's agent plays most of the recording, and world and
    agent are trained on. A larger number continues a finished run."""
    preset: str | None = None
    """Size of the network. By default task on a GPU and mini on a CPU."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that images are resized to, multiples of 8. By default the shorter
    side has 64 pixels on a GPU and 32 on a CPU, or the environment's own if it has fewer."""
    key: str | None = None
    """Key of the image in a Dict observation; needed only if several entries are images."""
    render: bool = False
    """Use rendered images although the environment observes images."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Further arguments of ``gymnasium.make``, such as ``max_episode_steps 525``."""
    reset_options: dict[str, str] = field(default_factory=dict)
    """Options of every reset of the recording, such as ``split train``."""
    frames: Count | None = None
    """Frames to record in each round. By default what a fifth of the minutes allows, at most 20,000
    on a CPU and 200,000 on a GPU."""
    episode_steps: Count = 256
    """Longest recorded episode in steps."""
    seed: Seed = 0
    """Seed of recordings, weights, agent and evaluation."""
    workers: Workers = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that play the environment. 0 plays in this process, where a call that hangs cannot
    be ended."""
    engine_timeout_s: Positive = ENGINE_TIMEOUT_S
    """Time limit in seconds of one call of the environment. Has no effect with ``workers 0``."""
    json: Path | None = None
    """Also write verdict and figures to this file."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.preset is not None and self.preset not in PRESETS:
            raise InvalidInputError(
                f"unknown preset {self.preset!r}: choose one of {', '.join(PRESETS)}"
            )
        if self.size is not None:
            require_trainable(self.size, f"FitConfig.size = {self.size!r}: it")
        if self.render and self.key is not None:
            raise InvalidInputError(
                f"FitConfig.key = {self.key!r} names a part of the observation, but render is "
                f"set: give one of them"
            )
