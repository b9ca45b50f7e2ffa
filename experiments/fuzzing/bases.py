"""The undamaged objects: small ones of every format, made once, and what using each of them
gives."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = 32
"""Pixels of a frame's side: everything is as small as the library allows."""
ROOM = "worldsim/TinyRoom-v0"
PAYLOAD = "fuzz_payload"
"""A module that nothing in a file may have imported: see :func:`write_payload`."""


@dataclass(frozen=True)
class Bases:
    """Folders and files of the undamaged objects below ``root``."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name

    @property
    def canary(self) -> Path:
        """A file that exists only if something ran code that a file named."""
        return self.root / "CANARY"


def write_payload(folder: Path, canary: Path) -> None:
    """A module that leaves ``canary`` behind when it is imported, and whose names fit everything
    that a file could ask for."""
    (folder / f"{PAYLOAD}.py").write_text(
        "import gymnasium\n"
        f"open({str(canary)!r}, 'a').write(__name__)\n"
        "class Y:\n"
        "    def __init__(self, *args, **kwargs): pass\n"
        "    def reset(self, *args, **kwargs): pass\n"
        "    def act(self, *args, **kwargs): return 0\n"
        "    def start(self, *args, **kwargs): pass\n"
        "gymnasium.register('Y-v0', entry_point=__name__ + ':Y')\n"
    )


def tiny_world(seed: int = 0, rewards: bool = False) -> Any:
    """A world of a small room with random weights."""
    import torch

    from worldsim.diffusion.network import SpaceTimeTransformer
    from worldsim.memory.points import PointMemoryConfig
    from worldsim.world import World
    from worldsim.world.config import WorldConfig
    from worldsim.world.heads import EgoMotionHead, OutcomeHead

    torch.manual_seed(seed)
    network = SpaceTimeTransformer(
        height=SIZE,
        width=SIZE,
        channels=4,
        view_channels=8,
        actions=7,
        action_dim=0,
        dim=32,
        depth=2,
        heads=2,
        levels=(8, 8, 16),
        window=4,
    )
    ego_motion, outcome = (
        EgoMotionHead(actions=7, action_dim=0, hidden=32),
        OutcomeHead(dim=32, hidden=8),
    )
    with torch.no_grad():
        # Layers that start at zero would hide what happens to the others.
        for module in (network, outcome):
            for weight in module.parameters():
                if not weight.any():
                    weight.normal_(0.0, 0.05)
        ego_motion.scale.copy_(torch.tensor([0.3, 0.3, 0.01, 0.01, 0.01, 0.2]))
    config = WorldConfig(
        env_id=ROOM,
        env_kwargs={"size": SIZE, "goal": rewards},
        fps=10.0,
        intrinsics=(16.0, 16.0, 16.0, 16.0),
        memory=PointMemoryConfig(capacity=2048),
        has_rewards=rewards,
        has_terminations=rewards,
    )
    return World(network, config, ego_motion, outcome, {"summary": "a room", "frames": 96})


def build(root: Path, seed: int) -> Bases:
    """Make all objects in the empty folder ``root``."""
    import gymnasium as gym
    import torch

    from worldsim.agents.actor_critic_policy import ActorCriticPolicy
    from worldsim.data.record import RecordConfig, record
    from worldsim.envs.world_env import WorldEnv
    from worldsim.io.nerfstudio import save_nerfstudio
    from worldsim.shipped.agent_files import AgentCard, save_agent
    from worldsim.training.train import train
    from worldsim.world.scene_files import ScenesConfig, record_scenes

    torch.set_num_threads(1)
    bases = Bases(root)
    for name, world in {
        "world": tiny_world(seed),
        "other": tiny_world(seed + 1),
        "goal": tiny_world(seed, rewards=True),
    }.items():
        record_scenes(
            ScenesConfig(
                ROOM,
                root / name / "scenes",
                maps=("room-6", "room-7"),
                count=2,
                frames=4,
                steps=8,
                min_travel=0.3,
                seed=seed,
                env_kwargs={"size": SIZE},
            )
        )
        world.save_pretrained(root / name)
    for name, folder in {"walk": "world", "stranger": "other"}.items():
        env = WorldEnv(root / folder, device="cpu")
        env.reset(seed=seed)
        for act in (1, 3, 1):
            env.step(act)
        (root / name).mkdir()
        env.save(root / name / "walk.safetensors")
        if name == "walk":
            save_nerfstudio(env.trajectory, root / "capture")
    record(
        RecordConfig(
            ROOM,
            root / "dataset",
            frames=96,
            workers=0,
            episode_steps=23,
            frames_per_shard=48,
            seed=seed,
            env_kwargs={"size": SIZE},
            min_travel=0.0,
        )
    )
    policy = ActorCriticPolicy(gym.spaces.Discrete(7), (SIZE, SIZE, 3), stack=1, hidden=8)
    save_agent(
        policy,
        root / "agent",
        AgentCard(world=str(root / "goal"), env_id=ROOM, real_frames_used=96),
    )
    train(train_config(root / "dataset", root / "run"))
    return bases


def train_config(data: Path, out: Path, **changes: Any) -> Any:
    """Two steps of the smallest network."""
    from worldsim.training.config import TrainConfig

    settings: dict[str, Any] = {
        "preset": "debug",
        "steps": 2,
        "batch_size": 1,
        "window": 12,
        "warmup": 1,
        "motions": 2,
        "memory_capacity": 512,
        "world_memory_capacity": 1024,
        "mixed_precision": "no",
        "compile": False,
        "patience": 0.0,
        "scenes": 0,
    }
    return TrainConfig((data,), out, **(settings | changes))


def quiet() -> None:
    """The environment of a process in which inputs are used: no network, one thread, a limit of
    memory."""
    os.environ.update(
        OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
        WORLDSIM_MEMORY_LIMIT_GB="4",
        TQDM_DISABLE="1",
        MPLBACKEND="Agg",
        TOKENIZERS_PARALLELISM="false",
    )
