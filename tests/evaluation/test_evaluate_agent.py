"""Agents measured in dream and real twin: hand-computed figures, the report's keys, shared starts,
bad input."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.agents.persistent import PersistentPolicy
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.evaluation.episodes import Played, Task, dream_episodes, play_real, step_limit
from worldsim.evaluation.evaluate_agent import (
    EvaluateAgentConfig,
    compare,
    evaluate_agent,
    workers_of,
)
from worldsim.evaluation.policy_batch import Crowd, PolicySpec
from worldsim.shipped.agent_files import AgentCard, read_card, save_agent
from worldsim.world import World
from worldsim.world.twin import make_twin


@pytest.fixture
def agent(tmp_path: Path, goal_folder: Path) -> Path:
    torch.manual_seed(0)
    policy = ActorCriticPolicy(gym.spaces.Discrete(7), (32, 32, 3), stack=2, hidden=16)
    return save_agent(
        policy, tmp_path / "agent", AgentCard(str(goal_folder), "worldsim/TinyRoom-v0", 1234)
    )


def test_figures_by_hand() -> None:
    real = [Played(1.0, 10, True), Played(3.0, 20, False)]
    dream = [Played(2.0, 10, True), Played(4.0, 40, True)]
    figures = compare(real, dream, draws=100, seed=0, frame_skip=4)
    assert (figures["real_return_mean"], figures["dream_return_mean"], figures["gap"]) == (
        2.0,
        3.0,
        1.0,
    )
    # Each pair differs by 1: resampling pairs cannot change that.
    many = compare(real * 5, dream * 5, draws=100, seed=0, frame_skip=4)
    low, high = many["real_return_ci95"]
    assert many["gap_ci95"] == [1.0, 1.0] and 1.0 <= low < 2.0 < high <= 3.0
    assert figures["gap_ci95"] is None and figures["real_return_ci95"] is None
    assert (figures["survival_tics_mean"], figures["dream_survival_tics_mean"]) == (60.0, 100.0)
    assert (figures["real_terminated"], figures["dream_terminated"]) == (0.5, 1.0)
    assert figures["real_returns"] == [1.0, 3.0] and figures["real_return_std"] == 1.0
    assert "survival_tics_mean" not in compare(real, dream, 100, 0)


def test_report(
    agent: Path, goal_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateAgentConfig(
        str(agent),
        world=str(goal_folder),
        episodes=5,
        max_steps=7,
        workers=0,
        json=tmp_path / "r.json",
        into_card=True,
    )
    results = evaluate_agent(config)
    assert json.loads((tmp_path / "r.json").read_text()) == results == read_card(agent).results
    assert (
        results["world"] == str(goal_folder)
        and results["real_frames_used"] == 1234
        and results["max_steps"] == 7
    )
    for key in (
        "real_return_mean",
        "real_return_ci95",
        "dream_return_mean",
        "gap",
        "gap_ci95",
        "wall_time_s",
    ):
        assert key in results
    assert len(results["real_returns"]) == len(results["dream_returns"]) == 5
    assert results["gap"] == pytest.approx(
        results["dream_return_mean"] - results["real_return_mean"], abs=1e-3
    )
    assert "5 episodes of at most 7 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_change_nothing(agent: Path, goal_folder: Path) -> None:
    a, b = (
        evaluate_agent(
            EvaluateAgentConfig(
                str(agent),
                world=str(goal_folder),
                episodes=3,
                max_steps=6,
                workers=workers,
                batch=3,
            )
        )
        for workers in (0, 2)
    )
    assert a["real_returns"] == b["real_returns"] and a["dream_returns"] == b["dream_returns"]


def test_a_policy_without_a_card(goal_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = evaluate_agent(
        EvaluateAgentConfig("random", world=str(goal_folder), episodes=2, max_steps=4, workers=0)
    )
    # Reproduces: two episodes gave [400, 400], as if that were known.
    assert (
        results["real_return_ci95"] is None
        and "too few episodes for intervals: 2 of at least 5" in capsys.readouterr().out
    )
    assert results["real_frames_used"] == 0
    with pytest.raises(InvalidInputError, match="names no world"):
        evaluate_agent(EvaluateAgentConfig("random"))
    with pytest.raises(InvalidInputError, match="no card to write into"):
        evaluate_agent(EvaluateAgentConfig("random", world=str(goal_folder), into_card=True))


def test_bad_input(agent: Path, goal_folder: Path, world_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="has no reward head"):
        evaluate_agent(EvaluateAgentConfig(str(agent), world=str(world_folder)))
    other = save_agent(PersistentPolicy(gym.spaces.Discrete(3)), tmp_path / "other")
    with pytest.raises(InvalidInputError, match="they belong to different worlds"):
        evaluate_agent(EvaluateAgentConfig(str(other), world=str(goal_folder)))
    with pytest.raises(NotFoundError, match="No policy 'nobody'"):
        evaluate_agent(EvaluateAgentConfig("nobody", world=str(goal_folder)))
    with pytest.raises(InvalidInputError, match="episodes = 0"):
        EvaluateAgentConfig("random", episodes=0)
    world = World.from_pretrained(goal_folder)
    world.config.env_kwargs["size"] = 16
    with pytest.raises(InvalidInputError, match="observation space is"):
        make_twin(world)


def test_dreams_begin_with_the_real_frames_and_stop_counting_at_the_end(goal_folder: Path) -> None:
    world = World.from_pretrained(goal_folder)
    env = make_twin(world)
    seeds = [5, 6, 7]
    real = [play_real(env, Task(PolicySpec("persistent"), seed), 12, keep=True) for seed in seeds]
    dream = dream_episodes(
        world, PolicySpec("persistent"), [one.start for one in real], seeds, 12, batch=2, keep=True
    )
    for a, b in zip(real, dream, strict=True):
        assert (a.frames[0] == b.frames[0]).all()
        for one in (a, b):
            assert len(one.frames) == one.steps + 1 == len(one.rewards) + 1
            assert one.total == pytest.approx(sum(one.rewards), abs=1e-5)
            assert one.terminated or one.steps == 12
    # The world's termination head is about even: some dream ends early.
    assert min(one.steps for one in dream) < 12
    assert step_limit(env, None) == 200 and step_limit(env, 9) == 9


def test_a_policys_seed_may_be_another_than_the_episodes(goal_folder: Path) -> None:
    """What is kept of an episode is all of it: its actions are those of the policy alone, its
    frames those of its own start."""
    env, spec = make_twin(World.from_pretrained(goal_folder)), PolicySpec("persistent")
    one, other = (play_real(env, Task(spec, 5, seed), 12, keep=True) for seed in (5, 6))
    assert (one.frames[0] == other.frames[0]).all() and (
        play_real(env, Task(spec, 5), 12, keep=True).acts == one.acts
    ).all()
    for played, seed in ((one, 5), (other, 6)):
        crowd = Crowd(spec, env.action_space, [seed])
        assert played.acts.tolist() == [
            crowd.act(torch.zeros(1, 32, 32, 3))[0] for _ in range(played.steps)
        ]
    assert one.acts.tolist() != other.acts.tolist() and not one.truncated


def test_crowds_act_as_each_alone() -> None:
    space, frames = gym.spaces.Discrete(7), torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    spec = PolicySpec("persistent", chance=0.5)
    together = Crowd(spec, space, [1, 2, 3])
    alone = [Crowd(spec, space, [seed]) for seed in (1, 2, 3)]
    for _ in range(10):
        acts = together.act(frames)
        assert acts.tolist() == [one.act(frames[:1])[0] for one in alone]


def test_chance_and_single_actions() -> None:
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    always = Crowd(PolicySpec(always=2), gym.spaces.Discrete(7), [0])
    assert {int(always.act(frames)[0]) for _ in range(20)} == {2}
    half = Crowd(PolicySpec(always=2, chance=0.5), gym.spaces.Discrete(7), [0])
    drawn = np.array([half.act(frames)[0] for _ in range(400)])
    # Half of the time, and one in seven of the rest: 57%.
    assert 0.47 < (drawn == 2).mean() < 0.67
    with pytest.raises(InvalidInputError, match="outside Discrete"):
        Crowd(PolicySpec(always=7), gym.spaces.Discrete(7), [0])
    with pytest.raises(InvalidInputError, match="chance = 1.5"):
        PolicySpec(chance=1.5)


def test_workers() -> None:
    assert workers_of(4, 2) == 2 and workers_of(0, 2) == 0 and 1 <= workers_of(None, 100) <= 16
