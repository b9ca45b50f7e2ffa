"""Fireballs in dreams of ViZDoom's TakeCover, beside those of the real twin:
``python fireballs.py --help``.

An agent that is to learn to dodge has to be shot at. From moments of a recording that the world was
not trained on, the dream goes on with the actions that were taken there; at each of its ages, as
many episodes as have not ended in the recording are compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.data.starts import scene_at
from worldsim.runtime.json_config import write_json
from worldsim.world import World


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    world: str
    """The world's folder."""
    data: Path
    """A recording that it was not trained on."""
    steps: tuple[int, ...] = (1, 2, 4)
    """Sampling steps, one row of figures each."""
    moments: int = 256
    """Dreams, as one batch."""
    past: int = 8
    """True frames that a dream begins with."""
    ages: tuple[int, ...] = (1, 4, 8, 16, 32, 64)
    """Steps of the dream at which frames are looked at."""
    engine: str = "fast"
    """How dreams are run."""
    device: str | None = None
    """Where."""
    seed: int = 0
    """Of the moments and of the dreams."""
    json: Path | None = None
    """Write the figures to this file, too."""
    picture: Path | None = None
    """Draw a few shots in flight, in the real twin and below in the dream, step by step, into this
    PNG, and measure nothing."""


MIDDLE = slice(20, 44)
"""Rows of a frame of 64 in which there are walls and fireballs."""


def lit(rgb: Tensor) -> Tensor:
    """Pixels (n,) of frames (n, 3, h, w) uint8 that are as bright and yellow as only fireballs
    are."""
    return ((rgb[:, 0] > 180) & (rgb[:, 1] > 150)).sum((1, 2))


def true_frame(episode: Episode, frame: int) -> Tensor:
    """(3, h, w) uint8."""
    return torch.from_numpy(np.array(episode.rgb[frame])).permute(2, 0, 1)


def chosen(config: Config) -> list[tuple[Episode, int]]:
    """Moments with a past and something after them, as likely as their episodes are long."""
    dataset = EpisodeDataset(config.data)
    episodes = [episode for episode in dataset if len(episode.rgb) > config.past + 2]
    weights = np.array([len(episode.rgb) for episode in episodes], np.float64)
    rng = np.random.default_rng(config.seed)
    picked = rng.choice(len(episodes), config.moments, p=weights / weights.sum())
    return [(episodes[i], int(rng.integers(config.past, len(episodes[i].rgb) - 2))) for i in picked]


@torch.no_grad()
def measure(config: Config, moments: list[tuple[Episode, int]], world: World) -> dict[str, Any]:
    """Share of frames with a fireball and their lit pixels, by age; births after clear frames; how
    ends are foretold."""
    scenes = [scene_at(episode, frame, config.past) for episode, frame in moments]
    state = world.initial(scenes, list(range(len(scenes))))
    clear = lit(state.frame.rgb.cpu()) == 0
    ages: dict[str, Any] = {}
    termination_prob: list[tuple[Tensor, Tensor]] = []
    figures: dict[str, Any] = {}
    for age in range(1, max(config.ages) + 1):
        act = torch.tensor(
            [int(e.act[min(t + age - 1, len(e.act) - 1)]) for e, t in moments], device=world.device
        )
        state, transition = world.step(state, act)
        alive = torch.tensor([t + age < len(e.rgb) for e, t in moments])
        # The frame of an end is black, and is not looked at.
        inside = torch.tensor([t + age < len(e.rgb) - 1 for e, t in moments])
        if transition.termination_prob is not None:
            ended = torch.tensor(
                [bool(e.term[min(t + age - 1, len(e.term) - 1)]) for e, t in moments]
            )
            termination_prob.append(
                (transition.termination_prob.float().cpu()[alive], ended[alive])
            )
        if age in config.ages and bool(inside.any()):
            dream = lit(transition.frame.rgb.cpu()[inside])
            there = [
                moment for moment, is_in in zip(moments, inside.tolist(), strict=True) if is_in
            ]
            real = lit(torch.stack([true_frame(e, t + age) for e, t in there]))
            ages[str(age)] = {
                "episodes": int(inside.sum()),
                "dream_share": float((dream > 0).float().mean()),
                "real_share": float((real > 0).float().mean()),
                "dream_pixels": float(dream.float().mean()),
                "real_pixels": float(real.float().mean()),
            }
            if age == 1:
                before = clear[inside]
                figures["births"] = {
                    "clear": int(before.sum()),
                    "dream": float((dream[before] > 0).float().mean()),
                    "real": float((real[before] > 0).float().mean()),
                }
    chance = torch.cat([c for c, _ in termination_prob]).clamp(1e-6, 1 - 1e-6)
    truth = torch.cat([t for _, t in termination_prob]).float()
    figures["ends"] = {
        "foretold": float(chance.mean()),
        "real": float(truth.mean()),
        "log_loss": float(torch.nn.functional.binary_cross_entropy(chance, truth)),
    }
    return figures | {"ages": ages}


def in_flight(config: Config, rows: int, frames: int) -> list[tuple[Episode, int]]:
    """Moments of different episodes at which something small is lit that is large so many frames
    later."""
    found = []
    for episode in EpisodeDataset(config.data):
        pixels = lit(torch.from_numpy(np.array(episode.rgb)).permute(0, 3, 1, 2))
        for frame in range(config.past, len(pixels) - frames - 1):
            shot = pixels[frame : frame + frames]
            if 1 <= shot[0] <= 3 and bool((shot > 0).all()) and shot[-1] > 8:
                found.append((episode, frame))
                break
        if len(found) == rows:
            break
    return found


@torch.no_grad()
def draw(config: Config, world: World, path: Path, rows: int = 4, frames: int = 12) -> None:
    """Rows of the middle of the picture: the real twin, and below it the dream with the same
    actions."""
    moments = in_flight(config, rows, frames - 2)
    state = world.initial(
        [scene_at(episode, frame, config.past) for episode, frame in moments],
        list(range(len(moments))),
    )
    shown = [state.frame.rgb.cpu()]
    for age in range(frames - 1):
        state, transition = world.step(
            state, torch.tensor([int(e.act[t + age]) for e, t in moments], device=world.device)
        )
        shown.append(transition.frame.rgb.cpu())
    lines = []
    for i, (episode, frame) in enumerate(moments):
        for line in (
            [true_frame(episode, frame + age) for age in range(frames)],
            [rgb[i] for rgb in shown],
        ):
            lines.append(torch.cat([picture[:, MIDDLE] for picture in line], 2))
    grid = torch.cat(lines, 1).permute(1, 2, 0).numpy()
    large = Image.fromarray(grid).resize(
        (2 * grid.shape[1], 2 * grid.shape[0]), Image.Resampling.NEAREST
    )
    large.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def main(config: Config) -> None:
    """Measure with each number of sampling steps and print, or draw."""
    world = World.from_pretrained(config.world, config.device)
    if config.picture is not None:
        draw(
            config,
            world.with_dynamics(num_inference_steps=config.steps[0]).with_engine(config.engine),
            config.picture,
        )
        return
    moments = chosen(config)
    results: dict[str, Any] = {"world": config.world, "moments": config.moments, "steps": {}}
    for steps in config.steps:
        one = measure(
            config,
            moments,
            world.with_dynamics(num_inference_steps=steps).with_engine(config.engine),
        )
        results["steps"][str(steps)] = one
        print(
            f"{steps} sampling steps: births",
            json.dumps(one.get("births")),
            "ends",
            json.dumps(one["ends"]),
        )
        for age, row in one["ages"].items():
            print(
                f"  age {age:>3}: frames with fireballs {row['dream_share']:.2f} (real "
                f"{row['real_share']:.2f}), "
                f"lit pixels {row['dream_pixels']:.1f} ({row['real_pixels']:.1f}), "
                f"{row['episodes']} "
                f"episodes"
            )
    if config.json is not None:
        write_json(config.json, results)


if __name__ == "__main__":
    main(tyro.cli(Config))
