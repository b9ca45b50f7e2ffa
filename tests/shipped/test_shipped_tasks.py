"""The shipped worlds of tasks and their agents: sizes, cards, dreams, and that what was learned in
them holds in the real twin."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import worldsim  # noqa: F401  registers the environments
from worldsim.shipped.agent_files import find_agent, load_agent, read_card, shipped_agents
from worldsim.world import World
from worldsim.world.files import find_world
from worldsim.world.twin import make_twin

CREDITS = {"carracing": "Gymnasium", "takecover": "Freedoom"}


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def real_returns(name: str, seeds: range, steps: int) -> list[float]:
    """Returns of the first ``steps`` steps of an agent's episodes in the real twin."""
    world = World.from_pretrained(name, device="cpu")
    agent, twin, totals = load_agent(name), make_twin(world), []
    for seed in seeds:
        agent.reset(seed)
        obs, _ = twin.reset(seed=seed)
        total = 0.0
        for _ in range(steps):
            obs, rew, term, trunc, _ = twin.step(agent.act(obs))
            total += float(rew)
            if term or trunc:
                break
        totals.append(total)
    twin.close()
    return totals


@pytest.mark.parametrize("name", CREDITS)
def test_sizes_and_cards(name: str) -> None:
    assert name in shipped_agents()
    assert size_of(find_world(name)) <= 3_000_000 and size_of(find_agent(name)) <= 1_000_000
    card, world = read_card(name), World.from_pretrained(name, device="cpu")
    assert card.world == name and card.real_frames_used == world.card["frames"]
    assert card.results["episodes"] == 100 and len(card.results["real_returns"]) == 100
    assert card.results["real_return_mean"] == pytest.approx(
        np.mean(card.results["real_returns"]), abs=1e-3
    )
    assert world.config.has_rewards and not world.config.intrinsics
    assert CREDITS[name] in world.card["licence"]
    for file in (find_world(name) / "world.json", find_agent(name) / "agent.json"):
        assert "/tmp" not in file.read_text() and "/home" not in file.read_text()


def test_dreams_of_driving() -> None:
    """From the same moment of driving: with gas the road goes by and pays; whoever brakes comes to
    a stand and earns nothing."""
    totals = {}
    for name, act in (("gas", [0.0, 0.3, 0.0]), ("brake", [0.0, 0.0, 0.8])):
        env = gym.make("worldsim/Dream-v0", world="carracing", max_episode_steps=500)
        env.reset(seed=3, options={"scene": "moment-7"})
        rewards = []
        for _ in range(60):
            _, rew, _, _, _ = env.step(np.array(act, np.float32))
            rewards.append(float(rew))
        totals[name] = sum(rewards[30:])
        env.close()
    assert totals["gas"] > 10.0 and abs(totals["brake"]) < 5.0, totals


@pytest.mark.slow
def test_dreams_of_shots() -> None:
    """Every step alive pays 4 tics; shots come again and again, and end dreams of standing still:
    all of them in the long run."""
    envs = gym.make_vec(
        "worldsim/Dream-v0", num_envs=8, vectorization_mode="vector_entry_point", world="takecover"
    )
    obs, _ = envs.reset(seed=0)
    ended, bright, paid = np.zeros(8, bool), 0, []
    for _ in range(48):
        obs, rew, term, _, _ = envs.step(np.zeros(8, np.int64))
        paid.extend(np.asarray(rew)[~term & ~ended])
        # Fireballs are the only thing that is bright and yellow.
        bright += int(((obs[..., 0] > 180) & (obs[..., 1] > 150)).any((1, 2))[~ended].sum())
        ended |= np.asarray(term)
    envs.close()
    assert ended.sum() >= 2, ended
    assert bright > 0.2 * len(paid)
    assert np.median(paid) == pytest.approx(4.0, abs=0.2)


@pytest.mark.slow
def test_the_agent_drives_the_real_car() -> None:
    """Of 100 whole episodes it earned 539 on average; random actions lose 30. Here the first 250
    steps of three of them."""
    totals = real_returns("carracing", range(10_000, 10_003), 250)
    assert np.mean(totals) > 100.0, totals


@pytest.mark.slow
def test_the_agent_dodges_real_shots() -> None:
    """Of 100 whole episodes it survived 1,230 tics on average; random actions 293. Here at most 800
    tics of four of them."""
    totals = real_returns("takecover", range(10_000, 10_004), 200)
    assert np.mean(totals) > 450.0, totals
