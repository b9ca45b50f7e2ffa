"""Free-running dreams of Freeway: how long the walker stays in the picture, and what is rewarded.

    python experiments/heads/freeway.py --world WORLD --recording RECORDING --out freeway.json

For each policy and number of sampling steps, dreams of ``--steps`` steps begin with the first
``--history`` frames of recorded episodes: the first one of all shows neither walker nor cars.
Results and what they mean: docs/experiments/heads.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from crossing import AlwaysUp

from worldsim.agents.random import RandomPolicy
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.starts import scene_at
from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.runtime.types import Array, JsonObject
from worldsim.state import SceneStart
from worldsim.world import World

LOOKED_AT = (1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
"""Steps at which pictures and shares of the walker are kept."""
BAND = (0.22, 0.36)
"""Columns, over the width, in which the walker on the left walks."""


@dataclass(frozen=True)
class FreewayConfig:
    """Options of the experiment."""

    world: Path
    """Folder of the world."""
    recording: Path
    """Folder of a recording, for first frames and for how much of the walker real frames show."""
    out: Path
    """JSON file of the results; a picture is written beside it."""
    history: int = 8
    """True frames that each dream begins with."""
    steps: int = 512
    """Steps of each dream."""
    dreams: int = 16
    """Dreams of each policy."""
    num_inference_steps: tuple[int, ...] = (1, 2, 4)
    """Sampling steps per frame, each measured on its own."""
    keep_still: float = 0.0
    """Changes of a pixel, in values of 255, that dreams leave out."""
    seed: int = 10_000
    """Seed of dreams and policies."""


def main(config: FreewayConfig) -> None:
    """Measure, write the results after each part, and save a picture."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recording = EpisodeDataset(config.recording)
    starts = [
        scene_at(recording[i % len(recording)], config.history - 1, config.history)
        for i in range(config.dreams)
    ]
    later = np.concatenate(
        [recording[i].rgb[config.history :] for i in range(min(4, len(recording)))]
    )
    results: JsonObject = {"walker_in_real_frames": float(walker(later).mean())}
    for count in config.num_inference_steps:
        world = World.from_pretrained(config.world, device=device, trust=True)
        world = world.with_dynamics(num_inference_steps=count, keep_still=config.keep_still)
        for name, policy in (("always-up", AlwaysUp), ("random", RandomPolicy)):
            policies = [policy(world.action_space) for _ in starts]
            found, pictures = dream(world, starts, policies, config)
            results[f"{name}, {count} sampling steps"] = found
            config.out.write_text(json.dumps(results, indent=1))
            print(name, count, found["returns"], found["walker"], flush=True)
            columns = [str(t) for t in LOOKED_AT if t <= config.steps]
            sheet = contact_sheet({f"dream {i}": p for i, p in enumerate(pictures)}, columns)
            save_picture(sheet, config.out.with_name(f"{config.out.stem}-{name}-{count}.png"))


@torch.no_grad()
def dream(
    world: World, starts: list[SceneStart], policies: list[object], config: FreewayConfig
) -> tuple[JsonObject, list[list[Array]]]:
    """Return figures of free-running dreams, and pictures of the first two of them."""
    seeds = range(config.seed, config.seed + len(starts))
    state = world.initial(starts, seeds)
    for seed, policy in zip(seeds, policies, strict=True):
        policy.reset(seed)  # type: ignore[attr-defined]
    returns, shares, pictures = np.zeros(len(starts)), {}, [[], []]
    for step in range(1, config.steps + 1):
        act = np.array([policy.act(None) for policy in policies])  # type: ignore[attr-defined]
        state, transition = world.step(state, torch.from_numpy(act).to(world.device))
        returns += transition.rew.cpu().numpy()
        if step in LOOKED_AT:
            rgb = transition.frame.rgb.cpu().permute(0, 2, 3, 1).numpy()
            shares[str(step)] = float(walker(rgb).mean())
            for row, picture in zip(pictures, rgb, strict=False):
                row.append(picture)
    found = {"returns": returns.round(3).tolist(), "mean": returns.mean(), "walker": shares}
    return found, pictures


def walker(rgb: Array) -> Array:
    """Return how much yellow of the walker pictures show, (n,), in fully yellow pixels.

    rgb: (n, h, w, 3) uint8. Yellow is what is less blue than red and green, above the road's grey
    and the cars' other colours, within :data:`BAND`. The road's middle line is yellow, too.
    """
    width = rgb.shape[2]
    band = rgb[:, :, int(BAND[0] * width) : int(BAND[1] * width) + 1].astype(np.float64)
    yellow = np.minimum(band[..., 0], band[..., 1]) - band[..., 2]
    return np.clip(yellow - 20.0, 0.0, None).sum((1, 2)) / 148.0


if __name__ == "__main__":
    main(tyro.cli(FreewayConfig))
