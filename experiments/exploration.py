"""How much of Freedoom's test maps explorers see in 500 steps: ``python exploration.py --help``;
results are in exploration.md.

Area seen: true points of every frame, at most 16 m away (further off, a pixel is wider than a
cell), fall into cells of half a metre a side; cells count once, 0.25 m2 each. All agents begin at
the same places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from worldsim.agents.explorer import FrontierExplorer
from worldsim.agents.novelty import NoveltyExplorer
from worldsim.agents.persistent import PersistentPolicy
from worldsim.agents.random import RandomPolicy
from worldsim.camera import Camera, unproject
from worldsim.errors import InvalidInputError
from worldsim.evaluation.statistics import bootstrap_ci
from worldsim.runtime.json_config import to_json, write_json
from worldsim.world import World
from worldsim.world.tracker import Belief
from worldsim.world.twin import make_twin

Array = NDArray[Any]
AGENTS = ("random", "persistent", "frontier", "novelty")


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    out: Path
    """The JSON file to write."""
    world: str = "freedoom-tiny"
    """Name or folder of the world; its real twin is Freedoom."""
    maps: tuple[str, ...] = ("MAP28", "MAP29", "MAP30", "MAP31", "MAP32")
    """Maps that the world was not trained on."""
    walks: int = 3
    """Starts a map."""
    agents: tuple[str, ...] = AGENTS
    """Of ``random``, ``persistent`` (forward-biased: persistent-v1), ``frontier`` and
    ``novelty``."""
    steps: int = 500
    """Steps of a walk."""
    cell: float = 0.5
    """Side of a cell, metres."""
    farthest: float = 16.0
    """Points further away than this do not count, metres."""
    seed: int = 0
    """Start ``i`` of a map has seed ``seed * 1000003 + i``."""
    threads: int = 1
    """Threads of the CPU."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.agents if name not in AGENTS]
        if unknown or self.walks < 1 or self.steps < 1:
            raise InvalidInputError(
                f"agents are {', '.join(AGENTS)}, walks and steps at least 1; got {self}"
            )


class Seen:
    """The cells that true frames have shown."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cells: set[int] = set()
        self.curve: list[float] = []

    def see(self, info: dict[str, Any]) -> None:
        """Take in a frame's true depth and pose."""
        depth = torch.from_numpy(info["depth"])[None]
        pose, pixels = (
            torch.from_numpy(info["pose"])[None],
            torch.from_numpy(info["intrinsics"])[None],
        )
        points = unproject(depth, Camera(pose, pixels, *depth.shape[1:]))[0]
        near = depth[0] <= self.config.farthest
        index = torch.floor(points[near] / self.config.cell).long() + 2**19
        self.cells.update((index[:, 0] << 40 | index[:, 1] << 20 | index[:, 2]).tolist())
        self.curve.append(self.area)

    @property
    def area(self) -> float:
        """m2 of surface."""
        return len(self.cells) * self.config.cell**2


def walk(
    config: Config, env: gym.Env[Any, Any], belief: Belief, agent: str, name: str, seed: int
) -> dict[str, Any]:
    """One walk of one agent: the area it has seen, every 50 steps."""
    obs, info = env.reset(seed=seed, options={"map": name})
    thinks, seen = agent in ("frontier", "novelty"), Seen(config)
    seen.see(info)
    if thinks:
        belief.start(obs, info, seed)
    kinds: dict[str, Callable[[], Any]] = {
        "random": lambda: RandomPolicy(env.action_space),
        "persistent": lambda: PersistentPolicy(env.action_space),
        "frontier": lambda: FrontierExplorer(belief),
        "novelty": lambda: NoveltyExplorer(belief),
    }
    policy = kinds[agent]()
    policy.reset(seed)
    for _ in range(config.steps):
        act = policy.act(obs)
        obs, _, _, trunc, info = env.step(act)
        seen.see(info)
        if thinks:
            belief.see(act, obs, info)
        if trunc:
            break
    return {"area_m2": seen.area, "steps": len(seen.curve) - 1, "curve": seen.curve[::50]}


def summary(rows: list[dict[str, Any]], agents: tuple[str, ...]) -> dict[str, Any]:
    """Mean areas, and ratios of means to the baselines' with 95% bootstrap intervals over starts
    (paired)."""
    area = {agent: np.array([row["agents"][agent]["area_m2"] for row in rows]) for agent in agents}
    found: dict[str, Any] = {"starts": len(rows)}
    for agent in agents:
        found[agent] = {"area_m2": float(area[agent].mean())}
        for baseline in ("random", "persistent"):
            if baseline not in agents or baseline == agent:
                continue
            ci = bootstrap_ci(
                lambda counts, a=area[agent], b=area[baseline]: (counts @ a) / (counts @ b),
                len(rows),
            )  # type: ignore[misc]
            found[agent][f"over_{baseline}"] = float(area[agent].sum() / area[baseline].sum())
            found[agent][f"over_{baseline}_ci95"] = ci
    return found


def main(config: Config, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Walk all walks; the file is written after each start."""
    torch.set_num_threads(config.threads)
    world, rows = World.from_pretrained(config.world), []
    env = make_twin(world, max_episode_steps=-1)
    belief, found = Belief(world), {}
    for index in tqdm(range(config.walks), desc="starts a map"):
        for name in config.maps:
            seed = config.seed * 1_000_003 + index
            walks = {agent: walk(config, env, belief, agent, name, seed) for agent in config.agents}
            rows.append({"map": name, "seed": seed, "agents": walks})
            found = {
                "config": to_json(config),
                "summary": summary(rows, config.agents),
                "walks": rows,
            }
            write_json(config.out, found)
    env.close()
    for title, figures in found["summary"].items():
        report(f"{title}: {figures}")
    return found


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
