"""Evaluations and plans on a cluster of two nodes. Run by tests/runtime/test_cluster.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from tests.helpers.evaluation import tiny_world
from tests.helpers.worlds import make_tiny_world
from worldsim.agents.cem import CemConfig, CemPolicy
from worldsim.agents.mppi import MppiConfig, MppiPolicy
from worldsim.evaluation.agreement import AgreementConfig, agreement
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.evaluate_agent import EvaluateAgentConfig, evaluate_agent
from worldsim.memory.points import PointMemoryConfig
from worldsim.planning.objectives import PoseGoal, RewardSum
from worldsim.planning.planner import Imagination
from worldsim.world import World
from worldsim.world.spread import spread_world

TIMES = ("seconds", "steps_per_second", "real_seconds", "wall_time_s")
"""Results that no two runs share."""
FEW: dict[str, Any] = {"episodes": 3, "batch": 2, "bootstrap": 20, "workers": 1}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "walks": {"history": 4, "horizon": 3},
    "return-trip": {"lengths": (14,)},
    "dreams": {"history": 4, "horizon": 12},
    "long-walks": {"history": 3, "horizon": 50},
}


@pytest.fixture(scope="module", autouse=True)
def connection(cluster: Any) -> Any:
    """One connection for all cases."""
    from worldsim.runtime.cluster_connection import connected

    with connected(cluster.address) as ray:
        yield ray


def same(function: Callable[..., Any], config: Callable[..., Any], world: World, out: Path) -> None:
    """The JSON of one process and that of the cluster are equal except for times."""
    told = []
    for name, cluster in (("here", None), ("there", "auto")):
        function(config(json=out / name, cluster=cluster), world)
        told.append(json.loads((out / name).read_text()))
    assert set(told[0]) >= {"seed", "episodes"}
    here, there = ({k: v for k, v in one.items() if k not in TIMES} for one in told)
    assert here == there


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols(protocol: str, tmp_path: Path) -> None:
    def config(**changes: Any) -> EvaluateConfig:
        return EvaluateConfig("tiny", protocol=protocol, **FEW, **PROTOCOLS[protocol], **changes)

    same(evaluate, config, tiny_world(memory=PointMemoryConfig(capacity=2048)), tmp_path)


def test_a_world_without_geometry(tmp_path: Path) -> None:
    """The protocol ``task``, whose real episodes are played there, too."""
    kwargs = {"size": 32, "max_episode_steps": 6}
    world = make_tiny_world(geometry=False, rewards=True, env_kwargs=kwargs)

    def config(**changes: Any) -> EvaluateConfig:
        return EvaluateConfig("tiny", **FEW, **changes)

    same(evaluate, config, world, tmp_path)


def test_agents(goal_folder: Path, tmp_path: Path) -> None:
    world = World.from_pretrained(goal_folder, "cpu")
    few: dict[str, Any] = {"episodes": 3, "max_steps": 4, "batch": 2, "workers": 0, "bootstrap": 9}

    def agent(**changes: Any) -> EvaluateAgentConfig:
        return EvaluateAgentConfig("random", str(goal_folder), **few, **changes)

    def agree(**changes: Any) -> AgreementConfig:
        return AgreementConfig(str(goal_folder), **few, **changes)

    same(evaluate_agent, agent, world, tmp_path)
    same(agreement, agree, world, tmp_path)


def test_errors_of_a_function(world_folder: Path) -> None:
    """They are raised as they would be here."""
    world = World.from_pretrained(world_folder, "cpu")
    with (
        spread_world(world, "auto") as chunks,
        pytest.raises(TypeError, match="no keyword arguments"),
    ):
        chunks.map(len, [()])


def test_plans(goal_folder: Path) -> None:
    """CEM and MPPI take the same actions, whoever imagines their candidates."""
    env = gym.make("worldsim/Dream-v0", world=str(goal_folder), device="cpu")
    env.reset(seed=1)
    world = env.unwrapped.world
    objectives = RewardSum(), PoseGoal(env.unwrapped.state.frame.pose[0], least_coverage=0.0)
    with spread_world(world, "auto") as chunks:
        for objective in objectives:
            plans = []
            for where in (None, chunks):
                imagination = Imagination(env, batch=3, chunks=where)
                cem = CemPolicy(imagination, objective, CemConfig(3, 8, 2, 2))
                mppi = MppiPolicy(imagination, objective, MppiConfig(3, 8, 2))
                plans.append([cem.plan(), cem.cost, mppi.plan(), mppi.cost])
            assert torch.equal(plans[0][0], plans[1][0]) and torch.equal(plans[0][2], plans[1][2])
            assert plans[0][1::2] == plans[1][1::2]
