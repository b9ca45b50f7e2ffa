"""The shipped world of CarRacing and its agent: sizes, cards, and that what was learned in the dream drives the real car."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.agent_files import find_agent, load_agent, read_card, shipped_agents
from worldsim.twin import make_twin
from worldsim.world import World, find_world

NAME = "carracing"


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_sizes_and_cards() -> None:
    assert NAME in shipped_agents()
    assert size_of(find_world(NAME)) <= 3_000_000 and size_of(find_agent(NAME)) <= 1_000_000
    card, world = read_card(NAME), World.from_pretrained(NAME, device="cpu")
    assert card.world == NAME and card.real_frames_used == world.card["frames"]
    assert card.results["episodes"] == 100 and len(card.results["real_returns"]) == 100
    assert card.results["real_return_mean"] == pytest.approx(np.mean(card.results["real_returns"]), abs=1e-3)
    assert world.config.has_rewards and not world.config.intrinsics
    assert "Gymnasium" in world.card["licence"]
    for file in (find_world(NAME) / "world.json", find_agent(NAME) / "agent.json"):
        assert "/tmp" not in file.read_text() and "/home" not in file.read_text()


def test_dreams_of_driving() -> None:
    """From the same moment of driving: with gas the road goes by and pays; whoever brakes comes to a stand and earns nothing."""
    totals = {}
    for name, act in (("gas", [0.0, 0.3, 0.0]), ("brake", [0.0, 0.0, 0.8])):
        env = gym.make("worldsim/Dream-v0", world=NAME, max_episode_steps=500)
        env.reset(seed=3, options={"scene": "moment-7"})
        rewards = []
        for _ in range(60):
            _, rew, _, _, _ = env.step(np.array(act, np.float32))
            rewards.append(float(rew))
        totals[name] = sum(rewards[30:])
        env.close()
    assert totals["gas"] > 10.0 and abs(totals["brake"]) < 5.0, totals


@pytest.mark.slow
def test_the_agent_drives_the_real_car() -> None:
    """Of 100 whole episodes it earned 539 on average; random actions lose 30. Here the first 250 steps of three of them."""
    world = World.from_pretrained(NAME, device="cpu")
    agent, twin, totals = load_agent(NAME), make_twin(world), []
    for seed in (10_000, 10_001, 10_002):
        agent.reset(seed)
        obs, _ = twin.reset(seed=seed)
        total = 0.0
        for _ in range(250):
            obs, rew, term, trunc, _ = twin.step(agent.act(obs))
            total += float(rew)
            if term or trunc:
                break
        totals.append(total)
    twin.close()
    assert np.mean(totals) > 100.0, totals
