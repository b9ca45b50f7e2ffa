"""Stable-Baselines3's PPO on a real environment, with few frames:
``python ppo_baseline.py --help``. What dreams are compared with.

Its documented settings for Atari (RL Baselines3 Zoo: eight environments of 128 steps, four epochs
of batches of 256, learning rate 2.5e-4 and clip range 0.1 that fall to nothing, entropy 0.01, four
stacked frames, ``CnnPolicy``), on frames as the world sees them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from worldsim.evaluation.statistics import bootstrap_ci, mean_statistic
from worldsim.world.image_env import find_pixels, make_pixels


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    json: Path
    """Where the figures go."""
    env_id: str = "VizdoomHealthGathering-v1"
    """The environment."""
    env_kwargs: dict[str, int | float | bool | str] = field(
        default_factory=lambda: {"frame_skip": 4, "max_episode_steps": 525}
    )
    """Further arguments of ``gymnasium.make``."""
    size: tuple[int, int] = (64, 64)
    """Height and width that images are resized to, as for the world."""
    frames: int = 100_000
    """Steps of learning, of all environments together."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    episodes: int = 100
    """Of evaluation after each training, with seeds of their own from 10000 on."""


def environments(config: Config, count: int, seed: int) -> VecEnv:
    """``count`` wrapped environments, stacked four frames deep."""
    pixels = find_pixels(config.env_id, config.env_kwargs, config.size)

    def make() -> Any:
        return Monitor(make_pixels(config.env_id, config.env_kwargs, pixels))

    envs: VecEnv = DummyVecEnv([make] * count)
    envs.seed(seed)
    return VecTransposeImage(VecFrameStack(envs, 4))


def returns(model: PPO, config: Config, deterministic: bool) -> list[float]:
    """Of evaluation's episodes, one environment after another."""
    envs = environments(config, 1, 10_000)
    try:
        found: Any = evaluate_policy(
            model, envs, config.episodes, deterministic=deterministic, return_episode_rewards=True
        )
        return [float(x) for x in found[0]]
    finally:
        envs.close()


def figures(values: NDArray[Any]) -> dict[str, Any]:
    """Mean and its 95% interval."""
    low, high = bootstrap_ci(mean_statistic(values), len(values))
    return {"mean": float(values.mean()), "ci95": [low, high]}


def main(config: Config) -> None:
    """Train and evaluate each seed; what is there of an earlier run is kept."""
    done: dict[str, Any] = json.loads(config.json.read_text()) if config.json.is_file() else {}
    for seed in config.seeds:
        if str(seed) in done:
            continue
        torch.set_num_threads(1)
        envs = environments(config, 8, seed)
        model = PPO(
            "CnnPolicy",
            envs,
            n_steps=128,
            n_epochs=4,
            batch_size=256,
            learning_rate=lambda left: 2.5e-4 * left,
            clip_range=lambda left: 0.1 * left,
            vf_coef=0.5,
            ent_coef=0.01,
            seed=seed,
            device="cpu",
        )
        model.learn(config.frames)
        envs.close()
        done[str(seed)] = {
            name: returns(model, config, name == "greedy") for name in ("drawn", "greedy")
        }
        config.json.write_text(json.dumps(done))
        for name, values in done[str(seed)].items():
            print(f"seed {seed}, {name} actions:", figures(np.array(values)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
