"""A hundred thousand steps of a shipped world: does the process's memory stay as it is?

    python -m experiments.soak --json out/soak.json

The first steps are one walk without a time limit, until the trajectory that an environment keeps is
full and the allocator has settled. Then come episodes with resets to drawn start scenes, first in
the single environment, then in a batch of them, whose steps count once for each. The resident
memory is read every few steps. Its largest reading is compared with the largest of the first
``settle`` steps of each of the two environments: work arrays grow and shrink with what an episode
has seen. Exit status 1 where it has grown by more than 5%.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

MOST_GROWTH = 0.05
"""Share by which the memory may grow after it has settled."""


@dataclass(frozen=True)
class SoakConfig:
    """Step a shipped world for long and watch the process's memory."""

    world: str = "freedoom-tiny"
    """Name or folder of the world."""
    steps: int = 100_000
    """Steps in all: those of the single environment, and one for each environment of the batch."""
    single: int = 20_000
    """How many of them the single environment takes."""
    batch: int = 8
    """Environments in the batch."""
    settle: int = 5_000
    """Steps until the memory must have its size; of a batch, at least one episode of each."""
    episode: int = 500
    """Steps after which an episode ends."""
    engine: str = "plain"
    """How steps are run: ``plain``, ``fast`` or ``compiled``."""
    device: str = "cpu"
    """Device of the world. On a GPU its memory is read, too."""
    every: int = 500
    """Steps from one reading of the memory to the next."""
    seed: int = 0
    """Of starts, dreams and actions."""
    json: Path | None = None
    """Write the readings to this file, anew after each."""


def soak(
    config: SoakConfig, report: Callable[[dict[str, Any]], None] = lambda told: None
) -> dict[str, Any]:
    """Step; returns the readings by part. ``report`` gets what is known after every reading."""
    import torch

    from worldsim.envs.world_env import WorldEnv

    env = WorldEnv(config.world, device=config.device, engine=config.engine)
    found: dict[str, Any] = {
        "world": config.world,
        "engine": config.engine,
        "device": str(env.world.device),
        "batch": config.batch,
        "episode_steps": config.episode,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "parts": {},
    }
    single = found["parts"]["single"] = _part(config, config.single, 1)
    for _ in _watched(single, _steps_alone(env, config), 1):
        report(found)
    left = config.steps - config.single
    if left > 0:
        batch = found["parts"]["batch"] = _part(config, left, config.batch)
        for _ in _watched(batch, _steps_together(env.world, config), config.batch):
            report(found)
    found["steps"] = sum(part["steps"] for part in found["parts"].values())
    found["growth"] = max(part["growth"] for part in found["parts"].values())
    return found


def _part(config: SoakConfig, steps: int, size: int) -> dict[str, Any]:
    return {
        "wanted": steps,
        # Each environment of a batch has one whole episode in which its arrays reach their size.
        "settle": min(max(config.settle, size * config.episode if size > 1 else 0), steps // 2),
        "every": config.every,
        "readings": [],
        "resets": 0,
        "growth": 0.0,
    }


def _steps_alone(env: Any, config: SoakConfig) -> Any:
    """Steps of the single environment: without a limit until it has settled, then in episodes.
    Yields the number of resets."""
    rng = np.random.default_rng(config.seed)
    env.reset(seed=config.seed)
    count, elapsed, resets = 0, 0, 1
    while True:
        *_, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        count, elapsed = count + 1, elapsed + 1
        over = count > min(config.settle, config.single // 2) and elapsed >= config.episode
        if terminated or truncated or over:
            env.reset()
            elapsed, resets = 0, resets + 1
        yield resets


def _steps_together(world: Any, config: SoakConfig) -> Any:
    """Steps of the batch, which resets by itself."""
    from worldsim.envs.world_vector_env import WorldVectorEnv

    envs = WorldVectorEnv(config.batch, world, max_episode_steps=config.episode)
    rng = np.random.default_rng(config.seed)
    envs.reset(seed=config.seed)
    resets = config.batch
    while True:
        _, _, terminated, truncated, _ = envs.step(
            rng.integers(envs.single_action_space.n, size=config.batch)
        )
        resets += int((terminated | truncated).sum())
        yield resets


def _watched(part: dict[str, Any], steps: Any, size: int) -> Any:
    """Take the part's steps and read the memory between them; yields after every reading."""
    process, began, count, due = psutil.Process(), time.monotonic(), 0, 0
    for part["resets"] in steps:
        count += size
        last = count >= part["wanted"]
        if count >= due or last:
            due += part["every"]
            held = process.memory_info().rss
            part["readings"].append({"step": count, "rss_mb": round(held / 1e6, 1), **_gpu()})
            part["steps"], part["seconds"] = count, round(time.monotonic() - began, 1)
            part["growth"] = growth(part["readings"], part["settle"])
            yield
        if last:
            return


def _gpu() -> dict[str, float]:
    """The memory that torch holds on the GPU, if it is in use."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    return {"gpu_mb": round(torch.cuda.memory_reserved() / 1e6, 1)}


def growth(readings: list[dict[str, Any]], settle: int) -> float:
    """By what share the largest reading after ``settle`` steps exceeds the largest until then; 0 if
    it does not, or before there is one."""
    until = [one["rss_mb"] for one in readings if one["step"] <= settle]
    after = [one["rss_mb"] for one in readings if one["step"] > settle]
    return round(max(0.0, max(after) / max(until) - 1.0), 4) if until and after else 0.0


def main() -> int:
    import tyro

    config = tyro.cli(SoakConfig, description=__doc__)

    def report(found: dict[str, Any]) -> None:
        name, part = list(found["parts"].items())[-1]
        last = part["readings"][-1]
        rate = part["steps"] / max(part["seconds"], 1e-9)
        print(
            f"{name}: {last['step']:,} steps, {last['rss_mb']:.0f} MB, {part['growth']:+.1%}, "
            f"{rate:.1f} steps/s",
            file=sys.stderr,
            flush=True,
        )
        if config.json is not None:
            config.json.parent.mkdir(parents=True, exist_ok=True)
            config.json.write_text(json.dumps(found, indent=1) + "\n")

    found = soak(config, report)
    report(found)
    print(
        f"{found['steps']:,} steps: memory grew by {found['growth']:.1%} after it had settled "
        f"(allowed: {MOST_GROWTH:.0%})"
    )
    return 0 if found["growth"] <= MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
