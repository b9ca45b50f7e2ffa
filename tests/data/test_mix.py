"""Mixes of policies: even shares, the same on every machine, and told of each episode."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.mix import PolicyMix
from worldsim.data.play import Player
from worldsim.data.record import RecordConfig, record
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.shipped.agent_files import save_agent
from worldsim.shipped.policies import make_policy

SPACE = gym.spaces.Discrete(7)


def config(out: Path, **changes: Any) -> RecordConfig:
    """Two shards of four 26-frame episodes."""
    settings: dict[str, Any] = dict(
        env_id="worldsim/TinyRoom-v0",
        out=out,
        frames=208,
        frames_per_shard=104,
        episode_steps=25,
        min_travel=0.0,
        workers=0,
        env_kwargs={"size": 16},
        policy="mix",
    )
    return RecordConfig(**(settings | changes))


def test_every_shard_has_the_shares_that_were_asked_for() -> None:
    """Weights 1, 2 and 1: of 40 episodes 10, 20 and 10, give or take the last ones."""
    mix = PolicyMix("mix", {}, SPACE)
    assert mix.names == ["random", "persistent", "sticky"]
    orders = set()
    for shard in range(8):
        names = [mix.of_episode(3, shard, i)[0] for i in range(40)]
        counts = Counter(names)
        assert abs(counts["random"] - 10) <= 1 and abs(counts["persistent"] - 20) <= 1
        assert abs(counts["sticky"] - 10) <= 1
        assert names == [mix.of_episode(3, shard, i)[0] for i in range(40)]
        orders.add(tuple(names))
    assert len(orders) == 8
    only = PolicyMix("mix", {"random": 0.0, "sticky": 3.0}, SPACE)
    assert only.names == ["sticky"] and only.of_episode(0, 0, 7)[0] == "sticky"


def test_the_recording_says_which_policy_played_which_episode(tmp_path: Path) -> None:
    agent = save_agent(make_policy("random", SPACE), tmp_path / "agent")
    weights = {"persistent": 1.0, "sticky": 1.0, str(agent): 2.0}
    dataset = record(config(tmp_path / "out", mix=weights))
    assert dataset.info.policy == "mix"
    assert dataset.info.recording["mix"] == {"persistent": 0.25, "sticky": 0.25, "agent": 0.5}
    assert len(dataset.info.recording["mix_sha256"]["agent"]) == 64
    played = [episode.info["policy"] for episode in dataset]
    assert set(played) == {"persistent", "sticky", "agent"}
    # Each episode is the one that its policy plays with the seed of the episode.
    for number in range(4):
        episode, name = dataset[number], played[number]
        seed = int(np.random.SeedSequence([0, 0, number]).generate_state(2)[1]) & 0x7FFFFFFF
        policy = make_policy("random" if name == "agent" else name, SPACE)
        policy.reset(seed)
        assert [int(policy.act(None)) for _ in range(25)] == episode.act[:-1].tolist()
    report = dataset.info.report["policies"]
    assert {name: values["episodes"] for name, values in report.items()} == Counter(played)
    with pytest.raises(InvalidInputError, match="mix = .*Use the same value"):
        record(config(tmp_path / "out", mix={"random": 1.0}))


def test_a_shard_is_the_same_whoever_plays_it_and_when(tmp_path: Path) -> None:
    players = [Player(config(tmp_path)) for _ in range(2)]
    orders = ((0, 1), (1, 0))
    shards = [
        {i: player.shard(i)[0] for i in order}
        for player, order in zip(players, orders, strict=True)
    ]
    for i in range(2):
        for a, b in zip(shards[0][i], shards[1][i], strict=True):
            assert a.info == b.info
            np.testing.assert_array_equal(a.rgb, b.rgb)
            np.testing.assert_array_equal(a.act, b.act)
    for player in players:
        player.close()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"policy": "random", "mix": {"sticky": 1.0}}, InvalidInputError, "--policy mix"),
        ({"mix": {"sticky": 0.0}}, InvalidInputError, "weights of the mix are all 0"),
        ({"mix": {"mix": 1.0}}, InvalidInputError, "cannot hold 'mix'"),
        ({"mix": {"sticky": -1.0}}, InvalidInputError, "mix"),
        ({"mix": {"clever": 1.0}}, NotFoundError, "No policy 'clever'"),
    ],
)
def test_bad_mixes_are_named(
    tmp_path: Path, changes: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        record(config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_two_agents_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [
        save_agent(make_policy("random", SPACE), tmp_path / place / "agent") for place in "ab"
    ]
    with pytest.raises(InvalidInputError, match="one name: agent, agent"):
        PolicyMix("mix", {str(folder): 1.0 for folder in folders}, SPACE)


def test_recordings_of_one_policy_say_nothing_new(tmp_path: Path) -> None:
    """So that recordings of earlier versions resume."""
    dataset = record(config(tmp_path, policy="sticky", frames=52, frames_per_shard=52))
    assert "policy" not in dataset[0].info and "mix" not in dataset.info.recording
    assert EpisodeDataset(tmp_path).info.report["policies"] == {}
