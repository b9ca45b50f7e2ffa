"""``worldsim watch``: an agent in the dream and in the real twin, from the same frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from worldsim.app.compare import read_actions
from worldsim.app.failures import play_windows, write_failures
from worldsim.errors import InvalidInputError
from worldsim.evaluation.episodes import Played, Task, dream_episodes, play_real, step_limit
from worldsim.evaluation.policy_batch import PolicySpec
from worldsim.io.pictures import panels
from worldsim.io.provenance.origin import Origin
from worldsim.io.provenance.publish import publish_film
from worldsim.runtime.files import make_writable_folder, require_replaceable
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.ranges import Count, Scale, Seed
from worldsim.runtime.types import Array
from worldsim.shipped.agent_files import read_card
from worldsim.shipped.policies import make_policy, saved_folder
from worldsim.world import World
from worldsim.world.files import find_world_of_file
from worldsim.world.twin import make_twin


@dataclass(frozen=True)
class WatchConfig:
    """Write a video of an agent in the dream and in its real twin."""

    agent: str
    """A saved agent's folder, a shipped agent's name, or ``random``, ``persistent``,
    ``module:Class``."""
    out: Path = Path("watch.mp4")
    """Path of the video."""
    world: str | None = None
    """Name or folder of the world. By default the one in the agent's card."""
    steps: Count = 300
    """Maximum number of steps of both."""
    seed: Seed = 0
    """Seed of the episode in the real twin, the dream and the agent."""
    scale: Scale = 4
    """Pixels of the video per pixel of the frames."""
    device: str | None = None
    """Device of the dream. By default CUDA if it is available."""
    failures: Path | None = None
    """Write the worst paired moments to this page (.html) instead of a video: dream beside real
    twin under the same actions, where pictures, rewards or ends are furthest apart."""
    episodes: Annotated[int, Ge(1), Le(100)] = 2
    """Failures: episodes to play, with the seeds ``seed``, ``seed + 1`` and so on."""
    horizon: Annotated[int, Ge(1), Le(256)] = 16
    """Failures: steps that are dreamed before the world receives true frames again."""
    moments: Annotated[int, Ge(1), Le(100)] = 8
    """Failures: most moments of each kind."""
    actions: Path | None = None
    """Failures: JSON file with the actions of a walk to take instead of the agent's."""
    trust: bool = False
    """Use the real twin, world and policy class that files name, whatever they are: this imports
    and runs their code. Use it only for files whose author you trust."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.out.suffix != ".mp4":
            raise InvalidInputError(
                f"WatchConfig.out = {str(self.out)!r}: the video's name must end in .mp4"
            )
        if self.failures is not None and self.failures.suffix not in (".html", ".htm"):
            raise InvalidInputError(
                f"WatchConfig.failures = {str(self.failures)!r}: the page's name must end in .html"
            )
        if self.actions is not None and self.failures is None:
            raise InvalidInputError(
                "WatchConfig.actions is for the failure log: name its page with --failures, or "
                "film actions with worldsim compare"
            )


def watch(config: WatchConfig, world: World | None = None) -> Path:
    """Play both and write the video; returns its path.

    world: a loaded world, instead of ``config.world``.
    """
    folder = saved_folder(config.agent)
    name = config.world
    if name is None and folder is not None and (told := read_card(folder).world):
        name = find_world_of_file(told, folder, config.trust)
    if world is None and not name:
        raise InvalidInputError(f"agent {config.agent!r} names no world: give one with --world")
    world = world or World.from_pretrained(str(name), config.device, trust=config.trust)
    if config.failures is not None:
        return _failures(config, world, config.failures)
    require_replaceable(config.out)
    make_writable_folder(config.out.parent)
    spec = PolicySpec(config.agent, trust=config.trust)
    twin = make_twin(world)
    try:
        limit = min(config.steps, step_limit(twin, None))
        real = play_real(twin, Task(spec, config.seed), limit, keep=True)
    finally:
        twin.close()
    assert real.start is not None
    dream = dream_episodes(world, spec, [real.start], [config.seed], limit, batch=1, keep=True)[0]
    known = name or (world.folder.name if world.folder is not None else "world")
    origin = Origin(str(known), world.weights_id, config.seed)
    publish_film(video_frames(real, dream, config.scale), world.config.fps, config.out, origin)
    print(
        f"dream: {dream.steps} steps, return {dream.total:.2f}; real twin: {real.steps} steps, "
        f"return {real.total:.2f}. "
        f"Written to {config.out}."
    )
    return config.out


def _failures(config: WatchConfig, world: World, page: Path) -> Path:
    require_replaceable(page)
    make_writable_folder(page.parent)
    space = world.action_space
    acts = None if config.actions is None else read_actions(config.actions, space)
    policy = make_policy(config.agent, space, trust=config.trust)
    seeds = list(range(config.seed, config.seed + (1 if acts is not None else config.episodes)))
    windows = play_windows(world, policy, seeds, config.steps, config.horizon, acts)
    name = config.world or (world.folder.name if world.folder is not None else "world")
    agent = config.agent if config.actions is None else config.actions.name
    moments = write_failures(page, agent, name, world, windows, config.moments, config.seed)
    told = ", ".join(f"{len(found)} of {kind}" for kind, found in moments.items())
    print(f"{sum(len(w.acts) for w in windows)} steps; worst moments: {told}. Written to {page}.")
    return page


def video_frames(real: Played, dream: Played, scale: int) -> list[Array]:
    """Return the frames of both films side by side, in sync.

    The one that ends first keeps its last frame, darkened. Raises OutOfMemoryError if the frames do
    not fit.
    """
    shown: list[Array] = []
    assert real.frames is not None and dream.frames is not None
    height, width = np.shape(real.frames[0])[:2]
    count = max(len(real.frames), len(dream.frames))
    require_memory_for(
        count * 3 * (height * scale + 52) * (2 * width * scale + 12),
        f"a video of {count} frames at scale {scale}",
    )
    for t in range(count):
        pictures = {
            _title("dream", dream, t): _at(dream, t),
            _title("real twin", real, t): _at(real, t),
        }
        shown.append(panels(pictures, scale, f"step {t}"))
    # The ends are looked at longest.
    return [*shown, *[shown[-1]] * 15]


def _at(played: Played, t: int) -> Array:
    assert played.frames is not None
    if t < len(played.frames):
        return np.asarray(played.frames[t])
    return np.asarray(played.frames[-1]) // 2


def _title(name: str, played: Played, t: int) -> str:
    total = sum(played.rewards[:t])
    ended = " (ended)" if played.terminated and t >= played.steps else ""
    return f"{name}: {total:.1f}{ended}"
