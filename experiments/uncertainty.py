"""How well ``info["uncertainty"]`` tells the true error of the next frame: rank correlation on
walks of the real twin.

    python experiments/uncertainty.py --world freedoom-tiny --walks 16 --json out/uncertainty.json

Test maps, policy ``persistent-v1``. Each frame is predicted from its true history, at the pose of
the world's own ego-motion head. The error is the root mean square difference to the true frame's
colours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.evaluation.agreement import pearson, spearman
from worldsim.evaluation.statistics import bootstrap_ci
from worldsim.runtime.json_config import write_json
from worldsim.shipped.policies import make_policy
from worldsim.state import Frame
from worldsim.world import World
from worldsim.world.scene_files import scene_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="freedoom-tiny")
    parser.add_argument("--walks", type=int, default=16)
    parser.add_argument("--history", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world = World.from_pretrained(args.world, args.device).with_uncertainty()
    walks = [walk(world, args.seed + i, args.history + args.steps) for i in range(args.walks)]
    error, uncertainty, unknown = measured(world, walks, args.history)
    both = np.stack([uncertainty, error])

    def statistic(counts: np.ndarray) -> np.ndarray:
        drawn = (np.repeat(np.arange(args.walks), row) for row in counts)
        return np.array([spearman(both[:, index].reshape(2, -1)) for index in drawn])

    flat = both.reshape(2, -1)
    results = {
        "world": args.world,
        "frames": flat.shape[1],
        "spearman": round(spearman(flat), 4),
        "spearman_ci95": [round(x, 4) for x in bootstrap_ci(statistic, args.walks, 500)],
        "pearson": round(pearson(flat), 4),
        "spearman_of_unknown_pixels": round(
            spearman(np.stack([unknown.ravel(), error.ravel()])), 4
        ),
        "mean_error": round(float(error.mean()), 5),
        "uncertainty_quantiles": {
            str(q): round(float(np.quantile(uncertainty, q)), 5) for q in (0.1, 0.5, 0.9, 0.99)
        },
    }
    print(results)
    if args.json is not None:
        write_json(args.json, results)


def walk(world: World, seed: int, steps: int) -> list[tuple[np.ndarray, int, dict]]:
    """Frames of the real twin with the actions that led to them."""
    env = gym.make(world.config.env_id, **world.config.env_kwargs)
    policy = make_policy("persistent", env.action_space)
    policy.reset(seed)
    obs, info = env.reset(seed=seed, options={"split": "test"})
    visits = [(obs, 0, info)]
    for _ in range(steps):
        act = policy.act(obs)
        obs, _, _, _, info = env.step(act)
        visits.append((obs, act, info))
    env.close()
    return visits


def measured(
    world: World, walks: list[list[tuple[np.ndarray, int, dict]]], history: int
) -> tuple[np.ndarray, ...]:
    """Error, uncertainty and share of pixels that the memory does not know of each next frame,
    (walks, steps)."""
    device = world.device
    scenes = [scene_of(visits[:history], True) for visits in walks]
    state = world.initial(scenes, list(range(len(walks))))
    rows = []
    for t in range(history, len(walks[0])):
        now = scene_of([visits[t] for visits in walks], True)
        true = Frame(now.rgb.to(device), now.inverse_depth.to(device), now.pose.to(device))
        act = now.act.to(device)
        _, transition = world.step(state.clone(), act)
        error = (
            (transition.frame.rgb.float() - true.rgb.float())
            .div(255)
            .square()
            .mean((1, 2, 3))
            .sqrt()
        )
        rows.append(torch.stack([error, transition.uncertainty, 1 - transition.coverage]).cpu())
        state = world.observe(state, act, true)
    return tuple(torch.stack(rows, 2).numpy())


if __name__ == "__main__":
    main()
