"""The settings of ``worldsim evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worldsim.errors import InvalidInputError
from worldsim.evaluation.memory_fitting import Fits
from worldsim.evaluation.trip_recording import UNDO, check_lengths
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.ranges import Batch, Count, Number, Positive, Seed, Share, Workers
from worldsim.runtime.workers import ENGINE_TIMEOUT_S

FULL_EPISODES = 32
"""From this many walks on, an evaluation is the protocol's and has to reach ``min_seen_frames``."""
EPISODES = {"walks": FULL_EPISODES, "return-trip": 8, "dreams": 64, "long-walks": 32, "twin": 16}
"""Walks or trips by protocol, if no number is given."""
HORIZONS = {"walks": 48, "return-trip": 48, "dreams": 96, "long-walks": 1000, "twin": 500}
"""Dreamed frames by protocol, if no number is given."""
QUICK_WALKS, QUICK_STEPS = 2, 100
"""Walks and dreamed frames with ``--quick``, if no number is given."""


@old_fields(steps="num_inference_steps")
@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a world against its real twin on the test maps."""

    world: str
    """Name of a shipped world, a world's folder, or ``hub:owner/name`` of the Hugging Face hub."""
    trust: bool = False
    """Use the real twin that the world's files name, whatever it is: this imports and runs its
    code."""
    json: Path | None = None
    """Also write the results to this file."""
    protocol: Literal["walks", "return-trip", "dreams", "long-walks", "twin"] = "walks"
    """``walks``: next frames, seen places, actions and poses on free walks. ``return-trip``: out
    and back along the same way. ``dreams``: sharpness, steadiness and distance from true frames
    over 96 dreamed frames. ``long-walks``: statistics of 1,000 steps beside those of real walks.
    ``twin``: what is kept on six scripted ways out and back, drift of long dreams, actions, ranks
    of policies; of a world without poses, the spread of its random futures."""
    quick: bool = False
    """With ``--protocol twin``, 2 walks per trajectory and long dreams of 100 frames, unless
    ``episodes`` and ``horizon`` say otherwise: a first impression."""
    episodes: Count | None = None
    """Number of walks (default 32; 64 for ``dreams``, which records as many others to compare with;
    16 per trajectory for ``twin``) or return trips (default 8). With ``walks``, from 32 on, walks
    are added until there are ``min_seen_frames``, up to four times as many. Fewer give a quick
    estimate."""
    seed: Seed = 0
    """Seed of test set and dreams. Results of different seeds are of different test sets."""
    device: str | None = None
    """Device of the world, such as ``cpu`` or ``cuda:1``. By default CUDA if it is available."""
    num_inference_steps: Batch | None = None
    """Sampling steps per frame. By default the world's own."""
    temperature: Share | None = None
    """Temperature of the noise, in [0, 1]. By default the world's own."""
    memory: Literal["points", "radiance"] = "points"
    """``points``: the world's own memory. ``radiance``: a radiance field on top of its points,
    fitted where the dream begins (on return trips, at the turning point) and again every
    ``fit_every`` frames; until then, the points."""
    fit_iterations: Count = 200
    """Iterations per fit, with ``--memory radiance``."""
    fit_every: Count = 32
    """Dreamed frames between fits, with ``--memory radiance``."""
    history: Count = 64
    """True frames that a dream starts from. Another value is another protocol."""
    horizon: Count | None = None
    """Frames to dream after them: by default 48, 96 for ``dreams``, 500 for ``twin`` and
    1,000 for ``long-walks``.
    Another value is another protocol."""
    min_seen_frames: Number = 300
    """Minimum number of frames of seen places for meaningful results."""
    cache: Path | None = None
    """Folder in which recorded walks are kept for the next evaluation."""
    lengths: tuple[int, ...] = (32, 125, 250)
    """Lengths of return trips: steps out, and as many back."""
    undo: tuple[int, ...] = UNDO
    """For return trips, the action that undoes each discrete action."""
    workers: Workers | None = None
    """Recording processes. By default one per core (at most 16, and at most one per 4 walks). 1
    plays in this process."""
    engine_timeout_s: Positive = ENGINE_TIMEOUT_S
    """Time limit in seconds of one call of the real twin. After it, the engine is killed and the
    walk recorded again. Has no effect in this process."""
    cluster: str | None = None
    """Compute on the machines of a Ray cluster (extra ``cluster``): ``auto``, as if no value is
    given, for the one that RAY_ADDRESS names or that runs on this machine, ``host:port`` of its
    head, or ``local`` to start one here. Walks to record and batches of dreams are spread.
    Results are those of one machine with the same ``batch`` and ``threads``."""
    batch: Batch = 32
    """Walks to dream at once; smaller batches need less memory."""
    bootstrap: Count = 2000
    """Resamples of the walks for each 95% interval."""
    pictures: Path | None = None
    """Folder for strips of a few walks: real twin, dream, memory view."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.history < 2:
            raise InvalidInputError(
                f"EvaluateConfig.history = {self.history!r}: it must be at least 2"
            )
        check_lengths(self.lengths)
        if self.quick and self.protocol != "twin":
            raise InvalidInputError(
                f"--quick belongs to --protocol twin: with --protocol {self.protocol}, give fewer "
                f"--episodes"
            )
        if self.protocol == "twin" and self.fits is not None:
            raise InvalidInputError(
                "--protocol twin fits no memory: leave out --memory radiance, or use "
                "--protocol return-trip"
            )

    @property
    def fits(self) -> Fits | None:
        """When the memory is fitted; None for points."""
        return Fits(self.fit_iterations, self.fit_every) if self.memory == "radiance" else None

    @property
    def walks(self) -> int:
        """Number of episodes."""
        if self.quick and self.episodes is None:
            return QUICK_WALKS
        return EPISODES[self.protocol] if self.episodes is None else self.episodes

    @property
    def dreamed(self) -> int:
        """Number of frames to dream after the history."""
        if self.quick and self.horizon is None:
            return QUICK_STEPS
        return HORIZONS[self.protocol] if self.horizon is None else self.horizon
