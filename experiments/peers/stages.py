"""The stages of the comparison, each run in a process of its own by :mod:`experiments.peers.run`.

Each returns what its file in ``results`` holds.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from experiments.peers import diamond, judge
from experiments.peers.dreams import (
    DiamondDream,
    DiamondVectorEnv,
    Dream,
    WorldsimDream,
    load_diamond,
)
from experiments.peers.settings import ENVIRONMENTS, PeersConfig, mark
from worldsim.data.dataset import EpisodeDataset, read_index
from worldsim.evaluation.statistics import interval, mean_statistic
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.json_config import read_json
from worldsim.runtime.spaces import space_of
from worldsim.runtime.types import JsonObject, Space
from worldsim.scenes.episodes import EpisodeScenes
from worldsim.training.config import TrainConfig
from worldsim.training.loss import Balance, LossConfig
from worldsim.training.outcomes import OutcomeConfig
from worldsim.world import World

SIDES = ("worldsim", "diamond")
TEST_SEED, JUDGE_SEED = 1_000_003, 2_000_003
"""Seeds apart from those of the training recording, added to the seed."""


def record(config: PeersConfig) -> JsonObject:
    """Record the training frames and the held-out ones."""
    how = ENVIRONMENTS[config.env]
    for folder, frames, seed in (
        (config.data, config.frames, config.seed),
        (config.test_data, config.test_frames, config.seed + TEST_SEED),
    ):
        command = [sys.executable, "-m", "worldsim", "record", config.env, "--out", str(folder)]
        command += ["--policy", how.policy, "--frames", str(frames), "--seed", str(seed)]
        command += ["--size", "64", "64", "--episode-steps", str(config.episode_steps)]
        command += ["--workers", str(config.workers), "--min-travel", "0"]
        command += ["--frames-per-shard", str(min(2048, max(256, frames // config.workers)))]
        command += ["--render"] if how.render else []
        command += ["--env-kwargs", *how.env_kwargs] if how.env_kwargs else []
        subprocess.run(command, check=True)
    return {"train": describe(config.data), "test": describe(config.test_data)}


def describe(folder: Path) -> JsonObject:
    """Return a recording's hash and size: SHA-256 over the checksums of its shards, in order."""
    info, shards = read_index(folder)
    whole = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
    return {
        "sha256": whole,
        "frames": sum(shard.frames for shard in shards),
        "episodes": sum(shard.episodes for shard in shards),
        "policy": info.policy,
        "versions": info.versions,
        "report": info.report,
    }


def space(config: PeersConfig) -> Space:
    """Return the recording's action space."""
    return space_of(EpisodeDataset(config.data).info.action_space)


def actions(config: PeersConfig) -> int:
    """Return the number of actions."""
    found = space(config)
    assert isinstance(found, gym.spaces.Discrete)
    return int(found.n)


def train_diamond(config: PeersConfig) -> JsonObject:
    """Train DIAMOND for the last of the minutes, with its agent saved at each."""
    return {**diamond.train(config, actions(config)), "hardware": hardware()}


def train_worldsim(config: PeersConfig, minutes: float) -> JsonObject:
    """Train a world as ``worldsim fit`` does on a GPU, on a clock that compilation does not
    advance."""
    from worldsim.training.train import run
    from worldsim.training.trainer import Trainer

    trainer = Trainer(
        TrainConfig(
            data=(config.data,),
            out=config.out / "worldsim" / mark(minutes),
            preset=config.preset,
            minutes=minutes,
            batch_size=config.batch_size,
            memory=False,
            warmup=100,
            colour=0.0,
            loss=LossConfig(
                energy=0.9,
                pure_noise=0.85,
                balance=Balance.CONTEXT,
                detail=0.8,
            ),
            outcome=OutcomeConfig(standardised=True),
            save_every=500,
            sample_every=1_000_000,
            scenes=16,
            seed=config.seed,
        )
    )
    began: list[float] = []
    first = trainer.step

    def clock() -> float:
        if trainer.step - first < config.warm_steps:
            return 0.0
        if not began:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            began.append(time.monotonic())
        return time.monotonic() - began[0]

    run(trainer, clock)
    return {
        "seconds": trainer.elapsed,
        "steps": trainer.step,
        "batch_size": trainer.batch_size,
        "parameters": sum(
            p.numel() for m in trainer.world().modules().values() for p in m.parameters()
        ),
        "hardware": hardware(),
    }


def hardware() -> JsonObject:
    """Return the device's name and PyTorch's version."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": name, "torch": torch.__version__}


def load_world(config: PeersConfig, minutes: float) -> World:
    """Return the world that was trained for ``minutes``."""
    folder = config.out / "worldsim" / mark(minutes) / "world"
    return World.from_pretrained(folder, trust=True)


def make_dream(config: PeersConfig, side: str, minutes: float) -> Dream:
    """Return the dream of one side."""
    if side == "worldsim":
        return WorldsimDream(load_world(config, minutes).with_engine(config.engine))
    agent = load_diamond(config, minutes, space(config), resolve_device(None))
    return DiamondDream(config, agent)


def frames(config: PeersConfig, minutes: float) -> JsonObject:
    """Compare frames 1 and 8 steps after true pasts, over the pixels that change."""
    held_out = judge.windows(config.test_data, config.windows, config.seed)
    found: JsonObject = {}
    values: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        values[side] = judge.predict(
            make_dream(config, side, minutes), held_out, config.seed + JUDGE_SEED
        )
        found[side] = {
            name: judge.mean_of(one, held_out.episode, config.bootstrap, config.seed)
            for name, one in values[side].items()
        }
    found["worldsim minus diamond"] = {
        name: judge.mean_of(
            values["worldsim"][name] - values["diamond"][name],
            held_out.episode,
            config.bootstrap,
            config.seed,
        )
        for name in values["worldsim"]
        if not name.startswith("copied")
    }
    return found


def agent_folder(config: PeersConfig, side: str, minutes: float) -> Path:
    """Folder of the agent that learned in one side's dream."""
    return config.out / "agents" / f"{side}-{mark(minutes)}"


def learn(config: PeersConfig, side: str, minutes: float) -> JsonObject:
    """Train the same PPO for the same dreamed steps in one side's dream."""
    from worldsim.agents.actor_critic import Args, train

    world = load_world(config, minutes)
    began = time.monotonic()
    args = Args(
        world=str(world.folder),
        out=agent_folder(config, side, minutes),
        steps=config.dreamed_steps,
        num_envs=config.num_envs,
        horizon=config.horizon,
        scenes=f"worldsim.scenes.episodes:EpisodeScenes:{config.data}",
        engine=config.engine,
        seed=config.seed,
    )
    envs = None
    if side == "diamond":
        device = resolve_device(None)
        envs = DiamondVectorEnv(
            config,
            load_diamond(config, minutes, space(config), device),
            EpisodeScenes(config.data).fit_to(world),
            space(config),
            config.num_envs,
            config.horizon,
        )
    train(args, envs)
    card = read_json(args.out / "agent.json")
    return {"seconds": time.monotonic() - began, "training": card.get("training")}


def returns(config: PeersConfig, minutes: float) -> JsonObject:
    """Compare dreamed and real returns of 18 policies, and the agents' real returns."""
    world, acts = load_world(config, minutes), space(config)
    agents = [agent_folder(config, side, minutes) for side in SIDES]
    specs = judge.policies(agents, acts)
    seeds = [config.seed + JUDGE_SEED + i for i in range(config.episodes)]
    real = judge.play(world, specs, seeds, config.episode_steps, config.workers)
    dreams = {
        side: judge.dreamed_returns(
            make_dream(config, side, minutes), specs, acts, real.starts, seeds, config.episode_steps
        )
        for side in SIDES
    }
    found: JsonObject = {
        "agreement": judge.agreement(real.total, dreams, config.bootstrap, config.seed),
        "agreement with sums of reward signs": judge.agreement(
            real.signs, dreams, config.bootstrap, config.seed
        ),
        "policies": [
            {
                "name": spec.name.replace(str(config.out), "OUT"),
                "real": float(real.total[i].mean()),
                "real_signs": float(real.signs[i].mean()),
                **{side: float(dreams[side][i].mean()) for side in SIDES},
            }
            for i, spec in enumerate(specs)
        ],
    }
    chosen = [*(judge.PolicySpec(str(agent)) for agent in agents), judge.PolicySpec("random")]
    seeds = [config.seed + 2 * JUDGE_SEED + i for i in range(config.agent_episodes)]
    played = judge.play(world, chosen, seeds, config.episode_steps, config.workers).total
    for name, total in zip((*SIDES, "random"), played, strict=True):
        found[f"agent of {name}" if name != "random" else name] = _mean(config, total)
    found["agent of worldsim minus agent of diamond"] = _mean(config, played[0] - played[1])
    return found


def _mean(config: PeersConfig, total: Any) -> JsonObject:
    return {
        "mean": float(np.mean(total)),
        "ci95": interval(
            mean_statistic(list(total[:, None])), len(total), config.bootstrap, config.seed
        ),
        "episodes": len(total),
    }
