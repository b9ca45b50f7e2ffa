"""Which network for frames of 128x96: steps of untrained worlds of several shapes, in turns with
freedoom-tiny.

``python experiments/freedoom_small.py --threads 1 --json shapes.json``; what came of it:
freedoom_small.md. Speed does not depend on weights, so none are trained. Every world has taken in
the same true walk, so that its memory holds what it holds in use.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro

from worldsim.agents.persistent import PersistentPolicy
from worldsim.camera import quantise_depth
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.diffusion.quantise import quantise_weights
from worldsim.evaluation.stopwatch import compute, shares
from worldsim.memory.points import PointMemoryConfig
from worldsim.runtime.json_config import write_json
from worldsim.state import Frame, SceneStart, WorldState
from worldsim.training.train import PRESETS
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.heads import EgoMotionHead

HEIGHT, WIDTH = 96, 128
SHAPES: dict[str, dict[str, Any]] = {
    "patch 8, 4 x 256, pixels 32 48 96": PRESETS["small"],
    "patch 8, 4 x 256, pixels 24 48 96": PRESETS["small"] | {"levels": (24, 48, 96)},
    "patch 8, 6 x 192, pixels 24 48 96": {
        "dim": 192,
        "depth": 6,
        "heads": 3,
        "levels": (24, 48, 96),
        "window": 8,
    },
    "patch 8, 4 x 320, pixels 32 48 96": {
        "dim": 320,
        "depth": 4,
        "heads": 5,
        "levels": (32, 48, 96),
        "window": 8,
    },
    "patch 16, 4 x 256, pixels 24 48 64 96": PRESETS["small"] | {"levels": (24, 48, 64, 96)},
    "patch 16, 4 x 256, pixels 32 48 96 128": PRESETS["small"] | {"levels": (32, 48, 96, 128)},
    "patch 16, 3 x 320, pixels 24 48 96 128": {
        "dim": 320,
        "depth": 3,
        "heads": 5,
        "levels": (24, 48, 96, 128),
        "window": 8,
    },
}
"""Networks by name, beside the shipped world ``freedoom-tiny`` at 64x64."""


@dataclass(frozen=True)
class Args:
    """Time steps of untrained worlds."""

    threads: int = 1
    """Of PyTorch."""
    walk: int = 36
    """True frames that every world takes in first, as in ``worldsim bench``."""
    turns: int = 15
    """Turns that each world takes, one after another."""
    steps: int = 3
    """Steps a turn."""
    capacity: int = 524_288
    """Points of the memory at 128x96."""
    seed: int = 3
    """Of the walk."""
    shapes: tuple[str, ...] = ()
    """Names of the shapes to measure; all, if none are given."""
    json: Path | None = None
    """Write the table to this file, too."""


def untrained(shape: dict[str, Any], args: Args) -> World:
    """A world for 128x96 frames of Freedoom, its weights random."""
    from worldsim.envs.doom import intrinsics

    torch.manual_seed(0)
    network = SpaceTimeTransformer(height=HEIGHT, width=WIDTH, **shape)
    fx, fy, cx, cy = intrinsics(HEIGHT, WIDTH).tolist()
    memory = PointMemoryConfig(capacity=args.capacity)
    return World(network, WorldConfig(intrinsics=(fx, fy, cx, cy), memory=memory), EgoMotionHead())


def walked(world: World, args: Args) -> WorldState:
    """The world's state after a true walk."""
    height, width, _ = world.observation_space.shape  # type: ignore[misc]
    env = gym.make("worldsim/FreedoomReal-v0", height=height, width=width)
    policy = PersistentPolicy(env.action_space)
    policy.reset(args.seed)
    obs, info = env.reset(seed=args.seed)

    def frame() -> Frame:
        rgb = torch.from_numpy(obs).permute(2, 0, 1)[None].contiguous()
        return Frame(
            rgb,
            quantise_depth(torch.from_numpy(info["depth"])[None]),
            torch.from_numpy(info["pose"])[None],
        )

    first = frame()
    scene = SceneStart(
        first.rgb, torch.zeros(1, dtype=torch.int64), first.inverse_depth, first.pose
    )
    state = world.initial([scene], [0])
    for _ in range(args.walk):
        act = policy.act(obs)
        obs, _, _, _, info = env.step(act)
        state = world.observe(state, torch.tensor([int(act)]), frame())
    env.close()
    return state


def bytes_at_eight_bits(world: World) -> int:
    """What the network's weights take on disk."""
    return sum(
        t.numel() * t.element_size() for t in quantise_weights(world.network.state_dict()).values()
    )


def main(args: Args) -> None:
    """Measure and print."""
    torch.set_num_threads(args.threads)
    names = args.shapes or tuple(SHAPES)
    worlds = {"freedoom-tiny, 64x64": World.from_pretrained("freedoom-tiny", "cpu")}
    worlds |= {name: untrained(SHAPES[name], args) for name in names}
    states = {name: walked(world, args) for name, world in worlds.items()}
    act = torch.tensor([1])
    taken: dict[str, list[float]] = {name: [] for name in worlds}
    for turn in range(args.turns + 1):
        for name, world in worlds.items():
            state = states[name].clone()
            began = time.perf_counter()
            for _ in range(args.steps):
                state, _ = world.step(state, act)
            # The first turn warms up.
            if turn > 0:
                taken[name].append((time.perf_counter() - began) / args.steps)
    rows: dict[str, Any] = {}
    yardstick = taken["freedoom-tiny, 64x64"]
    for name, world in worlds.items():
        ratio = [a / b for a, b in zip(taken[name], yardstick, strict=True)]
        rows[name] = {
            "parameters": sum(p.numel() for p in world.network.parameters()),
            "network_mb": round(bytes_at_eight_bits(world) / 1e6, 2),
            "gflop_per_step": round(
                compute(partial(world.step, states[name].clone(), act))[0] / 1e9, 2
            ),
            "ms": round(1000 * statistics.median(taken[name]), 1),
            "ratio": round(statistics.median(taken[name]) / statistics.median(yardstick), 2),
            "ratio_of_turns": [round(float(q), 2) for q in np.quantile(ratio, (0.1, 0.9))],
            "share": {
                k: round(v, 2)
                for k, v in shares(world, states[name].clone(), act.expand(6, 1)).items()
            },
            "points": int((states[name].memory.kind > 0).sum()),
        }
        print(name, rows[name], flush=True)
    if args.json is not None:
        write_json(args.json, {"threads": args.threads, "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Args))
