"""The stages of the comparison, each run in a process of its own by :mod:`experiments.peers.run`.

Each returns what its file in ``results`` holds.
"""

from __future__ import annotations

import dataclasses
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
from experiments.peers.settings import ENVIRONMENTS, PeersConfig, mark, wait_for_others
from worldsim.app.fit.config import FitConfig
from worldsim.app.fit.plan import Plan, train_config
from worldsim.data.dataset import EpisodeDataset, read_index
from worldsim.evaluation.policy_batch import PolicySpec
from worldsim.evaluation.statistics import interval, mean_statistic
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.json_config import read_json
from worldsim.runtime.spaces import space_of
from worldsim.runtime.types import JsonObject, Space
from worldsim.scenes.episodes import EpisodeScenes
from worldsim.training.config import TrainConfig
from worldsim.training.train import run
from worldsim.training.trainer import Trainer
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
        command += ["--frames-per-shard", str(min(2048, max(256, frames // 16)))]
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


def train_options(config: PeersConfig, minutes: float) -> TrainConfig:
    """Return the options with which ``worldsim fit`` trains on a GPU, but for those that this
    comparison names."""
    fit = FitConfig(config.env, config.out, minutes=minutes, preset=config.preset, seed=config.seed)
    plan = Plan(config.preset, "cuda", False, (64, 64), 1.0, config.frames, config.frames)
    found = train_config(fit, plan, 1, minutes, EpisodeDataset(config.data).info)
    return dataclasses.replace(
        found,
        data=(config.data,),
        out=config.out / "worldsim" / mark(minutes),
        batch_size=config.batch_size,
        warmup=config.warmup,
        memory=False,
        loss=dataclasses.replace(found.loss, motion=config.motion),
    )


def untrained(config: PeersConfig) -> JsonObject:
    """Write a world without training: it says how the real twin is made."""
    trainer = Trainer(dataclasses.replace(train_options(config, 1.0), out=config.twin))
    trainer.wait_for_data()
    trainer.save()
    return {"keep_still": trainer.config.keep_still}


def train_worldsim(config: PeersConfig, minutes: float) -> JsonObject:
    """Train a world as ``worldsim fit`` does on a GPU, on a clock that compilation does not
    advance."""
    trainer = Trainer(train_options(config, minutes))
    began: list[float] = []
    first = trainer.step

    def clock() -> float:
        if trainer.step - first < config.warm_steps:
            return 0.0
        if not began:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            wait_for_others(config, f"worldsim-{mark(minutes)}")
            began.append(time.monotonic())
        return time.monotonic() - began[0]

    run(trainer, clock)
    return {
        "seconds": trainer.elapsed,
        "steps": trainer.step,
        "batch_size": trainer.batch_size,
        "keep_still": trainer.config.keep_still,
        "parameters": sum(
            p.numel() for m in trainer.world().modules().values() for p in m.parameters()
        ),
        "hardware": hardware(),
    }


def hardware() -> JsonObject:
    """Return the device's name and PyTorch's version."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": name, "torch": torch.__version__}


def world_folder(config: PeersConfig, minutes: float) -> Path:
    """Folder of the world that was trained for ``minutes``."""
    return config.out / "worldsim" / mark(minutes) / "world"


def load_world(config: PeersConfig, minutes: float) -> World:
    """Return the world that was trained for ``minutes``."""
    return World.from_pretrained(world_folder(config, minutes), trust=True)


def twin_of(config: PeersConfig) -> World:
    """Return the untrained world, which knows the real twin."""
    return World.from_pretrained(config.twin / "world", "cpu", trust=True)


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

    twin = twin_of(config)
    began = time.monotonic()
    args = Args(
        world=str(world_folder(config, minutes) if side == "worldsim" else twin.folder),
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
            EpisodeScenes(config.data).fit_to(twin),
            space(config),
            config.num_envs,
            config.horizon,
        )
    train(args, envs)
    card = read_json(args.out / "agent.json")
    return {"seconds": time.monotonic() - began, "training": card.get("training")}


def real(config: PeersConfig, side: str, minutes: float) -> JsonObject:
    """Play one side's agents in the real twin or, for ``others``, the policies that are no agents.

    Returns totals and sums of signs (p, e) by the policies' places, and of the agents themselves
    (or random play) in other episodes.
    """
    world, specs = twin_of(config), policies(config, minutes)
    agent = None if side == "others" else str(agent_folder(config, side, minutes))
    players = ("random", "persistent") if agent is None else (agent,)
    places = [i for i, spec in enumerate(specs) if spec.agent in players]
    played = judge.play(
        world, [specs[i] for i in places], episode_seeds(config), config.episode_steps,
        config.workers,
    )  # fmt: skip
    name = "random" if agent is None else f"agent of {side}"
    seeds = [config.seed + 2 * JUDGE_SEED + i for i in range(config.agent_episodes)]
    alone = judge.play(
        world, [judge.PolicySpec(agent or "random")], seeds, config.episode_steps, config.workers
    ).total
    return {
        "places": places,
        "total": played.total.tolist(),
        "signs": played.signs.tolist(),
        "agents": {name: alone[0].tolist()},
    }


def dreamed(config: PeersConfig, side: str, minutes: float) -> JsonObject:
    """Play the 18 policies in one side's dream, from the real twin's first frames."""
    specs, seeds = policies(config, minutes), episode_seeds(config)
    first = judge.play(twin_of(config), [judge.PolicySpec("random")], seeds, 1, workers=0)
    began = time.monotonic()
    total = judge.dreamed_returns(
        make_dream(config, side, minutes), specs, space(config), first.starts * len(specs), seeds,
        config.episode_steps,
    )  # fmt: skip
    return {"total": total.tolist(), "seconds": time.monotonic() - began}


def policies(config: PeersConfig, minutes: float) -> list[PolicySpec]:
    """Return the 18 policies."""
    agents = [agent_folder(config, side, minutes) for side in SIDES]
    return judge.policies(agents, space(config))


def episode_seeds(config: PeersConfig) -> list[int]:
    """Return the seeds of the episodes in which policies are compared."""
    return [config.seed + JUDGE_SEED + i for i in range(config.episodes)]


def returns(config: PeersConfig, minutes: float) -> JsonObject:
    """Compare dreamed and real returns of 18 policies, and the agents' real returns."""
    name, specs = mark(minutes), policies(config, minutes)
    played = {side: read_json(config.result(f"real-{side}-{name}")) for side in SIDES}
    played["others"] = read_json(config.result("real-others"))
    total, signs = np.zeros((2, len(specs), config.episodes))
    for one in played.values():
        total[one["places"]], signs[one["places"]] = one["total"], one["signs"]
    dreams = {
        side: np.array(read_json(config.result(f"dreams-{side}-{name}"))["total"]) for side in SIDES
    }
    found: JsonObject = {
        "agreement": judge.agreement(total, dreams, config.bootstrap, config.seed),
        "agreement with sums of reward signs": judge.agreement(
            signs, dreams, config.bootstrap, config.seed
        ),
        "policies": [
            {
                "name": spec.name.replace(str(config.out), "OUT"),
                "real": float(total[i].mean()),
                "real_signs": float(signs[i].mean()),
                **{side: float(dreams[side][i].mean()) for side in SIDES},
            }
            for i, spec in enumerate(specs)
        ],
    }
    alone = {k: np.array(v) for one in played.values() for k, v in one["agents"].items()}
    for who, values in alone.items():
        found[who] = _mean(config, values)
    apart = alone["agent of worldsim"] - alone["agent of diamond"]
    found["agent of worldsim minus agent of diamond"] = _mean(config, apart)
    return found


def _mean(config: PeersConfig, total: Any) -> JsonObject:
    return {
        "mean": float(np.mean(total)),
        "ci95": interval(
            mean_statistic(list(total[:, None])), len(total), config.bootstrap, config.seed
        ),
        "episodes": len(total),
    }
