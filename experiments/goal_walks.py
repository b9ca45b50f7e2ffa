"""Point-goal and image-goal walks on Freedoom's test maps: ``python goal_walks.py --help``; results
are in goal_walks.md.

A task: the real twin walks ``history`` steps of ``persistent-v1``; there the agent stands, having
seen them. From the same state the twin walks on by another seed, and a place of that walk, 3 to 12
m away, is the goal: it can be reached. The agent plans in the world, acts in the twin, and succeeds
once it is within 1 m of the goal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm
from true_ground import true_ground

from worldsim.agents.cem import CemPolicy
from worldsim.agents.goal_walker import GoalWalker, GoalWalkerConfig
from worldsim.agents.image_goal_walker import ImageGoalConfig, ImageGoalWalker
from worldsim.agents.persistent import PersistentPolicy
from worldsim.camera import Camera, snap_pose
from worldsim.errors import InvalidInputError
from worldsim.evaluation.statistics import bootstrap_ci, mean_statistic
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.planning.locate import locate
from worldsim.planning.objectives import PoseGoal
from worldsim.runtime.json_config import to_json, write_json
from worldsim.world import World
from worldsim.world.tracker import Belief
from worldsim.world.twin import make_twin

Array = NDArray[Any]
FORWARD, TURN_LEFT, TURN_RIGHT = 1, 3, 4
AGENTS = ("straight", "icem", "mppi", "icem-search", "mppi-search", "icem-unguided", "ceiling")


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    out: Path
    """The JSON file to write."""
    world: str = "freedoom-tiny"
    """Name or folder of the world; its real twin is Freedoom."""
    maps: tuple[str, ...] = ("MAP28", "MAP29", "MAP30", "MAP31", "MAP32")
    """Maps that the world was not trained on."""
    walks: int = 4
    """Tasks a map."""
    agents: tuple[str, ...] = ("straight", "icem", "ceiling")
    """Of ``straight`` (turn to the goal, walk on), ``icem``, ``mppi``, ``icem-search``,
    ``mppi-search`` (with image goals alone: on to the next place that looks so, where the walk does
    not end), ``icem-unguided`` (straight distance as the cost) and ``ceiling`` (icem with the map
    of the game's own geometry)."""
    goals: tuple[str, ...] = ("point", "image")
    """``point``: the goal's pose is given. ``image``: its picture alone, where the memory knows
    most of the view."""
    history: int = 64
    """Steps that are seen before the walk begins."""
    onward: int = 160
    """Steps in which the twin looks for goals."""
    nearest: float = 3.0
    farthest: float = 12.0
    """Metres of the goal from the start, straight."""
    budget: int = 120
    """Steps that an agent has."""
    within: float = 1.0
    """Metres from the goal that count as there."""
    detour: float = 0.0
    """Least ratio of the true way to the straight line; 0 takes goals as they come."""
    tries: int = 6
    """Starts looked at for each task that is wanted: many lead to no goal that fits."""
    image_coverage: float = 0.65
    """Share of an image goal's view that the memory must know."""
    seed: int = 0
    """Task ``i`` of a map has seed ``seed * 1000003 + i``."""
    threads: int = 1
    """Threads of the CPU."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.agents if name not in AGENTS] + [
            g for g in self.goals if g not in ("point", "image")
        ]
        if unknown or self.walks < 1 or not 0 < self.nearest < self.farthest:
            raise InvalidInputError(
                f"agents are {', '.join(AGENTS)}, goals point and image; got {self}"
            )
        for agent in self.agents:
            if agent.endswith("-search") and "point" in self.goals:
                raise InvalidInputError(
                    f"{agent} is told a picture, not a point: run it with --goals image"
                )


class Twin:
    """The real twin at a task's start, and the belief of who has seen the history."""

    def __init__(self, config: Config, world: World) -> None:
        self.config = config
        # One function to change for another twin.
        self.env = make_twin(world, max_episode_steps=-1)
        self.belief = Belief(world)

    def go_to_start(self, name: str, seed: int, see: bool) -> tuple[Any, dict[str, Any]]:
        """Reset and walk the history; the same for the same arguments."""
        obs, info = self.env.reset(seed=seed, options={"map": name})
        policy = PersistentPolicy(self.env.action_space)
        policy.reset(seed)
        if see:
            self.belief.start(obs, info, seed)
        for _ in range(self.config.history):
            act = policy.act(obs)
            obs, _, _, _, info = self.env.step(act)
            if see:
                self.belief.see(act, obs, info)
        return obs, info

    def goals(self, name: str, seed: int) -> list[tuple[Any, dict[str, Any]]]:
        """Pictures and infos of the places in the right distance that the twin reaches from the
        start."""
        c = self.config
        obs, info = self.go_to_start(name, seed, see=False)
        start, found = info["pose"][:3, 3], []
        policy = PersistentPolicy(self.env.action_space)
        policy.reset(seed + 500_009)
        for _ in range(c.onward):
            obs, _, _, trunc, info = self.env.step(policy.act(obs))
            if c.nearest <= np.linalg.norm(info["pose"][:3, 3] - start) <= c.farthest:
                found.append((obs, info))
            if trunc:
                break
        return found


class Straight:
    """Turns to the goal until it is within 8 degrees, then walks."""

    def __init__(self, belief: Belief, goal: Array) -> None:
        self.belief, self.goal = belief, goal

    def act(self, obs: Any) -> np.int64:
        pose = self.belief.pose.numpy()
        way = self.goal[:2, 3] - pose[:2, 3]
        angle = np.arctan2(way[1], way[0]) - np.arctan2(pose[1, 2], pose[0, 2])
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        return np.int64(
            FORWARD if abs(angle) < np.radians(8) else TURN_LEFT if angle > 0 else TURN_RIGHT
        )


class TrueMapWalker(GoalWalker):
    """The same walker with the game's own map in place of the remembered one."""

    def __init__(self, belief: Belief, goal: torch.Tensor, map_name: str) -> None:
        self.map_name = map_name
        super().__init__(belief, goal)

    def ground(self, bumps: Array | None) -> Ground:
        pose = self.source.pose.numpy()
        return true_ground(self.map_name, pose[:3, 3], self.config.ground, bumps)


def make_agent(
    name: str, belief: Belief, goal: torch.Tensor, map_name: str, picture: Any = None
) -> Any:
    """The agent ``name``, with a goal's pose (4, 4), or its picture for those that search."""
    if name.endswith("-search"):
        planner: Any = name.removesuffix("-search")
        return ImageGoalWalker(belief, picture, ImageGoalConfig(GoalWalkerConfig(planner=planner)))
    if name == "straight":
        return Straight(belief, goal.numpy())
    if name == "ceiling":
        return TrueMapWalker(belief, goal, map_name)
    if name == "icem-unguided":
        return CemPolicy(belief, PoseGoal(goal, least_coverage=0.0), GoalWalkerConfig().icem)
    return GoalWalker(belief, goal, GoalWalkerConfig(planner=name))  # type: ignore[arg-type]


def walk(
    twin: Twin, agent: Any, start: tuple[Any, dict[str, Any]], goal: Array, seed: int
) -> dict[str, Any]:
    """Act until the goal is reached or the budget spent."""
    config, (obs, info) = twin.config, start
    if not isinstance(agent, Straight):
        agent.reset(seed)
    nearest, taken = float(np.linalg.norm(info["pose"][:3, 3] - goal)), 0
    while taken < config.budget and nearest > config.within:
        act = agent.act(obs)
        obs, _, _, trunc, info = twin.env.step(act)
        twin.belief.see(act, obs, info)
        taken, nearest = taken + 1, min(nearest, float(np.linalg.norm(info["pose"][:3, 3] - goal)))
        if trunc:
            break
    return {"success": nearest <= config.within, "steps": taken, "nearest_m": nearest}


def coverage_of(twin: Twin, pose: Array) -> float:
    """Share of the view at a pose (4, 4) that the memory knows."""
    world, state = twin.belief.world, twin.belief.state
    n = world.network.config
    camera = Camera(snap_pose(torch.from_numpy(pose))[None], state.intrinsics, n.height, n.width)
    return float(world.memory.render(state.memory, camera).coverage[0])


class Detours:
    """How much longer than the straight line the true ways from the agent's place are."""

    def __init__(self, twin: Twin, name: str) -> None:
        self.here = twin.belief.pose.numpy()[:3, 3]
        self.ground = true_ground(name, self.here, GroundConfig(near_cost=1.0))

    def of(self, pose: Array) -> float:
        """Ratio for a goal (4, 4); ``inf`` where the map shows no way (lifts, doors)."""
        way = self.ground.field(self.ground.cells(pose[:2, 3])[None])
        x, y = self.ground.cells(self.here[:2])
        return float(
            way[x - 3 : x + 4, y - 3 : y + 4].min() / np.linalg.norm(pose[:2, 3] - self.here[:2])
        )


def choose(
    twin: Twin, detours: Detours, kind: str, found: list[Any], rng: np.random.Generator
) -> tuple[Any, dict[str, Any]] | None:
    """A goal that fits, at a distance drawn evenly, or None."""
    c, start = twin.config, twin.belief.pose.numpy()[:3, 3]
    wanted = rng.uniform(c.nearest, c.farthest)
    metres = [float(np.linalg.norm(info["pose"][:3, 3] - start)) for _, info in found]
    for k in np.argsort([abs(m - wanted) for m in metres], kind="stable")[
        :: max(1, len(found) // 16)
    ]:
        pose = found[k][1]["pose"]
        if kind == "image" and coverage_of(twin, pose) < c.image_coverage:
            continue
        if c.detour and not c.detour <= detours.of(pose) < np.inf:
            continue
        return found[k]
    return None


def task(twin: Twin, name: str, kind: str, seed: int) -> dict[str, Any] | None:
    """All agents on one start and goal; None where the twin's walk led to none that fits."""
    config, world = twin.config, twin.belief.world
    twin.go_to_start(name, seed, see=True)
    state = twin.belief.state
    detours = Detours(twin, name)
    found = choose(twin, detours, kind, twin.goals(name, seed), np.random.default_rng(seed))
    if found is None:
        return None
    picture, goal = found[0], torch.from_numpy(found[1]["pose"])
    row: dict[str, Any] = {"map": name, "kind": kind, "seed": seed, "agents": {}}
    row["metres"] = float((goal[:3, 3] - twin.belief.pose[:3, 3]).norm())
    row["coverage"], row["detour"] = coverage_of(twin, goal.numpy()), detours.of(goal.numpy())
    aim, error = goal, None
    if kind == "image":
        try:
            aim = locate(world, state, picture)
            row["located_m"] = float((aim[:3, 3] - goal[:3, 3]).norm())
        except InvalidInputError as refusal:
            error = str(refusal)
    for agent in config.agents:
        if error is not None and agent != "ceiling" and not agent.endswith("-search"):
            row["agents"][agent] = {
                "success": False,
                "steps": 0,
                "nearest_m": row["metres"],
                "error": error,
            }
            continue
        start = twin.go_to_start(name, seed, see=False)
        twin.belief.resume(state)
        # The ceiling knows the true place of a picture, as it knows the true map.
        walker = make_agent(agent, twin.belief, goal if agent == "ceiling" else aim, name, picture)
        row["agents"][agent] = walk(twin, walker, start, goal[:3, 3].numpy(), seed)
    return row


def summary(rows: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """Success rates with 95% bootstrap intervals over tasks, and as a share of the ceiling's."""
    found: dict[str, Any] = {}
    for kind in config.goals:
        parts = {kind: [row for row in rows if row["kind"] == kind]}
        parts[f"{kind}, detour over 1.2"] = [row for row in parts[kind] if row["detour"] > 1.2]
        for title, part in parts.items():
            found[title] = {"tasks": len(part)}
            for agent in config.agents if part else ():
                values = [np.array([float(row["agents"][agent]["success"])]) for row in part]
                rate, ci = float(np.mean(values)), bootstrap_ci(mean_statistic(values), len(values))
                steps = [
                    row["agents"][agent]["steps"] for row in part if row["agents"][agent]["success"]
                ]
                found[title][agent] = {
                    "success": rate,
                    "ci95": ci,
                    "median_steps": float(np.median(steps)) if steps else None,
                }
            if part and found[title].get("ceiling", {}).get("success"):
                for agent in config.agents:
                    found[title][agent]["of_ceiling"] = (
                        found[title][agent]["success"] / found[title]["ceiling"]["success"]
                    )
    return found


def main(config: Config, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Run all tasks; the file is written after each."""
    torch.set_num_threads(config.threads)
    twin, rows, skipped = Twin(config, World.from_pretrained(config.world)), [], 0
    found: dict[str, Any] = {}
    for kind in config.goals:
        for name in config.maps:
            done = 0
            with tqdm(total=config.walks, desc=f"{kind} {name}") as bar:
                for index in range(config.tries * config.walks):
                    if done == config.walks:
                        break
                    row = task(twin, name, kind, config.seed * 1_000_003 + index)
                    if row is None:
                        skipped += 1
                        continue
                    done += 1
                    bar.update()
                    rows.append(row)
                    found = {
                        "config": to_json(config),
                        "skipped": skipped,
                        "summary": summary(rows, config),
                        "tasks": rows,
                    }
                    write_json(config.out, found)
    twin.env.close()
    for title, figures in found.get("summary", {}).items():
        report(f"{title}: {figures}")
    return found


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
