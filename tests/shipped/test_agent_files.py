"""Saved agents: what a folder brings back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.agents.persistent import PersistentPolicy
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError, UntrustedFileError
from worldsim.runtime.json_config import write_sealed
from worldsim.runtime.spaces import describe_space, space_of
from worldsim.shipped.agent_files import (
    AgentCard,
    find_agent,
    load_agent,
    read_card,
    save_agent,
    shipped_agents,
    update_card,
)

BOX = gym.spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 0.3], np.float32))


@pytest.fixture
def learned() -> ActorCriticPolicy:
    torch.manual_seed(3)
    return ActorCriticPolicy(gym.spaces.Discrete(3), (16, 24, 3), stack=2, hidden=16)


def frames(count: int, shape: tuple[int, ...] = (16, 24, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, *shape), dtype=np.uint8)


def test_a_saved_agent_acts_as_before(tmp_path: Path, learned: ActorCriticPolicy) -> None:
    card = AgentCard(
        world="here",
        env_id="worldsim/TinyRoom-v0",
        real_frames_used=10,
        results={"real_return_mean": 2.5},
    )
    save_agent(learned, tmp_path / "agent", card)
    loaded = load_agent(tmp_path / "agent", gym.spaces.Discrete(3))
    read = read_card(tmp_path / "agent")
    assert (read.world, read.real_frames_used, read.results) == (
        "here",
        10,
        {"real_return_mean": 2.5},
    )
    assert read.kind == "worldsim.agents.actor_critic_policy:ActorCriticPolicy"
    assert isinstance(loaded, ActorCriticPolicy) and loaded.settings == learned.settings
    # Stored at 16 bits: weights of this size are off by at most 2^-11 of themselves.
    for name, value in learned.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=2**-11, atol=1e-6)
    for frame in frames(8):
        learned.reset(1), loaded.reset(1)
        assert loaded.act(frame) == learned.act(frame)


@pytest.mark.parametrize("space", [gym.spaces.Discrete(7), BOX])
def test_policies_without_weights(tmp_path: Path, space: gym.Space) -> None:
    save_agent(PersistentPolicy(space), tmp_path / "walker")
    assert not (tmp_path / "walker/weights.safetensors").exists()
    policy = load_agent(tmp_path / "walker", space)
    policy.reset(0)
    assert space.contains(policy.act(frames(1)[0]))


@pytest.mark.parametrize("space", [gym.spaces.Discrete(2), BOX])
def test_spaces_come_back(space: gym.Space) -> None:
    assert space_of(json.loads(json.dumps(describe_space(space)))) == space


def test_an_agent_of_another_world_is_refused(tmp_path: Path, learned: ActorCriticPolicy) -> None:
    save_agent(learned, tmp_path)
    with pytest.raises(
        InvalidInputError, match=r"Discrete\(3\), the environment wants Discrete\(7\)"
    ):
        load_agent(tmp_path, gym.spaces.Discrete(7))
    with pytest.raises(InvalidInputError, match=r"\(8, 8, 3\) to an agent that sees \(16, 24, 3\)"):
        load_agent(tmp_path).act(frames(1, (8, 8, 3))[0])


def test_unknown_agents() -> None:
    with pytest.raises(NotFoundError, match="no agent 'nobody'.*shipped agents"):
        find_agent("nobody")
    assert all(read_card(name).results for name in shipped_agents())


def test_cards_can_be_completed(tmp_path: Path, learned: ActorCriticPolicy) -> None:
    save_agent(learned, tmp_path, AgentCard(world="w"))
    update_card(tmp_path, results={"real_return_mean": 1.0})
    assert (
        read_card(tmp_path).results == {"real_return_mean": 1.0}
        and read_card(tmp_path).world == "w"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "other"}, DamagedFileError, "not 'worldsim-agent'"),
        ({"version": 3}, DamagedFileError, "upgrade worldsim"),
        ({"surprise": 1}, DamagedFileError, "surprise"),
        ({"kind": "worldsim.agents.nothing:Policy"}, UntrustedFileError, "not registered"),
        ({"kind": "subprocess:Popen"}, UntrustedFileError, "would import and run code"),
        ({"settings": {"width": 3}}, DamagedFileError, "cannot be made with"),
        (
            {"settings": {"observation_shape": [16, 24, 3], "stack": 2, "hidden": 8}},
            DamagedFileError,
            "does not fit its card",
        ),
    ],
)
def test_bad_cards(
    tmp_path: Path, learned: ActorCriticPolicy, change: dict, error: type, message: str
) -> None:
    save_agent(learned, tmp_path)
    values = json.loads((tmp_path / "agent.json").read_text())
    write_sealed(tmp_path / "agent.json", {**values, **change})
    with pytest.raises(error, match=message):
        load_agent(tmp_path)


def test_eight_bit_weights_are_half_the_size_and_pack_again_to_the_same(
    tmp_path: Path, learned: ActorCriticPolicy
) -> None:
    save_agent(learned, tmp_path / "16")
    save_agent(learned, tmp_path / "8", eight_bit=True)
    sizes = [(tmp_path / bits / "weights.safetensors").stat().st_size for bits in ("16", "8")]
    assert sizes[1] < 0.75 * sizes[0]
    first = load_agent(tmp_path / "8")
    for name, weight in learned.state_dict().items():
        rounded = first.state_dict()[name]
        # Half a step of 127 to the largest weight.
        torch.testing.assert_close(
            rounded,
            weight,
            rtol=0.0,
            atol=0.005 * float(weight.abs().amax()) if weight.numel() else 0.0,
        )
    save_agent(first, tmp_path / "again", eight_bit=True)
    packed, again = (
        (tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("8", "again")
    )
    assert packed == again


def test_damaged_and_missing_weights(tmp_path: Path, learned: ActorCriticPolicy) -> None:
    save_agent(learned, tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match="altered"):
        load_agent(tmp_path)
    weights.unlink()
    with pytest.raises(NotFoundError, match="is missing"):
        load_agent(tmp_path)


def test_what_has_no_space_cannot_be_saved(tmp_path: Path) -> None:
    class Nowhere:
        def reset(self, seed: int | None = None) -> None: ...

        def act(self, obs: object) -> int:
            return 0

    with pytest.raises(InvalidInputError, match="has no action_space"):
        save_agent(Nowhere(), tmp_path)
