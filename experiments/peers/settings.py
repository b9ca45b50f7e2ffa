"""Settings of the side-by-side comparison with DIAMOND, and how each environment is recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from worldsim.errors import InvalidInputError, NotFoundError


@dataclass(frozen=True)
class Recorded:
    """How an environment is recorded."""

    env_kwargs: tuple[str, ...] = ()
    """Further arguments of ``gymnasium.make``, pairs of name and value."""
    policy: str = "mix"
    """Who plays, as ``worldsim record --policy`` takes it."""
    render: bool = False
    """Whether the rendered image is recorded, for environments that observe no image."""
    cost: float = 1.0
    """Time of one step, relative to a game of the ALE."""


ENVIRONMENTS: Mapping[str, Recorded] = MappingProxyType(
    {
        "ALE/Breakout-v5": Recorded(),
        "ALE/Pong-v5": Recorded(),
        # Random play hardly ever crosses the road: there would be no rewards to learn.
        "ALE/Freeway-v5": Recorded(policy="experiments.heads.crossing:MostlyUp"),
        # DIAMOND's actions are discrete.
        "LunarLander-v3": Recorded(("continuous", "False"), render=True, cost=2.0),
        "CarRacing-v3": Recorded(("continuous", "False"), cost=3.0),
    }
)
"""Recordings by environment id. All are 64x64."""


@dataclass(frozen=True)
class PeersConfig:
    """Train DIAMOND and worldsim on the same frames for the same minutes, and judge both alike."""

    env: str
    """Environment: one of ENVIRONMENTS."""
    diamond: Path
    """Checkout of github.com/eloialonso/diamond (branch main)."""
    out: Path
    """Folder for recordings, models and results. The same command resumes."""
    minutes: tuple[float, ...] = (5.0,)
    """Minutes of training, ascending. DIAMOND trains once and is saved at each of them; worldsim,
    whose learning rate falls to zero at the end, trains anew for each."""
    frames: int = 80_000
    """Frames of the training recording."""
    test_frames: int = 16_000
    """Frames of the held-out recording."""
    episode_steps: int = 256
    """Longest recorded and judged episode, in steps."""
    windows: int = 512
    """Moments of the held-out recording from which frames are predicted."""
    episodes: int = 16
    """Episodes of each of the 18 policies, in both dreams and in the real twin."""
    agent_episodes: int = 64
    """Episodes by which the trained agents' real returns are measured."""
    dreamed_steps: int = 500_000
    """Steps that each agent takes in its dream."""
    num_envs: int = 256
    """Dreams that an agent learns in at once."""
    horizon: int = 64
    """Steps after which an agent's dream is cut."""
    preset: str = "task"
    """Size of worldsim's network."""
    batch_size: int | None = None
    """Windows per step of worldsim's training; by default what ``worldsim fit`` takes on a GPU."""
    motion: float = 0.0
    """Weight of pixels near the last change in worldsim's loss, in [0, 1]. ``worldsim fit`` takes
    0.8 on a CPU and 0 on a GPU."""
    warmup: int = 100
    """Steps of linear warm-up of worldsim's learning rate; as many as DIAMOND's by default."""
    overrides: tuple[str, ...] = ()
    """Further settings of DIAMOND, as on its own command line, such as
    ``denoiser.training.batch_size=2`` for a rehearsal on a CPU."""
    epoch_steps: int = 10
    """Steps after which DIAMOND's training changes between its denoiser and its model of rewards
    and ends. Its own number is 400; the clock is read at these changes."""
    warm_steps: int = 20
    """First steps of each training that are not timed: compilation and other warming up."""
    bootstrap: int = 2000
    """Resamples of each 95% interval."""
    meet: Path | None = None
    """Folder in which trainings wait after their warm-up until it holds ``go-STAGE``: several that
    share a GPU then run their minutes side by side (:mod:`experiments.peers.together`)."""
    workers: int = field(default_factory=lambda: min(16, os.cpu_count() or 1))
    """Processes that play the real environment."""
    engine: str = "fast"
    """How worldsim's dreams are run: plain, fast or compiled."""
    seed: int = 0
    """Of recordings, trainings and judgements."""
    stage: str = "all"
    """``all`` runs every stage in a process of its own; anything else is one stage's name."""

    def __post_init__(self) -> None:
        if self.env not in ENVIRONMENTS:
            raise InvalidInputError(f"--env {self.env}: choose one of {', '.join(ENVIRONMENTS)}")
        if not (self.diamond / "src" / "trainer.py").is_file():
            raise NotFoundError(
                f"{self.diamond} is no checkout of DIAMOND (no src/trainer.py): clone "
                f"https://github.com/eloialonso/diamond and name its folder"
            )
        if list(self.minutes) != sorted(set(self.minutes)) or not self.minutes:
            raise InvalidInputError(f"--minutes {self.minutes}: ascending numbers are needed")

    @property
    def data(self) -> Path:
        """Folder of the training recording."""
        return self.out / "data" / "train"

    @property
    def test_data(self) -> Path:
        """Folder of the held-out recording."""
        return self.out / "data" / "test"

    @property
    def twin(self) -> Path:
        """Folder of an untrained world, which says how the real twin is made."""
        return self.out / "untrained"

    def result(self, stage: str) -> Path:
        """File of a stage's result; its existence says that the stage is done."""
        return self.out / "results" / f"{stage}.json"


def wait_for_others(config: PeersConfig, stage: str) -> None:
    """Say that a training is warm, and wait until all of them are.

    GPU memory that warming up took stays reserved: others might take it meanwhile.
    """
    if config.meet is None:
        return
    config.meet.mkdir(parents=True, exist_ok=True)
    (config.meet / f"ready-{stage}-{slug(config.env)}").touch()
    while not (config.meet / f"go-{stage}").exists():
        time.sleep(0.05)


def slug(env: str) -> str:
    """Name of an environment in file names: ``Freeway-v5`` for ``ALE/Freeway-v5``."""
    return env.rpartition("/")[2]


def mark(minutes: float) -> str:
    """Name of a training time in file names: 5 for 5.0."""
    return f"{minutes:g}"
