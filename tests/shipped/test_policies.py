"""Policies by name: short names, classes, saved and shipped agents, and what is none of them."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
import torch

import worldsim.shipped.agent_files
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.agents.persistent import PersistentPolicy
from worldsim.agents.random import RandomPolicy
from worldsim.data.mix import agent_sha256
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.evaluation.policy_batch import PolicySpec
from worldsim.shipped.agent_files import save_agent
from worldsim.shipped.policies import make_policy, saved_folder

SPACE = gym.spaces.Discrete(3)


def test_short_names_and_classes() -> None:
    for name in ("persistent", "persistent-v1", "worldsim.agents.persistent:PersistentPolicy"):
        assert type(make_policy(name, SPACE)) is PersistentPolicy and saved_folder(name) is None
    assert type(PolicySpec("random").build(SPACE)) is RandomPolicy


def test_nobody(tmp_path: Path) -> None:
    for name in ("clever", str(tmp_path / "agent"), "worldsim.agents.random:Nobody"):
        with pytest.raises(
            NotFoundError,
            match="No policy.*persistent, persistent-v1, random.*'module:Class', or the folder",
        ):
            make_policy(name, SPACE)
    for name in ("math:sqrt", "builtins:str"):
        with pytest.raises(
            InvalidInputError,
            match=f"'{name}' is no policy: a class with the methods reset, act is needed",
        ):
            make_policy(name, SPACE)
    with pytest.raises(InvalidInputError, match="cannot be constructed with the action space"):
        make_policy("worldsim.evaluation.policy_batch:Always", SPACE)


def test_saved_and_shipped_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By folder and by shipped name the same agent, for whoever asks; where its weights go may be
    said."""
    torch.manual_seed(0)
    policy = ActorCriticPolicy(SPACE, (32, 32, 3), stack=2, hidden=16)
    folder = save_agent(policy, tmp_path / "shipped" / "pilot")
    monkeypatch.setattr(worldsim.shipped.agent_files, "SHIPPED_FOLDER", folder.parent)
    for name in (str(folder), "pilot"):
        assert saved_folder(name) == folder
        for made in (make_policy(name, SPACE, "cpu"), PolicySpec(name).build(SPACE, "cpu")):
            assert type(made) is ActorCriticPolicy
        assert None is not agent_sha256(name) == agent_sha256(str(folder))
        with pytest.raises(InvalidInputError, match="belong to different worlds"):
            make_policy(name, gym.spaces.Discrete(4))
    with pytest.raises(NotFoundError, match="saved agent, or one of pilot"):
        make_policy("nobody", SPACE)
    # What is wrong with an agent is told as it is.
    (folder / "weights.safetensors").unlink()
    with pytest.raises(
        NotFoundError, match="weights.safetensors is missing: copy the folder again"
    ):
        make_policy("pilot", SPACE)
    (folder / "agent.json").write_text("{}")
    with pytest.raises(DamagedFileError, match="not 'worldsim-agent'"):
        make_policy("pilot", SPACE)


def test_a_short_name_comes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_agent(PersistentPolicy(SPACE), tmp_path / "random")
    monkeypatch.chdir(tmp_path)
    assert (
        saved_folder("random") is None
        and type(make_policy("random", SPACE)) is RandomPolicy
        and agent_sha256("random") is None
    )
    assert type(make_policy("./random", SPACE)) is PersistentPolicy
