"""CEM, iCEM and MPPI: they find known optima, keep the contract of policies, and plan in dreams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.launching import run
from tests.helpers.worlds import make_tiny_world
from worldsim.agents.cem import Args as CemArgs
from worldsim.agents.cem import CemConfig, CemPolicy
from worldsim.agents.cem import run as run_cem
from worldsim.agents.mppi import Args as MppiArgs
from worldsim.agents.mppi import MppiConfig, MppiPolicy
from worldsim.agents.mppi import run as run_mppi
from worldsim.envs.tiny_room import TinyRoom
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.planning.objectives import ImageGoal, PoseGoal, RewardSum
from worldsim.testing import check_policy
from worldsim.world.tracker import Belief

PLANNERS: dict[str, Any] = {
    "cem": lambda source, objective, **c: CemPolicy(source, objective, CemConfig.plain(**c)),
    "icem": lambda source, objective, **c: CemPolicy(source, objective, CemConfig(**c)),
    "mppi": lambda source, objective, **c: MppiPolicy(
        source,
        objective,
        MppiConfig(
            **{("candidates" if k == "elites" else k): v for k, v in c.items() if k != "elites"}
        ),
    ),
}


class Line(gym.Env[Any, Any]):
    """A place on a line that can be forked: an action moves it, the reward is minus the squared
    distance to ``goal``."""

    def __init__(
        self, discrete: bool, places: np.ndarray[Any, Any] | None = None, goal: float = 2.0
    ) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.action_space = (
            gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        )
        self.discrete, self.goal = discrete, goal
        self.places = np.zeros(1) if places is None else places

    def fork(self, n: int) -> Line:
        return Line(self.discrete, self.places.repeat(n), self.goal)

    def step(self, action: Any) -> Any:
        move = (
            np.array([0.0, -0.5, 0.5])[action] if self.discrete else np.asarray(action).reshape(-1)
        )
        self.places = self.places + move
        rew = -((self.places - self.goal) ** 2)
        return (
            np.zeros((len(self.places), 4, 4, 3), np.uint8),
            rew,
            np.zeros(len(rew), bool),
            np.zeros(len(rew), bool),
            {},
        )


@pytest.mark.parametrize("name", PLANNERS)
def test_finds_the_best_discrete_way(name: str) -> None:
    line = Line(discrete=True)
    policy = PLANNERS[name](line, RewardSum(), horizon=6, candidates=200, iterations=3)
    policy.reset(0)
    acts = []
    for _ in range(5):
        acts.append(int(policy.act(None)))
        line.step(np.array([acts[-1]]))
    # Four moves of 0.5 to the right, then rest.
    assert acts == [2, 2, 2, 2, 0]


@pytest.mark.parametrize("name", PLANNERS)
def test_finds_the_best_continuous_way(name: str) -> None:
    line = Line(discrete=False)
    policy = PLANNERS[name](line, RewardSum(), horizon=4, candidates=300, iterations=4)
    policy.reset(0)
    for _ in range(4):
        line.step(policy.act(None))
    # Full speed for two steps, then rest: at 2 but for what the draws leave.
    assert abs(float(line.places[0]) - 2.0) < 0.25


def test_keeping_elites_and_lasting_noise_get_further_with_few_candidates() -> None:
    costs: dict[str, list[float]] = {"cem": [], "icem": []}
    for name, found in costs.items():
        for seed in range(10):
            line = Line(discrete=False, goal=12.0)
            policy = PLANNERS[name](
                line, RewardSum(), horizon=20, candidates=24, elites=4, iterations=2
            )
            policy.reset(seed)
            policy.plan()
            found.append(policy.cost)
    assert np.mean(costs["icem"]) < np.mean(costs["cem"])


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("goal", ["pose", "image", "reward"])
def test_keeps_the_contract_in_a_dream(name: str, goal: str, room_scene: Any) -> None:
    env = WorldEnv(make_tiny_world(rewards=True), scenes=None)
    obs, info = env.reset(seed=0, options={"frames": room_scene})
    pose = torch.from_numpy(info["pose"])
    objective: Any = {"pose": PoseGoal(pose), "image": ImageGoal(obs), "reward": RewardSum()}[goal]
    policy = PLANNERS[name](env, objective, horizon=3, candidates=6, elites=2, iterations=2)
    before = env.snapshot()
    check_policy(policy, env.action_space, [obs, obs, obs, obs])
    assert torch.equal(before.state.frame.rgb, env.state.frame.rgb) and torch.equal(
        before.state.step, env.state.step
    )


@pytest.mark.parametrize("name", PLANNERS)
def test_continuous_actions_of_a_world_without_geometry(name: str) -> None:
    env = WorldEnv(make_tiny_world(geometry=False, rewards=True, action_dim=2), scenes=None)
    frames = {"rgb": np.full((2, 32, 32, 3), 90, np.uint8), "act": np.zeros((2, 2), np.float32)}
    obs, _ = env.reset(seed=0, options={"frames": frames})
    policy = PLANNERS[name](env, RewardSum(), horizon=3, candidates=6, elites=2, iterations=2)
    check_policy(policy, env.action_space, [obs, obs, obs])


def test_plans_in_what_is_believed_of_a_real_walk(tiny_world: Any) -> None:
    room, belief = TinyRoom(size=32), Belief(tiny_world)
    obs, info = room.reset(seed=0)
    belief.start(obs, info)
    goal = PoseGoal(torch.from_numpy(info["pose"]))
    policy = CemPolicy(belief, goal, CemConfig(horizon=3, candidates=6, elites=2, iterations=1))
    for _ in range(3):
        act = policy.act(obs)
        obs, _, _, _, info = room.step(act)
        belief.see(act, obs, info)
        assert np.allclose(belief.pose.numpy(), info["pose"], atol=1e-3)
    # Where it began is where it stands only if it did not move.
    away = float(np.linalg.norm(belief.pose[:2, 3].numpy() - goal.pose[:2, 3].numpy()))
    for within in (away + 0.01, away - 0.01):
        near = CemPolicy(
            belief, PoseGoal(goal.pose, within=within), CemConfig(horizon=3, candidates=6, elites=2)
        )
        assert near.arrived == (within > away)
    assert not CemPolicy(
        belief, ImageGoal(obs), CemConfig(horizon=2, candidates=4, elites=2)
    ).arrived
    # Frames, too, are imagined from a belief, which has no fork.
    seeing = CemPolicy(
        belief, ImageGoal(obs), CemConfig(horizon=2, candidates=4, elites=2, iterations=1)
    )
    assert room.action_space.contains(seeing.act(obs))


def test_a_belief_names_what_does_not_fit(tiny_world: Any) -> None:
    belief = Belief(tiny_world)
    with pytest.raises(InvalidInputError, match="has seen nothing yet"):
        _ = belief.state
    obs, info = TinyRoom(size=64).reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"uint8 \(32, 32, 3\).*got uint8 \(64, 64, 3\)"):
        belief.start(obs, info)
    obs, info = TinyRoom(size=32).reset(seed=0)
    with pytest.raises(MissingGeometryError, match="must have pose, depth"):
        belief.start(obs, {"intrinsics": info["intrinsics"]})
    belief.start(obs, info)
    with pytest.raises(InvalidInputError, match="action 9 is outside"):
        belief.see(9, obs, info)


def test_settings_that_make_no_sense_are_named() -> None:
    for config, setting in (
        (CemConfig, {"horizon": 0}),
        (CemConfig, {"elites": 100}),
        (CemConfig, {"replan": 13}),
        (CemConfig, {"keep": 1.5}),
        (MppiConfig, {"candidates": 0}),
        (MppiConfig, {"temperature": 0.0}),
        (MppiConfig, {"replan": 99}),
    ):
        with pytest.raises(InvalidInputError, match=next(iter(setting))):
            config(**setting)  # type: ignore[operator]


@pytest.mark.parametrize(("run", "args"), [(run_cem, CemArgs), (run_mppi, MppiArgs)])
def test_the_command_line_loop_walks_towards_a_goal(
    run: Any, args: Any, world_folder: Path
) -> None:
    planner = {
        "planner": type(args().planner)(
            horizon=3, candidates=16, **({"elites": 4} if args is CemArgs else {})
        )
    }
    found = run(args(world=str(world_folder), steps=2, goal=(1.0, 0.0), **planner))
    assert found["steps"] == 2.0 and found["return"] == 0.0 and found["metres_left"] >= 0.0


@pytest.mark.parametrize("module", ["cem", "mppi"])
def test_the_command_line_tells_its_options(module: str) -> None:
    shown = run(f"worldsim.agents.{module}", "--help")
    assert "--planner.horizon" in shown and "--goal" in shown
