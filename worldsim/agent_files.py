"""Saved agents: a folder with ``agent.json`` (the card) and, if the policy has any, ``weights.safetensors``.

A card names the policy's class, what it is constructed with, the world that it belongs to, the spaces that it fits and its
measured results, so that loading needs nothing else. Shipped agents lie in ``worldsim/agents_shipped/<name>/``.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldsim.config import from_json, read_json, to_json, write_json
from worldsim.diffusion.quantise import dequantise_weights, quantise_weights
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.protocols import Policy

FORMAT, VERSION = "worldsim-agent", 1
CARD, WEIGHTS = "agent.json", "weights.safetensors"
SHIPPED_FOLDER = Path(__file__).parent / "agents_shipped"


@dataclass(frozen=True)
class AgentCard:
    """What ``agent.json`` says."""

    world: str = ""
    """The world that the agent belongs to: a shipped one's name, a folder, or a hub repository."""
    env_id: str = ""
    """Gymnasium id of that world's real twin."""
    real_frames_used: int | None = None
    """Frames of the real twin from which the agent was made; None if that is not known."""
    results: dict[str, Any] = field(default_factory=dict)
    """What was measured."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was made."""
    kind: str = ""
    """``module:Class`` of the policy; :func:`save_agent` fills it in, and those below, too."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of that class beside the action space."""
    action_space: dict[str, Any] = field(default_factory=dict)
    """The actions that it chooses from."""


@runtime_checkable
class Learned(Protocol):
    """A policy with weights."""

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name."""
        ...

    def load_state_dict(self, weights: dict[str, Tensor]) -> Any:
        """Take weights over; floats may come in half precision."""
        ...


@runtime_checkable
class BatchPolicy(Protocol):
    """A policy that also acts for many environments at once."""

    def reset(self, seed: int | None = None) -> None:
        """Forget the past of all environments and reseed."""
        ...

    def act_batch(self, obs: Any, begins: Any = None) -> Any:
        """Actions (n, ...) for frames (n, h, w, 3) uint8. begins: (n,) bool, where an episode starts with this frame."""
        ...


def save_agent(
    policy: Policy, folder: str | os.PathLike[str], card: AgentCard | None = None, eight_bit: bool = False
) -> Path:
    """Write ``policy`` to ``folder``; ``agent.json`` comes last, so that an interrupted save is no agent.

    policy: needs ``action_space`` and, if it is constructed with more, ``settings``, a dict of those arguments. Weights, if it
    has a ``state_dict``, are stored at 16 bits, or matrices and filters at 8, as worlds' are, for agents to be shipped: measure
    those anew.
    """
    from worldsim.data.play import describe_space

    space = getattr(policy, "action_space", None)
    if not isinstance(space, gym.Space):
        raise InvalidInputError(f"{type(policy).__name__} has no action_space: an agent's card says what it chooses from")
    described, folder = describe_space(space), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)
    if isinstance(policy, Learned):
        whole = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
        weights = quantise_weights(whole) if eight_bit else {name: _halved(value) for name, value in whole.items()}
        temporary = folder / f".{WEIGHTS}.{os.getpid()}"
        save_file(weights, temporary)
        temporary.chmod(0o644)
        os.replace(temporary, folder / WEIGHTS)
    card = dataclasses.replace(
        card or AgentCard(),
        kind=f"{type(policy).__module__}:{type(policy).__qualname__}",
        settings=dict(getattr(policy, "settings", {})),
        action_space=described,
    )
    write_json(folder / CARD, {"format": FORMAT, "version": VERSION, **to_json(card)})
    return folder


def load_agent(
    name: str | os.PathLike[str], action_space: gym.Space[Any] | None = None, device: torch.device | str = "cpu"
) -> Policy:
    """The policy in a folder, or a shipped one by its name.

    action_space: that of the environment it shall act in, InvalidInputError if it is another than the agent's. device: where
    its weights go, if it has any. Raises NotFoundError or DamagedFileError.
    """
    folder = find_agent(name)
    card = read_card(folder)
    space = space_of(card.action_space)
    if action_space is not None and action_space != space:
        raise InvalidInputError(
            f"agent {name} chooses from {space}, the environment wants {action_space}: they belong to different worlds"
        )
    constructor = _policy_class(card.kind, folder)
    try:
        policy = constructor(space, **card.settings)
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{folder / CARD}: {card.kind} cannot be made with {card.settings} ({error})") from error
    if isinstance(policy, Learned):
        try:
            policy.load_state_dict(dequantise_weights(load_file(folder / WEIGHTS)))
        except FileNotFoundError:
            raise NotFoundError(f"{folder / WEIGHTS} is missing: copy the agent again") from None
        except (SafetensorError, RuntimeError, KeyError) as error:
            raise DamagedFileError(f"{folder / WEIGHTS} is damaged or does not fit its card ({error}): copy it again") from error
        if hasattr(policy, "to"):
            policy.to(device)
    return policy  # type: ignore[no-any-return]


def find_agent(name: str | os.PathLike[str]) -> Path:
    """The folder of a saved agent: a path, or a shipped one's name. Raises NotFoundError."""
    for folder in (Path(name), SHIPPED_FOLDER / str(name)):
        if (folder / CARD).is_file():
            return folder
    shipped = ", ".join(shipped_agents()) or "none"
    raise NotFoundError(f"no agent {str(name)!r}: give a folder with an {CARD}, or one of the shipped agents: {shipped}")


def shipped_agents() -> list[str]:
    """Names of the agents that come with worldsim."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob(f"*/{CARD}"))


def read_card(name: str | os.PathLike[str]) -> AgentCard:
    """The card of a saved agent. Raises NotFoundError or DamagedFileError."""
    path = find_agent(name) / CARD
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise DamagedFileError(f"{path} is not an agent's card: its format is not {FORMAT!r}")
    version = values.pop("version", None)
    if not isinstance(version, int) or version > VERSION:
        raise DamagedFileError(f"{path} has version {version!r}; this worldsim reads up to {VERSION}: upgrade worldsim")
    try:
        return from_json(AgentCard, values)
    except InvalidInputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}): copy the agent again") from error


def update_card(name: str | os.PathLike[str], **changes: Any) -> AgentCard:
    """Write an agent's card anew with some values changed, such as ``results``."""
    folder = find_agent(name)
    card = dataclasses.replace(read_card(folder), **changes)
    write_json(folder / CARD, {"format": FORMAT, "version": VERSION, **to_json(card)})
    return card


def space_of(description: dict[str, Any]) -> gym.Space[Any]:
    """The action space that :func:`worldsim.data.play.describe_space` described."""
    try:
        if description["type"] == "Discrete":
            return gym.spaces.Discrete(int(description["n"]))
        return gym.spaces.Box(np.array(description["low"], np.float32), np.array(description["high"], np.float32), dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{description!r} describes no action space ({error})") from None


def _halved(value: Tensor) -> Tensor:
    return value.half() if value.dtype == torch.float32 else value


def _policy_class(kind: str, folder: Path) -> Any:
    """The class that a card names. It must look like a policy's before anything of it is called: a card is data."""
    module, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise NotFoundError(f"{folder / CARD} is of the kind {kind!r}, which is not installed ({error})") from None
    if not isinstance(found, type) or not all(callable(getattr(found, verb, None)) for verb in ("reset", "act")):
        raise DamagedFileError(f"{folder / CARD}: {kind!r} is no policy, a class with reset(seed) and act(obs)")
    return found
